"""Estimators on the 24 benchmark manifolds of scikit-dimension, with their errors and times.

Run by ``python tests/benchmarks/manifolds.py [--quick]``; writes ``docs/benchmarks/manifolds.json`` and the page
``docs/benchmarks/manifolds.md``.
"""

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gelora.files import atomic_path, make_folder, to_json
from gelora.provenance import generator, package_versions
from gelora_estimators import (
    MLE,
    CorrelationIntegral,
    DegenerateCloudError,
    Gride,
    PersistentHomology,
    ScikitDimension,
    Spectral,
    TwoNN,
)
from gelora_estimators.calibration import CalibratedEstimator
from gelora_estimators.calibration_curve import calibration_curve

NAME = "manifolds"
SEED = 20_261_122
OURS: dict[str, Callable[..., Any]] = {
    "twonn": TwoNN(),
    "mle": MLE(),
    "gride": Gride(),
    "ph": PersistentHomology(),
    "corrint": CorrelationIntegral(),
    "spectral": Spectral(),
}
CALIBRATED = "twonn, calibrated"
THEIRS: dict[str, Callable[..., Any]] = {
    f"skdim:{name}": ScikitDimension(estimator=name) for name in ("TwoNN", "MLE", "lPCA")
}
NAMES = (*OURS, CALIBRATED, *THEIRS)
LOW = 12  # dimensions up to which a few thousand points suffice


def manifolds(n: int, seed: int = SEED) -> dict[str, tuple[int, np.ndarray]]:
    """Return name → (dimension, points) of scikit-dimension's benchmark, rows shuffled.

    Some of its generators put the points in order (the faces of a cube one after another).
    """
    # Importing scikit-dimension silences every warning of the process; the filters come back after the block.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skdim.datasets import BenchmarkManifolds

        benchmark = BenchmarkManifolds(random_state=seed)
        made = benchmark.generate(n=n)
    truth = benchmark.truth["Intrinsic Dimension"]
    return {
        name: (int(truth[name]), generator(seed, name).permutation(np.asarray(points, dtype=np.float64)))
        for name, points in made.items()
    }


@cache
def calibrated_twonn(n: int) -> CalibratedEstimator:
    """Return TwoNN with one simulated curve for all clouds of n points."""
    return CalibratedEstimator(estimator=TwoNN(), curve=calibration_curve(TwoNN(), n, covering=(0.9, 50.0)))


def one(name: str, manifold: str, points: np.ndarray) -> dict[str, float | None]:
    """Return dimension and seconds of one estimator on one manifold; None where it finds none."""
    started = time.perf_counter()
    estimator = calibrated_twonn(len(points)) if name == CALIBRATED else (OURS | THEIRS)[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a line bends, or that a dimension has no upper bound
            dimension = round(estimator(points, rng=generator(SEED, name, manifold)).dimension, 3)
    except DegenerateCloudError:
        dimension = None
    return {"dimension": dimension, "seconds": round(time.perf_counter() - started, 3)}


def scores(entries: dict[str, Any], name: str) -> tuple[float, float, float]:
    """Return the mean absolute relative error up to d = 12, above it, and the seconds on all manifolds."""
    found = [(entry["d"], entry["estimates"][name]) for entry in entries.values()]
    errors = [(d, abs(estimate["dimension"] / d - 1.0)) for d, estimate in found if estimate["dimension"] is not None]
    low, high = ([error for d, error in errors if (d <= LOW) == wanted] for wanted in (True, False))
    return float(np.mean(low)), float(np.mean(high)), float(sum(estimate["seconds"] for _, estimate in found))


def page(result: dict[str, Any]) -> str:
    """Return the Markdown page."""
    names = NAMES
    lines = [
        "# Benchmark manifolds, measured",
        "",
        f"Made by `{result['command']}` on {result['date']}: {result['machine']}; {result['versions']}.",
        f"The manifolds of `skdim.datasets.BenchmarkManifolds` without noise, {result['n']:,} points each, rows",
        f"shuffled (seed {SEED}), every estimator with its defaults. In brackets: the error relative to the true",
        "dimension d. `spectral` counts flat directions, so it reads more on curved manifolds and less where a few",
        "directions hold most of the variance; those above d = 12 are flat or nearly so. The calibration is simulated",
        "once for all manifolds, and its time is in the second table. DANCo is left out: it takes minutes a cloud.",
        "",
        "| manifold | d | in | " + " | ".join(names) + " |",
        "| --- " * (3 + len(names)) + "|",
    ]
    for manifold, entry in result["manifolds"].items():
        cells = []
        for name in names:
            dimension = entry["estimates"][name]["dimension"]
            relative = None if dimension is None else 100 * (dimension / entry["d"] - 1)
            cells.append("undefined" if dimension is None else f"{dimension:.1f} ({relative:+.0f} %)")
        lines.append(f"| {manifold} | {entry['d']} | {entry['ambient']} | " + " | ".join(cells) + " |")
    lines += ["", f"Mean absolute error relative to d, up to d = {LOW} and above, and the time on all manifolds:", ""]
    lines += [f"| estimator | d ≤ {LOW} | d > {LOW} | seconds |", "| --- " * 4 + "|"]
    for name in names:
        low, high, seconds = scores(result["manifolds"], name)
        lines.append(f"| {name} | {100 * low:.0f} % | {100 * high:.0f} % | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def measure(n: int) -> dict[str, Any]:
    """Return the estimates on every manifold."""
    entries: dict[str, Any] = {}
    for manifold, (d, points) in tqdm(manifolds(n).items()):
        estimates = {name: one(name, manifold, points) for name in NAMES}
        entries[manifold] = {"d": d, "ambient": points.shape[1], "estimates": estimates}
    return entries


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--quick", action="store_true", help="500 points: the script works, no numbers to rely on")
    options = parser.parse_args()
    make_folder(options.output)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    n = 500 if options.quick else 2500
    names = ["gelora", "scikit-dimension", "numpy", "scipy", "torch"]
    result = {
        "command": f"python tests/benchmarks/{NAME}.py" + (" --quick" if options.quick else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, no GPU",
        "versions": ", ".join(f"{name} {number}" for name, number in package_versions(names).items()),
        "seed": SEED,
        "n": n,
        "manifolds": measure(n),
    }
    for suffix, content in (("json", to_json(result, indent=1) + "\n"), ("md", page(result))):
        with atomic_path(options.output / f"{NAME}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
