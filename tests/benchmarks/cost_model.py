"""Rates that the cost model needs, measured on this machine, and the page of what large models would take.

Run by ``python tests/benchmarks/cost_model.py``; writes ``cost_model.json`` and ``cost_model.md`` to
``docs/benchmarks``. ``--page`` writes the page from the rates that are there. With a rate given, as in
``--flops 4e14 --search-flops 3e13``, nothing is measured or written: the hours on that machine are printed.
"""

import argparse
import json
import os
import platform
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gelora.cost import Rates, estimate_cost
from gelora.files import atomic_path, to_json
from gelora.provenance import package_versions
from gelora.windows import plan_windows, window_rows

OUTPUT = Path("docs/benchmarks")
FLAGS = tuple(Rates.__dataclass_fields__)
CLOUDS = ((12_000, 384), (4000, 4096))
TEXTS, LENGTH = 16, 128


def timed(work: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Return the CPU seconds of several runs, those by the clock, and what the last gave.

    CPU time is what the work takes whoever else is on the machine; the clock is what it took.
    """
    seconds, clock, result = [], [], None
    for _ in range(repeats):
        began, start = time.process_time(), time.perf_counter()
        result = work()
        seconds.append(time.process_time() - began)
        clock.append(time.perf_counter() - start)
    return {"seconds": seconds, "clock": clock, "result": result}


def rate(amount: float, run: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the rates of the fastest run and of the median one, by CPU time and by the clock."""
    seconds, clock = run["seconds"], run["clock"]
    return {
        "amount": amount,
        "seconds": seconds,
        "clock": clock,
        "rate": amount / min(seconds),
        "median_rate": amount / statistics.median(seconds),
        "clock_rate": amount / min(clock),
        **more,
    }


def random_ids(vocabulary: int, n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return texts of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(5, vocabulary, (n, LENGTH), generator=generator)}


def models() -> dict[str, Any]:
    """Return a decoder with random weights, and MiniLM."""
    import transformers

    from gelora.demo import demo_model

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=1024, num_hidden_layers=4, num_attention_heads=16, intermediate_size=2816, vocab_size=8000
    )
    llama = transformers.AutoModel.from_config(config).eval()
    return {"llama": llama, "minilm": transformers.AutoModel.from_pretrained(demo_model()).eval()}


def measure_forward(model: Any) -> dict[str, Any]:
    """Run texts through the collector, whose hooks and pooling are in the time."""
    from gelora.blocks import find_blocks
    from gelora.collecting import Collector
    from gelora.encoding import encode

    examples = encode(model, random_ids(model.config.vocab_size, TEXTS))
    collector = Collector(model, find_blocks(model), examples, "mean", None, 0)
    window = collector.windows(TEXTS)[0]
    run = timed(lambda: collector.run(window, TEXTS), 3)
    return rate(estimate_cost(model, TEXTS, LENGTH).forward_flops, run)


def measure_tokens(model: Any, texts: list[str]) -> dict[str, Any]:
    """Turn texts into the table of tokens on disk."""
    from gelora.demo import demo_model
    from gelora.encoding import open_source

    source = open_source(model, texts, tokenizer=str(demo_model()))
    with tempfile.TemporaryDirectory() as folder:
        run = timed(lambda: source.features_of(np.arange(len(texts)), Path(folder))[0], 5)
    return rate(int(run["result"].lengths("input_ids").sum()), run, texts=len(texts))


def measure_store(found: Any) -> dict[str, Any]:
    """Write hidden states into a store window by window, read them back, and check them."""
    from gelora.store import create

    clouds = {key: np.asarray(c) for key, c in zip(zip(found.stacks, found.layers, strict=True), found.clouds)}  # noqa: B905 (one length)
    n, width = found.clouds[0].shape
    stack, n_bytes = found.stacks[0], sum(cloud.nbytes for cloud in clouds.values())
    rows = min(window_rows(width), n)
    windows = plan_windows({stack: np.arange(n + 1)}, rows)
    shapes = dict.fromkeys(clouds, (width, "float32"))
    with tempfile.TemporaryDirectory() as folder:
        store = create(Path(folder), {}, shapes, {stack: np.arange(n)}, windows, rows, 32)

        def write() -> None:
            for window in windows:
                store.write(window, {key: cloud[window.first : window.last] for key, cloud in clouds.items()}, {})

        written = timed(write, 4)
        read = timed(lambda: [store.read(*key) for key in clouds], 4)
        checked = timed(store.damaged, 3)
        if any(not np.array_equal(one, cloud) for one, cloud in zip(read["result"], clouds.values(), strict=True)):
            raise RuntimeError("the store does not give back what was written")
        held = sum(
            file.stat().st_size
            for part in store.parts
            for file in (store.path / part.name).rglob("*")
            if file.is_file()
        )
        whole = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    return {
        "points": n,
        "width": width,
        "layers": len(clouds),
        "write": rate(n_bytes, written),
        "read": rate(n_bytes, read),
        "check": rate(n_bytes, checked),
        "ratio": held / n_bytes,
        "beside_a_window": (whole - held) / len(windows),
    }


def states(model: Any, data: Any, pooling: str, **more: Any) -> Any:
    """Return the hidden states of all rows, in memory."""
    from gelora.representations import extract_representations

    own: dict[str, Any] = {"n_samples": None, "n_tokens": None, "progress": False}
    return extract_representations(model, data, pooling=pooling, **(own | more))


def measure_stores(made: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Measure stores of real hidden states, and of those of random weights."""
    from gelora.demo import demo_model

    real = {"tokenizer": str(demo_model()), "max_length": 64}
    return {
        "MiniLM, tokens": measure_store(states(made["minilm"], texts[:300], "tokens", **real)),
        "MiniLM, means": measure_store(states(made["minilm"], texts[300:1324], "mean", **real)),
        "random weights, tokens": measure_store(states(made["llama"], random_ids(8000, TEXTS), "tokens")),
    }


def cloud_of(n: int, width: int) -> Any:
    """Return a linear image of a Gaussian of 12 dimensions with a little noise."""
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(n, 12)).astype(np.float32) @ rng.normal(size=(12, width)).astype(np.float32)
    return flat + 0.01 * rng.normal(size=(n, width)).astype(np.float32)


def measure_estimation(n: int, width: int) -> dict[str, Any]:
    """Measure the search for 32 neighbours, the spanning tree and the covariates of one cloud."""
    from gelora.covariates import mean_norm, spectrum_covariates
    from gelora_estimators import minimum_spanning_tree, nearest_distances

    points = cloud_of(n, width)
    pairs, small = 2 * n * n * (width + 2), min(n, width)
    covariance = 2 * n * width * small + 4 * small**3 // 3
    search = timed(lambda: nearest_distances(points, 32), 2)
    return {
        "n": n,
        "width": width,
        "search": rate(pairs, search),
        "tree": rate(pairs, timed(lambda: minimum_spanning_tree(points), 2)),
        "covariates": rate(covariance, timed(lambda: (mean_norm(points), spectrum_covariates(points)), 1)),
    }


def measure_readings() -> dict[str, Any]:
    """Measure what an estimator takes when neighbours are known, for the whole cloud and for halves of it."""
    from gelora.registry import make_estimator
    from gelora.replicates import half_estimates
    from gelora_estimators import nearest_distances

    points = cloud_of(10_000, 32)
    n = len(points)
    neighbors, rng = nearest_distances(points, 104), np.random.default_rng(0)
    halves = [np.sort(rng.permutation(n)[: n // 2]) for _ in range(10)]
    found = {}
    for name in ("twonn", "mle"):
        estimator: Any = make_estimator(name)

        def whole(function: Any = estimator) -> Any:
            return function.from_distances(neighbors.distances, n, np.random.default_rng(0), indices=neighbors.indices)

        def parts(function: Any = estimator) -> Any:
            return half_estimates(points, function, None, halves, neighbors, np.random.default_rng)

        found[name] = {
            "whole": rate(n, timed(whole, 3)),
            "halves": rate(10 * (n // 2), timed(parts, 3)),
        }
    return found


def measure_whole(model: Any, rates: Rates) -> dict[str, Any]:
    """Run an extraction into a store and an estimation on clouds, and say what the formulas give for both."""
    from gelora.estimation import estimate_representations
    from gelora.sizes import ModelSize

    with tempfile.TemporaryDirectory() as folder:
        extraction = timed(lambda: states(model, random_ids(8000, TEXTS, seed=1), "mean", store=folder), 1)
    predicted = estimate_cost(model, TEXTS, LENGTH).seconds(rates)
    n, width = 8000, 384
    clouds = [cloud_of(n, width)] * 2
    estimation = timed(
        lambda: estimate_representations(clouds, estimator="twonn", scheduler="serial", progress=False), 1
    )
    size = ModelSize(n_parameters=0, n_blocks=1, block_weights=0, width=width, attention_width=0, dtype="float32")
    steps = estimate_cost(size, n, 1).seconds(rates)
    return {
        "texts": TEXTS,
        "n": n,
        "width": width,
        "extraction": {"seconds": extraction["seconds"][0], "predicted": predicted["forward"] + predicted["write"]},
        "estimation": {
            "seconds": estimation["seconds"][0],
            "predicted": steps["search"] + steps["covariates"] + steps["estimators"],
        },
    }


def rates_of(measured: dict[str, Any]) -> dict[str, float]:
    """Return the rates of the tables: the slowest where several were measured, of the fastest run of each."""
    clouds = measured["estimation"]
    # Of fewer points than a window holds, what a store costs is mostly the opening of files.
    stores = [one for one in measured["stores"].values() if one["points"] >= window_rows(one["width"])]
    return {
        "tokens": measured["tokens"]["rate"],
        "flops": measured["forward"]["llama"]["rate"],
        "write_bytes": min(one["write"]["rate"] for one in stores),
        "read_bytes": min(one["read"]["rate"] for one in stores),
        "search_flops": min(one["search"]["rate"] for one in clouds),
        "tree_flops": min(one["tree"]["rate"] for one in clouds),
        "covariance_flops": clouds[-1]["covariates"]["rate"],
        "readings": min(one["whole"]["rate"] for one in measured["readings"].values()),
        "half_readings": min(one["halves"]["rate"] for one in measured["readings"].values()),
    }


def measure() -> dict[str, Any]:
    """Measure everything."""
    from gelora.builtin_corpus import builtin_corpus

    torch.set_num_threads(1)  # one core: CPU time is then that of the work, and not of threads that wait
    began = time.perf_counter()
    made, texts = models(), list(builtin_corpus(n_train=1600, n_validation=8).train.texts)
    measured: dict[str, Any] = {"forward": {name: measure_forward(model) for name, model in made.items()}}
    steps: dict[str, Callable[[], Any]] = {
        "tokens": lambda: measure_tokens(made["minilm"], texts),
        "stores": lambda: measure_stores(made, texts),
        "estimation": lambda: [measure_estimation(*size) for size in CLOUDS],
        "readings": measure_readings,
        "rates": lambda: rates_of(measured),
        "whole": lambda: measure_whole(made["llama"], Rates(**measured["rates"])),
    }
    for name, step in steps.items():
        measured[name] = step()
        sys.stderr.write(f"{name}: {time.perf_counter() - began:.0f} s\n")
    return measured | {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "versions": package_versions(("gelora", "torch", "transformers", "numpy", "zarr")),
        "date": datetime.now(UTC).date().isoformat(),
        "took": time.perf_counter() - began,
    }


def main() -> None:
    """Measure and write, or print the hours at rates that are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--page", action="store_true")
    for name in FLAGS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    arguments = parser.parse_args()
    path = arguments.output / "cost_model.json"
    page = runpy.run_path(str(Path(__file__).with_name("cost_model_page.py")))
    given = {name: getattr(arguments, name) for name in FLAGS if getattr(arguments, name) is not None}
    if given:
        known = json.loads(path.read_text(encoding="utf-8"))["rates"]
        sys.stdout.write(page["hours"]({"at the rates given": Rates(**(known | given))}) + "\n")
        return
    if not arguments.page:
        measured = measure()
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(measured, indent=1) + "\n", encoding="utf-8")
    with atomic_path(arguments.output / "cost_model.md") as temporary:
        temporary.write_text(page["page"](json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
