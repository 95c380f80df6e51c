"""Exact nearest-neighbour distances of the distinct points of a cloud."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gelora_estimators.options import check_integer
from gelora_estimators.points import IndexArray, distinct_rows, refuse_repeated_vectors
from gelora_estimators.protocol import DegenerateCloudError, FloatArray
from gelora_estimators.search import count_pairs, search
from gelora_estimators.space import resolve_device as resolve_device
from gelora_estimators.space import search_space
from gelora_estimators.within import neighbors_within as neighbors_within


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Distances from each distinct point to its nearest other distinct points.

    Parameters
    ----------
    distances : ndarray of shape (n_distinct, k)
        Euclidean distances in the unit of the points, ascending along each row.
    indices : ndarray of shape (n_distinct, k)
        The neighbours, as numbers of distinct points; ties are in ascending order.
    rows : ndarray of shape (n_distinct,)
        Row of the input that each distinct point comes from.
    n_copies : int
        Exact copies removed before the search.
    n_near_copies : int
        Points whose nearest neighbour is no further away than the rounding of the stored numbers.
    """

    distances: FloatArray
    indices: IndexArray
    rows: IndexArray
    n_copies: int
    n_near_copies: int


def nearest_distances(points: Any, k: int, *, minimum: int | None = None, device: str = "auto") -> Neighbors:
    """Find the ``k`` nearest other distinct points of every distinct point, exactly.

    Candidates come from lower bounds on the squared distances, by a blocked matrix product of the
    points centred in float64; distances from subtracting the stored numbers in float64. A row is
    settled when the bounds prove that no other point can be nearer than its k-th; others are
    searched again more precisely. The first columns are the same bits whatever ``k`` is asked for.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor: float16, bfloat16, float32, float64 or integers.
    k : int
        Neighbours wanted; a cloud of fewer than k + 1 distinct points gives as many as it has.
    minimum : int, optional
        Fewest neighbours that are of use; ``k`` by default, so that nothing is cut silently.
    device : str
        "auto" (where the tensor lives, the CPU for anything else) or a torch device name.

    Returns
    -------
    Neighbors
        Distances, indices and the counts of copies.

    Raises
    ------
    DegenerateCloudError
        With the counts, for a cloud that `distinct_points` refuses, with fewer than
        ``minimum`` + 1 distinct points, in which more than half of the points have their nearest
        neighbour within rounding distance, or a squared distance vanishes in float64.
    ValueError
        For ``k`` or ``minimum`` below 1.

    Examples
    --------
    >>> from gelora_estimators import nearest_distances
    >>> nearest_distances([[0.0], [1.0], [3.0]], 2).distances.tolist()
    [[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]]
    """
    check_integer("k", k, minimum=1)
    fewest = k if minimum is None else minimum
    check_integer("minimum", fewest, minimum=1)
    space = search_space(distinct_rows(points, minimum=fewest + 1), resolve_device(points, device))
    cloud = space.cloud
    squared, indices = search(space, np.arange(len(cloud.rows)), min(k, len(cloud.rows) - 1))
    distances = np.sqrt(squared) / space.unit
    n_vanished = int((distances[:, 0] == 0.0).sum())
    if n_vanished:
        raise DegenerateCloudError(
            f"the dimension is undefined: {n_vanished} of {len(distances)} distinct points are so near to another one, "
            "against the size of the cloud, that their squared distance vanishes in float64."
        )
    near = refuse_repeated_vectors(distances[:, 0], cloud)
    return Neighbors(distances=distances, indices=indices, rows=cloud.rows, n_copies=cloud.n_copies, n_near_copies=near)


def count_within(points: Any, rows: IndexArray, radii: FloatArray, *, device: str = "auto") -> IndexArray:
    """Count the other points within each radius of the given points, exactly.

    Parameters
    ----------
    points : array_like of shape (n, d)
        Distinct points.
    rows : ndarray of shape (m,)
        Numbers of the points around which to count.
    radii : ndarray of shape (r,)
        Distances in the unit of the points, not negative; a point at the distance itself counts.
    device : str
        "auto" or a torch device name, as for `nearest_distances`.

    Returns
    -------
    ndarray of shape (m, r)
        Numbers of points.

    Raises
    ------
    ValueError
        For negative radii, or points that are not distinct.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.neighbors import count_within
    >>> count_within([[0.0], [1.0], [3.0]], np.array([0, 1]), np.array([1.0, 2.5])).tolist()
    [[1, 1], [1, 2]]
    """
    limits = np.asarray(radii, dtype=np.float64)
    if limits.ndim != 1 or not bool((limits >= 0.0).all()):
        raise ValueError(f"`radii` must be a sequence of numbers of at least 0, got {radii!r}: pass distances.")
    space = search_space(distinct_rows(points, minimum=1), resolve_device(points, device))
    if space.cloud.n_copies:
        raise ValueError(
            f"`points` must be distinct, got {space.cloud.n_copies} copies: pass the rows that `distinct_points` keeps."
        )
    largest = np.finfo(np.float64).max / max(space.unit, 1.0)
    return count_pairs(space, rows, np.minimum(limits, largest) * space.unit)
