"""From whatever holds numbers to clean points, and the rules for clouds without a dimension.

NumPy only: torch tensors are recognised by their methods, torch itself is never imported here.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.protocol import DegenerateCloudError, FloatArray

IndexArray = NDArray[np.int64]
StoredArray = NDArray[np.float32] | NDArray[np.float64]

# Unit round-off doubled, i.e. the spacing of numbers near 1, of the formats NumPy does not know.
_SPACING_OF_FOREIGN_TYPES = {"bfloat16": 2.0**-7, "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}
_FEWEST_ROWS_FOR_ATOM_RULE = 100
_DISTINCT_FRACTION = 0.1
_ROUNDING_STEPS = 8.0
_HALF_PRECISION = 1e-5  # formats of wider spacing than this hold 16 bits or fewer


@dataclass(frozen=True, slots=True)
class DistinctPoints:
    """The distinct points of a cloud, centred, and where they came from.

    Parameters
    ----------
    points : ndarray of shape (n_distinct, d)
        Float64 coordinates minus their mean, exact copies removed, in the order of the input.
    rows : ndarray of shape (n_distinct,)
        Row of the input in which each kept point occurs first.
    n_copies : int
        Rows removed because an earlier row holds the same numbers.
    resolution : float
        Relative spacing of the stored numbers: 2.2e-16 for float64, 1.2e-7 for float32, 9.8e-4 for
        float16, 7.8e-3 for bfloat16.
    rounding_distance : float
        Distance at which two points can no longer be told from one vector rounded differently,
        [Σ_j min(c · resolution · rms_j, std_j)²]^½ over the coordinates j; c is 8 for float32 and
        float64, whose computations round many times, and 1 for half precision.
    """

    points: FloatArray
    rows: IndexArray
    n_copies: int
    resolution: float
    rounding_distance: float


def as_points(points: Any) -> StoredArray:
    """Return the points as a float32 or float64 array of shape (n, d), checked.

    Half-precision numbers become float32 (exactly), integers and wider floats become float64.
    A torch tensor may live on any device and require gradients.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array, torch tensor or nested sequence.

    Returns
    -------
    ndarray of shape (n, d)
        The same numbers; the input itself where nothing had to change, so never write to it.

    Raises
    ------
    TypeError
        For anything that does not hold real numbers.
    ValueError
        For a shape other than (n, d) with d ≥ 1.
    DegenerateCloudError
        For NaN or infinite values, with the number of rows that hold them.

    Examples
    --------
    >>> from gelora_estimators import as_points
    >>> as_points([[0, 1], [2, 3]]).dtype
    dtype('float64')
    """
    return _as_points(points)[0]


def distinct_points(points: Any, *, minimum: int = 2) -> DistinctPoints:
    """Remove exact copies, subtract the mean in float64 and refuse clouds without a dimension.

    Copies are told by the stored numbers (−0.0 equals 0.0). They must go before any search: two
    copies have r_1 = 0, and a third point sees them as r_1 = r_2, which drags every
    neighbour-based estimate towards zero.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array, torch tensor or nested sequence.
    minimum : int
        Fewest distinct points the caller can work with.

    Returns
    -------
    DistinctPoints
        What is left, with the row numbers and the count of copies.

    Raises
    ------
    DegenerateCloudError
        With the counts: fewer than ``minimum`` distinct points; all points equal; fewer than one
        row in ten distinct among 100 or more (a handful of vectors, as CLS or last-token pooling
        gives at layer 0); every coordinate constant up to 8 rounding steps of its stored format.
    TypeError, ValueError
        See `as_points`.

    Examples
    --------
    >>> from gelora_estimators import distinct_points
    >>> cloud = distinct_points([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]])
    >>> cloud.rows.tolist(), cloud.n_copies, cloud.points.tolist()
    ([0, 2], 1, [[-1.0, -1.0], [1.0, 1.0]])
    """
    return distinct_and_stored(points, minimum=minimum)[0]


def distinct_and_stored(points: Any, *, minimum: int) -> tuple[DistinctPoints, StoredArray]:
    """Return what `distinct_points` does, and the kept rows as they were stored."""
    stored, resolution = _as_points(points)
    rows = first_occurrences(stored)
    n, n_distinct = len(stored), len(rows)
    if n_distinct == 1 and n > 1:
        raise DegenerateCloudError(f"the dimension is undefined: all {n} points are equal.")
    if n >= _FEWEST_ROWS_FOR_ATOM_RULE and n_distinct < _DISTINCT_FRACTION * n:
        raise DegenerateCloudError(
            f"the dimension is undefined: the {n} points take only {n_distinct} distinct values, fewer than one in "
            "ten, so they are a handful of atoms (first- or last-token pooling at layer 0 gives such a cloud)."
        )
    if n_distinct < minimum:
        raise DegenerateCloudError(
            f"the dimension is undefined: {n_distinct} distinct points ({n} points, {n - n_distinct} of them copies), "
            f"but at least {minimum} are needed."
        )
    kept = stored if n_distinct == n else stored[rows]
    centre = _mean(kept)
    centred = kept.astype(np.float64)
    with np.errstate(over="ignore"):
        centred -= centre
    _refuse_rounding_noise(kept, np.abs(centre), resolution)
    if not bool(np.isfinite(centred).all()):
        raise DegenerateCloudError(
            f"the dimension is undefined: the differences of these {n_distinct} distinct points overflow float64."
        )
    cloud = DistinctPoints(
        points=centred,
        rows=rows,
        n_copies=n - n_distinct,
        resolution=resolution,
        rounding_distance=_rounding_distance(centred, centre, resolution),
    )
    return cloud, kept


def first_occurrences(stored: StoredArray) -> IndexArray:
    """Return the rows that equal no earlier row, by a 128-bit digest of their numbers."""
    seen: set[bytes] = set()
    rows: list[int] = []
    for number, row in enumerate(stored):
        # Adding zero turns −0.0 into 0.0, which compares equal but has other bytes.
        digest = hashlib.blake2b((row + row.dtype.type(0)).tobytes(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            rows.append(number)
    return np.asarray(rows, dtype=np.int64)


def power_of_two_scale(points: FloatArray) -> float:
    """Return the power of two that brings the largest coordinate near 1.

    Multiplying by it is exact, and squares of what results neither overflow nor vanish.
    """
    largest = float(np.abs(points).max(initial=0.0))
    exponent = int(np.frexp(largest)[1]) if largest > 0.0 else 0
    return float(2.0 ** -max(min(exponent, 1000), -1000))


def _mean(stored: StoredArray) -> FloatArray:
    """Return the mean in float64, halved before summing where the sum could overflow."""
    half = stored.astype(np.float64) * 0.5 if float(np.abs(stored).max(initial=0.0)) > 1e290 else None
    if half is not None:
        return np.asarray((half / len(half)).sum(axis=0) * 2.0)
    return np.asarray(stored.mean(axis=0, dtype=np.float64))


def _rounding_distance(centred: FloatArray, centre: FloatArray, resolution: float) -> float:
    """Return how far apart rounding alone can put two copies of a vector."""
    scale = power_of_two_scale(centred)
    deviation = np.sqrt(np.square(centred * scale).mean(axis=0))
    # A massive activation that rounds to a constant separates nothing: its deviation is the bound.
    steps = _ROUNDING_STEPS if resolution < _HALF_PRECISION else 1.0
    step = np.minimum(steps * resolution * np.hypot(centre * scale, deviation), deviation)
    return float(np.sqrt(np.square(step).sum()) / scale)


def refuse_repeated_vectors(nearest: FloatArray, cloud: DistinctPoints) -> int:
    """Return how many points have a neighbour within rounding distance; raise for more than half.

    Parameters
    ----------
    nearest : ndarray of shape (n,)
        Distance of each point to its nearest other distinct point.
    cloud : DistinctPoints
        The cloud they belong to, which knows its rounding distance.

    Raises
    ------
    DegenerateCloudError
        With the counts: the cloud is a set of vectors repeated with rounding noise.
    """
    near = int((nearest <= cloud.rounding_distance).sum())
    if 2 * near > len(nearest):
        raise DegenerateCloudError(
            f"the dimension is undefined: {near} of {len(nearest)} distinct points have their nearest neighbour within "
            f"the rounding of the stored numbers (relative size {cloud.resolution:.1e}), so the cloud is a set of "
            "repeated vectors that differ by rounding noise."
        )
    return near


def _refuse_rounding_noise(kept: StoredArray, magnitude: FloatArray, resolution: float) -> None:
    """Raise if no coordinate spans more than a few steps of the stored format."""
    # Each coordinate against itself: a massive constant one must not hide what the others tell.
    tolerance = _ROUNDING_STEPS * resolution * magnitude
    span = kept.max(axis=0).astype(np.float64) * 0.5 - kept.min(axis=0).astype(np.float64) * 0.5
    if bool((span <= 0.5 * tolerance).all()):
        raise DegenerateCloudError(
            f"the dimension is undefined: the {len(kept)} distinct points are constant up to rounding (no coordinate "
            f"spans more than {_ROUNDING_STEPS:g} steps of relative size {resolution:.1e})."
        )


def _as_points(points: Any) -> tuple[StoredArray, float]:
    """Return the checked array and the relative spacing of the numbers it was given in."""
    array, resolution = _to_numpy(points)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"`points` must have shape (n, d) with d of at least 1, got shape {array.shape}: "
            "pass one row per point (reshape or pool the hidden states first)."
        )
    stored = array if array.dtype in (np.float32, np.float64) else _widen(array)
    finite = np.isfinite(stored).all(axis=1)
    if not bool(finite.all()):
        raise DegenerateCloudError(
            f"the dimension is undefined: {int((~finite).sum())} of {len(stored)} points hold NaN or infinite values."
        )
    return stored, resolution


def _to_numpy(points: Any) -> tuple[NDArray[Any], float]:
    """Return any array-like as a NumPy array, with the relative spacing of its stored numbers."""
    if hasattr(points, "detach") and hasattr(points, "cpu"):
        foreign = _SPACING_OF_FOREIGN_TYPES.get(str(points.dtype).removeprefix("torch."))
        tensor = points.detach().cpu()
        array = np.asarray((tensor.float() if foreign is not None else tensor).numpy())
        return array, foreign if foreign is not None else _spacing(array.dtype)
    try:
        array = np.asarray(points)
    except ValueError as error:
        raise ValueError(
            "`points` must have shape (n, d), got a ragged sequence: give every point the same number of coordinates."
        ) from error
    return array, _spacing(array.dtype)


def _spacing(dtype: np.dtype[Any]) -> float:
    """Return the spacing of numbers near 1, or raise if ``dtype`` holds no real numbers."""
    if dtype.name in _SPACING_OF_FOREIGN_TYPES:
        return _SPACING_OF_FOREIGN_TYPES[dtype.name]
    if dtype.kind == "f":
        return max(float(np.finfo(dtype).eps), float(np.finfo(np.float64).eps))
    if dtype.kind in "iu":
        return float(np.finfo(np.float64).eps)
    raise TypeError(
        f"`points` must hold real numbers, got dtype {dtype}: convert to a float array first (points.astype(float))."
    )


def _widen(array: NDArray[Any]) -> StoredArray:
    """Return half precision as float32 (exact), every other format as float64."""
    if array.dtype.itemsize <= 2 and array.dtype.kind not in "iu":
        return array.astype(np.float32)
    return array.astype(np.float64)
