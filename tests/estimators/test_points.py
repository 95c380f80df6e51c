"""Points in, clean points out; clouds without a dimension are refused with the counts."""

import re

import numpy as np
import pytest
import torch

from gelora_estimators import DegenerateCloudError, as_points, distinct_points

pytestmark = pytest.mark.smoke


@pytest.fixture
def cloud():
    return np.random.default_rng(0).standard_normal((120, 5))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64), (np.longdouble, np.float64)],
)
def test_every_numpy_float_keeps_its_values_in_float32_or_float64(cloud, stored, expected):
    found = as_points(cloud.astype(stored))
    assert found.dtype == expected
    np.testing.assert_array_equal(found, cloud.astype(stored).astype(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32])
def test_torch_tensors_of_any_dtype_keep_their_values(cloud, dtype):
    tensor = (torch.tensor(cloud) * 10).to(dtype)
    np.testing.assert_array_equal(as_points(tensor), tensor.double().numpy())


def test_a_tensor_that_requires_gradients_is_accepted(cloud):
    np.testing.assert_array_equal(as_points(torch.tensor(cloud, requires_grad=True)), cloud)


def test_integers_and_lists_become_float64():
    assert as_points(np.arange(6, dtype=np.int16).reshape(3, 2)).dtype == np.float64
    assert as_points([[1, 2], [3, 4]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 3, 4)), np.zeros((3, 0)), 5.0])
def test_a_wrong_shape_is_named_with_the_shape_received(bad):
    shape = re.escape(str(np.shape(bad)))
    with pytest.raises(ValueError, match=rf"`points` must have shape \(n, d\).*got shape {shape}"):
        as_points(bad)


def test_a_ragged_list_is_named():
    with pytest.raises(ValueError, match=r"`points` must have shape.*ragged"):
        as_points([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("bad", [[["a", "b"]], np.zeros((3, 2), dtype=complex), np.zeros((3, 2), dtype=bool)])
def test_a_dtype_without_real_numbers_is_a_type_error(bad):
    with pytest.raises(TypeError, match="`points` must hold real numbers, got dtype"):
        as_points(bad)


def test_rows_with_nan_and_inf_are_counted(cloud):
    cloud[3, 1], cloud[3, 2], cloud[7, 0] = np.nan, np.inf, -np.inf
    with pytest.raises(DegenerateCloudError, match="2 of 120 points hold NaN or infinite"):
        as_points(cloud)


def test_copies_are_removed_by_stored_value_and_first_rows_are_kept(cloud):
    repeated = np.concatenate([cloud, cloud[[5, 0, 5]]])
    found = distinct_points(repeated)
    assert found.n_copies == 3
    np.testing.assert_array_equal(found.rows, np.arange(120))
    np.testing.assert_allclose(found.points, cloud - cloud.mean(axis=0), atol=1e-14)


def test_minus_zero_equals_zero():
    found = distinct_points(np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, -0.0], [1.0, 0.0]]))
    assert (found.n_copies, found.rows.tolist()) == (2, [0, 2])


def test_rows_that_differ_in_the_last_bit_are_no_copies(cloud):
    near = np.concatenate([cloud, np.nextafter(cloud[:10], np.inf)])
    assert distinct_points(near).n_copies == 0


def test_the_mean_is_subtracted_in_float64():
    stored = (np.random.default_rng(0).standard_normal((5000, 3)) + 1e4).astype(np.float32)
    found = distinct_points(stored)
    assert found.points.dtype == np.float64
    kept = stored[found.rows].astype(np.float64)
    np.testing.assert_allclose(found.points, kept - kept.mean(axis=0), atol=1e-9)


def test_the_input_is_not_written_to(cloud):
    before = cloud.copy()
    distinct_points(cloud)
    np.testing.assert_array_equal(cloud, before)


@pytest.mark.parametrize("value", [0.0, 3.3, 1e-300, 1e300])
def test_equal_points_are_refused_with_their_number(value):
    with pytest.raises(DegenerateCloudError, match="all 40 points are equal"):
        distinct_points(np.full((40, 3), value))


def test_too_few_distinct_points_are_refused_with_points_and_copies(cloud):
    with pytest.raises(DegenerateCloudError, match=r"4 distinct points \(6 points, 2 of them copies\).*at least 5"):
        distinct_points(cloud[[0, 1, 2, 3, 0, 0]], minimum=5)


def test_a_handful_of_atoms_is_refused_even_if_they_are_enough_points(cloud):
    with pytest.raises(DegenerateCloudError, match="1000 points take only 99 distinct values"):
        distinct_points(cloud[np.arange(1000) % 99], minimum=10)
    assert len(distinct_points(cloud[np.arange(1000) % 100], minimum=10).rows) == 100


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_vector_rounded_in_many_ways_is_constant(dtype):
    rng = np.random.default_rng(0)
    vector = (1.0 + rng.random(64)).astype(dtype)
    noise = rng.integers(-1, 2, size=(500, 64)) * np.finfo(dtype).eps
    with pytest.raises(DegenerateCloudError, match="constant up to rounding"):
        distinct_points((vector * (1 + noise)).astype(dtype))


def test_a_massive_constant_coordinate_does_not_make_a_half_precision_cloud_constant(cloud):
    cloud[:, 0] = 3e4
    assert len(distinct_points(cloud.astype(np.float16)).rows) == 120


def test_a_cloud_far_from_the_origin_keeps_its_shape(cloud):
    shifted = distinct_points(cloud + 1e6)
    np.testing.assert_allclose(shifted.points, cloud - cloud.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("scale", [1e-250, 1e250, 1.7e307])
def test_extreme_units_neither_overflow_nor_vanish(cloud, scale):
    found = distinct_points(cloud / np.abs(cloud).max() * scale)
    np.testing.assert_allclose(found.points / scale, (cloud - cloud.mean(axis=0)) / np.abs(cloud).max(), rtol=1e-9)


def test_differences_that_overflow_are_refused(cloud):
    cloud = -1.7e308 * (1.0 - 0.01 * np.abs(cloud) / np.abs(cloud).max())
    cloud[0] = 1.7e308
    with pytest.raises(DegenerateCloudError, match="120 distinct points overflow float64"):
        distinct_points(cloud)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_few_massive_rows_do_not_make_the_others_look_like_rounding(dtype):
    rng = np.random.default_rng(3)
    points = 0.2 * rng.standard_normal((1000, 64))
    usual = distinct_points(torch.tensor(points[50:]).to(dtype)).rounding_distance
    points[:50, 7] = 3000.0 * (1.0 + 0.02 * rng.standard_normal(50))
    assert distinct_points(torch.tensor(points).to(dtype)).rounding_distance < 2.0 * usual


def test_rows_that_differ_by_signs_alone_are_distinct():
    signs = np.array([[1.0, 1.0, 2.0], [-1.0, -1.0, 2.0], [1.0, -1.0, 2.0], [-1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])
    found = distinct_points(signs)
    assert (found.n_copies, found.rows.tolist()) == (1, [0, 1, 2, 3])
