"""Approximate search for nearest points: candidates by faiss or pynndescent, their distances by subtraction in float64.

Both libraries see the points centred, scaled and rounded to float32, all at once in memory: 4 n d bytes beside the
cloud, which may itself lie in a memory map. faiss adds its graph, some 150 bytes a point. Numbers are the same at every
call and for every number of threads, because whatever depends on the order of the work is done by one thread.
"""

import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.options import load_neighbor_library
from gelora_estimators.points import DistinctRows, IndexArray, centred_block
from gelora_estimators.protocol import FloatArray
from gelora_estimators.search import search
from gelora_estimators.space import SearchSpace, pair_distances

_MARGIN = 8  # candidates beyond the k asked for, since float32 may order near ones wrongly
_LEAST_BREADTH = {"faiss": 128, "pynndescent": 64}
_BLOCK_ELEMENTS = 2**22  # numbers in one block of rows
_LINKS = 16  # of a point in each layer of faiss's graph; twice as many in the lowest
_BREADTH_OF_BUILDING = 100  # points kept in view while a point gets its links
_SAMPLE = 1000  # points on which recall is measured
_SEED = 0
_ONE_AT_A_TIME = threading.Lock()  # numba may end the process where two threads enter parallel code

Found = Iterator[tuple[int, IndexArray]]  # first row of a block, and candidates of its rows


def search_breadth(k: int, method: str) -> int:
    """Return how many points a search for ``k`` neighbours keeps in view; 0 for "exact", which is the same for any k.

    Breadths are few, the least of a method times powers of two: lists that were searched with the same one have the
    same first columns, whatever k was.

    Examples
    --------
    >>> [search_breadth(k, "faiss") for k in (2, 104, 200)], search_breadth(104, "exact")
    ([128, 128, 256], 0)
    """
    if method not in _LEAST_BREADTH:
        return 0
    breadth = _LEAST_BREADTH[method]
    while breadth < k + 1 + _MARGIN:
        breadth *= 2
    return breadth


def approximate_search(
    space: SearchSpace, k: int, method: str, *, breadth: int | None = None
) -> tuple[FloatArray, IndexArray]:
    """Return near points of each point: squared distances times the squared unit, ascending, and numbers (n, k).

    Distances are exact for the points they belong to; that no other point is nearer is not certain. Rows for which the
    library finds fewer than ``k`` are searched exactly, and so are all rows where lists would hold half of the points.

    Parameters
    ----------
    space : SearchSpace
        The points.
    k : int
        Neighbours wanted, fewer than there are points.
    method : {"faiss", "pynndescent"}
        faiss: a graph of HNSW. pynndescent: random projection trees, then descent from neighbours to theirs.
    breadth : int, optional
        Effort, at least k + 9: the points that a search keeps in view. By default `search_breadth`.

    Raises
    ------
    ImportError
        Where the library is not installed, with what to install.
    """
    n = len(space.cloud.rows)
    breadth = search_breadth(k, method) if breadth is None else breadth
    squared, indices = np.full((n, k), np.inf), np.zeros((n, k), dtype=np.int64)
    library = load_neighbor_library(method)
    if n > 2 * breadth:
        for start, candidates in _FINDERS[method](library, space.cloud, breadth, k + 1 + _MARGIN):
            part = slice(start, start + len(candidates))
            squared[part], indices[part] = _nearest_of(space, np.arange(start, part.stop), candidates, k)
    short = np.flatnonzero(np.isinf(squared[:, -1]))
    if len(short):
        squared[short], indices[short] = search(space, short, k)
    return squared, indices


def measured_recall(space: SearchSpace, squared: FloatArray) -> float:
    """Return the share of the true k nearest among those found, on at most 1,000 points, always the same ones.

    By distance: of points that are equally far either counts.

    Parameters
    ----------
    space : SearchSpace
        The points.
    squared : ndarray of shape (n, k)
        As `approximate_search` returns it.
    """
    n, k = squared.shape
    rows = np.sort(np.random.default_rng(_SEED).choice(n, min(n, _SAMPLE), replace=False))
    truth = search(space, rows, k)[0]
    return float((squared[rows] <= truth[:, -1:]).mean())


def _nearest_of(space: SearchSpace, rows: IndexArray, candidates: IndexArray, k: int) -> tuple[FloatArray, IndexArray]:
    """Measure the candidates of each row and return the k nearest, infinite where there are fewer."""
    n = len(space.cloud.rows)
    # In the order of their numbers, which is that of ties; what is missing goes last.
    numbers = np.sort(np.where((candidates < 0) | (candidates == rows[:, None]), n, candidates), axis=1)
    counts = numbers < n
    counts[:, 1:] &= numbers[:, 1:] != numbers[:, :-1]
    row, column = counts.nonzero()
    squared = np.full(numbers.shape, np.inf)
    squared[row, column] = pair_distances(space, rows[row], numbers[row, column])
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squared, order, axis=1), np.take_along_axis(numbers, order, axis=1)


def _blocks(cloud: DistinctRows) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the first row of each block, and its centred and scaled points in float32."""
    n, ambient = cloud.stored.shape
    step = max(256, _BLOCK_ELEMENTS // ambient)
    for start in range(0, n, step):
        yield start, centred_block(cloud, start, start + step).astype(np.float32)


def _by_faiss(faiss: Any, cloud: DistinctRows, breadth: int, wanted: int) -> Found:
    n, ambient = cloud.stored.shape
    index = faiss.IndexHNSWFlat(ambient, _LINKS)
    index.hnsw.efConstruction = max(_BREADTH_OF_BUILDING, breadth // 2)
    # Room for all of them: what grows block by block is copied again and again, and for a while there are two.
    faiss.downcast_index(index.storage).codes.resize(4 * n * ambient)
    n_threads = faiss.omp_get_max_threads()  # OpenMP keeps this number for each thread by itself
    faiss.omp_set_num_threads(1)  # which links a point gets depends on who comes first
    try:
        for _, block in _blocks(cloud):
            index.add(block)
    finally:
        faiss.omp_set_num_threads(n_threads)
    view = faiss.SearchParametersHNSW(efSearch=breadth)
    for start, block in _blocks(cloud):
        yield start, index.search(block, wanted, params=view)[1]


def _by_pynndescent(pynndescent: Any, cloud: DistinctRows, breadth: int, wanted: int) -> Found:
    import numba  # pynndescent needs it

    rounded = np.empty(cloud.stored.shape, dtype=np.float32)
    for start, block in _blocks(cloud):
        rounded[start : start + len(block)] = block
    with _ONE_AT_A_TIME:
        n_threads = numba.get_num_threads()
        try:
            # One thread: several share the work, and the random numbers, by how many they are.
            built = pynndescent.NNDescent(rounded, n_neighbors=breadth, random_state=_SEED, n_jobs=1)
            graph = built.neighbor_graph[0]
        finally:
            numba.set_num_threads(n_threads)
    del built, rounded
    step = max(256, _BLOCK_ELEMENTS // cloud.stored.shape[1])
    for start in range(0, len(graph), step):
        yield start, graph[start : start + step, :wanted].astype(np.int64)


_FINDERS: dict[str, Callable[[ModuleType, DistinctRows, int, int], Found]] = {
    "faiss": _by_faiss,
    "pynndescent": _by_pynndescent,
}
