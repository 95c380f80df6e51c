"""Exact Euclidean minimum spanning trees: the bars of persistent homology in degree 0.

Small clouds: Prim's algorithm on whole distance matrices, many clouds at once. Others: Borůvka's algorithm on exact
neighbour lists, in memory linear in the number of points; subsets of one cloud share its lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gelora_estimators.forest import NeighborLists, spanning_forest
from gelora_estimators.points import DistinctRows, IndexArray, StoredArray, distinct_rows, power_of_two_scale
from gelora_estimators.protocol import FloatArray
from gelora_estimators.search import search
from gelora_estimators.space import SearchSpace, resolve_device, search_space, squared_distances

_DENSE_LIMIT = 160  # points up to which the whole distance matrix is used
_LIST_LENGTH = 8  # neighbours in a list that a tree is grown from
_SHARED_LENGTH = 128  # neighbours at most in the lists of a whole cloud that its subsets draw theirs from
_FEWEST_KEPT = 6.0  # neighbours that a subset keeps of the shared lists on average, or it makes its own
_BATCH_ROWS = 2**17  # points in one batch of trees
_BLOCK_ELEMENTS = 2**22
_ACCURACY = 1e-9  # relative accuracy of a distance that is left in product form


@dataclass(frozen=True, slots=True)
class SpanningTree:
    """The Euclidean minimum spanning tree of the distinct points of a cloud.

    Parameters
    ----------
    edges : ndarray of shape (n_distinct − 1, 2)
        Numbers of distinct points, by ascending length.
    lengths : ndarray of shape (n_distinct − 1,)
        Euclidean lengths in the unit of the points, ascending.
    rows : ndarray of shape (n_distinct,)
        Row of the input that each distinct point comes from.
    n_copies : int
        Exact copies removed.
    """

    edges: IndexArray
    lengths: FloatArray
    rows: IndexArray
    n_copies: int


def minimum_spanning_tree(points: Any, *, device: str = "auto") -> SpanningTree:
    """Return the Euclidean minimum spanning tree, exactly, in memory linear in the number of points.

    Borůvka's algorithm on the lists of the nearest neighbours, where each edge is proven to be the
    shortest that leaves its component; what the lists do not hold is searched. O(n²) operations,
    nearly all of them one matrix product.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor; exact copies are removed first.
    device : str
        "auto" (where the tensor lives, the CPU for anything else) or a torch device name.

    Returns
    -------
    SpanningTree
        Edges and their lengths from subtracting the stored numbers in float64.

    Raises
    ------
    DegenerateCloudError
        For a cloud that `distinct_points` refuses, with the counts.

    Examples
    --------
    >>> from gelora_estimators import minimum_spanning_tree
    >>> tree = minimum_spanning_tree([[0.0], [1.0], [3.0], [3.0]])
    >>> tree.edges.tolist(), tree.lengths.tolist(), tree.n_copies
    ([[0, 1], [1, 2]], [1.0, 2.0], 1)
    """
    cloud = distinct_rows(points, minimum=2)
    space = search_space(cloud, resolve_device(points, device))
    edges, squared = _trees(space, [np.arange(len(cloud.rows))])[0]
    edges = np.sort(edges, axis=1)
    order = np.lexsort((edges[:, 1], edges[:, 0], squared))
    return SpanningTree(
        edges=edges[order],
        lengths=np.sqrt(squared[order]) / space.unit,
        rows=cloud.rows,
        n_copies=cloud.n_copies,
    )


def spanning_tree_lengths(points: Any, *, device: str = "auto") -> FloatArray:
    """Return the edge lengths of the Euclidean minimum spanning tree, ascending.

    They equal the finite bars of persistent homology in degree 0 (Adams2020, Birdal2021).

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor; exact copies are removed first.
    device : str
        "auto" (where the tensor lives, the CPU for anything else) or a torch device name.

    Returns
    -------
    ndarray of shape (n_distinct − 1,)
        Lengths in the unit of the points.

    Raises
    ------
    DegenerateCloudError
        For a cloud that `distinct_points` refuses, with the counts.

    Examples
    --------
    >>> from gelora_estimators import spanning_tree_lengths
    >>> spanning_tree_lengths([[0.0], [1.0], [3.0], [3.0]]).tolist()
    [1.0, 2.0]
    """
    return minimum_spanning_tree(points, device=device).lengths


def subset_tree_lengths(
    points: StoredArray, subsets: Sequence[IndexArray], *, device: str = "auto"
) -> list[FloatArray]:
    """Return the ascending edge lengths of the spanning tree of each subset of a cloud, all at once.

    Parameters
    ----------
    points : ndarray of shape (n, d)
        Distinct points.
    subsets : sequence of ndarray
        Ascending numbers of points, at least two in each.
    device : str
        "auto" or a torch device name.

    Returns
    -------
    list of ndarray
        For each subset of m points m − 1 lengths in the unit of the points.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.spanning_tree import subset_tree_lengths
    >>> found = subset_tree_lengths(np.array([[0.0], [1.0], [3.0]]), [np.array([0, 2]), np.array([0, 1, 2])])
    >>> [lengths.tolist() for lengths in found]
    [[3.0], [1.0, 2.0]]
    """
    cloud = distinct_rows(points, minimum=2)
    if cloud.n_copies:
        raise ValueError(
            f"`points` must be distinct, got {cloud.n_copies} copies: pass the points that `distinct_points` returns."
        )
    space = search_space(cloud, resolve_device(points, device))
    return [np.sort(np.sqrt(squared)) / space.unit for _, squared in _trees(space, subsets)]


def pairwise_distances(points: FloatArray, *, device: str = "cpu") -> FloatArray:
    """Return the (n, n) Euclidean distances of centred float64 points, exact to 1e-8 relative.

    A matrix product gives them; pairs so close, against their norms, that the product would lose
    digits are recomputed by subtraction.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import pairwise_distances
    >>> pairwise_distances(np.array([[-1.5, 0.0], [1.5, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    scale = power_of_two_scale(points)
    scaled = torch.from_numpy(points * scale).to(resolve_device(points, device))
    return np.asarray(_dense_squares(scaled[None])[0].sqrt_().cpu().numpy() / scale)


def tree_lengths(distances: FloatArray) -> FloatArray:
    """Return the ascending edge lengths of the minimum spanning tree of a distance matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.spanning_tree import tree_lengths
    >>> tree_lengths(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])).tolist()
    [1.0, 2.0]
    """
    left, right = _prim(distances[None])
    return np.sort(distances[left[0], right[0]])


def _trees(space: SearchSpace, subsets: Sequence[IndexArray]) -> list[tuple[IndexArray, FloatArray]]:
    """Return edges and squared lengths of the tree of each subset."""
    result: list[tuple[IndexArray, FloatArray]] = [(np.empty((0, 2), dtype=np.int64), np.empty(0))] * len(subsets)
    sizes = np.array([len(subset) for subset in subsets])
    for size in np.unique(sizes[sizes <= _DENSE_LIMIT]):
        places = np.flatnonzero(sizes == size)
        for start in range(0, len(places), _batch_length(size)):
            batch = places[start : start + _batch_length(size)]
            for place, tree in zip(batch, _dense_trees(space, np.stack([subsets[i] for i in batch])), strict=True):
                result[place] = tree
    large = np.flatnonzero(sizes > _DENSE_LIMIT)
    shared = _shared_lists(space, sizes[large])
    for batch in _batches(large, sizes):
        trees = _grown_trees(space, [subsets[i] for i in batch], shared)
        for place, tree in zip(batch, trees, strict=True):
            result[place] = tree
    return result


def _batch_length(size: int) -> int:
    return max(1, _BLOCK_ELEMENTS // int(size) ** 2)


def _batches(places: IndexArray, sizes: IndexArray) -> list[IndexArray]:
    """Return the places in runs of about `_BATCH_ROWS` points."""
    cuts = np.flatnonzero(np.diff(np.cumsum(sizes[places]) // _BATCH_ROWS)) + 1
    return [part for part in np.split(places, cuts) if len(part)]


# --- small subsets: Prim on the matrix ---------------------------------------------------------


def _dense_trees(space: SearchSpace, subsets: IndexArray) -> list[tuple[IndexArray, FloatArray]]:
    """Return the trees of subsets (b, m) of one size."""
    device = space.stored.device
    drawn = torch.from_numpy(subsets).to(device)
    points = space.stored[drawn].double()
    # Centred each on its own mean, the product loses the fewest digits.
    points -= points.mean(dim=1, keepdim=True)
    left, right = _prim(_dense_squares(points).cpu().numpy())
    owner = np.arange(len(subsets))[:, None]
    edges = np.stack([subsets[owner, left], subsets[owner, right]], axis=-1)
    ends = torch.from_numpy(edges.reshape(-1, 2)).to(device)
    squared = squared_distances(space, ends[:, 0], ends[:, 1]).cpu().numpy().reshape(len(subsets), -1)
    return list(zip(edges, squared, strict=True))


def _dense_squares(points: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (b, m, m) of clouds (b, m, d), exact to 2 · `_ACCURACY` relative."""
    square = points.square().sum(dim=2)
    norm = square.sqrt()
    squared = torch.baddbmm(square[:, None, :], points, points.transpose(1, 2), alpha=-2.0).add_(square[:, :, None])
    # The product is symmetric only up to rounding; an exact mirror keeps the tree unambiguous.
    squared = torch.maximum(squared, squared.transpose(1, 2))
    rounding = (points.shape[2] + 16) * float(np.finfo(np.float64).eps)
    close = squared < (norm[:, :, None] + norm[:, None, :]).square_().mul_(rounding / (2.0 * _ACCURACY))
    pairs = close.nonzero()
    step = max(1, _BLOCK_ELEMENTS // points.shape[2])
    for start in range(0, len(pairs), step):
        owner, left, right = pairs[start : start + step].unbind(dim=1)
        squared[owner, left, right] = (points[owner, left] - points[owner, right]).square_().sum(dim=1)
    return squared


def _prim(weights: FloatArray) -> tuple[IndexArray, IndexArray]:
    """Return the two ends, each (b, m − 1), of the edges of the trees of weight matrices (b, m, m)."""
    n_trees, size, _ = weights.shape
    every = np.arange(n_trees)
    nearest = weights[:, 0].copy()
    nearest[:, 0] = np.inf
    parent = np.zeros((n_trees, size), dtype=np.int64)
    inside = np.zeros((n_trees, size))  # infinite for points of the tree: they cannot come nearer
    inside[:, 0] = np.inf
    added = np.empty((n_trees, size - 1), dtype=np.int64)
    for step in range(size - 1):
        new = nearest.argmin(axis=1)
        added[:, step] = new
        nearest[every, new] = inside[every, new] = np.inf
        row = weights[every, new] + inside
        closer = row < nearest
        np.copyto(nearest, row, where=closer)
        np.copyto(parent, new[:, None], where=closer)
    return np.take_along_axis(parent, added, axis=1), added


# --- larger subsets: Borůvka on neighbour lists ------------------------------------------------


def _shared_lists(space: SearchSpace, sizes: IndexArray) -> tuple[FloatArray, IndexArray] | None:
    """Return long neighbour lists of the whole cloud if they save more than they cost."""
    n = len(space.stored)
    enough = sizes * min(_SHARED_LENGTH, n - 1) >= _FEWEST_KEPT * n
    if len(sizes) < 2 or float(np.square(sizes[enough]).sum()) < n * n:
        return None
    return search(space, np.arange(n), min(_SHARED_LENGTH, _window(n, int(sizes[enough].min()))))


def _grown_trees(
    space: SearchSpace, subsets: list[IndexArray], shared: tuple[FloatArray, IndexArray] | None
) -> list[tuple[IndexArray, FloatArray]]:
    """Return the trees of one batch of subsets."""
    n, starts = len(space.stored), np.cumsum([0, *map(len, subsets)])
    weights, bound = np.full((starts[-1], _LIST_LENGTH), np.inf), np.empty(starts[-1])
    indices = np.zeros((starts[-1], _LIST_LENGTH), dtype=np.int64)
    spaces: dict[int, SearchSpace] = {}
    for number, subset in enumerate(subsets):
        part = slice(starts[number], starts[number + 1])
        if shared is not None and len(subset) * shared[0].shape[1] >= _FEWEST_KEPT * n:
            found = _kept_of(shared, subset, n)
        else:
            spaces[number] = _space_of(space, subset)
            own = search(spaces[number], np.arange(len(subset)), min(_LIST_LENGTH, len(subset) - 1))
            found = (*own, own[0][:, -1] if len(subset) > _LIST_LENGTH + 1 else np.full(len(subset), np.inf))
        width = found[0].shape[1]
        weights[part, :width], indices[part, :width], bound[part] = found[0], found[1] + starts[number], found[2]

    def outside(rows: IndexArray, labels: IndexArray) -> tuple[FloatArray, IndexArray]:
        """Search each tree for the nearest point of another component."""
        nearest, end = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
        owner = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            if number not in spaces:
                spaces[number] = _space_of(space, subsets[number])
            part = labels[starts[number] : starts[number + 1]]
            found = search(spaces[number], rows[mine] - starts[number], 1, labels=part)
            nearest[mine], end[mine] = found[0][:, 0], found[1][:, 0] + starts[number]
        return nearest, end

    trees = np.repeat(np.arange(len(subsets)), np.diff(starts))
    edges, squared = spanning_forest(NeighborLists(weights, indices, bound, trees), outside)
    order = np.argsort(trees[edges[:, 0]], kind="stable")
    cuts = np.cumsum([len(subset) - 1 for subset in subsets])[:-1]
    members = np.concatenate(subsets)[edges[order]]
    return list(zip(np.split(members, cuts), np.split(squared[order], cuts), strict=True))


def _kept_of(
    shared: tuple[FloatArray, IndexArray], subset: IndexArray, n: int
) -> tuple[FloatArray, IndexArray, FloatArray]:
    """Return the first neighbours of each point of a subset that lie in it, and the bound on the others."""
    window = min(shared[0].shape[1], _window(n, len(subset)))
    place = np.full(n, -1)
    place[subset] = np.arange(len(subset))
    listed, member = shared[0][subset, :window], place[shared[1][subset, :window]]
    rank = np.cumsum(member >= 0, axis=1, dtype=np.int16)
    row, column = ((member >= 0) & (rank <= _LIST_LENGTH)).nonzero()
    weights, indices = np.full((len(subset), _LIST_LENGTH), np.inf), np.zeros((len(subset), _LIST_LENGTH), np.int64)
    target = rank[row, column] - 1
    weights[row, target], indices[row, target] = listed[row, column], member[row, column]
    beyond = np.inf if window == n - 1 else listed[:, -1]
    return weights, indices, np.where(rank[:, -1] >= _LIST_LENGTH, weights[:, -1], beyond)


def _window(n: int, size: int) -> int:
    """Return how many columns hold a list's worth of members of a subset in most rows; bounds cover the others."""
    return min(n - 1, int(1.6 * _LIST_LENGTH * n / size) + 8)


def _space_of(space: SearchSpace, subset: IndexArray) -> SearchSpace:
    """Return a subset as a space of its own; the whole cloud is one already."""
    if len(subset) == len(space.stored):
        return space
    whole = space.cloud
    stored = whole.stored[subset]
    centre = stored.mean(axis=0, dtype=np.float64)
    part = DistinctRows(
        stored=stored,
        centre=centre,
        scale=whole.scale,
        rows=whole.rows[subset],
        n_copies=0,
        resolution=whole.resolution,
        rounding_distance=whole.rounding_distance,
    )
    return search_space(part, space.stored.device)
