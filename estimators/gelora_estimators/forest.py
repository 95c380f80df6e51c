"""Minimum spanning forests from neighbour lists, by Borůvka's algorithm with a certificate.

Each round every component picks its shortest edge to the outside. From lists that hold only the nearest neighbours
the pick is proven when it is no longer than what the ends of the exhausted lists leave possible; a component without
a proof waits for the others, and is searched in full when all of its tree wait.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import FloatArray

_PATIENCE = 16  # components of a tree to each proven one from which the others are searched in full

# (rows, labels) → weight and number of the nearest point of another label, within the row's own tree.
Outside = Callable[[IndexArray, IndexArray], tuple[FloatArray, IndexArray]]


@dataclass(frozen=True, slots=True)
class NeighborLists:
    """Nearest neighbours of the points of one or several trees.

    Parameters
    ----------
    weights : ndarray of shape (n, k)
        Weights of the listed edges, ascending along each row; infinite where a row lists fewer.
    indices : ndarray of shape (n, k)
        Their other ends; anything where the weight is infinite.
    bound : ndarray of shape (n,)
        No unlisted edge of the row within its tree is lighter; infinite where all are listed.
    trees : ndarray of shape (n,)
        Number of the tree each point belongs to: 0, 1, …
    """

    weights: FloatArray
    indices: IndexArray
    bound: FloatArray
    trees: IndexArray


def spanning_forest(lists: NeighborLists, outside: Outside) -> tuple[IndexArray, FloatArray]:
    """Return the edges (m, 2) and weights (m,) of a minimum spanning tree of each set of points.

    Edges of equal weight may be exchanged, so the set of edges need not be unique; the weights are.

    Parameters
    ----------
    lists : NeighborLists
        What is known of the edges.
    outside : callable
        Finds what the lists do not hold.

    Returns
    -------
    tuple of ndarray
        m is the number of points less the number of trees.
    """
    n, width = lists.weights.shape
    labels, column = np.arange(n), np.zeros(n, dtype=np.int64)
    n_trees = int(lists.trees.max()) + 1
    edges: list[IndexArray] = []
    weights: list[FloatArray] = []
    n_found = 0
    while n_found < n - n_trees:
        _advance(lists, labels, column)
        weight = np.take_along_axis(lists.weights, np.minimum(column, width - 1)[:, None], axis=1)[:, 0]
        end = np.take_along_axis(lists.indices, np.minimum(column, width - 1)[:, None], axis=1)[:, 0]
        exhausted = (column == width) | np.isinf(weight)
        weight[exhausted] = np.inf
        start, end, weight = _lightest(labels, weight, end, np.where(exhausted, lists.bound, np.inf), lists, outside)
        kept = _without_cycles(labels[start], labels[end])
        edges.append(np.stack([start[kept], end[kept]], axis=1))
        weights.append(weight[kept])
        n_found += len(kept)
        labels = _merge(labels, edges[-1])
    if not edges:
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    return np.concatenate(edges), np.concatenate(weights)


def _advance(lists: NeighborLists, labels: IndexArray, column: IndexArray) -> None:
    """Move each row's column to its first neighbour outside of its component; the width if none is."""
    width = lists.weights.shape[1]
    rows = np.flatnonzero(column < width)
    rows = rows[labels[lists.indices[rows, column[rows]]] == labels[rows]]
    outside = labels[lists.indices[rows]] != labels[rows, None]
    first = outside.argmax(axis=1)
    column[rows] = np.where(outside[np.arange(len(rows)), first], first, width)


def _lightest(
    labels: IndexArray,
    weight: FloatArray,
    end: IndexArray,
    bound: FloatArray,
    lists: NeighborLists,
    outside: Outside,
) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Return one edge of each component whose lightest is proven, at least one of every unfinished tree."""
    n_components = int(labels.max()) + 1
    best, limit = np.full(n_components, np.inf), np.full(n_components, np.inf)
    np.minimum.at(best, labels, weight)
    np.minimum.at(limit, labels, bound)
    tree = np.zeros(n_components, dtype=np.int64)
    tree[labels] = lists.trees
    unfinished = np.bincount(tree)[tree] > 1
    proven = unfinished & np.isfinite(best) & (best <= limit)
    # Waiting for a few proven components would take as many rounds as there are others.
    stuck = unfinished & (_PATIENCE * np.bincount(tree, weights=proven)[tree] < np.bincount(tree)[tree])
    if stuck.any():
        searched = stuck & ~proven & ~_largest(labels, tree)
        # Only points whose unlisted neighbours could beat what the component has.
        rows = np.flatnonzero(searched[labels] & (bound < best[labels]))
        found, other = outside(rows, labels)
        better = found < weight[rows]
        weight[rows[better]], end[rows[better]] = found[better], other[better]
        np.minimum.at(best, labels[rows], weight[rows])
        proven |= searched
    candidates = np.flatnonzero(proven[labels] & (weight == best[labels]))
    # Of equally light edges the first in one order that both ends see.
    low, high = np.minimum(candidates, end[candidates]), np.maximum(candidates, end[candidates])
    order = np.lexsort((high, low, labels[candidates]))
    first = candidates[order[np.unique(labels[candidates[order]], return_index=True)[1]]]
    return first, end[first], weight[first]


def _largest(labels: IndexArray, tree: IndexArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Mark the largest component of each tree: the others' edges reach it."""
    size = np.bincount(labels)
    order = np.lexsort((size, tree))
    last = np.append(tree[order][1:] != tree[order][:-1], True)
    mark = np.zeros(len(size), dtype=np.bool_)
    mark[order[last]] = True
    return mark


def _without_cycles(left: IndexArray, right: IndexArray) -> IndexArray:
    """Return the numbers of edges between components that make a forest.

    Two components may pick each other, and picks of equal weight may close a ring.
    """
    low, high = np.minimum(left, right), np.maximum(left, right)
    unique = np.unique(np.stack([low, high]), axis=1, return_index=True)[1]
    size = int(high.max()) + 1
    graph = coo_array((unique + 1.0, (low[unique], high[unique])), shape=(size, size)).tocsr()
    return np.sort(minimum_spanning_tree(graph).data.astype(np.int64) - 1)


def _merge(labels: IndexArray, edges: IndexArray) -> IndexArray:
    """Return the components after joining the ends of the edges."""
    n = int(labels.max()) + 1
    ones = np.ones(len(edges))
    graph = coo_array((ones, (labels[edges[:, 0]], labels[edges[:, 1]])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])[labels].astype(np.int64)
