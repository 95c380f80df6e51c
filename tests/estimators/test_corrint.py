"""CorrelationIntegral: agreement with scikit-dimension, exact counts however short the lists, the error."""

import numpy as np
import pytest
import torch

from gelora_estimators import CorrelationIntegral, DegenerateCloudError, ScikitDimension, nearest_distances
from gelora_estimators.clouds import flat_torus, gaussian, sphere
from gelora_estimators.corrint import slope_of_counts
from gelora_estimators.testing import check_estimator


def rng(seed=0):
    return np.random.default_rng(seed)


def all_distances(points):
    """Return the distances of each point to the others by the definition, shape (n, n − 1)."""
    distances = np.sqrt(np.square(points[:, None, :] - points[None, :, :]).sum(axis=-1))
    return np.sort(distances, axis=1)[:, 1:]


def by_definition(points, k1, k2):
    distances = all_distances(points)
    radii = np.median(distances[:, [k1 - 1, k2 - 1]], axis=0)
    shares = [(distances <= radius).mean() for radius in radii]
    return np.log(shares[1] / shares[0]) / np.log(radii[1] / radii[0])


@pytest.mark.smoke
@pytest.mark.parametrize("n", [300, 301])
@pytest.mark.parametrize(("k1", "k2"), [(10, 20), (1, 2), (3, 40)])
def test_it_is_the_slope_of_the_share_of_pairs_between_two_median_radii(n, k1, k2):
    cloud = gaussian(n, 12, 20, rng())
    found = CorrelationIntegral(k1=k1, k2=k2)(cloud, rng=rng())
    assert found.dimension == pytest.approx(by_definition(cloud, k1, k2), rel=1e-12)
    radii = np.median(all_distances(cloud)[:, [k1 - 1, k2 - 1]], axis=0)
    np.testing.assert_allclose(found.diagnostics["radii"], radii, rtol=1e-12)
    shares = [(all_distances(cloud) <= radius).mean() for radius in radii]
    np.testing.assert_allclose(found.diagnostics["pair_shares"], shares, rtol=1e-12)


@pytest.mark.parametrize("n", [300, 301, 450])
def test_scikit_dimension_gives_the_same_but_for_pairs_exactly_at_the_radius(n):
    cloud = gaussian(n, 5, 9, rng())
    theirs = ScikitDimension(estimator="CorrInt")(cloud, rng=rng()).dimension
    found = CorrelationIntegral()(cloud, rng=rng())
    # A median of an odd number of points is the distance of one pair, which it counts only by accident of rounding.
    radii, pairs = found.diagnostics["radii"], found.diagnostics["pair_shares"] * n * (n - 1)
    at_radius = 0.0 if n % 2 == 0 else 2.1 * (1 / pairs).sum() / np.log(radii[1] / radii[0])
    assert found.dimension == pytest.approx(theirs, rel=1e-10, abs=at_radius)


@pytest.mark.parametrize("options", [{}, {"k1": 2, "k2": 90}, {"scan_to": 128}, {"k1": 1, "k2": 2, "scan_to": 16}])
@pytest.mark.parametrize("n", [700, 701])
def test_from_distances_equals_the_call_bit_for_bit_whatever_the_columns(options, n):
    estimator = CorrelationIntegral(**options)
    cloud = gaussian(n, 12, 20, rng())
    repeated = np.concatenate([cloud, cloud[:9]])
    direct = estimator(repeated, rng=rng())
    for columns in (estimator.k, estimator.k + 1, n - 1):
        lists = nearest_distances(repeated, columns)
        largest = max(*direct.diagnostics["radii"], *direct.diagnostics.get("radius_by_scale", ()))
        assert columns == n - 1 or (lists.distances[:, -1] <= largest).any()  # some lists end before the radius
        shared = estimator.from_distances(
            lists.distances, n + 9, rng(), indices=lists.indices, points=repeated[lists.rows]
        )
        for name in ("dimension", "standard_error", "interval", "n_points"):
            assert getattr(shared, name) == getattr(direct, name)
        for name in ("scales", "dimension_by_scale"):
            np.testing.assert_array_equal(getattr(shared, name), getattr(direct, name))
        assert direct.diagnostics["n_copies"] == 9.0
        for name in set(direct.diagnostics) - {"n_near_copies"}:
            np.testing.assert_array_equal(shared.diagnostics[name], direct.diagnostics[name])


def test_lists_that_end_before_the_radius_need_the_points():
    cloud = gaussian(700, 12, 20, rng())
    short = nearest_distances(cloud, 64)
    with pytest.raises(
        ValueError, match=r"`points` must be given where lists end before the radius, got None with \d+"
    ):
        CorrelationIntegral().from_distances(short.distances, 700, rng())
    found = CorrelationIntegral().from_distances(short.distances, 700, rng(), points=cloud)
    assert found.dimension == CorrelationIntegral()(cloud, rng=rng()).dimension
    complete = nearest_distances(cloud, 699)
    assert CorrelationIntegral().from_distances(complete.distances, 700, rng()).dimension == found.dimension


@pytest.mark.parametrize(
    ("make_cloud", "dimension", "tolerance"), [(flat_torus, 1, 0.03), (flat_torus, 2, 0.1), (gaussian, 3, 0.3)]
)
def test_known_clouds_read_their_dimension(make_cloud, dimension, tolerance):
    cloud = make_cloud(1500, dimension, 20, rng(3))
    assert CorrelationIntegral()(cloud, rng=rng()).dimension == pytest.approx(dimension, abs=tolerance)


@pytest.mark.parametrize(
    ("make_cloud", "dimension", "n", "k2"), [(flat_torus, 2, 300, 20), (gaussian, 5, 300, 20), (gaussian, 12, 400, 40)]
)
def test_the_error_is_the_spread_over_new_clouds(make_cloud, dimension, n, k2):
    found = [CorrelationIntegral(k2=k2)(make_cloud(n, dimension, 24, rng(seed)), rng=rng()) for seed in range(60)]
    spread = np.std([estimate.dimension for estimate in found], ddof=1)
    assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.22)
    covered = np.mean([low < np.mean([e.dimension for e in found]) < high for low, high in (e.interval for e in found)])
    assert covered >= 0.88


def test_the_scan_holds_the_dimension_between_neighbours_k_half_and_k():
    cloud = gaussian(600, 8, 16, rng())
    found = CorrelationIntegral(k1=10, k2=20, scan_to=100)(cloud, rng=rng())
    assert found.scales.tolist() == [2, 4, 8, 16, 32, 64]
    expected = [by_definition(cloud, int(k) // 2, int(k)) for k in found.scales]
    np.testing.assert_allclose(found.dimension_by_scale, expected, rtol=1e-12)
    single = CorrelationIntegral(k1=16, k2=32)(cloud, rng=rng())
    assert found.dimension_by_scale[4] == single.dimension
    assert found.diagnostics["standard_error_by_scale"][4] == single.standard_error
    assert found.diagnostics["radius_by_scale"][4] == single.diagnostics["radii"][1]
    assert found.dimension == CorrelationIntegral()(cloud, rng=rng()).dimension


def test_a_scan_of_a_small_cloud_stops_at_the_neighbours_it_has():
    found = CorrelationIntegral(scan_to=64)(rng(6).standard_normal((25, 3)), rng=rng())
    assert found.scales.tolist() == [2, 4, 8, 16]


def test_a_scale_without_a_dimension_is_nan_and_the_others_stand():
    # Four points at the corners of each of many far squares: neighbours 1 and 2 are equally far, others are not.
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * 0.25
    cloud = (np.round(16 * rng().random((40, 2)) * 64)[:, None, :] + corners).reshape(-1, 2)
    found = CorrelationIntegral(scan_to=16)(cloud, rng=rng())
    assert np.isnan(found.dimension_by_scale[0])
    assert np.isfinite(found.dimension_by_scale[1:]).all()


def test_the_slope_is_undefined_where_radii_or_counts_do_not_grow():
    counts = np.array([[1, 3], [2, 3]])
    assert slope_of_counts(counts, np.array([1.0, 3.0]))[0] == pytest.approx(np.log(2) / np.log(3))
    for bad, radii in ((counts, [1.0, 1.0]), (counts[:, [0, 0]], [1.0, 2.0]), (counts * [0, 1], [1.0, 2.0])):
        assert np.isnan(slope_of_counts(bad, np.array(radii))).all()


def test_offsets_single_precision_tensors_and_copies_do_not_mislead_it():
    clean = sphere(1000, 5, 768, rng(4))
    spoilt = clean.copy()
    spoilt[:, :2] += [300.0, -1000.0]
    spoilt = torch.from_numpy(np.concatenate([spoilt, spoilt[:100]])).float()
    found, expected = (CorrelationIntegral()(cloud, rng=rng()) for cloud in (spoilt, clean))
    assert found.dimension == pytest.approx(expected.dimension, abs=0.01)
    assert (found.n_points, found.diagnostics["n_copies"]) == (1000, 100.0)


@pytest.mark.parametrize("options", [{}, {"scan_to": 32}], ids=repr)
def test_it_keeps_the_contract(options):
    check_estimator(CorrelationIntegral(**options), n=300, skip=("from_distances",) if options else ())


def test_a_regular_simplex_is_refused():
    with pytest.raises(
        DegenerateCloudError, match=r"near pairs of 60.*from the median distance to neighbour 10, 1\.41421"
    ):
        CorrelationIntegral()(np.eye(60), rng=rng())


def test_fewer_points_than_neighbours_are_refused_with_the_counts():
    with pytest.raises(DegenerateCloudError, match=r"21 distinct points.*at least 22"):
        CorrelationIntegral()(rng().standard_normal((21, 3)), rng=rng())
    with pytest.raises(DegenerateCloudError, match="300 distinct points with 15 neighbours each, but at least 22"):
        CorrelationIntegral().from_distances(np.ones((300, 15)), 300, rng())


def test_points_that_do_not_belong_to_the_lists_are_refused():
    cloud = gaussian(150, 3, 6, rng())
    found = nearest_distances(cloud, 21)
    for other in (cloud[:149], np.concatenate([cloud, cloud[:1]])):
        with pytest.raises(ValueError, match=f"`points` must hold one row for each .*, 150, got {len(other)}"):
            CorrelationIntegral().from_distances(found.distances, 151, rng(), indices=found.indices, points=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "`k1` must be an integer of at least 1, got 0"),
        ({"k1": 20}, "`k2` must be an integer of at least 21, got 20"),
        ({"scan_to": 1}, "`scan_to` must be an integer of at least 2, got 1"),
        ({"confidence": 1.0}, r"`confidence` must be a number in \(0, 1\), got 1.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CorrelationIntegral(**options)
