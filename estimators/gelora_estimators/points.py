"""The distinct points of a cloud, and the rules for clouds without a dimension."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.protocol import DegenerateCloudError, FloatArray
from gelora_estimators.stored import IndexArray as IndexArray
from gelora_estimators.stored import StoredArray as StoredArray
from gelora_estimators.stored import as_points as as_points
from gelora_estimators.stored import as_stored, rows_in_cache, take_rows

_FEWEST_ROWS_FOR_ATOM_RULE = 100
_DISTINCT_FRACTION = 0.1
_ROUNDING_STEPS = 8.0
_SAMPLED_ROWS = 256  # rows that the usual size of a coordinate is taken from
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
        [Σ_j min(c · resolution · size_j, std_j)²]^½ over the coordinates j, whose size is the smaller of
        the root mean square and the 90 % quantile of the absolute values (of some 256 rows); c is 8 for
        float32 and float64, whose computations round many times, and 1 for half precision.
    """

    points: FloatArray
    rows: IndexArray
    n_copies: int
    resolution: float
    rounding_distance: float


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """The distinct points of a cloud as they were stored, for work that centres them block by block.

    Parameters
    ----------
    stored : ndarray of shape (n_distinct, d)
        Float32 or float64 rows, exact copies removed; the input itself where nothing was removed.
    centre : ndarray of shape (d,)
        Their mean in float64.
    scale : float
        Power of two that brings the largest centred coordinate into [½, 1).
    rows, n_copies, resolution, rounding_distance
        As in `DistinctPoints`.
    """

    stored: StoredArray
    centre: FloatArray
    scale: float
    rows: IndexArray
    n_copies: int
    resolution: float
    rounding_distance: float


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
    cloud = distinct_rows(points, minimum=minimum)
    centred = cloud.stored.astype(np.float64)
    centred -= cloud.centre
    return DistinctPoints(
        points=centred,
        rows=cloud.rows,
        n_copies=cloud.n_copies,
        resolution=cloud.resolution,
        rounding_distance=cloud.rounding_distance,
    )


def distinct_rows(points: Any, *, minimum: int) -> DistinctRows:
    """Return what `distinct_points` does, with the kept rows as they were stored instead of centred.

    Raises
    ------
    DegenerateCloudError, TypeError, ValueError
        See `distinct_points`.
    """
    stored, resolution = as_stored(points)
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
    kept = stored if n_distinct == n else take_rows(stored, rows)
    low, high = kept.min(axis=0).astype(np.float64), kept.max(axis=0).astype(np.float64)
    centre = _mean(kept, low, high)
    _refuse_rounding_noise(low, high, np.abs(centre), resolution, n_distinct)
    with np.errstate(over="ignore"):
        largest = float(np.maximum(high - centre, centre - low).max())
    if not np.isfinite(largest):
        raise DegenerateCloudError(
            f"the dimension is undefined: the differences of these {n_distinct} distinct points overflow float64."
        )
    scale = power_of_two(largest)
    return DistinctRows(
        stored=kept,
        centre=centre,
        scale=scale,
        rows=rows,
        n_copies=n - n_distinct,
        resolution=resolution,
        rounding_distance=_rounding_distance(kept, centre, scale, resolution),
    )


def first_occurrences(stored: StoredArray) -> IndexArray:
    """Return the rows that equal no earlier row; −0.0 equals 0.0."""
    keys = _row_keys(stored)
    order = np.argsort(keys, kind="stable")
    equal = keys[order[1:]] == keys[order[:-1]]
    if not bool(equal.any()):
        return np.arange(len(stored), dtype=np.int64)
    # Equal keys need not mean equal rows: those few are compared byte by byte.
    suspects = np.zeros(len(stored), dtype=np.bool_)
    suspects[order[1:][equal]] = suspects[order[:-1][equal]] = True
    seen: set[bytes] = set()
    first = np.ones(len(stored), dtype=np.bool_)
    for number in np.flatnonzero(suspects):
        row = (stored[number] + stored.dtype.type(0)).tobytes()
        first[number] = row not in seen
        seen.add(row)
    return np.flatnonzero(first).astype(np.int64)


def centred_block(cloud: DistinctRows, start: int, stop: int) -> FloatArray:
    """Return rows of the cloud minus its mean, times its power of two, in float64."""
    block = cloud.stored[start:stop].astype(np.float64)
    block -= cloud.centre
    block *= cloud.scale
    return block


def power_of_two_scale(points: FloatArray) -> float:
    """Return the power of two that brings the largest coordinate near 1.

    Multiplying by it is exact, and squares of what results neither overflow nor vanish.
    """
    return power_of_two(float(np.abs(points).max(initial=0.0)))


def power_of_two(largest: float) -> float:
    """Return the power of two whose product with ``largest`` lies in [½, 1); 1 for zero."""
    exponent = int(np.frexp(largest)[1]) if largest > 0.0 else 0
    return float(2.0 ** -max(min(exponent, 1000), -1000))


def _row_keys(stored: StoredArray) -> NDArray[np.uint64]:
    """Return one number for each row, equal for equal rows and rarely for others."""
    integer = np.dtype(f"u{stored.dtype.itemsize}")
    weights = np.random.default_rng(0).integers(1, 2**63, size=stored.shape[1], dtype=np.uint64) * 2 + 1
    shift = integer.type(4 * integer.itemsize)
    keys = np.empty(len(stored), dtype=np.uint64)
    step = rows_in_cache(stored.shape[1])
    for start in range(0, len(stored), step):
        # Adding zero turns −0.0 into 0.0, which compares equal but has other bits.
        bits = (stored[start : start + step] + stored.dtype.type(0)).view(integer)
        # Folding moves the sign bit down: multiples of the highest bit alone would cancel in pairs.
        keys[start : start + step] = (bits ^ (bits >> shift)).astype(np.uint64) @ weights
    return keys


def _mean(stored: StoredArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the mean in float64, halved before summing where the sum could overflow."""
    if max(float(high.max()), -float(low.min())) > 1e290:
        return np.asarray((stored.astype(np.float64) * 0.5 / len(stored)).sum(axis=0) * 2.0)
    return np.asarray(stored.mean(axis=0, dtype=np.float64))


def _rounding_distance(stored: StoredArray, centre: FloatArray, scale: float, resolution: float) -> float:
    """Return how far apart rounding alone can put two copies of a vector."""
    total = np.zeros(stored.shape[1])
    step = rows_in_cache(stored.shape[1])
    for start in range(0, len(stored), step):
        block = (stored[start : start + step].astype(np.float64) - centre) * scale
        total += np.einsum("ij,ij->j", block, block)
    deviation = np.sqrt(total / len(stored))
    # The usual size of a coordinate: a few massive rows are rounded coarsely, which says nothing of the others.
    sample = np.abs(stored[:: max(1, len(stored) // _SAMPLED_ROWS)].astype(np.float64))
    usual = np.minimum(np.hypot(centre * scale, deviation), np.quantile(sample, 0.9, axis=0) * scale)
    # A massive activation that rounds to a constant separates nothing: its deviation is the bound.
    steps = _ROUNDING_STEPS if resolution < _HALF_PRECISION else 1.0
    rounding = np.minimum(steps * resolution * usual, deviation)
    return float(np.sqrt(np.square(rounding).sum()) / scale)


def refuse_repeated_vectors(nearest: FloatArray, cloud: DistinctPoints | DistinctRows) -> int:
    """Return how many points have a neighbour within rounding distance; raise for more than half.

    Parameters
    ----------
    nearest : ndarray of shape (n,)
        Distance of each point to its nearest other distinct point.
    cloud : DistinctPoints or DistinctRows
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


def _refuse_rounding_noise(
    low: FloatArray, high: FloatArray, magnitude: FloatArray, resolution: float, n_distinct: int
) -> None:
    """Raise if no coordinate spans more than a few steps of the stored format."""
    # Each coordinate against itself: a massive constant one must not hide what the others tell.
    tolerance = _ROUNDING_STEPS * resolution * magnitude
    span = high * 0.5 - low * 0.5
    if bool((span <= 0.5 * tolerance).all()):
        raise DegenerateCloudError(
            f"the dimension is undefined: the {n_distinct} distinct points are constant up to rounding (no coordinate "
            f"spans more than {_ROUNDING_STEPS:g} steps of relative size {resolution:.1e})."
        )
