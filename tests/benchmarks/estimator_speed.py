"""Time the estimators against matrix products and other libraries, side by side, and write the table down.

Run by ``make bench [DATA=FOLDER] [DADAPY=PYTHON]``: DATA is a folder of GLUE files, from which hidden states of MiniLM
are made once (without it the synthetic manifold alone is measured); DADAPY is a Python that has DADApy, which needs
an environment of its own. Writes ``docs/benchmarks/estimator_speed.json`` and ``.md``. ``--only NAME`` measures one
row again and keeps the others.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gelora.demo import demo_model
from gelora.estimation import estimate_representations
from gelora.files import atomic_path, to_json
from gelora.provenance import package_versions
from gelora.representations import extract_representations
from gelora_estimators import PersistentHomology, nearest_distances, spanning_tree_lengths

OUTPUT = Path("docs/benchmarks/estimator_speed.json")
CACHE = Path(".benchmarks/hidden_states.npy")
Seconds = dict[str, list[float]]


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the wall seconds of one call, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(works: dict[str, Callable[[], Any]], repeats: int) -> Seconds:
    """Time each work in turn, ``repeats`` times after a warm-up, so that a slow spell hits all alike."""
    found: Seconds = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            seconds = seconds_of(work)
            if turn:
                found[name].append(seconds)
    return found


def ratio(found: Seconds, numerator: str, denominator: str) -> float:
    """Return the median of the ratios turn by turn."""
    return statistics.median(a / b for a, b in zip(found[numerator], found[denominator], strict=True))


def hidden_states(data: Path | None, n: int) -> np.ndarray | None:
    """Return hidden states (7, n, 384) of MiniLM, no two texts alike, from a cache or made now; None without data."""
    if CACHE.exists():
        return np.load(CACHE, mmap_mode="r")
    if data is None:
        return None
    import pandas as pd

    texts = pd.read_parquet(data / "sst2" / "train.parquet")["sentence"].drop_duplicates()
    drawn = texts.sample(n + 500, random_state=0).tolist()
    clouds = extract_representations(demo_model(), drawn, n_samples=None).clouds
    stacked = np.stack([np.asarray(cloud) for cloud in clouds])
    distinct = np.sort(np.unique(stacked[0], axis=0, return_index=True)[1])[:n]
    CACHE.parent.mkdir(exist_ok=True)
    with atomic_path(CACHE) as temporary, temporary.open("wb") as file:
        np.save(file, stacked[:, distinct], allow_pickle=False)
    return np.load(CACHE, mmap_mode="r")


def manifold(n: int, width: int) -> np.ndarray:
    """Return a linear image of a 12-dimensional Gaussian."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, 12)) @ rng.standard_normal((12, width))).astype(np.float32)


def product(points: np.ndarray, device: str = "cpu") -> Callable[[], None]:
    """Return one float32 product X·Xᵀ in blocks of 1,024 rows, the limit that searches are held against."""
    x = torch.from_numpy(np.ascontiguousarray(points)).to(device)
    room = torch.empty((1024, len(x)), device=device)

    def work() -> None:
        for start in range(0, len(x), 1024):
            rows = x[start : start + 1024]
            torch.mm(rows, x.T, out=room[: len(rows)])

    return work


def wide(states: np.ndarray, first: int, second: int, n: int) -> np.ndarray:
    """Return two layers side by side: real hidden states of width 768."""
    return np.concatenate([states[first][:n], states[second][:n]], axis=1)


def clouds(states: np.ndarray | None, n: int, width: int) -> dict[str, np.ndarray]:
    """Return the clouds of a row: real hidden states, where there are some, and the manifold."""
    found = {"manifold": manifold(n, width)}
    if states is None:
        return found
    return {"real": wide(states, 3, 6, n) if width == 768 else np.array(states[3][:n]), **found}


# --- the rows ----------------------------------------------------------------------------------


def two_nearest(states: np.ndarray | None, dadapy: str | None, repeats: int) -> list[dict[str, Any]]:
    """Two nearest distances of 10,000 × 768."""
    rows = []
    for name, points in clouds(states, 10_000, 768).items():
        found = alternate({"product": product(points), "ours": lambda p=points: nearest_distances(p, 2)}, repeats)
        rows.append(entry(f"two nearest distances, 10,000 × 768, {name}", "float32 product", found, "≤ 1.4"))
        slow = alternate({"ours": lambda p=points: nearest_distances(p, 2), "rival": skdim_twonn(points)}, 1)
        rows.append(
            entry(f"two nearest distances, 10,000 × 768, {name}", "scikit-dimension TwoNN", slow, "≥ 3 times faster")
        )
        if dadapy:
            ours = [seconds_of(lambda p=points: nearest_distances(p, 2)) for _ in range(3)]
            rival = dadapy_seconds(dadapy, points)
            turns = {"ours": [statistics.median(ours)], "rival": [statistics.median(rival)]}
            rows.append(
                entry(f"two nearest distances, 10,000 × 768, {name}", "DADApy 2NN", turns, "≥ 2.5 times faster")
            )
        else:
            rows.append(
                missing(
                    f"two nearest distances, 10,000 × 768, {name}",
                    "DADApy 2NN",
                    "≥ 2.5 times faster",
                    "no DADAPY was given",
                )
            )
    return rows


def skdim_twonn(points: np.ndarray) -> Callable[[], Any]:
    """Return scikit-dimension's TwoNN on these points."""
    with warnings.catch_warnings():
        import skdim
    return lambda: skdim.id.TwoNN().fit(points)


def dadapy_seconds(python: str, points: np.ndarray) -> list[float]:
    """Return the seconds of DADApy's distances and 2NN fit, in its own environment, import not counted."""
    script = (
        "import sys, time, json, numpy as np\nfrom dadapy import Data\nx = np.load(sys.argv[1])\nfound = []\n"
        "for turn in range(4):\n    started = time.perf_counter()\n"
        "    data = Data(x, maxk=2, verbose=False)\n    data.compute_distances(maxk=2)\n    data.compute_id_2NN()\n"
        "    found.append(time.perf_counter() - started)\nprint(json.dumps(found[1:]))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npy"
        np.save(file, points)
        done = subprocess.run([python, "-W", "ignore", "-c", script, file], check=True, capture_output=True, text=True)
    seconds: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds


def spanning_tree(states: np.ndarray | None, repeats: int) -> list[dict[str, Any]]:
    """H0 of 10,000 × 384."""
    rows = []
    for name, points in clouds(states, 10_000, 384).items():
        ours = {"product": product(points), "ours": lambda p=points: spanning_tree_lengths(p)}
        rows.append(entry(f"H0, 10,000 × 384, {name}", "float32 product", alternate(ours, repeats), "≤ 2.0"))
        rival = {"ours": lambda p=points: spanning_tree_lengths(p), "rival": giotto(points)}
        rows.append(entry(f"H0, 10,000 × 384, {name}", "giotto-ph", alternate(rival, 1), "≥ 10 times faster"))
        part = points[:5000]
        rival = {"ours": lambda p=part: spanning_tree_lengths(p), "rival": ripser(part)}
        rows.append(entry(f"H0, 5,000 × 384, {name}", "ripser", alternate(rival, 1), "≥ 20 times faster"))
    return rows


def giotto(points: np.ndarray) -> Callable[[], Any]:
    """Return giotto-ph's H0 on two threads."""
    from gph import ripser_parallel

    return lambda: ripser_parallel(points, maxdim=0, n_threads=2)


def ripser(points: np.ndarray) -> Callable[[], Any]:
    """Return ripser's H0."""
    from ripser import ripser

    return lambda: ripser(points, maxdim=0)


def many_trees(states: np.ndarray | None, repeats: int) -> list[dict[str, Any]]:
    """`ph` on 1,000 × 768 against scikit-dimension's PH, at its sizes and number of trees."""
    rows = []
    for name, points in clouds(states, 1000, 768).items():
        with warnings.catch_warnings():
            import skdim
        sizes = tuple(np.ceil(np.linspace(500, 1000, 10)).astype(int).tolist())
        own = PersistentHomology(sizes=sizes, n_draws=10, n_repetitions=1, statistic="mean")
        works = {
            "ours": lambda p=points, e=own: e(p, rng=np.random.default_rng(0)),
            "rival": lambda p=points: skdim.id.PH(nsteps=10, subsamples=10, random_state=0).fit(p),
        }
        found = alternate(works, repeats)
        row = entry(
            f"`ph`, 100 trees of 500 to 1,000 of 1,000 × 768, {name}", "scikit-dimension PH", found, "≥ 20 times faster"
        )
        row["trees_per_second"] = {key: round(100 / statistics.median(value), 1) for key, value in found.items()}
        rows.append(row)
    return rows


def large_tree(sizes: tuple[int, ...] = (25_000, 50_000, 100_000)) -> list[dict[str, Any]]:
    """H0 of up to 100,000 × 384: seconds, and peak memory above the data, each in a process of its own."""
    script = (
        "import sys, time, json, resource, numpy as np\n"
        "sys.path.insert(0, 'tests/benchmarks')\nfrom estimator_speed import manifold, product, seconds_of\n"
        "from gelora_estimators import spanning_tree_lengths\n"
        "spanning_tree_lengths(manifold(1000, 384))\nx = manifold(int(sys.argv[1]), 384)\n"
        "x += 0.05 * np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)\n"
        "def now():\n    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "before = now()\nopen('/proc/self/clear_refs', 'w').write('5')\n"
        "ours = seconds_of(lambda: spanning_tree_lengths(x))\n"
        "peak = int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) * 1024\n"
        "print(json.dumps([ours, peak - before, seconds_of(product(x))]))\n"
    )
    rows: list[dict[str, Any]] = []
    for n in sizes:
        done = subprocess.run([sys.executable, "-c", script, str(n)], check=True, capture_output=True, text=True)
        seconds, memory, product_seconds = json.loads(done.stdout.strip().splitlines()[-1])
        found = {"ours": [seconds], "product": [product_seconds]}
        row = entry(f"H0, {n:,} × 384, manifold with noise", "float32 product", found, "")
        row |= {"n": n, "memory_above_data_gb": round(memory / 1e9, 3), "target": "≤ 2 GB; time ≤ n²"}
        if rows:
            row["growth_exponent"] = round(
                float(np.log(seconds / rows[-1]["seconds"]["ours"]) / np.log(n / rows[-1]["n"])), 2
            )
        rows.append(row)
    return rows


def shared_search(states: np.ndarray | None) -> list[dict[str, Any]]:
    """13 layers × five estimators of 5,000 × 768, in one call and in five."""
    names = ["twonn", "mle", "gride(scan_to=64)", "local:mle", "corrint"]
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)][:13]
    kind = "manifold" if states is None else "real"
    layers = {f"{i} and {j}": manifold(5000, 768) if states is None else wide(states, i, j, 5000) for i, j in pairs}
    estimate_representations({"warm": layers["0 and 1"][:500]}, estimator=names, progress=False)
    separate = [
        seconds_of(lambda n=name: estimate_representations(layers, estimator=n, progress=False)) for name in names
    ]
    together = seconds_of(lambda: estimate_representations(layers, estimator=names, progress=False))
    found = {"ours": [together], "separately": [sum(separate)]}
    row = entry(
        f"13 layers × twonn, mle, gride scan, local mle, corrint, 5,000 × 768, {kind}",
        "run separately",
        found,
        "≤ 0.35",
    )
    row["each"] = {name: round(value, 2) for name, value in zip(names, separate, strict=True)}
    return [row]


def on_gpu(repeats: int) -> list[dict[str, Any]]:
    """The same on a CUDA device, in full float32 precision."""
    if not torch.cuda.is_available():
        work = "two nearest distances 100,000 × 768; H0 50,000 × 768, on a GPU"
        return [missing(work, "float32 product there", "≤ 2; ≤ 8", "there was no CUDA device")]
    torch.set_float32_matmul_precision("highest")
    rows = []
    large, small = manifold(100_000, 768), manifold(50_000, 768)
    pair = {"product": product(large, "cuda"), "ours": lambda: nearest_distances(large, 2, device="cuda")}
    rows.append(
        entry("two nearest distances, 100,000 × 768, GPU", "float32 product there", alternate(pair, repeats), "≤ 2")
    )
    pair = {"product": product(small, "cuda"), "ours": lambda: spanning_tree_lengths(small, device="cuda")}
    rows.append(entry("H0, 50,000 × 768, GPU", "float32 product there", alternate(pair, repeats), "≤ 8"))
    return rows


# --- the record --------------------------------------------------------------------------------


def entry(work: str, rival: str, found: Seconds, target: str) -> dict[str, Any]:
    """Return one row: median seconds of both, and ours over the other's."""
    other = next(name for name in found if name != "ours")
    return {
        "work": work,
        "rival": rival,
        "seconds": {name: round(statistics.median(values), 4) for name, values in found.items()},
        "repeats": len(found["ours"]),
        "ratio": round(ratio(found, "ours", other), 3),
        "target": target,
    }


def missing(work: str, rival: str, target: str, why: str) -> dict[str, Any]:
    """Return a row that says why it was not measured."""
    return {"work": work, "rival": rival, "target": target, "ratio": None, "note": f"not measured: {why}"}


def page(result: dict[str, Any]) -> str:
    """Return the Markdown page of the results."""
    lines = [
        "# Speed of the estimators",
        "",
        f"Made by `{result['command']}` on {result['date']}: {result['machine']}; {result['versions']}.",
        "Real clouds are hidden states of the MiniLM encoder on SST-2 phrases, mean pooling; those of width 768 are",
        "two layers side by side. The manifold is a linear image of a 12-dimensional Gaussian. Both sides of a row ran",
        "in turn; the ratio is the median over turns of our time over the other's.",
        "",
        "| work | against | ours (s) | theirs (s) | ratio | target |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for rows in result["rows"].values():
        for row in rows:
            if row["ratio"] is None:
                lines.append(f"| {row['work']} | {row['rival']} | | | {row['note']} | {row['target']} |")
                continue
            other = next(value for name, value in row["seconds"].items() if name != "ours")
            faster = row["target"].startswith("≥")
            shown = f"{1 / row['ratio']:.1f} times faster" if faster else f"{row['ratio']:.2f}"
            ours = row["seconds"]["ours"]
            lines.append(f"| {row['work']} | {row['rival']} | {ours:.3g} | {other:.3g} | {shown} | {row['target']} |")
            if "memory_above_data_gb" in row:
                growth = f", growing as n^{row['growth_exponent']}" if "growth_exponent" in row else ""
                notes.append(f"- {row['work']}: {row['memory_above_data_gb']} GB above the data{growth}.")
            if "trees_per_second" in row:
                rates = row["trees_per_second"]
                notes.append(f"- {row['work']}: {rates['ours']} trees a second against {rates['rival']}.")
            if "each" in row:
                notes.append(f"- Separately: {', '.join(f'{name} {value} s' for name, value in row['each'].items())}.")
    return "\n".join([*lines, "", *notes, *_missed(result)]) + "\n"


def _missed(result: dict[str, Any]) -> list[str]:
    """Return what the page says about targets that were not met."""
    rows = [row for group in result["rows"].values() for row in group if row["ratio"] is not None]
    missed = [row for row in rows if _is_missed(row)]
    if not missed:
        return ["", "Every target that was measured is met."]
    lines = ["", "Targets not met: " + "; ".join(f"{row['work']} against {row['rival']}" for row in missed) + "."]
    if any(row["rival"] == "DADApy 2NN" for row in missed):
        first = next(row for row in rows if row["rival"] == "float32 product")
        ours, product_seconds = first["seconds"]["ours"], first["seconds"]["product"]
        lines.append(
            f"Of our {ours:.2f} s for the two nearest distances {product_seconds:.2f} s are the float32 product, "
            f"{100 * product_seconds / ours:.0f} %; the rest is preparing the factors, the sieve and measuring what it "
            "leaves. DADApy takes about two products. The next step would be to compute each tile of the symmetric "
            "product once, for its rows and its columns, which could save up to half of it."
        )
    return lines


def _is_missed(row: dict[str, Any]) -> bool:
    kind, _, number = row["target"].partition(" ")
    limit = number.split(" ")[0]
    if not limit.replace(".", "").isdigit() or row["target"].startswith("≤ 2 GB"):
        return bool(row.get("memory_above_data_gb", 0.0) > 2.0)
    return bool(1.0 / row["ratio"] < float(limit)) if kind == "≥" else bool(row["ratio"] > float(limit))


def main() -> None:
    """Measure, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with sst2/train.parquet")
    parser.add_argument("--dadapy", help="a Python that has DADApy")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", action="append", help="row group to measure again")
    options = parser.parse_args()
    states = hidden_states(options.data, 10_000)
    groups: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "two_nearest": lambda: two_nearest(states, options.dadapy, options.repeats),
        "spanning_tree": lambda: spanning_tree(states, options.repeats),
        "many_trees": lambda: many_trees(states, 3),
        "large_tree": large_tree,
        "shared_search": lambda: shared_search(states),
        "gpu": lambda: on_gpu(options.repeats),
    }
    result = json.loads(OUTPUT.read_text()) if options.only and OUTPUT.exists() else {"rows": {}}
    versions = package_versions(["gelora", "torch", "numpy", "scikit-dimension", "giotto-ph", "ripser"])
    result |= {
        "command": "make bench DATA=FOLDER DADAPY=PYTHON",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    for name, measure in groups.items():
        if options.only and name not in options.only:
            continue
        result["rows"][name] = measure()
        # After each group, so that an interruption loses one group only.
        for path, text in ((OUTPUT, to_json(result, indent=1) + "\n"), (OUTPUT.with_suffix(".md"), page(result))):
            with atomic_path(path) as temporary:
                temporary.write_text(text)


if __name__ == "__main__":
    main()
