"""Does an estimator keep the contract? `check_estimator`, for our own and for plug-ins.

The point clouds of known dimension in `gelora_estimators.clouds` are re-exported here.
"""

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from gelora_estimators.clouds import ball as ball
from gelora_estimators.clouds import flat_torus as flat_torus
from gelora_estimators.clouds import gaussian as gaussian
from gelora_estimators.clouds import random_rotation as random_rotation
from gelora_estimators.clouds import sphere as sphere
from gelora_estimators.clouds import subspace as subspace
from gelora_estimators.clouds import swiss_roll as swiss_roll
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, DimensionEstimator, FloatArray

_N_COORDINATES = 12
_SHIFT = 1e4


class EstimatorContractError(AssertionError):
    """An estimator breaks the contract; the message names the check and what was seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """One estimator under test, with its tolerance, seed and healthy cloud."""

    estimator: DimensionEstimator
    cloud: FloatArray
    seed: int
    tolerance: float
    factor: float
    known: Mapping[str, tuple[float, FloatArray]]

    def run(self, points: Any) -> DimensionEstimate:
        return self.estimator(points, rng=np.random.default_rng(self.seed))

    def dimension(self, points: Any) -> float:
        return float(self.run(points).dimension)

    def fail(self, check: str, what: str) -> None:
        raise EstimatorContractError(f"check {check!r}: {self.estimator!r} {what}")

    def compare(self, check: str, points: Any, reference: Any, what: str) -> None:
        """Fail unless two clouds get the same dimension up to the tolerance."""
        found, expected = self.dimension(points), self.dimension(reference)
        if not abs(found - expected) <= self.tolerance * abs(expected):
            self.fail(check, f"gives {found:.6g} instead of {expected:.6g} {what} (tolerance {self.tolerance:.1%}).")

    def refuse(self, check: str, points: Any, what: str) -> None:
        """Fail unless the cloud raises DegenerateCloudError."""
        try:
            found = self.run(points)
        except DegenerateCloudError:
            return
        except Exception as error:  # noqa: BLE001  # any other exception is the finding
            self.fail(check, f"raises {type(error).__name__} instead of DegenerateCloudError on {what}: {error}")
        else:
            value = found.dimension if isinstance(found, DimensionEstimate) else found
            self.fail(check, f"returns {value!r} instead of raising DegenerateCloudError on {what}.")


def check_estimator(
    estimator: DimensionEstimator | Callable[[], DimensionEstimator],
    *,
    n: int = 500,
    seed: int = 0,
    tolerance: float = 0.05,
    factor: float = 1.4,
    skip: Collection[str] = (),
) -> None:
    """Raise `EstimatorContractError` unless the estimator keeps the contract.

    The checks, by the names that ``skip`` takes:

    * ``returns_estimate``: called with points and ``rng=`` it returns a `DimensionEstimate` with a
      positive finite dimension, ``n_points`` set and, if there is an interval, the dimension inside;
    * ``input_unchanged``, ``read_only``: it does not write to its input and takes a read-only one;
    * ``stateless``, ``reproducible``: another cloud in between changes nothing; the same generator
      state gives the same bits;
    * ``row_order``, ``shift`` (by 10⁴ times the size), ``rotation``, ``scale`` (10⁴ and 10⁻⁴),
      ``zero_padding``: invariances, within ``tolerance``;
    * ``accuracy``: right within ``factor`` on a 2-sphere, a 3-torus and a 5-dimensional Gaussian;
    * ``nan``, ``inf``, ``constant``, ``few_points`` (0, 1, 2 and 3), ``all_copies`` (a handful of
      vectors repeated), ``rounding_noise`` (one vector, rounded in many ways): `DegenerateCloudError`;
    * ``copies``: 10 % of rows copied change nothing beyond ``tolerance``;
    * ``float32``, ``float16``, ``bfloat16`` (a torch tensor, where torch is installed), ``list``: the same
      as float64 of the same stored numbers;
    * ``global_state``: warning filters, NumPy's print options and its global generator stay as found;
    * ``from_distances``: where it is offered, the same dimension as from the points.

    Parameters
    ----------
    estimator : DimensionEstimator or class
        What to test; a class is called without arguments first.
    n : int
        Points of the clouds.
    seed : int
        Seed of the clouds and of every call.
    tolerance : float
        Relative difference that counts as none.
    factor : float
        Largest ratio, either way, of estimate and truth.
    skip : collection of str
        Checks left out, for an estimator that is slow or known to fail them.

    Raises
    ------
    EstimatorContractError
        At the first check that fails.
    ValueError
        For a name in ``skip`` that is no check.

    Examples
    --------
    >>> from gelora_estimators import TwoNN, check_estimator
    >>> check_estimator(TwoNN(n_subsamples=5), n=300, skip=("bfloat16",))

    """
    unknown = sorted(set(skip) - set(CHECKS))
    if unknown:
        raise ValueError(f"`skip` must hold names of checks ({', '.join(CHECKS)}), got {', '.join(unknown)}.")
    trial = _make_trial(estimator() if inspect.isclass(estimator) else estimator, n, seed, tolerance, factor)
    for name, check in CHECKS.items():
        if name not in skip:
            _run_check(name, check, trial)


def _make_trial(estimator: Any, n: int, seed: int, tolerance: float, factor: float) -> _Trial:
    """Return the estimator with the clouds it is tried on."""
    rng = np.random.default_rng(seed)
    return _Trial(
        estimator=estimator,
        cloud=gaussian(n, 3, _N_COORDINATES, rng),
        seed=seed,
        tolerance=tolerance,
        factor=factor,
        known={
            "a 2-sphere": (2.0, sphere(n, 2, _N_COORDINATES, rng)),
            "a flat 3-torus": (3.0, flat_torus(n, 3, _N_COORDINATES, rng)),
            "a 5-dimensional Gaussian": (5.0, gaussian(n, 5, _N_COORDINATES, rng)),
        },
    )


def _run_check(name: str, check: Callable[[_Trial], None], trial: _Trial) -> None:
    """Run one check; an exception of the estimator's own is a finding too."""
    try:
        check(trial)
    except EstimatorContractError:
        raise
    except Exception as error:
        raise EstimatorContractError(
            f"check {name!r}: {trial.estimator!r} raises {type(error).__name__}: {error}"
        ) from error


def _check_returns_estimate(trial: _Trial) -> None:
    found: Any = trial.run(trial.cloud)
    if not isinstance(found, DimensionEstimate):
        trial.fail("returns_estimate", f"returns {type(found).__name__} instead of DimensionEstimate.")
    if not (np.isfinite(found.dimension) and found.dimension > 0.0):
        trial.fail("returns_estimate", f"returns the dimension {found.dimension} on a Gaussian cloud.")
    if not 0 < found.n_points <= len(trial.cloud):
        trial.fail("returns_estimate", f"says it used {found.n_points} of {len(trial.cloud)} points.")
    low, high = found.interval
    if np.isfinite(low) and np.isfinite(high) and not low <= found.dimension <= high:
        trial.fail("returns_estimate", f"returns {found.dimension} outside of its interval ({low}, {high}).")


def _check_input_unchanged(trial: _Trial) -> None:
    given = trial.cloud.copy()
    trial.run(given)
    if given.tobytes() != trial.cloud.tobytes():
        trial.fail("input_unchanged", "writes to the points it is given.")


def _check_read_only(trial: _Trial) -> None:
    given = trial.cloud.copy()
    given.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            trial.run(given)
        except (ValueError, Warning) as error:
            trial.fail("read_only", f"does not take read-only points: {error}")


def _check_stateless(trial: _Trial) -> None:
    before = trial.dimension(trial.cloud)
    trial.run(trial.known["a 5-dimensional Gaussian"][1])
    after = trial.dimension(trial.cloud)
    if before != after:
        trial.fail("stateless", f"gives {before!r}, then {after!r} once it has seen another cloud.")


def _check_reproducible(trial: _Trial) -> None:
    first, second = trial.run(trial.cloud), trial.run(trial.cloud)
    pair = [np.array([found.dimension, found.standard_error, *found.interval]) for found in (first, second)]
    if not np.array_equal(pair[0], pair[1], equal_nan=True):
        trial.fail("reproducible", f"gives {pair[0].tolist()}, then {pair[1].tolist()} from the same generator.")


def _check_row_order(trial: _Trial) -> None:
    order = np.random.default_rng(trial.seed).permutation(len(trial.cloud))
    trial.compare("row_order", trial.cloud[order], trial.cloud, "on the rows in another order")


def _check_shift(trial: _Trial) -> None:
    size = float(np.linalg.norm(trial.cloud, axis=1).max())
    shifted = (trial.cloud + _SHIFT * size).astype(np.float64)
    trial.compare("shift", shifted, trial.cloud, f"on the cloud moved by {_SHIFT:g} times its size")


def _check_rotation(trial: _Trial) -> None:
    rotation = random_rotation(trial.cloud.shape[1], np.random.default_rng(trial.seed))
    trial.compare("rotation", trial.cloud @ rotation, trial.cloud, "on the rotated cloud")


def _check_scale(trial: _Trial) -> None:
    for scale in (1e4, 1e-4):
        trial.compare("scale", trial.cloud * scale, trial.cloud, f"on the cloud times {scale:g}")


def _check_zero_padding(trial: _Trial) -> None:
    padded = np.concatenate([trial.cloud, np.zeros_like(trial.cloud)], axis=1)
    trial.compare("zero_padding", padded, trial.cloud, "on the cloud with coordinates of zero added")


def _check_accuracy(trial: _Trial) -> None:
    for name, (true, cloud) in trial.known.items():
        found = trial.dimension(cloud)
        if not true / trial.factor <= found <= true * trial.factor:
            trial.fail("accuracy", f"gives {found:.4g} on {name}, whose dimension is {true:g} (factor {trial.factor}).")


def _check_nan(trial: _Trial) -> None:
    broken = trial.cloud.copy()
    broken[3, 1] = np.nan
    trial.refuse("nan", broken, "a cloud with one NaN")


def _check_inf(trial: _Trial) -> None:
    for value in (np.inf, -np.inf):
        broken = trial.cloud.copy()
        broken[5, 0] = value
        trial.refuse("inf", broken, "a cloud with one infinite value")


def _check_constant(trial: _Trial) -> None:
    for value in (0.0, 3.7):
        trial.refuse("constant", np.full_like(trial.cloud, value), f"{len(trial.cloud)} equal points")


def _check_few_points(trial: _Trial) -> None:
    for n in range(4):
        trial.refuse("few_points", trial.cloud[:n], f"{n} points")


def _check_all_copies(trial: _Trial) -> None:
    n = len(trial.cloud)
    for atoms in (2, 5, n // 20):
        trial.refuse("all_copies", trial.cloud[np.arange(n) % atoms], f"{n} points of only {atoms} distinct values")


def _check_rounding_noise(trial: _Trial) -> None:
    rng = np.random.default_rng(trial.seed)
    for atoms in (1, 5):
        vectors = (trial.cloud + 2.0 * np.sign(trial.cloud))[rng.integers(atoms, size=len(trial.cloud))]
        rounded = vectors * (1.0 + rng.integers(-1, 2, size=vectors.shape) * 2.0**-52)
        trial.refuse("rounding_noise", rounded, f"{atoms} distinct vectors rounded in different ways")


def _check_copies(trial: _Trial) -> None:
    n_copies = len(trial.cloud) // 10
    repeated = np.concatenate([trial.cloud, trial.cloud[:n_copies]])
    trial.compare("copies", repeated, trial.cloud, f"on the cloud with {n_copies} rows copied")


def _check_float32(trial: _Trial) -> None:
    stored = trial.cloud.astype(np.float32)
    trial.compare("float32", stored, stored.astype(np.float64), "on float32 rather than float64 of the same numbers")


def _check_float16(trial: _Trial) -> None:
    stored = trial.cloud.astype(np.float16)
    trial.compare("float16", stored, stored.astype(np.float64), "on float16 rather than float64 of the same numbers")


def _check_bfloat16(trial: _Trial) -> None:
    if find_spec("torch") is None:
        return
    # By name, so that this module does not need torch: the check is about tensors a caller may pass.
    torch = import_module("torch")
    stored = torch.tensor(trial.cloud).to(torch.bfloat16)
    reference = stored.double().numpy()
    trial.compare("bfloat16", stored, reference, "on a bfloat16 tensor rather than float64 of the same numbers")


def _check_list(trial: _Trial) -> None:
    trial.compare("list", trial.cloud.tolist(), trial.cloud, "on nested lists rather than an array")


def _check_global_state(trial: _Trial) -> None:
    before = _global_state()
    trial.run(trial.cloud)
    after = _global_state()
    for what in before:
        if before[what] != after[what]:
            trial.fail("global_state", f"changes {what}.")


def _global_state() -> dict[str, object]:
    """Return what a call must leave as found, in a form that can be compared."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "the warning filters": list(warnings.filters),
        "NumPy's print options": np.get_printoptions(),
        "NumPy's error handling": np.geterr(),
        "NumPy's global generator": (kind, np.asarray(keys).tobytes(), *rest),
    }


def _check_from_distances(trial: _Trial) -> None:
    method = getattr(trial.estimator, "from_distances", None)
    if method is None:
        return
    difference = trial.cloud[:, None, :] - trial.cloud[None, :, :]
    squared = np.square(difference).sum(axis=-1)
    np.fill_diagonal(squared, np.inf)
    # More columns than it asks for, as from a search that serves another estimator too.
    k = min(int(getattr(trial.estimator, "k", 1)) + 3, len(squared) - 1)
    indices = np.argsort(squared, axis=1, kind="stable")[:, :k]
    distances = np.sqrt(np.take_along_axis(squared, indices, axis=1))
    parameters = inspect.signature(method).parameters
    offered = {"indices": indices, "points": trial.cloud}
    extras = {name: value for name, value in offered.items() if name in parameters}
    found = float(method(distances, len(squared), np.random.default_rng(trial.seed), **extras).dimension)
    expected = trial.dimension(trial.cloud)
    if not abs(found - expected) <= 1e-6 * abs(expected):
        trial.fail("from_distances", f"gives {found!r} from distances and {expected!r} from the points.")


CHECKS: Mapping[str, Callable[[_Trial], None]] = {
    "returns_estimate": _check_returns_estimate,
    "input_unchanged": _check_input_unchanged,
    "read_only": _check_read_only,
    "stateless": _check_stateless,
    "reproducible": _check_reproducible,
    "row_order": _check_row_order,
    "shift": _check_shift,
    "rotation": _check_rotation,
    "scale": _check_scale,
    "zero_padding": _check_zero_padding,
    "accuracy": _check_accuracy,
    "nan": _check_nan,
    "inf": _check_inf,
    "constant": _check_constant,
    "few_points": _check_few_points,
    "all_copies": _check_all_copies,
    "rounding_noise": _check_rounding_noise,
    "copies": _check_copies,
    "float32": _check_float32,
    "float16": _check_float16,
    "bfloat16": _check_bfloat16,
    "list": _check_list,
    "global_state": _check_global_state,
    "from_distances": _check_from_distances,
}
