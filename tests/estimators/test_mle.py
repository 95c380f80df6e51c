"""MLE: closed forms and agreement with TwoNN."""

import numpy as np
import pytest

from gelora_estimators import MLE, DegenerateCloudError, TwoNN, distinct_points, nearest_distances
from gelora_estimators.clouds import flat_torus, gaussian, sphere
from gelora_estimators.mle import dimension_by_neighbors

SHARED = [
    MLE(),
    MLE(k1=3, k2=5, average="mean", pointwise=True),
    MLE(k1=2, k2=2),
    MLE(interval="pointwise", unbiased=False, pointwise=True),
]


def loop_dimension(distances, k, average, unbiased):
    """Return the formula of the paper, one point at a time."""
    sums = [sum(np.log(row[k - 1] / row[j]) for j in range(k - 1)) for row in distances]
    if average == "inverse":
        return (len(sums) * (k - 1) - unbiased) / np.sum(sums)
    return np.mean([(k - 1 - unbiased) / value for value in sums])


def contents(found):
    """Return everything in an estimate but the count of near copies, as bytes."""
    diagnostics = {name: value for name, value in found.diagnostics.items() if name != "n_near_copies"}
    numbers = {
        "dimension": found.dimension,
        "standard_error": found.standard_error,
        "interval": found.interval,
        "scales": found.scales,
        "dimension_by_scale": found.dimension_by_scale,
        **diagnostics,
    }
    return {name: np.asarray(value).tobytes() for name, value in numbers.items()}


@pytest.mark.parametrize("average", ["inverse", "mean"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_every_scale_equals_the_formula_in_a_loop(average, unbiased):
    distances = nearest_distances(sphere(200, 3, 6, np.random.default_rng(0)), 12).distances
    found = dimension_by_neighbors(distances, 3, average=average, unbiased=unbiased)
    expected = [loop_dimension(distances, k, average, unbiased) for k in range(3, 13)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.smoke
def test_two_neighbours_under_the_inverse_average_are_twonn_by_likelihood():
    cloud = sphere(400, 4, 9, np.random.default_rng(1))
    ours = MLE(k1=2, k2=2)(cloud, rng=np.random.default_rng(0))
    theirs = TwoNN(fit="likelihood", discard=0.0)(cloud, rng=np.random.default_rng(0))
    assert ours.dimension == pytest.approx(theirs.dimension, rel=1e-12)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=1e-9)


def test_the_unbiased_forms_are_unbiased_on_independent_neighbourhoods():
    rng = np.random.default_rng(2)
    # −log(r_j/r_k)·d for j < k are the order statistics of k − 1 unit exponentials.
    logs = np.sort(-rng.exponential(1 / 5, size=(40_000, 5)), axis=1)
    distances = np.exp(np.concatenate([logs, np.zeros((40_000, 1))], axis=1))
    assert dimension_by_neighbors(distances, 6, average="mean", unbiased=True)[0] == pytest.approx(5.0, abs=0.06)
    assert dimension_by_neighbors(distances, 6, average="mean", unbiased=False)[0] == pytest.approx(6.25, abs=0.08)
    assert dimension_by_neighbors(distances, 6, average="inverse", unbiased=True)[0] == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize(
    ("make_cloud", "dimension", "tolerance"), [(flat_torus, 1, 0.05), (flat_torus, 3, 0.15), (gaussian, 6, 0.4)]
)
def test_known_clouds_read_their_dimension(make_cloud, dimension, tolerance):
    cloud = make_cloud(1500, dimension, 20, np.random.default_rng(3))
    assert MLE()(cloud, rng=np.random.default_rng(0)).dimension == pytest.approx(dimension, abs=tolerance)


def test_offsets_single_precision_and_copies_do_not_mislead_it():
    clean = sphere(1000, 5, 768, np.random.default_rng(4))
    spoilt = clean.copy()
    spoilt[:, :2] += [300.0, -1000.0]
    spoilt = np.concatenate([spoilt, spoilt[:100]]).astype(np.float32)
    found, expected = (MLE()(cloud, rng=np.random.default_rng(0)).dimension for cloud in (spoilt, clean))
    assert found == pytest.approx(expected, abs=0.01)
    assert found == pytest.approx(4.9, abs=0.1)


def test_scales_are_the_neighbourhoods_and_their_mean_is_the_dimension():
    found = MLE(k1=4, k2=9)(sphere(200, 2, 4, np.random.default_rng(5)), rng=np.random.default_rng(0))
    assert found.scales.tolist() == [4, 5, 6, 7, 8, 9]
    assert found.dimension == pytest.approx(found.dimension_by_scale.mean())
    assert found.diagnostics["mean_radius"].shape == (6,)


def test_equally_far_neighbours_are_refused():
    with pytest.raises(DegenerateCloudError, match="neighbours of all 60 points are equally far"):
        MLE()(np.eye(60), rng=np.random.default_rng(0))


def test_the_mean_of_local_estimates_is_refused_where_one_is_infinite():
    distances = np.sort(np.random.default_rng(6).random((50, 3)) + 0.1, axis=1)
    distances[7] = 1.0
    with pytest.raises(DegenerateCloudError, match=r"1 of 50 points have neighbours that are all.*average='inverse'"):
        MLE(k1=3, k2=3, average="mean").from_distances(distances, 50, np.random.default_rng(0))


def test_fewer_points_than_neighbours_are_refused_with_the_counts():
    cloud = np.random.default_rng(7).standard_normal((21, 3))
    with pytest.raises(DegenerateCloudError, match=r"21 distinct points.*at least 22"):
        MLE()(cloud, rng=np.random.default_rng(0))


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_pointwise_dimension_is_the_formula_at_each_point(unbiased):
    cloud = sphere(150, 3, 6, np.random.default_rng(8))
    found = MLE(k1=4, k2=9, unbiased=unbiased, pointwise=True)(cloud, rng=np.random.default_rng(0))
    distances = nearest_distances(cloud, 9).distances
    expected = [np.mean([loop_dimension(row[None, :], k, "mean", unbiased) for k in range(4, 10)]) for row in distances]
    np.testing.assert_allclose(found.diagnostics["pointwise"], expected, rtol=1e-12)
    assert "pointwise" not in MLE(k1=4, k2=9)(cloud, rng=np.random.default_rng(0)).diagnostics


def test_the_mean_of_the_pointwise_dimensions_is_the_levina_bickel_estimate():
    cloud = sphere(200, 3, 6, np.random.default_rng(9))
    found = MLE(average="mean", pointwise=True)(cloud, rng=np.random.default_rng(0))
    assert found.diagnostics["pointwise"].mean() == pytest.approx(found.dimension, rel=1e-12)
    pooled = MLE(pointwise=True)(cloud, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(pooled.diagnostics["pointwise"], found.diagnostics["pointwise"])
    assert pooled.dimension != found.dimension


def test_the_pointwise_dimension_tells_a_sheet_from_a_solid():
    rng = np.random.default_rng(10)
    sheet, solid = np.zeros((600, 6)), rng.random((600, 6))
    sheet[:, :2] = 5.0 + rng.random((600, 2))
    found = MLE(pointwise=True)(np.concatenate([sheet, solid]), rng=np.random.default_rng(0))
    local = found.diagnostics["pointwise"]
    assert local.shape == (1200,)
    assert np.median(local[:600]) == pytest.approx(2.0, abs=0.2)
    assert np.median(local[600:]) == pytest.approx(5.0, abs=0.5)  # six less the effect of the faces


def test_the_pointwise_dimension_is_nan_where_neighbours_are_equally_far():
    distances = np.sort(np.random.default_rng(11).random((50, 5)) + 0.1, axis=1)
    distances[7] = 0.3
    found = MLE(k1=3, k2=5, pointwise=True).from_distances(distances, 50, np.random.default_rng(0))
    assert np.flatnonzero(np.isnan(found.diagnostics["pointwise"])).tolist() == [7]


@pytest.mark.parametrize(("options", "reason"), [({"pointwise": True}, "pointwise"), ({"average": "mean"}, "average")])
def test_two_neighbours_at_a_point_need_the_biased_form_and_the_message_says_so(options, reason):
    value = repr(options[reason])
    message = rf"`k1` must .* 3, got 2: pass k1=3 or more, or unbiased=False: with {reason}={value} .*zero at k = 2"
    with pytest.raises(ValueError, match=message):
        MLE(k1=2, **options)
    assert MLE(k1=2, unbiased=False, **options).k1 == 2
    with pytest.raises(ValueError, match="`k1` must be an integer of at least 2, got 1"):
        MLE(k1=1, unbiased=False, **options)


def test_two_neighbours_have_no_unbiased_pointwise_dimension():
    with pytest.raises(ValueError, match="`k1` must be an integer of at least 3, got 2"):
        MLE(k1=2, pointwise=True)
    with pytest.raises(ValueError, match="`pointwise` must be True or False, got 1"):
        MLE(pointwise=1)
    cloud = sphere(50, 3, 6, np.random.default_rng(12))
    found = MLE(k1=2, pointwise=True, unbiased=False)(cloud, rng=np.random.default_rng(0))
    assert np.all(found.diagnostics["pointwise"] > 0.0)


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", SHARED, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_shared_list_of_any_length_gives_the_same_bits_as_the_points(estimator, dtype):
    cloud = sphere(250, 4, 9, np.random.default_rng(13)).astype(dtype)
    cloud = np.concatenate([cloud, cloud[:9]])
    direct = contents(estimator(cloud, rng=np.random.default_rng(14)))
    points = cloud[distinct_points(cloud).rows]
    for columns in (estimator.k, estimator.k + 1, 249):
        found = nearest_distances(cloud, columns)
        shared = estimator.from_distances(
            found.distances, 259, np.random.default_rng(14), indices=found.indices, points=points
        )
        assert contents(shared) == direct


def test_a_list_too_short_for_halves_is_completed_by_a_search():
    cloud = sphere(250, 4, 9, np.random.default_rng(15))
    estimator = MLE(k1=3, k2=5)
    found = nearest_distances(cloud, 8)
    shared = estimator.from_distances(
        found.distances, 250, np.random.default_rng(16), indices=found.indices, points=cloud
    )
    assert contents(shared) == contents(estimator(cloud, rng=np.random.default_rng(16)))


def test_points_that_do_not_belong_to_the_lists_are_refused():
    cloud = sphere(150, 4, 9, np.random.default_rng(17))
    found = nearest_distances(cloud, 104)
    with pytest.raises(ValueError, match="`points` must hold one row for each row of `distances`, 150, got 149"):
        MLE().from_distances(found.distances, 150, np.random.default_rng(0), indices=found.indices, points=cloud[:149])
