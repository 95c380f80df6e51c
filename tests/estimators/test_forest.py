"""Borůvka on cut neighbour lists gives the minimum spanning trees of the whole graphs."""

import numpy as np
import pytest
from scipy.sparse import csgraph

from gelora_estimators.forest import NeighborLists, spanning_forest


def lists_of(matrices, width):
    """Return the lists of the nearest ``width`` neighbours in each complete graph, and what finds the rest."""
    starts = np.cumsum([0, *map(len, matrices)])
    weights, indices = np.full((starts[-1], width), np.inf), np.zeros((starts[-1], width), dtype=np.int64)
    bound, trees = np.full(starts[-1], np.inf), np.repeat(np.arange(len(matrices)), np.diff(starts))
    for number, matrix in enumerate(matrices):
        own = matrix + np.diag(np.full(len(matrix), np.inf))
        order = np.argsort(own, axis=1, kind="stable")[:, : min(width, len(own) - 1)]
        part = slice(starts[number], starts[number + 1])
        weights[part, : order.shape[1]] = np.take_along_axis(own, order, axis=1)
        indices[part, : order.shape[1]] = order + starts[number]
        if width < len(own) - 1:
            bound[part] = weights[part, -1]
    searched = []

    def outside(rows, labels):
        searched.append(len(rows))
        found, end = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
        for place, row in enumerate(rows):
            number = trees[row]
            part = slice(starts[number], starts[number + 1])
            other = np.where(labels[part] != labels[row], matrices[number][row - starts[number]], np.inf)
            found[place], end[place] = other.min(), other.argmin() + starts[number]
        return found, end

    return NeighborLists(weights, indices, bound, trees), outside, searched


def symmetric(n, rng, values=None):
    upper = np.triu(rng.random((n, n)) if values is None else rng.choice(values, (n, n)), 1)
    return upper + upper.T + np.eye(n) * 0.0


def reference(matrices):
    return np.concatenate([np.sort(csgraph.minimum_spanning_tree(matrix).data) for matrix in matrices])


@pytest.mark.smoke
@pytest.mark.parametrize("width", [1, 2, 5, 40])
@pytest.mark.parametrize("seed", range(5))
def test_random_graphs_get_their_minimum_trees_whatever_the_lists_hold(width, seed):
    rng = np.random.default_rng(seed)
    matrices = [symmetric(n, rng) + 0.01 for n in (2, 30, 1, 41, 3)]
    matrices = [matrix - np.diag(np.diag(matrix)) for matrix in matrices]
    lists, outside, _ = lists_of(matrices, width)
    edges, weights = spanning_forest(lists, outside)
    owner = lists.trees[edges[:, 0]]
    np.testing.assert_array_equal(owner, lists.trees[edges[:, 1]])
    found = np.concatenate([np.sort(weights[owner == number]) for number in range(len(matrices))])
    np.testing.assert_array_equal(found, reference(matrices))


@pytest.mark.parametrize("width", [1, 3, 10, 29])
@pytest.mark.parametrize("seed", range(5))
def test_edges_of_equal_weight_close_no_ring(width, seed):
    matrix = symmetric(30, np.random.default_rng(seed), values=[1.0, 2.0])
    lists, outside, _ = lists_of([matrix], width)
    edges, weights = spanning_forest(lists, outside)
    graph = np.zeros((30, 30))
    graph[edges[:, 0], edges[:, 1]] = 1.0
    assert len(edges) == 29
    assert csgraph.connected_components(graph, directed=False)[0] == 1
    assert weights.sum() == reference([matrix]).sum()


def test_complete_lists_need_no_search():
    matrix = symmetric(25, np.random.default_rng(0)) + 0.5
    np.fill_diagonal(matrix, 0.0)
    lists, outside, searched = lists_of([matrix], 24)
    spanning_forest(lists, outside)
    assert searched == []


def test_far_clusters_are_searched_from_all_but_the_largest():
    rng = np.random.default_rng(1)
    centre = np.repeat([0.0, 100.0, 210.0], [40, 20, 10])
    place = centre + rng.random(70)
    matrix = np.abs(place[:, None] - place)
    lists, outside, searched = lists_of([matrix], 4)
    _, weights = spanning_forest(lists, outside)
    np.testing.assert_allclose(np.sort(weights), reference([matrix]), rtol=1e-15)
    assert searched[-1] <= 30  # once the clusters are whole, the one of 40 waits for the others


def test_single_points_have_no_edges():
    lists, outside, _ = lists_of([np.zeros((1, 1)), np.zeros((1, 1))], 2)
    edges, weights = spanning_forest(lists, outside)
    assert (edges.shape, weights.shape) == ((0, 2), (0,))
