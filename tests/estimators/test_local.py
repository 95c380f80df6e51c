"""Local dimensions: the pooled formulas point by point, heterogeneity, and the spread over new clouds."""

import inspect
import re

import numpy as np
import pytest
from scipy.optimize import brentq

from gelora_estimators import (
    MLE,
    DegenerateCloudError,
    Gride,
    LocalDimension,
    TwoNN,
    check_estimator,
    distinct_points,
    nearest_distances,
)
from gelora_estimators import gride as gride_module
from gelora_estimators import local as local_module
from gelora_estimators import mle as mle_module
from gelora_estimators import twonn as twonn_module
from gelora_estimators.clouds import flat_torus, gaussian, sphere
from gelora_estimators.local import neighborhoods

KINDS = [
    local_module.twonn(),
    local_module.mle(),
    local_module.gride(),
    local_module.gride(n1=4, n2=8, statistic="median"),
]


def two_pieces(n, rng):
    """Return a plane and a 6-dimensional piece far away, half of the points each."""
    plane, thick = gaussian(n // 2, 2, 12, rng), gaussian(n // 2, 6, 12, rng)
    return np.concatenate([plane, thick + 40.0])


def by_hand(estimator, cloud):
    """Return the local dimensions from the distances of each neighbourhood's members, one at a time."""
    found = nearest_distances(cloud, estimator.k)
    result = []
    for row in range(len(cloud)):
        members = [row, *found.indices[row, : estimator.n_neighbors]]
        distances = found.distances[members]
        if estimator.name == "local:twonn":
            value = twonn_module.likelihood_dimension(np.log(distances[:, 1] / distances[:, 0]), 0.0)
        elif estimator.name == "local:mle":
            k1, k2 = estimator.orders
            value = mle_module.dimension_by_neighbors(distances[:, :k2], k1, average="inverse", unbiased=True).mean()
        else:
            value = gride_module.likelihood_dimension(distances, *estimator.orders)[0]
        result.append(value)
    return np.array(result)


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", KINDS, ids=repr)
def test_each_local_dimension_is_the_global_formula_on_the_members_distances(estimator):
    cloud = sphere(300, 4, 9, np.random.default_rng(0))
    found = estimator(cloud, rng=np.random.default_rng(0))
    local = by_hand(estimator, cloud)
    np.testing.assert_allclose(found.diagnostics["local_dimension"], local, rtol=1e-9)
    join = np.median if estimator.statistic == "median" else np.mean
    assert found.dimension == pytest.approx(join(local))
    np.testing.assert_allclose(found.diagnostics["local_quantiles"], np.quantile(local, [0.05, 0.5, 0.95]), rtol=1e-9)
    assert found.diagnostics["local_spread"] == pytest.approx(local.std())


@pytest.mark.parametrize(("n1", "n2"), [(1, 3), (2, 4), (8, 16), (1, 20)])
def test_the_batched_root_solves_the_likelihood_equation_also_with_equal_distances(n1, n2):
    rng = np.random.default_rng(1)
    log_ratios = -np.log(rng.beta(n1, n2 - n1, size=60)) / 7.0
    log_ratios[[3, 20]] = 0.0  # two members whose neighbours are equally far
    members = rng.integers(60, size=(5, 30))
    members[:, 0] = 3
    present = rng.random(60) < 0.7
    present[[3, 20]] = True
    found = local_module.pooled_ratios(members, np.where(present, log_ratios, 0.0), present, n1, n2)
    for row in range(5):
        values = log_ratios[members[row][present[members[row]]]]

        def slope(d, values=values):
            m = len(values)
            odds = sum(1 / d if value == 0.0 else value / (1 - np.exp(-d * value)) for value in values)
            return m / d - (n2 - 1) * values.sum() + (n2 - n1 - 1) * odds

        assert found[row] == pytest.approx(brentq(slope, 0.1, 500.0, xtol=1e-12), rel=1e-9)


def test_with_all_points_as_neighbours_every_point_reads_the_global_likelihood():
    cloud = gaussian(80, 3, 5, np.random.default_rng(2))
    found = LocalDimension(n_neighbors=500)(cloud, rng=np.random.default_rng(0))
    ratios = nearest_distances(cloud, 2).distances
    expected = twonn_module.likelihood_dimension(np.log(ratios[:, 1] / ratios[:, 0]), 0.0)
    np.testing.assert_allclose(found.diagnostics["local_dimension"], expected, rtol=1e-12)
    assert found.diagnostics["n_neighbors"] == 79
    assert found.diagnostics["local_spread"] == pytest.approx(0.0, abs=1e-9)


def test_the_neighbourhood_is_the_point_and_its_nearest():
    line = np.array([[0.0], [1.0], [2.2], [3.5]])
    found = nearest_distances(line, 3)
    assert neighborhoods(found.indices, 2).tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 3], [3, 2, 1]]
    assert neighborhoods(found.indices, 9).shape == (4, 4)


@pytest.mark.smoke
def test_two_pieces_of_different_dimension_are_told_apart_in_place():
    cloud = two_pieces(1000, np.random.default_rng(3))
    for estimator in (local_module.twonn(), local_module.mle()):
        found = estimator(cloud, rng=np.random.default_rng(0))
        local = found.diagnostics["local_dimension"]
        assert np.median(local[:500]) == pytest.approx(2.0, abs=0.2)
        assert np.median(local[500:]) == pytest.approx(5.7, abs=0.5)
        assert found.diagnostics["heterogeneity"] == pytest.approx(1.8, abs=0.25)
        assert found.diagnostics["noise_spread"] < 0.4 * found.diagnostics["heterogeneity"]


def test_local_dimensions_stand_in_the_order_of_the_distinct_points():
    cloud = two_pieces(400, np.random.default_rng(4))
    repeated = np.concatenate([cloud[:5], cloud])
    order = np.random.default_rng(5).permutation(len(repeated))
    found = local_module.twonn(n_neighbors=30)(repeated[order], rng=np.random.default_rng(0))
    rows = distinct_points(repeated[order]).rows
    assert found.n_points == len(rows) == len(found.diagnostics["local_dimension"]) == 400
    assert found.diagnostics["n_copies"] == 5
    thick = repeated[order][rows][:, 0] > 20
    assert (
        found.diagnostics["local_dimension"][thick].mean() > 5 > 3 > found.diagnostics["local_dimension"][~thick].mean()
    )


@pytest.mark.parametrize("estimator", [local_module.twonn(), local_module.mle()], ids=repr)
def test_on_a_flat_torus_the_covariance_of_halves_finds_no_heterogeneity(estimator):
    squares, shares = [], []
    for seed in range(12):
        cloud = flat_torus(500, 3, 6, np.random.default_rng(seed))
        found = estimator(cloud, rng=np.random.default_rng(0)).diagnostics
        squares.append(found["heterogeneity"] ** 2 / found["local_spread"] ** 2)
        shares.append((found["heterogeneity"] ** 2 + found["noise_spread"] ** 2) / found["local_spread"] ** 2)
    np.testing.assert_allclose(shares, 1.0)
    assert np.median(squares) < 0.15
    assert max(squares) < 0.7


@pytest.mark.parametrize(
    "estimator", [*KINDS, local_module.twonn(interval="none"), local_module.mle(n_neighbors=20)], ids=repr
)
def test_from_distances_equals_the_call_bit_by_bit_whatever_the_columns(estimator):
    cloud = sphere(300, 4, 9, np.random.default_rng(0))
    repeated = np.concatenate([cloud, cloud[:9]])
    direct = estimator(repeated, rng=np.random.default_rng(0))
    points = repeated[distinct_points(repeated).rows]
    for columns in (estimator.k, estimator.k + 1, 299):
        found = nearest_distances(repeated, columns)
        shared = estimator.from_distances(
            found.distances, 309, np.random.default_rng(0), indices=found.indices, points=points
        )
        assert shared.dimension == direct.dimension
        for one, other in ((shared.standard_error, direct.standard_error), (shared.interval, direct.interval)):
            np.testing.assert_array_equal(one, other)
        assert set(shared.diagnostics) == set(direct.diagnostics) - {"n_near_copies"}
        for key, value in shared.diagnostics.items():
            np.testing.assert_array_equal(value, direct.diagnostics[key], err_msg=key)


def test_lists_too_short_for_a_half_are_searched_again_if_the_points_are_there():
    cloud = sphere(200, 3, 6, np.random.default_rng(6))
    estimator = local_module.mle(n_neighbors=20, k1=5, k2=10)
    short = nearest_distances(cloud, 20)
    rng = np.random.default_rng
    found = estimator.from_distances(short.distances, 200, rng(0), indices=short.indices, points=cloud)
    assert found.standard_error == estimator(cloud, rng=rng(0)).standard_error
    without = estimator.from_distances(short.distances, 200, rng(0), indices=short.indices)
    assert np.isnan(without.standard_error)
    assert without.diagnostics["error_from_subsampling"] == 0.0
    assert "heterogeneity" not in without.diagnostics


def test_without_indices_there_is_no_neighbourhood():
    distances = nearest_distances(np.random.default_rng(0).random((150, 2)), 100).distances
    with pytest.raises(ValueError, match="`indices` must be given, got None"):
        local_module.twonn().from_distances(distances, 150, np.random.default_rng(0))


def test_a_regular_grid_has_no_local_dimension():
    grid = np.stack(np.meshgrid(np.arange(7.0), np.arange(7.0)), axis=-1).reshape(-1, 2)
    with pytest.raises(DegenerateCloudError, match=r"undefined around \d+ of 49 points"):
        local_module.twonn(n_neighbors=5)(grid, rng=np.random.default_rng(0))


def test_options_outside_their_range_are_refused():
    for options, match in (
        ({"estimator": "pca"}, "`estimator` must be one of"),
        ({"n_neighbors": 4}, "`n_neighbors` must be an integer of at least 5"),
        ({"statistic": "mode"}, "`statistic` must be one of"),
        ({"interval": "chi2"}, "`interval` must be one of"),
        ({"orders": (1, 3)}, r"`orders` of 'twonn' must be \(1, 2\)"),
        ({"n_subsamples": 3}, "`n_subsamples` must be an integer of at least 4"),
    ):
        with pytest.raises(ValueError, match=match):
            LocalDimension(**options)


@pytest.mark.parametrize("estimator", ["mle", "gride", "twonn"])
@pytest.mark.parametrize("orders", [(0, 3), (5, 4), (3,), (2, 3, 4), (2.0, 3), (True, 2), "23", 5, (), None])
def test_orders_are_a_pair_of_integers_in_their_order(estimator, orders):
    if orders is None:
        assert LocalDimension(estimator=estimator).orders is None
        return
    wanted = r"\(k1, k2\) with k1 of at least 2 and k2 of at least k1"
    if estimator != "mle":
        wanted = r"\(n1, n2\) with n1 of at least 1 and n2 of at least n1 \+ 1"
    message = rf"^`orders` must be a pair of integers {wanted}, got {re.escape(repr(orders))}: "
    with pytest.raises(ValueError, match=message):
        LocalDimension(estimator=estimator, orders=orders)


def test_equal_orders_are_a_neighbourhood_of_mle_and_no_ratio_of_gride():
    assert LocalDimension(estimator="mle", orders=(2, 2)).k > 0
    with pytest.raises(ValueError, match=r"`orders` .*, got \(2, 2\)"):
        LocalDimension(estimator="gride", orders=(2, 2))
    with pytest.raises(ValueError, match=r"`orders` .*\(k1, k2\).*got \(1, 20\)"):
        local_module.mle(k1=1)


def test_orders_as_a_list_are_those_of_the_tuple():
    found = LocalDimension(estimator="gride", orders=[2, 4])
    assert found == LocalDimension(estimator="gride", orders=(2, 4))
    assert hash(found) == hash(LocalDimension(estimator="gride", orders=(2, 4)))
    assert LocalDimension(orders=[1, 2]).orders == (1, 2)


def test_the_factories_show_their_options_and_name_what_they_return():
    assert list(inspect.signature(local_module.mle).parameters)[:3] == ["k1", "k2", "n_neighbors"]
    assert next(iter(inspect.signature(local_module.twonn).parameters)) == "n_neighbors"
    assert local_module.mle(k2=12).orders == (10, 12)
    assert [kind.name for kind in KINDS[:3]] == ["local:twonn", "local:mle", "local:gride"]
    for kind in KINDS[:3]:
        assert kind.citation.startswith({"twonn": TwoNN, "mle": MLE, "gride": Gride}[kind.estimator].citation)
        assert "2506.01034" in kind.citation


def test_the_contract_holds():
    check_estimator(local_module.twonn(n_neighbors=50, n_subsamples=10), n=300)
    check_estimator(local_module.gride(n1=2, n2=4, interval="none"), n=300)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [local_module.twonn(), local_module.mle()], ids=repr)
@pytest.mark.parametrize(("make", "dimension"), [(flat_torus, 3), (gaussian, 10)])
def test_the_error_is_the_spread_over_new_clouds(estimator, make, dimension):
    clouds = [make(500, dimension, 2 * dimension, np.random.default_rng(seed)) for seed in range(60)]
    found = [estimator(cloud, rng=np.random.default_rng(seed)) for seed, cloud in enumerate(clouds)]
    spread = np.std([estimate.dimension for estimate in found], ddof=1)
    error = np.sqrt(np.mean([estimate.standard_error**2 for estimate in found]))
    assert error == pytest.approx(spread, rel=0.3)  # three standard deviations of the spread of 60
