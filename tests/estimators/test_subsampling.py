"""Subsampling errors: exact neighbours within each half; the number itself never moves."""

import numpy as np
import pytest

from gelora_estimators import (
    MLE,
    CorrelationIntegral,
    DegenerateCloudError,
    Gride,
    LocalDimension,
    TwoNN,
    nearest_distances,
)
from gelora_estimators.clouds import flat_torus, sphere
from gelora_estimators.subsampling import (
    columns_for_subsampling,
    neighbors_within,
    normal_interval,
    search_within,
    subsampling_error,
)

NEIGHBOR_BASED = [
    TwoNN(),
    TwoNN(interval="chi2"),
    MLE(),
    MLE(interval="pointwise"),
    MLE(k1=3, k2=5, average="mean"),
    Gride(),
    Gride(n1=4, n2=8, interval="subsampling"),
    Gride(scan_to=32),
]


@pytest.fixture(scope="module")
def cloud():
    return sphere(300, 4, 9, np.random.default_rng(0))


@pytest.mark.parametrize("k", [1, 2, 20])
def test_neighbours_within_a_half_equal_a_search_of_the_half(cloud, k):
    found = nearest_distances(cloud, columns_for_subsampling(k))
    kept = np.sort(np.random.default_rng(1).choice(300, size=150, replace=False))
    inside = neighbors_within(found.distances, found.indices, k=k, fraction=0.5)(kept)
    np.testing.assert_array_equal(inside, nearest_distances(cloud[kept], k).distances)


def test_rows_with_too_few_kept_neighbours_are_searched_never_guessed(cloud):
    long, short = nearest_distances(cloud, 120), nearest_distances(cloud, 5)
    options = {"k": 4, "estimate": 4.0, "statistic": lambda inside: float(inside[:, 3].mean()), "n_subsamples": 5}
    search = search_within(cloud, short.rows, k=4, device="auto")
    expected = subsampling_error(long.distances, long.indices, rng=np.random.default_rng(2), **options)
    found = subsampling_error(short.distances, short.indices, rng=np.random.default_rng(2), search=search, **options)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-12)
    assert subsampling_error(short.distances, short.indices, rng=np.random.default_rng(2), **options) is None


@pytest.mark.parametrize("n", [300, 299])
def test_the_error_is_half_the_difference_of_halves_that_share_no_point(cloud, n):
    found = nearest_distances(cloud[:n], 30)
    seen = []

    def statistic(inside):
        seen.append(inside[:, 0])
        return float(inside.mean())

    error = subsampling_error(
        found.distances,
        found.indices,
        k=1,
        estimate=100.0,
        statistic=statistic,
        rng=np.random.default_rng(3),
        n_subsamples=19,
    )
    assert error.n_pairs == 10
    halves = np.array([values.mean() for values in seen]).reshape(10, 2)
    assert {len(values) for values in seen} == {n // 2}
    factor = np.sqrt(2 * (n // 2) / n)
    assert error.standard_error == pytest.approx(factor * np.sqrt(np.mean((halves[:, 0] - halves[:, 1]) ** 2)) / 2)
    assert error.replicates.mean() == pytest.approx(100.0)
    expected = factor * (halves - halves.mean(axis=1, keepdims=True)).ravel()
    np.testing.assert_allclose(error.replicates - 100.0, expected, atol=1e-12)


def test_the_error_of_a_mean_over_points_is_the_one_of_the_textbook():
    values = np.random.default_rng(4).exponential(size=4000)
    error = subsampling_error(
        values[:, None].repeat(9, axis=1),
        (np.arange(4000)[:, None] + np.arange(1, 10)) % 4000,
        k=1,
        estimate=float(values.mean()),
        statistic=lambda inside: float(inside.mean()),
        rng=np.random.default_rng(5),
        n_subsamples=400,
        search=lambda kept: values[kept, None],
    )
    assert error.standard_error == pytest.approx(values.std() / np.sqrt(4000), rel=0.1)


def test_the_interval_takes_the_quantile_of_student_for_few_pairs():
    assert normal_interval(10.0, 1.0, 0.95, 4) == pytest.approx((10 - 2.7764, 10 + 2.7764), abs=1e-4)
    assert normal_interval(10.0, 1.0, 0.95, 10**7) == pytest.approx(normal_interval(10.0, 1.0, 0.95), abs=1e-6)


def test_the_interval_is_clipped_at_zero():
    low, high = normal_interval(1.0, 10.0, 0.95)
    assert (low, high) == (0.0, pytest.approx(1.0 + 19.5996, abs=1e-3))


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", NEIGHBOR_BASED, ids=repr)
def test_the_dimension_does_not_depend_on_the_generator(estimator, cloud):
    found = {estimator(cloud, rng=np.random.default_rng(seed)).dimension for seed in range(3)}
    assert len(found) == 1


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", NEIGHBOR_BASED, ids=repr)
def test_from_distances_equals_the_call_bit_by_bit(estimator, cloud):
    repeated = np.concatenate([cloud, cloud[:9]])
    direct = estimator(repeated, rng=np.random.default_rng(0))
    found = nearest_distances(repeated, 140)  # more than any of them asks for
    shared = estimator.from_distances(found.distances, 309, np.random.default_rng(0), indices=found.indices)
    assert shared.dimension == direct.dimension
    assert shared.standard_error == pytest.approx(direct.standard_error, rel=1e-12)
    assert shared.diagnostics["n_copies"] == direct.diagnostics["n_copies"] == 9


@pytest.mark.parametrize("estimator", [TwoNN(), MLE(), Gride(interval="subsampling")], ids=repr)
def test_without_indices_the_error_is_analytic_and_says_so(estimator, cloud):
    distances = nearest_distances(cloud, estimator.k).distances
    found = estimator.from_distances(distances, 300, np.random.default_rng(0))
    assert found.diagnostics["error_from_subsampling"] == 0.0
    assert "replicates" not in found.diagnostics
    assert 0.0 < found.standard_error < found.dimension
    sampled = estimator(cloud, rng=np.random.default_rng(0))
    assert sampled.diagnostics["error_from_subsampling"] == 1.0
    assert sampled.diagnostics["replicates"].shape == (50,)


def test_a_cloud_whose_halves_are_too_small_gets_the_analytic_error():
    found = MLE()(np.random.default_rng(4).standard_normal((30, 3)), rng=np.random.default_rng(0))
    assert found.diagnostics["error_from_subsampling"] == 0.0
    assert found.standard_error > 0.0


@pytest.mark.parametrize("estimator", [TwoNN(), MLE(), Gride()], ids=repr)
def test_arrays_that_are_no_neighbour_lists_are_refused(estimator, cloud):
    found = nearest_distances(cloud, 30)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"`distances` must have shape \(n_distinct, k\)"):
        estimator.from_distances(found.distances[0], 300, rng)
    with pytest.raises(ValueError, match="`indices` the same"):
        estimator.from_distances(found.distances, 300, rng, indices=found.indices[:, :3])
    with pytest.raises(ValueError, match="`n` must be at least the number of rows of `distances`, 300, got 299"):
        estimator.from_distances(found.distances, 299, rng)
    with pytest.raises(DegenerateCloudError, match="300 distinct points with 1 neighbours each"):
        estimator.from_distances(found.distances[:, :1], 300, rng)
    with pytest.raises(DegenerateCloudError, match="1 of 300 points have a neighbour at a distance that is zero"):
        estimator.from_distances(np.where(np.arange(300)[:, None] == 5, 0.0, found.distances), 300, rng)


@pytest.mark.parametrize(
    "estimator", [TwoNN(), MLE(), Gride(scale="kstar"), CorrelationIntegral(), LocalDimension()], ids=repr
)
@pytest.mark.parametrize("n_copies", [0, 3])
def test_too_few_points_have_one_reason_whoever_searched(estimator, n_copies):
    cloud = np.random.default_rng(6).standard_normal((9, 3))
    cloud = np.concatenate([cloud, cloud[:n_copies]])
    found = nearest_distances(cloud, estimator.k, minimum=1)
    with pytest.raises(DegenerateCloudError) as direct:
        estimator(cloud, rng=np.random.default_rng(0))
    with pytest.raises(DegenerateCloudError) as shared:
        estimator.from_distances(
            found.distances, len(cloud), np.random.default_rng(0), indices=found.indices, points=cloud[:9]
        )
    assert str(shared.value) == str(direct.value)
    assert f"9 distinct points ({9 + n_copies} points, {n_copies} of them copies)" in str(shared.value)


@pytest.mark.parametrize("estimator", [MLE(), Gride(n1=8, n2=16, interval="subsampling")], ids=repr)
def test_the_error_is_the_spread_over_new_clouds(estimator):
    clouds = [flat_torus(400, 2, 5, np.random.default_rng(seed)) for seed in range(40)]
    found = [estimator(cloud, rng=np.random.default_rng(0)) for cloud in clouds]
    spread = np.std([estimate.dimension for estimate in found], ddof=1)
    assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.4)
