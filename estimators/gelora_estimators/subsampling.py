"""Standard errors and scans from subsamples: exact neighbours within each, from one longer list."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from scipy.stats import t as student_t

from gelora_estimators.neighbors import Neighbors, nearest_distances
from gelora_estimators.neighbors import neighbors_within as neighbors_within
from gelora_estimators.points import IndexArray, StoredArray, as_points
from gelora_estimators.protocol import DegenerateCloudError, FloatArray
from gelora_estimators.within import Search as Search
from gelora_estimators.within import Transform as Transform

Within = Callable[[IndexArray], FloatArray | None]


@dataclass(frozen=True, slots=True)
class SubsamplingError:
    """Spread of an estimate over halves of the cloud.

    Parameters
    ----------
    standard_error : float
        Root mean square of half the difference between a half and the other.
    replicates : ndarray of shape (2 · n_pairs,)
        The estimates on the halves, each pair recentred on the full estimate.
    n_pairs : int
        Pairs of halves: the degrees of freedom of the standard error.
    """

    standard_error: float
    replicates: FloatArray
    n_pairs: int


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
    transform: Transform | None = None,
) -> SubsamplingError | None:
    """Estimate on both halves of random splits of the cloud, and return the spread.

    Neighbours are those within the half (a resample with replacement would create copies). A half has
    fewer points in the same space, so its neighbours are further away and its mean differs by the
    scale: only the difference of the two halves of a split counts. They share no point, so half
    their difference has half the variance of an estimate on n/2 points, which is that of one on n.
    Halves of different splits compared with each other overlap, by an amount that the theory of
    means cannot tell for statistics of neighbours; their spread was 1.2 to 1.4 times too wide.

    Parameters
    ----------
    distances, indices : ndarray of shape (n, n_columns)
        Neighbours in the full cloud, ascending; more columns leave less to ``search``.
    k : int
        Columns that ``statistic`` takes.
    estimate : float
        The estimate on all points.
    statistic : callable
        Maps distances (m, k) to a number; raises `DegenerateCloudError` where it is undefined.
    rng : numpy.random.Generator
        Draws the ⌈``n_subsamples``/2⌉ splits.
    search : callable, optional
        Maps the numbers of the kept points to their exact distances (m, k), for halves in which
        some row of the list holds fewer than ``k`` kept neighbours.
    transform : callable, optional
        Function of each distance by itself, such as the logarithm, whose values ``statistic`` takes
        in place of distances; it is applied once to the list.

    Returns
    -------
    SubsamplingError or None
        None for halves of k points or fewer, lists that fall short, or an undefined statistic.
    """
    n = len(distances)
    m = n // 2
    if m <= k:
        return None
    within = neighbors_within(distances, indices, k=k, fraction=0.5, search=search, transform=transform)
    halves = np.empty((-(-n_subsamples // 2), 2))
    for place in np.ndindex(halves.shape):
        if place[1] == 0:
            order = rng.permutation(n)
        try:
            if (inside := within(np.sort(order[place[1] * m : place[1] * m + m]))) is None:
                return None
            halves[place] = statistic(inside)
        except DegenerateCloudError:
            return None
    # The variance of an estimate on m points times m/n; a point is left out of an odd number.
    apart = float(np.sqrt(2.0 * m / n)) * (halves - halves.mean(axis=1, keepdims=True))
    return SubsamplingError(
        standard_error=float(np.sqrt(np.square(apart).mean())),
        replicates=np.asarray(estimate + apart.ravel()),
        n_pairs=len(halves),
    )


def decimation_scan(
    distances: FloatArray,
    indices: IndexArray | None,
    *,
    k: int,
    decimations: int,
    fewest_points: int,
    statistic: Callable[[FloatArray], float],
    rng: np.random.Generator,
    search: Search | None = None,
) -> FloatArray:
    """Estimate on disjoint random parts of n/2, n/4, … points; fewer points look at a larger scale.

    Parameters
    ----------
    distances, indices, k, statistic, rng, search
        As in `subsampling_error`.
    decimations : int
        How often to halve; sizes below ``fewest_points`` are left out.
    fewest_points : int
        Points a part must have.

    Returns
    -------
    ndarray of shape (n_sizes, 4)
        For each size the number of points in a part, the mean of the statistic over the parts, its
        standard error (spread over the parts over the root of their number) and the mean distance
        to the k-th neighbour; NaN where the statistic is undefined in some part. It ends before the
        first size that neither the lists nor ``search`` can answer.
    """
    rows: list[tuple[float, float, float, float]] = []
    for parts in decimation_parts(len(distances), decimations, fewest_points=fewest_points, rng=rng):
        within: Within | None = search
        if indices is not None:
            fraction = parts.shape[1] / len(distances)
            within = neighbors_within(distances, indices, k=k, fraction=fraction, search=search)
        read = None if within is None else _read_parts(parts, within, statistic)
        if read is None:
            break
        values, radii = read
        error = float(values.std(ddof=1)) / float(np.sqrt(len(parts)))
        rows.append((float(parts.shape[1]), float(values.mean()), error, float(radii.mean())))
    return np.array(rows).reshape(-1, 4)


def decimation_parts(n: int, decimations: int, *, fewest_points: int, rng: np.random.Generator) -> list[IndexArray]:
    """Return disjoint random parts of n/2, n/4, … points: for each level j an array (2^j, ⌊n / 2^j⌋).

    Levels whose parts would hold fewer than ``fewest_points`` points are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.subsampling import decimation_parts
    >>> [level.shape for level in decimation_parts(50, 4, fewest_points=10, rng=np.random.default_rng(0))]
    [(2, 25), (4, 12)]
    """
    order = rng.permutation(n)
    n_parts = [2**level for level in range(1, decimations + 1) if n // 2**level >= fewest_points]
    return [np.sort(order[: parts * (n // parts)].reshape(parts, -1), axis=1) for parts in n_parts]


class Searching(Protocol):
    """An estimator that searches neighbours, as far as the search is concerned."""

    @property
    def k(self) -> int:
        """Neighbours worth searching."""
        ...

    @property
    def device(self) -> str:
        """Where distances are computed."""
        ...

    @property
    def neighbors(self) -> str:
        """How neighbours are searched."""
        ...


def neighbors_for(estimator: Searching, points: Any, *, minimum: int) -> Neighbors:
    """Return the neighbours that an estimator wants, searched as its options say, ``minimum`` of them at least."""
    return nearest_distances(
        points, estimator.k, minimum=minimum, device=estimator.device, neighbors=estimator.neighbors
    )


def search_within(
    points: Any, rows: IndexArray | None, *, k: int, device: str, neighbors: str = "exact"
) -> Search | None:
    """Return a function from numbers of distinct points to their ``k`` distances among themselves.

    ``rows`` are the rows of ``points`` that hold the distinct points; None where every row is one. Without ``points``
    there is nothing to search.
    """
    if points is None:
        return None

    @cache
    def stored() -> StoredArray:
        return as_points(points)

    def search(kept: IndexArray) -> FloatArray:
        part = stored()[kept if rows is None else rows[kept]]
        return nearest_distances(part, k, device=device, neighbors=neighbors).distances

    return search


def check_distances(
    distances: FloatArray,
    n: int,
    indices: IndexArray | None,
    *,
    columns: int,
    fewest_points: int,
    points: Any = None,
) -> None:
    """Raise unless the arrays are neighbour lists of distinct points with enough columns.

    Raises
    ------
    ValueError
        For wrong shapes, fewer points in ``n`` than rows, or other ``points`` than rows.
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
    if points is not None and len(points) != n_distinct:
        raise ValueError(
            f"`points` must hold one row for each row of `distances`, {n_distinct}, got {len(points)}: "
            "pass the distinct points, in the order of the search."
        )
    if n_distinct < fewest_points:
        # The sentence of `distinct_rows`, so that one cloud has one reason, whoever searched it.
        raise DegenerateCloudError(
            f"the dimension is undefined: {n_distinct} distinct points ({n} points, {n - n_distinct} of them copies), "
            f"but at least {fewest_points} are needed."
        )
    if found < columns:
        raise DegenerateCloudError(
            f"the dimension is undefined: {n_distinct} distinct points with {found} neighbours each, but at least "
            f"{fewest_points} points with {columns} neighbours are needed."
        )
    # NaN fails both comparisons; the rows are counted only where there is something to count.
    if not (distances.min() > 0.0 and distances.max() < np.inf):
        bad = int((~(np.isfinite(distances) & (distances > 0.0))).any(axis=1).sum())
        raise DegenerateCloudError(
            f"the dimension is undefined: {bad} of {n_distinct} points have a neighbour at a distance that is zero or "
            "not finite (remove exact copies before the search)."
        )


def normal_interval(
    dimension: float, standard_error: float, confidence: float, n_pairs: int | None = None
) -> tuple[float, float]:
    """Return estimate ± quantile · standard error, the lower end not below 0.

    The quantile is that of the normal law, or of Student's t with ``n_pairs`` degrees of freedom.
    """
    tail = 0.5 + confidence / 2.0
    quantile = NormalDist().inv_cdf(tail) if n_pairs is None else float(student_t.ppf(tail, n_pairs))
    reach = quantile * standard_error
    return max(dimension - reach, 0.0), dimension + reach


def _read_parts(
    parts: IndexArray, within: Within, statistic: Callable[[FloatArray], float]
) -> tuple[FloatArray, FloatArray] | None:
    """Return statistic and mean outer distance of each part; None where neighbours cannot be had."""
    values, radii = np.full(len(parts), np.nan), np.full(len(parts), np.nan)
    for number, part in enumerate(parts):
        try:
            inside = within(part)
            if inside is None:
                return None
            radii[number] = inside[:, -1].mean()
            values[number] = statistic(inside)
        except DegenerateCloudError:
            # The parts of a size are read as one number, which is then undefined.
            continue
    return values, radii
