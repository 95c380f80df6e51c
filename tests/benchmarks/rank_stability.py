"""How far ranks can be trusted, on real hidden states: noise, scale, number of examples, policies of choice.

Run by ``make bench-ranks DATA=FOLDER``, with a folder of GLUE files (``cola/train.parquet`` …); writes
``docs/benchmarks/rank_stability.json`` and the page ``docs/benchmarks/rank_stability.md``. ``--part`` runs one part
and keeps what the file has of the others; ``--cache`` keeps the hidden states of whole train sets in a folder.
"""

import argparse
import json
import os
import platform
import runpy
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import gelora
from gelora.clouds import Representations
from gelora.demo import demo_model
from gelora.evidence import rise_intervals
from gelora.files import atomic_path, make_folder, to_json
from gelora.geometry import to_ranks
from gelora.models import load_pretrained
from gelora.policies import RECOMMENDED_ESTIMATOR, RECOMMENDED_ROUNDING
from gelora.provenance import package_versions
from gelora.stopping import UntilStable
from gelora_estimators import MLE, calibrated, nearest_distances
from gelora_estimators.calibration_curve import calibration_curve

COLUMNS: Mapping[str, Any] = {
    "sst2": "sentence",
    "cola": "sentence",
    "rte": ("sentence1", "sentence2"),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
}
NEIGHBORS = (2, 5, 10, 20, 40)
CANDIDATES = {
    "twonn": "twonn",
    "mle, k = 5": "mle(k1=5, k2=5)",
    "mle, k = 10…20": "mle",
    "mle, k = 40": "mle(k1=40, k2=40)",
    "gride, n2 = 16": "gride(n1=8, n2=16)",
    "ph": "ph(n_repetitions=1)",
    "minibatch of 500, twonn": "minibatch:twonn(batch_size=500)",
    "minibatch of 500, mle": "minibatch:mle(batch_size=500)",
    "minibatch of 1,000, mle": "minibatch:mle(batch_size=1000)",
}
N_PAIRS = 6
ROUNDINGS = ("ceil", "round", "floor")


def say(*words: Any) -> None:
    """Tell how far the measurement is."""
    sys.stderr.write(" ".join(map(str, words)) + "\n")


class States:
    """Hidden states of MiniLM, mean pooled, on whole train sets."""

    def __init__(self, data: Path, cache: Path | None) -> None:
        self.data = data
        self.cache = cache

    def __call__(self, task: str) -> Representations:
        """Return the clouds of a task, from the cache where they are there."""
        file = None if self.cache is None else self.cache / f"{task}.npz"
        if file is not None and file.exists():
            with np.load(file, allow_pickle=False) as stored:
                clouds = tuple(stored[f"layer{layer}"] for layer in range(len(stored.files) - 1))
                rows = stored["rows"]
            return _representations(clouds, rows)
        found = gelora.extract_representations(
            demo_model(), self.data / task / "train.parquet", text_column=COLUMNS[task], n_samples=None
        )
        if file is not None:
            arrays = {f"layer{layer}": cloud for layer, cloud in enumerate(found.clouds)}
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, rows=found.rows["encoder"], **arrays)
        return found


def _representations(clouds: tuple[Any, ...], rows: Any) -> Representations:
    layers = tuple(range(len(clouds)))
    names = tuple("encoder.layer.0 (input)" if layer == 0 else f"encoder.layer.{layer - 1}" for layer in layers)
    return Representations(
        clouds=clouds, stacks=("encoder",) * len(clouds), layers=layers, names=names, rows={"encoder": rows}
    )


def draw(states: Representations, rows: Any) -> Representations:
    """Return the clouds of some rows."""
    return _representations(tuple(cloud[rows] for cloud in states.clouds), states.rows["encoder"][rows])


def dimensions(states: Representations, estimator: str) -> Any:
    """Return the dimension of each layer, without any error."""
    function = gelora.make_estimator(estimator)
    bare = getattr(function, "without_error", None)
    cheap = function if bare is None else bare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return np.array([cheap(cloud, rng=np.random.default_rng(0)).dimension for cloud in states.clouds])


def noise_by_neighbors(states: States) -> dict[str, Any]:
    """Measure the noise of differences and of plans against examples and neighbours: 20 draws of 9,600 phrases."""
    every = states("sst2")
    rng = np.random.default_rng(0)
    pool = draw(every, np.sort(rng.permutation(len(every[0]))[:9600]))
    rows = []
    for n in (500, 1000, 4000):
        found = {k: np.empty((20, len(pool))) for k in NEIGHBORS}
        for number in range(20):
            part = draw(pool, np.sort(rng.permutation(9600)[:n]))
            for layer, cloud in enumerate(part.clouds):
                logs = np.log(nearest_distances(cloud, max(NEIGHBORS)).distances)
                for k in NEIGHBORS:
                    total = (k - 1) * logs[:, k - 1].sum() - logs[:, : k - 1].sum()
                    found[k][number, layer] = (n * (k - 1) - 1) / total
        for k, table in found.items():
            rise = np.diff(table, axis=1)
            plans = Counter(tuple(row) for row in to_ranks(rise).tolist())
            (most, times), *_ = plans.most_common(1)
            spread = rise.std(axis=0, ddof=1)
            rows.append(
                {
                    "n": n,
                    "k": k,
                    "spread_of_rises": spread.tolist(),
                    "mean_rises": rise.mean(axis=0).tolist(),
                    "plans": len(plans),
                    "most_frequent": list(most),
                    "times": times,
                }
            )
    return {"rows": rows, "n_phrases": 9600, "n_draws": 20}


def candidates(states: States) -> dict[str, Any]:
    """Compare estimators and roundings by whether disjoint draws agree, and with a draw of another size."""
    result = {}
    for task in ("rte", "mrpc", "cola", "sst2"):
        every = states(task)
        available = len(every[0])
        n = min(2000, available // 2)
        entry: dict[str, Any] = {"n": n, "available": available, "estimators": {}}
        rng = np.random.default_rng(1)
        pairs = []
        for _ in range(N_PAIRS):
            order = rng.permutation(available)
            pairs.append([np.sort(order[:n]), np.sort(order[n : 2 * n])])
        large = np.sort(rng.permutation(available)[: min(available, 8000)])
        for name, estimator in CANDIDATES.items():
            begun = time.perf_counter()
            found = [[dimensions(draw(every, rows), estimator) for rows in pair] for pair in pairs]
            seconds = (time.perf_counter() - begun) / (2 * len(pairs))
            rises = np.diff(np.array(found), axis=2)
            whole = np.diff(dimensions(draw(every, large), estimator))
            entry["estimators"][name] = {
                "seconds": seconds,
                "spread_of_rises": float(np.sqrt(np.mean((rises[:, 0] - rises[:, 1]) ** 2) / 2)),
                "mean_rises": rises.mean(axis=(0, 1)).tolist(),
                "rises_of_large": whole.tolist(),
                "drift": float(np.sqrt(np.mean((rises.mean(axis=(0, 1)) - whole) ** 2))),
                "roundings": {
                    rounding: _agreement(
                        to_ranks(rises, rounding=rounding), to_ranks(whole[None, :], rounding=rounding)[0]
                    )
                    for rounding in ROUNDINGS
                },
            }
            say(task, name, entry["estimators"][name]["roundings"])
        entry["n_large"] = len(large)
        result[task] = entry
    return {"tasks": result, "n_pairs": N_PAIRS}


def _agreement(ranks: Any, large: Any) -> dict[str, Any]:
    """Return how often two disjoint draws give one plan and one rank, and how many ranks the large draw shares."""
    plans = Counter(tuple(plan) for plan in ranks.reshape(-1, ranks.shape[-1]).tolist())
    return {
        "same_plan": float((ranks[:, 0] == ranks[:, 1]).all(axis=1).mean()),
        "same_rank": float((ranks[:, 0] == ranks[:, 1]).mean()),
        "same_rank_as_large": float((ranks == large).mean()),
        "most_frequent": list(plans.most_common(1)[0][0]),
        "large": large.tolist(),
    }


def probabilities(states: States) -> dict[str, Any]:
    """Plan CoLA and RTE by three estimators with 50 replicates, on 500, 1,000, 2,000 and all rows."""
    model = load_pretrained(demo_model())
    result: dict[str, Any] = {}
    for task in ("cola", "rte"):
        every = states(task)
        order = np.random.default_rng(2).permutation(len(every[0]))
        sizes = [500, 1000, 2000, len(every[0])]
        result[task] = {"sizes": sizes, "plans": {}}
        for n in sizes:
            profile = gelora.estimate_representations(
                draw(every, np.sort(order[:n])), estimator=["twonn", "mle", "ph"], n_replicates=50, progress=False
            )
            for estimator in ("twonn", "mle", "ph"):
                result[task]["plans"][f"{estimator} {n}"] = _plan_entry(profile, model, estimator)
            say(task, n)
    return result


def _plan_entry(profile: Any, model: Any, estimator: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan = gelora.plan_ranks(profile, model, estimator=estimator)
    table = plan.probabilities
    stability = plan.module_stability
    if table is None or stability is None or plan.uncertainty is None:
        raise SystemExit(f"{estimator}: the profile has no replicates")
    first = [names.index(name) for names in [table["module"].values.tolist()] for name in names if "query" in name]
    settling = plan.uncertainty.n_settling
    return {
        "ranks": list(plan.block_ranks.values()),
        "rises": rise_intervals(profile, estimator)["rise"].values.tolist(),
        "errors": rise_intervals(profile, estimator)["standard_error"].values.tolist(),
        "independent_errors": rise_intervals(profile, estimator)["independent_error"].values.tolist(),
        "rank_values": [int(value) for value in table["rank"].values],
        "probabilities": table.values[first].tolist(),
        "block_stability": stability.values[first].tolist(),
        "stability": plan.stability,
        "n_settling": None if np.isinf(settling) else round(settling),
    }


def calibration(states: States) -> dict[str, Any]:
    """Compare the stability that plans report with how often disjoint draws of SST-2 give the same plan."""
    every = states("sst2")
    model = load_pretrained(demo_model())
    result = {}
    cases = (("mle", "ceil", 1000), ("mle", "ceil", 4000), ("mle", "round", 1000), ("twonn", "ceil", 2000))
    for estimator, rounding, n in cases:
        count = min(24, len(every[0]) // n)
        order = np.random.default_rng(3).permutation(len(every[0]))
        plans, reported, blocks = [], [], []
        for number in range(count):
            rows = np.sort(order[number * n : (number + 1) * n])
            profile = gelora.estimate_representations(
                draw(every, rows), estimator=estimator, n_replicates=50, progress=False
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                plan = gelora.plan_ranks(profile, model, rounding=rounding, roles=["query"])
            plans.append(list(plan.block_ranks.values()))
            reported.append(plan.stability)
            blocks.append([] if plan.module_stability is None else plan.module_stability.values.tolist())
        table = np.array(plans)
        same = table[:, None, :] == table[None, :, :]
        others = ~np.eye(count, dtype=bool)
        result[f"{estimator}, {rounding}, n = {n:,}"] = {
            "draws": count,
            "reported": float(np.mean(reported)),
            "observed": float(same.all(axis=2)[others].mean()),
            "reported_blocks": np.mean(blocks, axis=0).tolist(),
            "observed_blocks": same[others].mean(axis=0).tolist(),
        }
        say(estimator, rounding, n, result[f"{estimator}, {rounding}, n = {n:,}"])
    return result


def enough(data: Path) -> dict[str, Any]:
    """Time ``n_samples="auto"`` on SST-2 with ever more rows at hand, and the profile of them all."""
    import pandas as pd

    sentences = pd.read_parquet(data / "sst2" / "train.parquet")["sentence"].tolist()
    return {
        "mle, ceil": enough_by(sentences, "mle", "ceil", first=500),
        # Sixteen batches, whose halves cost nothing.
        "recommended": enough_by(sentences, RECOMMENDED_ESTIMATOR, RECOMMENDED_ROUNDING, first=16_000),
    }


def enough_by(sentences: list[str], estimator: str, rounding: str, *, first: int) -> dict[str, Any]:
    """Time the rounds of one estimator with 5,000, 20,000 and all rows at hand, and the profile of all rows."""
    order = np.random.default_rng(4).permutation(len(sentences))
    rule = UntilStable(rounding=rounding, first=first)
    entries = []
    for limit in (5000, 20_000, len(sentences)):
        texts = [sentences[row] for row in np.sort(order[:limit])]
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            profile = gelora.estimate(demo_model(), texts, estimator=estimator, n_samples=rule, progress=False)
        entries.append(
            {
                "available": limit,
                "used": int(profile.attrs["n_texts"]),
                "seconds": time.perf_counter() - begun,
                "extraction_seconds": float(profile.attrs["extraction_seconds"]),
                "stopped": profile.attrs["auto_stopped"],
                "verdicts": json.loads(profile.attrs["auto"]),
                "ranks": to_ranks(np.diff(profile["dimension"].values[0]), rounding=rounding).tolist(),
            }
        )
        say(estimator, entries[-1])
    begun = time.perf_counter()
    full = gelora.estimate(demo_model(), sentences, estimator=estimator, n_samples=None, progress=False)
    seconds = time.perf_counter() - begun
    whole = to_ranks(np.diff(full["dimension"].values[0]), rounding=rounding).tolist()
    say(estimator, seconds, whole)
    return {
        "estimator": estimator,
        "rounding": rounding,
        "confidence": rule.confidence,
        "first": first,
        "runs": entries,
        "full_seconds": seconds,
        "full_rows": int(full.attrs["n_texts"]),
        "full_ranks": whole,
        "full_dimension": full["dimension"].values[0].tolist(),
        "agreeing": [sum(a == b for a, b in zip(entry["ranks"], whole, strict=True)) for entry in entries],
    }


def coverage(n_runs: int = 300) -> dict[str, Any]:
    """Count how often the 95 % interval of a difference of two layers holds the true gap, calibrated."""
    n, low, high, ambient = 1000, 5, 9, 24
    estimator = MLE(interval="pointwise")  # its own error is not looked at
    families = ("sphere",)
    curves = {size: calibration_curve(estimator, size, ambient, families=families, seed=1) for size in (n, n // 2)}
    tools: Mapping[int, Callable[..., Any]] = {
        size: calibrated(estimator, families=families, curve=curve, precision=1.0) for size, curve in curves.items()
    }

    def corrected(points: Any, *, rng: Any) -> Any:
        return tools[len(points)](points, rng=rng)

    hits, raw_hits, gaps, errors, independent = 0, 0, [], [], []
    for run in range(n_runs):
        rng = np.random.default_rng([5, run])
        clouds = _two_layers(n, low, high, ambient, rng)
        for kind, function in (("calibrated", corrected), ("raw", estimator)):
            profile = gelora.estimate_representations(
                clouds, estimator={"it": function}, n_replicates=50, seed=run, progress=False
            )
            found = rise_intervals(profile)
            hit = bool(found["ci_low"] <= high - low <= found["ci_high"])
            if kind == "raw":
                raw_hits += hit
                continue
            hits += hit
            gaps.append(float(found["rise"].item()))
            errors.append(float(found["standard_error"].item()))
            independent.append(float(found["independent_error"].item()))
    return {
        "n_runs": n_runs,
        "n": n,
        "dimensions": [low, high],
        "estimator": "mle, k = 10…20, calibrated on spheres",
        "covered": hits / n_runs,
        "covered_raw": raw_hits / n_runs,
        "mean_gap": float(np.mean(gaps)),
        "spread": float(np.std(gaps, ddof=1)),
        "mean_error": float(np.sqrt(np.mean(np.square(errors)))),
        "independent_error": float(np.sqrt(np.mean(np.square(independent)))),
    }


def _two_layers(n: int, low: int, high: int, ambient: int, rng: Any) -> list[Any]:
    """Return spheres of two dimensions whose points belong together: one is made of some coordinates of the other."""
    normal = rng.normal(size=(n, high + 1))
    clouds = []
    for d in (low, high):
        part = normal[:, : d + 1]
        basis, _ = np.linalg.qr(rng.normal(size=(ambient, d + 1)))
        clouds.append((part / np.linalg.norm(part, axis=1, keepdims=True)) @ basis.T)
    return clouds


def main() -> None:
    """Measure the parts asked for and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--part", action="append")
    options = parser.parse_args()
    make_folder(options.output)
    states = States(options.data, None if options.cache is None else make_folder(options.cache))
    parts: Mapping[str, Callable[[], dict[str, Any]]] = {
        "noise": lambda: noise_by_neighbors(states),
        "candidates": lambda: candidates(states),
        "probabilities": lambda: probabilities(states),
        "calibration": lambda: calibration(states),
        "enough": lambda: enough(options.data),
        "coverage": coverage,
    }
    for name in options.part or parts:
        begun = time.perf_counter()
        entry = parts[name]() | {"seconds": time.perf_counter() - begun, "date": datetime.now(UTC).date().isoformat()}
        _write(options.output, {name: entry})  # after each part: the parts take long


def _write(folder: Path, more: dict[str, Any]) -> None:
    file = folder / "rank_stability.json"
    page = runpy.run_path(str(Path(__file__).with_name("rank_stability_page.py")))["page"]
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    versions = package_versions(["gelora", "torch", "transformers", "numpy", "scikit-learn"])
    known |= more | {
        "command": "make bench-ranks DATA=FOLDER",
        "machine": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    for suffix, text in (("json", to_json(known, indent=1) + "\n"), ("md", page(known))):
        with atomic_path(folder / f"rank_stability.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
