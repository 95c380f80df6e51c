"""Neighbours within a part of a cloud, looked up in the lists of the whole."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import FloatArray

Search = Callable[[IndexArray], FloatArray]
Transform = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class NeighborsWithin:
    """The distances of a part's points to their ``k`` nearest within the part, from lists of the whole.

    Nearly every row is settled by the first few columns, of which this keeps a contiguous copy; only
    the other rows are looked up over the whole list.

    Parameters
    ----------
    distances, indices : ndarray of shape (n, n_columns)
        Neighbours in the full cloud, ascending.
    first_values, first_indices : ndarray of shape (n, n_first)
        Their first columns; the distances as ``transform`` gives them.
    k : int
        Neighbours wanted within a part.
    search : callable, optional
        Maps the numbers of the kept points to their exact distances (m, k), for parts the lists
        cannot answer.
    transform : callable, optional
        Function of each distance by itself, such as the logarithm; None leaves distances.
    """

    distances: FloatArray
    indices: IndexArray
    first_values: FloatArray
    first_indices: IndexArray
    k: int
    search: Search | None
    transform: Transform | None

    def __call__(self, kept: IndexArray) -> FloatArray | None:
        """Return the values (m, k) within the part of these points, ascending numbers.

        None where some row holds fewer than ``k`` kept neighbours and there is no ``search``.
        """
        is_kept: NDArray[np.bool_] = np.zeros(len(self.distances), dtype=np.bool_)
        is_kept[kept] = True
        # `take` copies whole rows, which is twice as fast as indexing with an array.
        hits = is_kept.take(self.first_indices.take(kept, axis=0))
        found, settled = _first_hits(self.first_values.take(kept, axis=0), hits, self.k)
        pending = np.flatnonzero(~settled)
        if len(pending) == 0:
            return found
        rows = kept[pending]
        distances, settled = _first_hits(self.distances[rows], is_kept[self.indices[rows]], self.k)
        if bool(settled.all()):
            found[pending] = self._transformed(distances)
            return found
        return None if self.search is None else self._transformed(self.search(kept))

    def _transformed(self, distances: FloatArray) -> FloatArray:
        return distances if self.transform is None else self.transform(distances)


def neighbors_within(
    distances: FloatArray,
    indices: IndexArray,
    *,
    k: int,
    fraction: float,
    search: Search | None = None,
    transform: Transform | None = None,
) -> NeighborsWithin:
    """Prepare neighbour lists for looking up parts that hold ``fraction`` of the points.

    The fraction only decides how many columns are looked at first: mean plus two standard deviations
    of the column in which a row has its ``k``-th kept neighbour.
    """
    width = int(np.ceil((k + 2.0 * np.sqrt(k * (1.0 - fraction))) / fraction))
    first = np.ascontiguousarray(distances[:, :width])
    return NeighborsWithin(
        distances=distances,
        indices=indices,
        first_values=first if transform is None else transform(first),
        first_indices=np.ascontiguousarray(indices[:, :width]),
        k=k,
        search=search,
        transform=transform,
    )


def _first_hits(values: FloatArray, hits: NDArray[np.bool_], k: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the values at the first ``k`` hits of each row, and whether a row has that many.

    Rows with fewer are filled with numbers of other rows, for the caller to replace.
    """
    n, width = hits.shape
    places = np.flatnonzero(hits)
    starts = np.searchsorted(places, np.arange(n + 1) * width)
    settled = np.diff(starts) >= k
    if len(places) == 0:
        return np.zeros((n, k)), settled
    return values.take(places.take(starts[:-1, None] + np.arange(k), mode="clip")), settled
