"""How often do the intervals hold the dimension? Simulate, count, and write down.

Run by ``python tests/benchmarks/interval_coverage.py [--quick]``; writes ``docs/benchmarks/interval_coverage.json``
and the page ``docs/benchmarks/interval_coverage.md``. The JSON file grows case by case: a run that was cut off is
taken up where it stopped by the same command.
"""

import argparse
import json
import math
import os
import platform
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
    Gride,
    PersistentHomology,
    Spectral,
    TwoNN,
    nearest_distances,
)
from gelora_estimators.calibration import CalibratedEstimator, InformationCeilingWarning
from gelora_estimators.calibration_curve import CalibrationCurve, calibration_curve
from gelora_estimators.clouds import ball, flat_torus, gaussian, sphere, subspace
from gelora_estimators.local import twonn as local_twonn

NAME = "interval_coverage"
SEED = 20_261_122
N = 1000
RATIO_COLUMNS = 64

RATIOS = {
    "twonn, likelihood, χ²": TwoNN(fit="likelihood", discard=0.0, interval="chi2"),
    "twonn, likelihood of the lowest 90 %, χ²": TwoNN(fit="likelihood", discard=0.1, interval="chi2"),
    "twonn, regression on the lowest 90 %, χ²": TwoNN(interval="chi2"),
    "twonn, posterior of the lowest 90 %": TwoNN(fit="posterior", interval="posterior"),
    "gride 1:2, Fisher": Gride(interval="fisher"),
    "gride 2:4, Fisher": Gride(n1=2, n2=4, interval="fisher"),
    "gride 8:16, Fisher": Gride(n1=8, n2=16, interval="fisher"),
    "gride 32:64, Fisher": Gride(n1=32, n2=64, interval="fisher"),
    "mle 10…20, pointwise": MLE(interval="pointwise"),
}
NEIGHBORS = {
    "twonn": TwoNN(),
    "twonn, χ²": TwoNN(interval="chi2"),
    "mle": MLE(),
    "gride": Gride(),
    "gride, halves": Gride(interval="subsampling"),
    "local:twonn": local_twonn(),
}
POINTS = {"corrint": CorrelationIntegral(), "spectral": Spectral(), "ph": PersistentHomology()}
CALIBRATED = {
    "twonn, calibrated": TwoNN(interval="chi2"),
    "mle, calibrated": MLE(interval="pointwise"),
    "twonn, calibrated with cubes": TwoNN(interval="chi2"),
}
"""The raw estimators; their own errors are not used."""
DEFAULT = ("twonn, calibrated", "mle, calibrated")
ESTIMATORS = RATIOS | NEIGHBORS | POINTS | CALIBRATED
N_CURVES = 8  # simulations of the calibration that the clouds share, lest one curve's error decide
COVERING = (3.5, 20.0)  # raw estimates met for d = 5 … 20

CLOUDS = {"product of circles": flat_torus, "ball": ball, "sphere": sphere, "Gaussian": gaussian, "cube": subspace}


@dataclass(frozen=True, slots=True)
class Case:
    """Clouds of one family and dimension, and the estimators that run on each."""

    group: str
    family: str
    dimension: int
    estimators: tuple[str, ...]
    n_clouds: int

    @property
    def key(self) -> str:
        return f"{self.group}; {self.family}; d = {self.dimension}"


# The part of each group that must be met: estimators, lowest and highest coverage of a nominal 0.95.
REQUIRED: dict[str, tuple[tuple[str, ...], float, float]] = {
    "independent ratios": (tuple(RATIOS), 0.90, 0.98),
    "flat tori": (("twonn",), 0.90, 0.99),
    "products of circles": (("twonn",), 0.90, 0.99),
    "calibrated": (DEFAULT, 0.90, 0.99),
}


def cases(n_clouds: int) -> list[Case]:
    """Return all cases; clouds unlike those of the calibration are fewer, nothing being required there."""
    neighbors = tuple(NEIGHBORS)
    half = max(n_clouds // 2, min(n_clouds, 200))
    return [
        *(Case("independent ratios", "Poisson process", d, tuple(RATIOS), 2 * n_clouds) for d in (2, 10)),
        *(Case("flat tori", "cube with glued faces", d, neighbors, n_clouds) for d in (2, 5, 10)),
        *(Case("products of circles", "product of circles", d, (*neighbors, *POINTS), n_clouds) for d in (2, 5, 10)),
        *(
            Case("calibrated", family, d, ("twonn", "mle", *DEFAULT), n_clouds)
            for family in ("ball", "sphere")
            for d in (5, 10, 15, 20)
        ),
        *(
            Case("calibrated by other clouds", family, d, ("twonn", *CALIBRATED), half)
            for family in ("Gaussian", "cube")
            for d in (5, 10, 20)
        ),
    ]


def true_value(case: Case, name: str) -> float:
    """Return what the interval should hold: a product of d circles spans 2d directions, of equal variance."""
    return 2.0 * case.dimension if name == "spectral" else float(case.dimension)


def independent_distances(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Return distances (n, RATIO_COLUMNS) as of n unrelated points to the neighbours in a Poisson process.

    Volumes up to the neighbours are sums of exponentials, so (r_i/r_j)^d is Beta(i, j − i), independent over points.
    """
    return np.asarray(rng.standard_exponential((n, RATIO_COLUMNS)).cumsum(axis=1) ** (1.0 / d))


def periodic_neighbors(n: int, d: int, columns: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbour lists in the unit cube with opposite faces glued: a torus without curvature or edge."""
    points = rng.random((n, d))
    squared = np.zeros((n, n))
    for column in points.T:
        apart = np.abs(column[:, None] - column[None, :])
        squared += np.square(np.minimum(apart, 1.0 - apart))
    np.fill_diagonal(squared, np.inf)
    nearest = np.argpartition(squared, columns, axis=1)[:, :columns]
    near = np.take_along_axis(squared, nearest, axis=1)
    order = np.argsort(near, axis=1, kind="stable")
    return np.sqrt(np.take_along_axis(near, order, axis=1)), np.take_along_axis(nearest, order, axis=1)


@cache
def curve(name: str, number: int) -> CalibrationCurve:
    """Return one simulation of what a raw estimator reads."""
    families = ("ball", "sphere") if name in DEFAULT else ("ball", "sphere", "cube")
    return calibration_curve(CALIBRATED[name], N, families=families, covering=COVERING, seed=number)


def made(name: str, number: int) -> Any:
    """Return the estimator for cloud ``number``."""
    if name not in CALIBRATED:
        return ESTIMATORS[name]
    return CalibratedEstimator(estimator=CALIBRATED[name], curve=curve(name, number % N_CURVES))


def one_cloud(case: Case, number: int) -> list[tuple[float, float, float, float]]:
    """Return dimension, standard error and interval of each estimator on cloud ``number``."""
    rng = generator(SEED, case.family, case.dimension, number)
    columns = max((ESTIMATORS[name].k for name in case.estimators if name not in POINTS), default=0)
    points = distances = indices = None
    if case.family == "Poisson process":
        distances = independent_distances(N, case.dimension, rng)
    elif case.family == "cube with glued faces":
        distances, indices = periodic_neighbors(N, case.dimension, columns, rng)
    else:
        points = CLOUDS[case.family](N, case.dimension, 2 * case.dimension, rng)
        if columns:
            found = nearest_distances(points, columns)
            distances, indices = found.distances, found.indices
    estimates = []
    for name in case.estimators:
        draws = generator(SEED, case.family, case.dimension, number, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InformationCeilingWarning)  # what it says is counted here
            if name in POINTS:
                estimate = made(name, number)(points, rng=draws)
            else:
                estimate = made(name, number).from_distances(distances, N, draws, indices=indices, points=points)
        estimates.append((estimate.dimension, estimate.standard_error, *estimate.interval))
    return estimates


def summary(case: Case, estimates: np.ndarray) -> list[dict[str, Any]]:
    """Return for each estimator what (n_clouds, n_estimators, 4) numbers say."""
    lines = []
    for place, name in enumerate(case.estimators):
        dimension, error, low, high = estimates[:, place].T
        true, own = true_value(case, name), float(dimension.mean())
        spread = float(dimension.std(ddof=1))
        lines.append(
            {
                "group": case.group,
                "family": case.family,
                "d": case.dimension,
                "n": N,
                "estimator": name,
                "n_clouds": len(estimates),
                "true_value": true,
                "mean": round(own, 4),
                "spread": round(spread, 4),
                "mean_standard_error": round(float(error.mean()), 4),
                "coverage": round(float(((low <= true) & (true <= high)).mean()), 4),
                "coverage_of_own_mean": round(float(((low <= own) & (own <= high)).mean()), 4),
            }
        )
    return lines


def verdict(line: dict[str, Any]) -> str:
    """Return whether a line meets what is required of it; empty where nothing is."""
    names, low, high = REQUIRED.get(line["group"], ((), 0.0, 1.0))
    if line["estimator"] not in names:
        return ""
    return "NOT met" if line["coverage"] < low else "exceeded" if line["coverage"] > high else "met"


def page(result: dict[str, Any]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Coverage of the intervals, measured",
        "",
        f"Made by `{result['command']}` on {result['date']}: {result['machine']}; {result['versions']}; "
        f"{result['seconds'] / 60:.1f} minutes.",
        f"All intervals are for a confidence of 0.95 and clouds of {N:,} points, each from a generator of its own "
        f"(seed {SEED}).",
        "",
        "- *mean ± spread*: mean and standard deviation of the estimates; the distance of the mean from",
        "  the true value is bias.",
        "- *error ÷ spread*: mean of the standard errors over that spread; 1 is right, more is on the safe side.",
        "- *covers the truth*: share of the intervals that hold the true value. It needs right errors and little bias.",
        "- *covers its mean*: share that hold the mean of the estimates. It judges the error alone, whatever the bias.",
        "",
        "Each share has a simulation error of √(p (1 − p) / clouds), behind the ±.",
        "",
    ]
    for group, text in GROUPS.items():
        rows = [line for line in result["lines"] if line["group"] == group]
        lines += [f"## {group.capitalize()}", "", text, ""]
        lines += ["| family | d | estimator | clouds | mean ± spread | error ÷ spread | covers the truth | "]
        lines[-1] += "covers its mean | required |"
        lines += ["| --- " * 9 + "|", *(_row(line) for line in rows), ""]
    return "\n".join(lines)


GROUPS = {
    "independent ratios": "Distances drawn from the law that these intervals are derived from: the neighbours of a "
    "Poisson process, independent from point to point. The interval of the regression takes the χ² law of the "
    "likelihood for its own.",
    "flat tori": "Uniform in the unit cube with opposite faces glued, by distances that go across the faces: no edge "
    "and no curvature, so nearly no bias. Neighbours are shared between points, as in every cloud.",
    "products of circles": "Uniform on d unit circles in 2d coordinates. Inside, this is a flat torus too; but "
    "distances in space are chords, shorter than the way along the circles, and at d = 10 the nearest neighbours are "
    "so far away that this raises the estimate: bias, which no error bar covers. `spectral` counts directions, so its "
    "true value is 2d.",
    "calibrated": "Uniform in balls and on spheres: an edge, or curvature, and at d ≥ 10 a strong downward bias of the "
    "raw value, which the calibration is there to remove. It simulates balls and spheres itself and takes in what "
    f"either would explain. The clouds share {N_CURVES} simulated curves in turn.",
    "calibrated by other clouds": "The same on clouds that the calibration does not simulate by default. A cube has "
    "more edge than a ball, and is read too low unless cubes are among the simulated families.",
}


def _row(line: dict[str, Any]) -> str:
    def share(p: float) -> str:
        return f"{100 * p:.1f} ± {100 * math.sqrt(p * (1 - p) / line['n_clouds']):.1f} %"

    ratio = line["mean_standard_error"] / line["spread"] if line["spread"] else float("nan")
    shown = f"{line['mean']:.2f} ± {line['spread']:.2f}"
    names, low, high = REQUIRED.get(line["group"], ((), 0.0, 1.0))
    wanted = f"{100 * low:.0f}–{100 * high:.0f} %: {verdict(line)}" if line["estimator"] in names else ""
    return (
        f"| {line['family']} | {line['d']} | {line['estimator']} | {line['n_clouds']} | {shown} | {ratio:.2f} | "
        f"{share(line['coverage'])} | {share(line['coverage_of_own_mean'])} | {wanted} |"
    )


def _settings(n_clouds: int) -> dict[str, Any]:
    """Return what two runs must share for one to go on where the other stopped."""
    names = ["gelora", "numpy", "scipy", "torch"]
    versions = ", ".join(f"{name} {number}" for name, number in package_versions(names).items())
    options = {name: repr(estimator) for name, estimator in ESTIMATORS.items()}
    return {"seed": SEED, "n": N, "n_clouds": n_clouds, "versions": versions, "options": options}


def _started(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the unfinished result of an earlier run with these settings, or an empty one."""
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if not earlier["complete"] and all(earlier[name] == value for name, value in settings.items()):
            return dict(earlier)
    return {**settings, "complete": False, "seconds": 0.0, "done": [], "lines": []}


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _one_thread() -> None:
    torch.set_num_threads(1)


def measure(path: Path, n_clouds: int, workers: int) -> dict[str, Any]:
    """Run the cases that are not in ``path`` yet, writing it after each."""
    result = _started(path, _settings(n_clouds))
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
        for case in cases(n_clouds):
            if [case.key, list(case.estimators)] in result["done"]:
                continue
            started = time.perf_counter()
            work = pool.map(one_cloud, [case] * case.n_clouds, range(case.n_clouds), chunksize=5)
            estimates = np.array(list(tqdm(work, total=case.n_clouds, desc=case.key)))
            result["lines"] += summary(case, estimates)
            result["done"].append([case.key, list(case.estimators)])
            result["seconds"] += round(time.perf_counter() - started, 1)
            _write(path, to_json(result, indent=1) + "\n")
    return result


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--clouds", type=int, default=400, help="clouds of each family and dimension")
    parser.add_argument("--quick", action="store_true", help="40 clouds: the script works, no shares to rely on")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    make_folder(options.output)
    path = options.output / f"{NAME}.json"
    result = measure(path, 40 if options.quick else options.clouds, options.workers)
    result |= {
        "complete": True,
        "command": f"python tests/benchmarks/{NAME}.py" + (" --quick" if options.quick else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, processes of one thread: {options.workers}, no GPU",
    }
    _write(path, to_json(result, indent=1) + "\n")
    _write(path.with_suffix(".md"), page(result))


if __name__ == "__main__":
    main()
