"""The minimum spanning tree, against SciPy, giotto-ph and ripser."""

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from gelora_estimators import DegenerateCloudError, pairwise_distances, spanning_tree_lengths
from gelora_estimators.clouds import gaussian
from gelora_estimators.ph import bars


def reference_lengths(points):
    tree = minimum_spanning_tree(squareform(pdist(np.asarray(points, dtype=np.float64))))
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
    dense = spanning_tree_lengths(CLOUDS[name])
    monkeypatch.setattr("gelora_estimators.spanning_tree._DENSE_LIMIT", 1)
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


@pytest.mark.parametrize("name", ["gaussian", "clusters"])
def test_blocks_of_rows_give_the_same_matrix(name, monkeypatch):
    points = CLOUDS[name] - CLOUDS[name].mean(axis=0)
    whole = pairwise_distances(points)
    monkeypatch.setattr("gelora_estimators.spanning_tree._BLOCK_ELEMENTS", 7 * len(points))
    parts = pairwise_distances(points)
    np.testing.assert_allclose(parts, whole, rtol=1e-8)
    np.testing.assert_array_equal(parts, parts.T)
