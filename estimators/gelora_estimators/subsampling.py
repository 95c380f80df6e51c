"""Standard errors from subsamples: exact neighbours within each, from one longer list."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.neighbors import nearest_distances
from gelora_estimators.points import IndexArray, as_points
from gelora_estimators.protocol import DegenerateCloudError, FloatArray

Search = Callable[[IndexArray], FloatArray]


@dataclass(frozen=True, slots=True)
class SubsamplingError:
    """Spread of an estimate over subsamples.

    Parameters
    ----------
    standard_error : float
        Standard deviation over the subsamples times √(m / (n − m)), m points of n in each.
    replicates : ndarray of shape (n_subsamples,)
        The subsample estimates, recentred on the full estimate and widened by the same factor.
    """

    standard_error: float
    replicates: FloatArray


def columns_for_subsampling(k: int) -> int:
    """Return how many neighbours let a half-size subsample find ``k`` of its own.

    Of 4k + 24 neighbours half are kept; fewer than k remain with a probability below 1e-8 a row.
    """
    return 4 * k + 24


def subsampling_error(
    distances: FloatArray,
    indices: IndexArray,
    *,
    k: int,
    estimate: float,
    statistic: Callable[[FloatArray], float],
    rng: np.random.Generator,
    n_subsamples: int,
    search: Search | None = None,
) -> SubsamplingError | None:
    """Estimate on halves of the cloud, drawn without replacement, and return the spread.

    Neighbours are those within the half (a resample with replacement would create copies). A
    subsample has fewer points in the same space, so its neighbours are further away and its mean
    differs by the scale: only the spread is used, the replicates are moved onto the full estimate.

    Parameters
    ----------
    distances, indices : ndarray of shape (n, n_columns)
        Neighbours in the full cloud, ascending; the more columns, the fewer subsamples need
        ``search``.
    k : int
        Columns that ``statistic`` takes.
    estimate : float
        The estimate on all points.
    statistic : callable
        Maps distances (m, k) to a number; raises `DegenerateCloudError` where it is undefined.
    rng : numpy.random.Generator
        Draws the ``n_subsamples`` subsamples.
    search : callable, optional
        Maps the numbers of the kept points to their exact distances (m, k), used for a subsample in
        which some row of the list holds fewer than ``k`` kept neighbours.

    Returns
    -------
    SubsamplingError or None
        None where it cannot be had: halves of k points or fewer, or an incomplete list without
        ``search``.
    """
    n = len(distances)
    m = n // 2
    if m <= k:
        return None
    complete = distances.shape[1] == n - 1
    values = np.empty(n_subsamples)
    for draw in range(n_subsamples):
        kept = np.sort(rng.choice(n, size=m, replace=False, shuffle=False))
        inside = _distances_within(distances, indices, kept, k)
        if inside is None:
            if search is None or complete:
                return None
            inside = search(kept)
        try:
            values[draw] = statistic(inside)
        except DegenerateCloudError:
            return None
    factor = float(np.sqrt(m / (n - m)))
    spread = factor * (values - values.mean())
    return SubsamplingError(standard_error=factor * float(values.std(ddof=1)), replicates=np.asarray(estimate + spread))


def search_within(points: Any, rows: IndexArray | None, *, k: int, device: str) -> Search:
    """Return a function from numbers of distinct points to their ``k`` distances among themselves.

    ``rows`` are the rows of ``points`` that hold the distinct points; None where every row is one.
    """

    def search(kept: IndexArray) -> FloatArray:
        return nearest_distances(as_points(points)[kept if rows is None else rows[kept]], k, device=device).distances

    return search


def check_distances(
    distances: FloatArray, n: int, indices: IndexArray | None, *, columns: int, fewest_points: int
) -> None:
    """Raise unless the arrays are neighbour lists of distinct points with enough columns.

    Raises
    ------
    ValueError
        For wrong shapes, or fewer points in ``n`` than rows.
    DegenerateCloudError
        For fewer than ``fewest_points`` rows, fewer columns than needed, or a distance that is
        zero or not finite.
    """
    if distances.ndim != 2 or (indices is not None and indices.shape != distances.shape):
        raise ValueError(
            f"`distances` must have shape (n_distinct, k) and `indices` the same, got {distances.shape} and "
            f"{None if indices is None else indices.shape}: pass both as `nearest_distances` returns them."
        )
    n_distinct, found = distances.shape
    if n < n_distinct:
        raise ValueError(
            f"`n` must be at least the number of rows of `distances`, {n_distinct}, got {n}: "
            "pass the number of points, copies included."
        )
    if n_distinct < fewest_points or found < columns:
        raise DegenerateCloudError(
            f"the dimension is undefined: {n_distinct} distinct points with {found} neighbours each, but at least "
            f"{fewest_points} points with {columns} neighbours are needed."
        )
    bad = int((~(np.isfinite(distances) & (distances > 0.0))).any(axis=1).sum())
    if bad:
        raise DegenerateCloudError(
            f"the dimension is undefined: {bad} of {n_distinct} points have a neighbour at a distance that is zero or "
            "not finite (remove exact copies before the search)."
        )


def normal_interval(dimension: float, standard_error: float, confidence: float) -> tuple[float, float]:
    """Return estimate ± z · standard error, the lower end not below 0."""
    reach = NormalDist().inv_cdf(0.5 + confidence / 2.0) * standard_error
    return max(dimension - reach, 0.0), dimension + reach


def _distances_within(distances: FloatArray, indices: IndexArray, kept: IndexArray, k: int) -> FloatArray | None:
    """Return the first ``k`` distances of the kept rows to kept points; None if a row has fewer."""
    is_kept: NDArray[np.bool_] = np.zeros(len(distances), dtype=np.bool_)
    is_kept[kept] = True
    hits = is_kept[indices[kept]]
    rank = hits.cumsum(axis=1)
    if bool((rank[:, -1] < k).any()):
        return None
    return distances[kept][hits & (rank <= k)].reshape(len(kept), k)
