"""Measure what estimators read on clouds of known dimension, and what is left of the bias after calibration.

Usage: python paper_figures/measure/ours_calibration.py --data FOLDER

The data are clouds drawn here: balls and spheres. The folder is not read; every script of this folder takes it.
"""

import warnings

import numpy as np
import xarray as xr
from _field import write
from _origin import make_parser
from tqdm.auto import tqdm

from gelora_estimators import MLE, Gride, PersistentHomology, TwoNN
from gelora_estimators.calibration_curve import calibration_curve
from gelora_estimators.clouds import ball, sphere

ESTIMATORS = {
    "TwoNN": TwoNN(interval="chi2"),
    "Gride, n2 = 16": Gride(n1=8, n2=16),
    "MLE, k = 10…20": MLE(interval="pointwise"),
    "H0, α = 1": PersistentHomology(n_repetitions=1, n_draws=3),
}
SIZES = (500, 2000)
GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
TESTED = (2, 4, 8, 16, 32)
N_REPLICATES = 6
N_TESTS = 10  # new clouds of each dimension, half balls, half spheres
AMBIENT = 100
SEED = 0


def tested(estimator, curve, n):
    """Return corrected dimensions of new clouds, (n_tested, n_tests), and whether their intervals held the truth."""
    values, held = np.empty((2, len(TESTED), N_TESTS))
    for place, d in enumerate(TESTED):
        for test in range(N_TESTS):
            rng = np.random.default_rng([SEED + 1, n, d, test])
            cloud = (ball, sphere)[test % 2](n, d, d + 1, rng)
            found = curve.correct(estimator(cloud, rng=rng).dimension)
            values[place, test] = found.dimension
            held[place, test] = found.interval[0] <= d <= found.interval[1]
    return values, held


def main() -> None:
    """Simulate every estimator at every size and write the file."""
    arguments = make_parser(__doc__).parse_args()
    mean, spread, corrected, held = [], [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of H0 on few points: the figure shows what they mean
        for name, estimator in tqdm(ESTIMATORS.items(), desc="estimators"):
            for n in SIZES:
                curve = calibration_curve(estimator, n, AMBIENT, grid=GRID, n_replicates=N_REPLICATES, seed=SEED)
                if len(curve.grid) < len(GRID):
                    raise ValueError(f"{name} has no dimension on clouds of {n} points in {GRID}")
                mean.append(curve.mean)
                spread.append(curve.sd)
                values, inside = tested(estimator, curve, n)
                corrected.append(values)
                held.append(inside)
    lead = (len(ESTIMATORS), len(SIZES))
    raw, test = ("estimator", "n", "family", "d"), ("estimator", "n", "d_tested", "test")
    dataset = xr.Dataset(
        {
            "raw_mean": (raw, np.reshape(mean, (*lead, 2, len(GRID)))),
            "raw_spread": (raw, np.reshape(spread, (*lead, 2, len(GRID)))),
            "corrected": (test, np.reshape(corrected, (*lead, len(TESTED), N_TESTS))),
            "held": (test, np.reshape(held, (*lead, len(TESTED), N_TESTS))),
        },
        coords={
            "estimator": list(ESTIMATORS),
            "n": list(SIZES),
            "family": ["ball", "sphere"],
            "d": list(GRID),
            "d_tested": list(TESTED),
        },
    )
    facts = {
        "model": "none: simulated clouds",
        "data": f"balls and spheres; {N_REPLICATES} clouds of each dimension, {N_TESTS} new ones for the test",
        "estimators": {name: repr(estimator) for name, estimator in ESTIMATORS.items()},
        "seed": SEED,
    }
    print(write(dataset, arguments, "ours_calibration", **facts))


if __name__ == "__main__":
    main()
