"""The minimum spanning tree, against SciPy, giotto-ph and ripser."""

import networkx
import numpy as np
import pytest
import torch
from scipy.sparse import csgraph
from scipy.spatial.distance import pdist, squareform

from gelora_estimators import (
    DegenerateCloudError,
    distinct_points,
    minimum_spanning_tree,
    pairwise_distances,
    spanning_tree_lengths,
)
from gelora_estimators.clouds import gaussian
from gelora_estimators.homology import bars
from gelora_estimators.spanning_tree import subset_tree_lengths


def reference_lengths(points):
    tree = csgraph.minimum_spanning_tree(squareform(pdist(np.asarray(points, dtype=np.float64))))
    return np.sort(tree.data)


def clusters_far_apart():
    rng = np.random.default_rng(1)
    return 1e6 * rng.standard_normal((4, 20))[rng.integers(4, size=150)] + 1e-2 * rng.standard_normal((150, 20))


CLOUDS = {
    "gaussian": gaussian(300, 4, 30, np.random.default_rng(0)),
    "far from the origin": gaussian(300, 4, 30, np.random.default_rng(0)) + 1e4,
    "float32": gaussian(300, 4, 30, np.random.default_rng(0)).astype(np.float32),
    "clusters": clusters_far_apart(),
    "two points": np.array([[0.0, 0.0], [3.0, 4.0]]),
    "lattice": np.stack(np.meshgrid(np.arange(8.0), np.arange(9.0)), axis=-1).reshape(-1, 2),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", CLOUDS)
def test_lengths_equal_scipy_on_the_dense_matrix(name):
    found = spanning_tree_lengths(CLOUDS[name])
    assert len(found) == len(CLOUDS[name]) - 1
    np.testing.assert_allclose(found, reference_lengths(CLOUDS[name]), rtol=1e-8)


@pytest.mark.parametrize("name", CLOUDS)
def test_linear_memory_gives_the_same_lengths(name, monkeypatch):
    monkeypatch.setattr("gelora_estimators.spanning_tree._DENSE_LIMIT", 1000)
    dense = spanning_tree_lengths(CLOUDS[name])
    monkeypatch.setattr("gelora_estimators.spanning_tree._DENSE_LIMIT", 1)
    for length in (1, 2, 12, 400):
        monkeypatch.setattr("gelora_estimators.spanning_tree._LIST_LENGTH", length)
        np.testing.assert_allclose(spanning_tree_lengths(CLOUDS[name]), dense, rtol=1e-12)


@pytest.mark.parametrize("backend", ["giotto", "ripser"])
@pytest.mark.parametrize("name", ["gaussian", "far from the origin", "two points", "lattice"])
def test_bars_of_degree_zero_equal_the_tree(backend, name):
    points = np.asarray(CLOUDS[name], dtype=np.float64)
    found = bars(pairwise_distances(points - points.mean(axis=0)), backend)
    np.testing.assert_allclose(found, spanning_tree_lengths(points), rtol=1e-6)


@pytest.mark.parametrize("name", CLOUDS)
def test_pairwise_distances_equal_subtraction(name):
    points = np.asarray(CLOUDS[name], dtype=np.float64)
    centred = points - points.mean(axis=0)
    found = pairwise_distances(centred)
    np.testing.assert_allclose(found, squareform(pdist(centred)), rtol=1e-8)
    np.testing.assert_array_equal(found, found.T)


def test_copies_do_not_add_edges():
    cloud = CLOUDS["gaussian"]
    np.testing.assert_allclose(spanning_tree_lengths(np.concatenate([cloud, cloud[:40]])), spanning_tree_lengths(cloud))


@pytest.mark.parametrize("scale", [1e-200, 1e-4, 1e4, 1e200])
def test_lengths_scale_with_the_unit(scale):
    cloud = CLOUDS["gaussian"]
    np.testing.assert_allclose(spanning_tree_lengths(cloud * scale) / scale, spanning_tree_lengths(cloud), rtol=1e-8)


def test_one_point_has_no_tree():
    with pytest.raises(DegenerateCloudError, match="1 distinct points"):
        spanning_tree_lengths(np.zeros((1, 3)))


@pytest.mark.gpu
def test_the_gpu_gives_the_same_lengths():
    cloud = CLOUDS["gaussian"]
    found = spanning_tree_lengths(torch.tensor(cloud, device="cuda"))
    np.testing.assert_allclose(found, spanning_tree_lengths(cloud), rtol=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["gaussian", "float32", "clusters", "lattice"])
def test_subsets_have_the_trees_of_clouds_of_their_own(name, monkeypatch):
    points = distinct_points(CLOUDS[name]).points
    rng = np.random.default_rng(2)
    sizes = [2, 3, 20, 20, len(points) // 2, len(points) - 1, len(points)] * 4
    subsets = [np.sort(rng.choice(len(points), size, replace=False)) for size in sizes]
    expected = [reference_lengths(points[subset]) for subset in subsets]
    for limit, rows in ((1000, 2**17), (10, 2**17), (10, 300)):
        monkeypatch.setattr("gelora_estimators.spanning_tree._DENSE_LIMIT", limit)
        monkeypatch.setattr("gelora_estimators.spanning_tree._BATCH_ROWS", rows)
        for found, lengths in zip(subset_tree_lengths(points, subsets), expected, strict=True):
            np.testing.assert_allclose(found, lengths, rtol=1e-8)


def test_subsets_that_share_no_list_are_searched_on_their_own(monkeypatch):
    points = CLOUDS["gaussian"]
    subsets = [np.sort(np.random.default_rng(seed).choice(300, 180, replace=False)) for seed in range(2)]
    monkeypatch.setattr("gelora_estimators.spanning_tree._shared_lists", lambda *_: None)
    for found, subset in zip(subset_tree_lengths(points, subsets), subsets, strict=True):
        np.testing.assert_allclose(found, reference_lengths(points[subset]), rtol=1e-8)


def test_copies_among_the_points_of_subsets_are_refused():
    points = np.concatenate([CLOUDS["gaussian"], CLOUDS["gaussian"][:3]])
    with pytest.raises(ValueError, match="`points` must be distinct, got 3 copies"):
        subset_tree_lengths(points, [np.arange(5)])


@pytest.mark.parametrize("name", CLOUDS)
def test_edges_join_the_points_at_their_length_and_make_a_tree(name):
    tree = minimum_spanning_tree(CLOUDS[name])
    stored = np.asarray(CLOUDS[name], dtype=np.float64)[tree.rows]
    ends = stored[tree.edges]
    np.testing.assert_allclose(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1), tree.lengths, rtol=1e-12)
    graph = networkx.Graph(tree.edges.tolist())
    assert networkx.is_tree(graph)
    assert graph.number_of_nodes() == len(stored)
    assert (np.diff(tree.lengths) >= 0).all()


@pytest.mark.parametrize("n_clusters", [2, 7, 40])
def test_clusters_larger_than_the_lists_are_joined_by_their_shortest_bridges(n_clusters):
    rng = np.random.default_rng(n_clusters)
    centres = 100.0 * rng.standard_normal((n_clusters, 6))
    points = centres[rng.integers(n_clusters, size=1200)] + rng.standard_normal((1200, 6))
    np.testing.assert_allclose(spanning_tree_lengths(points), reference_lengths(points), rtol=1e-9)


def test_equal_edges_everywhere_still_give_a_tree():
    lattice = np.stack(np.meshgrid(*[np.arange(6.0)] * 4), axis=-1).reshape(-1, 4)
    shuffled = lattice[np.random.default_rng(3).permutation(len(lattice))]
    np.testing.assert_array_equal(spanning_tree_lengths(shuffled), np.ones(len(lattice) - 1))
    corners = np.eye(400)  # every pair at the same distance
    np.testing.assert_allclose(spanning_tree_lengths(corners), np.full(399, np.sqrt(2.0)), rtol=1e-15)
