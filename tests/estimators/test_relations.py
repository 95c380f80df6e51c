"""Places among neighbours: those of brute force, with ties, far from the origin, beside massive points."""

import time

import numpy as np
import pytest
import torch

from gelora_estimators import nearest_distances
from gelora_estimators import relations as module
from gelora_estimators.clouds import gaussian, random_rotation
from gelora_estimators.relations import joint_rows, neighbor_ranks

N = 150


def grid():
    return np.stack(np.meshgrid(np.arange(15.0), np.arange(10.0)), axis=-1).reshape(-1, 2)


def with_massive_point():
    cloud = gaussian(N, 5, 9, np.random.default_rng(1))
    cloud[3] *= 1e7
    return cloud


CLOUDS = {
    "Gaussian": gaussian(N, 5, 9, np.random.default_rng(0)),
    "float32": gaussian(N, 5, 9, np.random.default_rng(0)).astype(np.float32),
    "far from the origin": (gaussian(N, 5, 9, np.random.default_rng(0)) + 1e4).astype(np.float32),
    "a grid, full of ties": grid(),
    "integers": grid().astype(np.int64),
    "a massive point": with_massive_point(),
    "tiny": 1e-160 * gaussian(N, 5, 9, np.random.default_rng(0)),
    "huge": 1e160 * gaussian(N, 5, 9, np.random.default_rng(0)),
    "a tensor": torch.tensor(gaussian(N, 5, 9, np.random.default_rng(0))),
}


def brute_ranks(cloud):
    """Return the place of every point among the neighbours of every other, by sorting exact distances."""
    stored = np.asarray(cloud).astype(np.float64)
    stored = stored / 2.0 ** np.ceil(np.log2(np.abs(stored).max()))  # a power of two, so that ties stay ties
    squared = np.square(stored[:, None] - stored[None]).sum(axis=-1)
    np.fill_diagonal(squared, np.inf)
    order = np.argsort(squared, axis=1, kind="stable")
    return np.argsort(order, axis=1) + 1


@pytest.mark.smoke
@pytest.mark.parametrize("name", CLOUDS)
def test_places_are_those_of_sorted_distances(name):
    others = np.stack([np.roll(np.arange(N), shift) for shift in (1, 7, 60, 149)], axis=1)
    expected = np.take_along_axis(brute_ranks(CLOUDS[name]), others, axis=1)
    np.testing.assert_array_equal(neighbor_ranks(CLOUDS[name], others), expected)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_neighbours_of_the_search_have_the_places_of_its_columns(name):
    found = nearest_distances(CLOUDS[name], 12)
    ranks = neighbor_ranks(CLOUDS[name], found.indices)
    np.testing.assert_array_equal(ranks, np.broadcast_to(np.arange(1, 13), ranks.shape))


def test_places_do_not_depend_on_how_the_work_is_cut(monkeypatch):
    others = np.roll(np.arange(N), 5)[:, None]
    whole = neighbor_ranks(CLOUDS["Gaussian"], others)
    monkeypatch.setattr(module, "_FEWEST_ROWS", 7)
    monkeypatch.setitem(module._BLOCK_ELEMENTS, "cpu", 1)
    np.testing.assert_array_equal(neighbor_ranks(CLOUDS["Gaussian"], others), whole)


def test_moving_turning_and_scaling_change_no_place():
    cloud = CLOUDS["Gaussian"]
    others = np.roll(np.arange(N), 5)[:, None]
    moved = 3.0 * cloud @ random_rotation(9, np.random.default_rng(2)) + 100.0
    np.testing.assert_array_equal(neighbor_ranks(moved, others), neighbor_ranks(cloud, others))


def test_numbers_that_are_no_other_points_are_refused():
    cloud = CLOUDS["Gaussian"]
    for others in (np.arange(N)[:, None], np.full((N, 1), N), np.full((N, 1), -1), np.ones((N, 1)), np.ones(N, int)):
        with pytest.raises(ValueError, match=r"`others` must hold numbers of other points, in 150 rows, got an array"):
            neighbor_ranks(cloud, others)
    with pytest.raises(ValueError, match="`points` must be distinct, got 2 copies"):
        neighbor_ranks(np.concatenate([cloud, cloud[:2]]), np.zeros((N + 2, 1), dtype=np.int64))


def test_a_row_that_copies_an_earlier_one_in_any_cloud_is_left_out():
    first, second = CLOUDS["Gaussian"].copy(), gaussian(N, 2, 4, np.random.default_rng(3))
    first[10], second[[20, 30]] = first[4], second[7]
    found = joint_rows([first, second])
    assert found.rows.tolist() == [row for row in range(N) if row not in (10, 20, 30)]
    assert found.reasons == ("", "")
    for cloud in (first, second):
        assert len(np.unique(cloud[found.rows], axis=0)) == N - 3


def test_a_cloud_without_a_neighbourhood_is_left_out_of_account_with_its_reason():
    found = joint_rows([np.ones((N, 3)), CLOUDS["Gaussian"], CLOUDS["Gaussian"][np.arange(N) % 4]])
    assert found.rows.tolist() == list(range(N))
    assert found.reasons[1] == ""
    assert "all 150 points are equal" in found.reasons[0]
    assert "only 4 distinct values" in found.reasons[2]
    assert len(joint_rows([np.ones((N, 3))]).rows) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_places():
    cloud = gaussian(900, 8, 64, np.random.default_rng(0)).astype(np.float32)
    others = nearest_distances(gaussian(900, 8, 64, np.random.default_rng(1)), 3).indices
    np.testing.assert_array_equal(neighbor_ranks(cloud, others, device="cuda"), neighbor_ranks(cloud, others))


@pytest.mark.slow
def test_ties_everywhere_take_seconds_not_minutes():
    cells = np.stack(np.meshgrid(np.arange(40.0), np.arange(50.0)), axis=-1).reshape(-1, 2)
    begun = time.perf_counter()
    neighbor_ranks(cells, nearest_distances(cells, 3).indices)
    assert time.perf_counter() - begun < 20.0
