"""The search equals a float64 brute force on the same stored numbers."""

import numpy as np
import pytest
import torch

from gelora_estimators import DegenerateCloudError, as_points, nearest_distances
from gelora_estimators.clouds import gaussian, random_rotation, sphere
from gelora_estimators.neighbors import count_within
from gelora_estimators.points import distinct_rows
from gelora_estimators.search import search
from gelora_estimators.space import search_space
from gelora_estimators.spanning_tree import minimum_spanning_tree


def brute_force(points, k):
    """Return distances and indices by subtraction in float64, ties by index."""
    stored = np.asarray(as_points(points), dtype=np.float64)
    distances = np.stack([np.sqrt(np.square(stored - row).sum(axis=1)) for row in stored])
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def assert_exact(points, k):
    found = nearest_distances(points, k)
    expected = brute_force(points, k)[0]
    assert found.distances.dtype == np.float64
    assert found.indices.dtype == np.int64
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9)
    stored = np.asarray(as_points(points), dtype=np.float64)
    difference = stored[:, None, :] - stored[found.indices]
    np.testing.assert_allclose(np.sqrt(np.square(difference).sum(axis=-1)), found.distances, rtol=1e-9)
    assert (found.indices != np.arange(len(stored))[:, None]).all()


@pytest.fixture
def cloud():
    return gaussian(300, 4, 40, np.random.default_rng(0))


@pytest.mark.smoke
@pytest.mark.parametrize("k", [1, 2, 20, 299])
def test_distances_equal_brute_force_for_any_k(cloud, k):
    assert_exact(cloud, k)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_distances_equal_brute_force_on_stored_half_and_single_precision(cloud, dtype):
    assert_exact(cloud.astype(dtype), 10)


def test_distances_equal_brute_force_on_a_bfloat16_tensor(cloud):
    assert_exact(torch.tensor(cloud).to(torch.bfloat16), 10)


@pytest.mark.parametrize("shift", [1e4, 1e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_equal_brute_force_far_from_the_origin(shift, dtype):
    cloud = sphere(300, 5, 100, np.random.default_rng(1))
    cloud[:, ::2] += shift  # every other coordinate still tells the float32 points apart
    assert_exact(cloud.astype(dtype), 10)


@pytest.mark.parametrize("outlier", [1e3, 1e9, 1e13])
def test_distances_equal_brute_force_beside_a_far_outlier(cloud, outlier):
    cloud[17] = outlier
    assert_exact(cloud, 5)


def test_distances_equal_brute_force_in_tight_clusters_far_apart():
    rng = np.random.default_rng(2)
    centres = 1e6 * rng.standard_normal((5, 30))
    assert_exact(centres[rng.integers(5, size=300)] + 1e-3 * rng.standard_normal((300, 30)), 12)


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e-200, 1e200])
def test_distances_scale_with_the_unit(cloud, scale):
    found, unit = nearest_distances(cloud * scale, 5), nearest_distances(cloud, 5)
    np.testing.assert_allclose(found.distances / scale, unit.distances, rtol=1e-12)


def test_distances_survive_rotation_and_zero_padding(cloud):
    rotated = cloud @ random_rotation(40, np.random.default_rng(3))
    reference = nearest_distances(cloud, 5).distances
    np.testing.assert_allclose(nearest_distances(rotated, 5).distances, reference, rtol=1e-12)
    padded = np.concatenate([cloud, np.zeros((300, 50))], axis=1)
    np.testing.assert_array_equal(nearest_distances(padded, 5).distances, reference)


def test_a_permutation_of_rows_permutes_distances_bit_by_bit(cloud):
    order = np.random.default_rng(4).permutation(300)
    found, reference = nearest_distances(cloud[order], 5), nearest_distances(cloud, 5)
    np.testing.assert_array_equal(found.distances, reference.distances[order])
    np.testing.assert_array_equal(order[found.indices], reference.indices[order])


@pytest.mark.smoke
@pytest.mark.parametrize("more", [3, 17, 80, 299])
def test_the_first_columns_are_the_same_bits_whatever_k_is(cloud, more):
    few, many = nearest_distances(cloud, 2), nearest_distances(cloud, more)
    np.testing.assert_array_equal(few.distances, many.distances[:, :2])
    np.testing.assert_array_equal(few.indices, many.indices[:, :2])


@pytest.mark.parametrize(
    "points",
    [
        np.eye(60),
        np.stack(np.meshgrid(np.arange(6.0), np.arange(7.0), np.arange(5.0)), axis=-1).reshape(-1, 3),
        np.round(np.random.default_rng(5).standard_normal((200, 3)), 1),
    ],
    ids=["one-hot", "lattice", "rounded"],
)
@pytest.mark.parametrize("k", [1, 3, 9])
def test_ties_are_exact_and_in_order_of_index(points, k):
    distinct = np.unique(points, axis=0)
    found = nearest_distances(distinct, k)
    distances, indices = brute_force(distinct, k)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    if k == 1 or np.ptp(distances) == 0.0 or np.array_equal(distinct, np.round(distinct)):
        # Equal distances are equal bits only where the coordinates are integers.
        np.testing.assert_array_equal(found.indices, indices)
    stacked = np.stack([np.sort(found.indices, axis=1)])
    assert (np.diff(stacked, axis=-1) > 0).all() or k == 1


def test_copies_are_counted_and_leave_distances_as_they_were(cloud):
    repeated = np.concatenate([cloud[:1], cloud, cloud[50:80]])
    found, reference = nearest_distances(repeated, 4), nearest_distances(cloud, 4)
    assert found.n_copies == 31
    np.testing.assert_array_equal(found.rows, [0, *range(2, 301)])
    np.testing.assert_array_equal(found.distances, reference.distances)
    np.testing.assert_array_equal(found.indices, reference.indices)


def test_blocks_of_rows_give_the_same_bits_as_one_block(cloud, monkeypatch):
    reference = nearest_distances(cloud, 6)
    monkeypatch.setattr("gelora_estimators.bounds._BLOCK_ELEMENTS", {"cpu": 2000})
    monkeypatch.setattr("gelora_estimators.bounds._FEWEST_ROWS", 3)
    monkeypatch.setattr("gelora_estimators.space._DIFFERENCE_ELEMENTS", {"cpu": 100, "cuda": 100})
    found = nearest_distances(cloud, 6)
    np.testing.assert_array_equal(found.distances, reference.distances)
    np.testing.assert_array_equal(found.indices, reference.indices)


@pytest.mark.parametrize("n_columns", [16, 37, 64, 299])
def test_parts_of_columns_give_the_same_bits_as_the_whole_cloud(cloud, monkeypatch, n_columns):
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=len(cloud))
    grid = np.stack(np.meshgrid(np.arange(17.0), np.arange(18.0)), axis=-1).reshape(-1, 2)  # ties everywhere
    rows, radii = np.arange(0, 300, 7), np.array([0.1, 1.0, 30.0])

    def everything():
        space = search_space(distinct_rows(cloud, minimum=2), torch.device("cpu"))
        found = [nearest_distances(points, 6).distances for points in (cloud, grid, cloud + 1e4)]
        found += [nearest_distances(cloud, 6).indices, nearest_distances(grid, 20).distances]
        found += [search(space, np.arange(5, 200), 3, labels=labels)[0], count_within(cloud, rows, radii)]
        return [*found, minimum_spanning_tree(cloud).lengths, minimum_spanning_tree(grid).lengths]

    reference = everything()
    size = {"cpu": n_columns * 4 * (cloud.shape[1] + 2)}
    monkeypatch.setattr("gelora_estimators.bounds._COLUMN_BYTES", size)
    for one, other in zip(everything(), reference, strict=True):
        np.testing.assert_array_equal(one, other)


def test_too_few_points_for_k_are_refused_with_the_counts(cloud):
    with pytest.raises(DegenerateCloudError, match=r"5 distinct points.*at least 7 are needed"):
        nearest_distances(cloud[:5], 6)


def test_with_a_minimum_a_small_cloud_gives_the_neighbours_it_has(cloud):
    assert nearest_distances(cloud[:5], 6, minimum=2).distances.shape == (5, 4)


def test_vectors_repeated_with_rounding_noise_are_refused_with_the_counts():
    rng = np.random.default_rng(6)
    atoms = rng.standard_normal((5, 64)).astype(np.float32)[rng.integers(5, size=400)]
    noisy = atoms * (1 + rng.integers(-1, 2, size=(400, 64)).astype(np.float32) * np.finfo(np.float32).eps)
    with pytest.raises(DegenerateCloudError, match=r"400 of 400 distinct points.*rounding of the stored numbers"):
        nearest_distances(noisy, 2)


def test_a_few_near_copies_are_counted_and_kept(cloud):
    near = np.concatenate([cloud, np.nextafter(cloud[:7], np.inf)])
    found = nearest_distances(near, 2)
    assert found.n_near_copies == 14
    assert len(found.rows) == 307


@pytest.mark.parametrize(("k", "minimum"), [(0, None), (2.5, None), (True, None), (3, 0)])
def test_bad_counts_are_value_errors_that_name_the_argument(cloud, k, minimum):
    name = "k" if minimum is None else "minimum"
    with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least 1"):
        nearest_distances(cloud, k, minimum=minimum)


def test_an_unknown_device_is_named(cloud):
    with pytest.raises(ValueError, match=r"`device` must be 'auto' or a torch device.*'abacus'"):
        nearest_distances(cloud, 2, device="abacus")


def test_cuda_without_a_gpu_is_refused(cloud, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`device` must be available, got 'cuda'"):
        nearest_distances(cloud, 2, device="cuda")


@pytest.mark.gpu
def test_the_gpu_gives_the_same_neighbours_as_the_cpu(cloud):
    here, there = nearest_distances(cloud, 9), nearest_distances(torch.tensor(cloud, device="cuda"), 9)
    np.testing.assert_allclose(here.distances, there.distances, rtol=1e-12)  # each sums in an order of its own
    np.testing.assert_array_equal(here.indices, there.indices)


@pytest.mark.smoke
def test_counts_within_radii_equal_brute_force(cloud):
    distances = np.linalg.norm(cloud[:, None] - cloud[None], axis=-1)
    radii = np.array([0.5, 1.0, np.sort(distances[7])[30], 4.0, 1e3])
    rows = np.array([7, 0, 299, 7])
    found = count_within(cloud, rows, radii * (1 + 1e-12))
    np.testing.assert_array_equal(found, (distances[rows][:, :, None] <= radii * (1 + 1e-12)).sum(axis=1) - 1)


def test_a_point_at_the_radius_itself_counts():
    lattice = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    assert count_within(lattice, np.array([12]), np.array([0.99, 1.0, 2.0])).tolist() == [[0, 4, 12]]


@pytest.mark.parametrize("radius", [1e6, 1e25, 1e200, np.inf])
def test_a_radius_beyond_all_points_counts_all_others_once(cloud, radius):
    assert (count_within(cloud, np.arange(300), np.array([0.0, radius])) == [0, 299]).all()
    assert (count_within(1e-180 * cloud, np.arange(5), np.array([radius])) == 299).all()


@pytest.mark.parametrize("radii", [[-1.0], [np.nan], [[1.0]]])
def test_what_is_no_list_of_radii_is_refused(cloud, radii):
    with pytest.raises(ValueError, match="`radii` must be a sequence of numbers of at least 0"):
        count_within(cloud, np.array([0]), np.array(radii))


def test_squared_distances_that_vanish_are_refused_with_the_count(cloud):
    tiny = np.concatenate([cloud[:100], 1e-170 * cloud[100:]])
    with pytest.raises(DegenerateCloudError, match="200 of 300 distinct points .* vanishes in float64"):
        nearest_distances(tiny, 2)


def test_counting_among_copies_is_refused(cloud):
    with pytest.raises(ValueError, match="`points` must be distinct, got 2 copies"):
        count_within(np.concatenate([cloud, cloud[:2]]), np.array([0]), np.array([1.0]))


SETTINGS = {
    "the process's precision": (torch, "set_float32_matmul_precision", "medium"),
    "bfloat16 on the CPU": (torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "TF32 on the GPU": (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


def matmul_settings():
    return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_matmul_precision_of_the_process_changes_nothing_and_stays(cloud, name, monkeypatch):
    reference = nearest_distances(cloud.astype(np.float32), 4)
    before = matmul_settings()
    where, setting, value = SETTINGS[name]
    seen = []
    exact = torch.mm

    def watched(*arguments, **options):
        seen.append(matmul_settings())
        return exact(*arguments, **options)

    try:
        where.set_float32_matmul_precision(value) if where is torch else setattr(where, setting, value)
        changed = matmul_settings()
        monkeypatch.setattr(torch, "mm", watched)
        found = nearest_distances(cloud.astype(np.float32), 4)
        assert matmul_settings() == changed != before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before
    assert seen == [["ieee", "ieee"]] * len(seen)
    assert seen
    np.testing.assert_array_equal(found.distances, reference.distances)


def test_a_product_of_lower_precision_than_promised_is_noticed(cloud, monkeypatch):
    reference = nearest_distances(cloud, 6)
    exact = torch.mm

    def rounded(left, right, *, out):
        return out.copy_(exact(left.bfloat16().float(), right.bfloat16().float()).to(out.dtype))

    monkeypatch.setattr(torch, "mm", rounded)
    np.testing.assert_array_equal(nearest_distances(cloud, 6).distances, reference.distances)


@pytest.mark.parametrize("spacing", [1e-3, 1e-5, 1e-7])
def test_neighbours_nearer_than_float32_can_tell_are_found_in_float64(spacing):
    rng = np.random.default_rng(8)
    pairs = np.repeat(rng.standard_normal((150, 20)), 2, axis=0)
    pairs[1::2] += spacing * rng.standard_normal((150, 20))
    assert_exact(pairs, 3)


def test_a_thousand_points_on_a_line_are_settled_whatever_the_precision():
    line = np.concatenate([np.sort(np.random.default_rng(9).random((1000, 1)), axis=0), np.ones((1000, 30))], axis=1)
    assert_exact(line.astype(np.float32), 5)
    assert_exact(line, 5)
