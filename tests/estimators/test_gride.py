"""Gride: the root of the likelihood, its error and its closed forms."""

import warnings

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.special import betaln
from scipy.stats import t as student_t

from gelora_estimators import (
    DegenerateCloudError,
    Gride,
    TwoNN,
    check_estimator,
    distinct_points,
    nearest_distances,
    subsampling,
)
from gelora_estimators.clouds import flat_torus, gaussian, random_rotation, sphere, swiss_roll
from gelora_estimators.gride import likelihood_dimension


def log_likelihood(dimension, ratios, n1, n2):
    """Return log Π f(μ) as the paper writes the density."""
    return float(
        np.sum(
            np.log(dimension)
            + (n2 - n1 - 1) * np.log(ratios**dimension - 1)
            - ((n2 - 1) * dimension + 1) * np.log(ratios)
            - betaln(n2 - n1, n1)
        )
    )


def sample_distances(n, dimension, n1, n2, rng):
    """Return distances (n, n2) whose columns n1 and n2 have ratios with μ^{−d} ~ Beta(n1, n2 − n1)."""
    distances = np.ones((n, n2))
    distances[:, n2 - 1] = rng.beta(n1, n2 - n1, size=n) ** (-1.0 / dimension)
    return distances


def noisy_gaussian(n, noise, seed):
    """Return a 3-dimensional Gaussian in 12 coordinates with isotropic noise."""
    rng = np.random.default_rng(seed)
    return gaussian(n, 3, 12, rng) + noise * rng.standard_normal((n, 12))


def power_law(n, seed):
    """Return a Gaussian whose k-th axis has length 1/k: its dimension falls with every scale."""
    return np.random.default_rng(seed).standard_normal((n, 100)) / np.arange(1, 101)


def assert_same_bits(found, expected):
    """Compare two estimates, bit for bit; near copies are counted by the search alone."""
    for name in ("dimension", "standard_error", "interval", "n_points"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("scales", "dimension_by_scale"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert set(expected.diagnostics) - set(found.diagnostics) == {"n_near_copies"}
    for name, value in found.diagnostics.items():
        np.testing.assert_array_equal(value, expected.diagnostics[name], err_msg=name)


@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (1, 3), (2, 4), (4, 8), (3, 20), (32, 64)])
def test_the_estimate_maximises_the_likelihood_of_the_paper(n1, n2):
    distances = sample_distances(300, 5.0, n1, n2, np.random.default_rng(0))
    found, error = likelihood_dimension(distances, n1, n2)
    ratios = distances[:, n2 - 1]
    best = minimize_scalar(
        lambda d: -log_likelihood(d, ratios, n1, n2), bounds=(1, 20), method="bounded", options={"xatol": 1e-9}
    )
    assert found == pytest.approx(best.x, rel=1e-5)
    step = 1e-3
    second = (
        log_likelihood(found + step, ratios, n1, n2)
        - 2 * log_likelihood(found, ratios, n1, n2)
        + log_likelihood(found - step, ratios, n1, n2)
    ) / step**2
    assert error == pytest.approx(1 / np.sqrt(-second), rel=1e-3)


@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (2, 4), (5, 17)])
def test_the_fisher_error_is_the_spread_of_independent_samples(n1, n2):
    rng = np.random.default_rng(1)
    found = np.array([likelihood_dimension(sample_distances(200, 4.0, n1, n2, rng), n1, n2) for _ in range(400)])
    assert found[:, 0].mean() == pytest.approx(4.0, abs=0.06)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.15)


@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (2, 4), (8, 16), (32, 64), (3, 20)])
def test_the_fisher_interval_covers_independent_ratios(n1, n2):
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(100):
        found = Gride(n1=n1, n2=n2).from_distances(sample_distances(400, 6.0, n1, n2, rng), 400, rng)
        covered += found.interval[0] <= 6.0 <= found.interval[1]
    assert 90 <= covered <= 98


@pytest.mark.parametrize("kind", ["one dimension", "heavy tail", "many ties"])
def test_the_root_is_that_of_a_bracketing_search(kind):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, n1, true = int(rng.integers(10, 300)), int(rng.integers(1, 40)), 10.0 ** rng.uniform(-1, 2)
        n2 = n1 + int(rng.integers(2, 60))
        distances = sample_distances(n, true, n1, n2, rng)
        if kind == "heavy tail":
            distances[:, -1] = np.exp(np.minimum(rng.exponential(1 / true, n) ** 3 * true**2, 600.0))
        if kind == "many ties":
            distances[n // 3 :, -1] = 1.0
        logs = np.log(distances[:, -1])
        positive, m, total = logs[logs > 0], n2 - n1 - 1, logs.sum()

        def slope(d, positive=positive, m=m, total=total, n=n, n2=n2):
            odds = (n - len(positive)) / d + (positive / -np.expm1(-d * positive)).sum()
            return n / d - (n2 - 1) * total + m * odds

        low, high = n * (n2 - n1) / ((n2 - 1) * total), n * (n2 - n1) / (n1 * total)
        expected = brentq(slope, low * (1 - 1e-6), high * (1 + 1e-6), xtol=1e-13 * low, rtol=1e-14)
        assert likelihood_dimension(distances, n1, n2)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.smoke
def test_orders_one_and_two_are_twonn_by_likelihood_before_its_correction():
    cloud = sphere(500, 3, 8, np.random.default_rng(2))
    ours = Gride()(cloud, rng=np.random.default_rng(0)).dimension
    theirs = TwoNN(fit="likelihood", discard=0.0)(cloud, rng=np.random.default_rng(0)).dimension
    assert ours * 499 / 500 == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("n1", [1, 2, 7])
def test_adjacent_orders_have_the_closed_form(n1):
    distances = sample_distances(100, 3.0, n1, n1 + 1, np.random.default_rng(3))
    total = np.log(distances[:, n1] / distances[:, n1 - 1]).sum()
    assert likelihood_dimension(distances, n1, n1 + 1)[0] == pytest.approx(100 / (n1 * total))


def test_a_ratio_of_one_among_others_does_not_break_the_root():
    distances = sample_distances(200, 5.0, 2, 6, np.random.default_rng(4))
    expected = likelihood_dimension(distances, 2, 6)[0]
    distances[0, 5] = distances[0, 1]
    found = likelihood_dimension(distances, 2, 6)[0]
    assert np.isfinite(found)
    assert found == pytest.approx(expected, rel=0.05)


def test_the_scan_doubles_the_orders_and_stays_near_the_dimension_of_a_torus():
    found = Gride(scan_to=64)(flat_torus(1500, 2, 6, np.random.default_rng(5)), rng=np.random.default_rng(0))
    assert found.scales.tolist() == [2, 4, 8, 16, 32, 64]
    np.testing.assert_allclose(found.dimension_by_scale, 2.0, atol=0.25)
    assert found.dimension == found.dimension_by_scale[0]
    assert (np.diff(found.diagnostics["standard_error_by_scale"]) < 0).all()


def test_a_scan_of_a_small_cloud_stops_at_the_neighbours_it_has():
    found = Gride(scan_to=64)(np.random.default_rng(6).standard_normal((20, 3)), rng=np.random.default_rng(0))
    assert found.scales.tolist() == [2, 4, 8, 16]


def test_offsets_single_precision_and_copies_do_not_mislead_it():
    clean = sphere(1000, 5, 768, np.random.default_rng(7))
    spoilt = clean.copy()
    spoilt[:, :2] += [300.0, -1000.0]
    spoilt = np.concatenate([spoilt, spoilt[:100]]).astype(np.float32)
    for estimator in (Gride(), Gride(n1=4, n2=8)):
        found, expected = (estimator(cloud, rng=np.random.default_rng(0)).dimension for cloud in (spoilt, clean))
        assert found == pytest.approx(expected, abs=0.01)


def test_a_regular_grid_is_refused():
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    with pytest.raises(DegenerateCloudError, match="neighbours 1 and 2 are equally far in all 36 points"):
        Gride()(grid, rng=np.random.default_rng(0))


def lattice(size):
    """Return a cubic grid, in which the nearest neighbours of every point are equally far."""
    axis = np.arange(float(size))
    return np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)


def test_a_scale_without_a_dimension_is_nan_and_leaves_the_number_alone():
    alone = Gride(n1=1, n2=8)(lattice(5), rng=np.random.default_rng(0))
    found = Gride(n1=1, n2=8, scan_to=8)(lattice(5), rng=np.random.default_rng(0))
    assert (found.dimension, found.interval) == (alone.dimension, alone.interval)
    assert found.scales.tolist() == [2, 4, 8]
    for values in (found.dimension_by_scale, found.diagnostics["standard_error_by_scale"]):
        assert np.isnan(values).tolist() == [True, False, False]
    assert found.diagnostics["mean_radius_by_scale"][0] == 1.0
    assert found.dimension_by_scale[1] == Gride(n1=2, n2=4)(lattice(5), rng=np.random.default_rng(0)).dimension


def test_a_scale_without_a_dimension_is_left_out_of_the_plateau():
    rng = np.random.default_rng(18)
    distances = np.sort(rng.random((500, 70)), axis=1) ** (1.0 / 3.0)
    distances[:, 1] = distances[:, 0]
    found = Gride(n1=1, n2=4, scale="plateau").from_distances(distances, 500, rng)
    assert np.isnan(found.dimension_by_scale).tolist() == [True] + [False] * 5
    assert found.diagnostics["plateau_from"] >= 4
    n2 = found.diagnostics["n2"]
    assert found.dimension == found.dimension_by_scale[found.scales.tolist().index(n2)]


def test_a_scan_without_any_dimension_is_no_plateau_and_says_so():
    distances = np.ones((50, 9))
    distances[:, 8] = sample_distances(50, 3.0, 8, 9, np.random.default_rng(19))[:, 8]
    estimator = Gride(n1=8, n2=9, scale="plateau", scan_to=8)
    with pytest.warns(UserWarning, match="no scale of the scan has a dimension, so n1 = 8, n2 = 9 is reported"):
        found = estimator.from_distances(distances, 50, np.random.default_rng(0))
    assert found.dimension == Gride(n1=8, n2=9).from_distances(distances, 50, np.random.default_rng(0)).dimension
    assert np.isnan(found.dimension_by_scale).all()


@pytest.mark.parametrize("n_subsamples", [5, 6])
def test_neighbourhood_replicates_stay_in_pairs_so_that_the_quantile_counts_them(n_subsamples):
    cloud = gaussian(300, 3, 6, np.random.default_rng(20))
    estimator = Gride(scale="kstar", scan_to=50, interval="subsampling", n_subsamples=n_subsamples)
    found = estimator(cloud, rng=np.random.default_rng(0))
    assert found.diagnostics["replicates"].shape == (6,)
    reach = (found.interval[1] - found.dimension) / found.standard_error
    assert reach == pytest.approx(student_t.ppf(0.975, 3), rel=1e-9)


@pytest.mark.parametrize("scale", ["fixed", "plateau", "kstar"])
def test_the_scan_does_not_change_with_the_unit_the_place_or_the_frame(scale):
    rng = np.random.default_rng(9)
    cloud = sphere(400, 3, 5, rng)
    estimator = Gride(scan_to=64, scale=scale)
    expected = estimator(cloud, rng=np.random.default_rng(0))
    moved = {"unit": cloud * 3e5, "place": cloud + 40.0, "frame": cloud @ random_rotation(5, rng)}
    for name, points in moved.items():
        found = estimator(points, rng=np.random.default_rng(0))
        np.testing.assert_allclose(found.dimension_by_scale, expected.dimension_by_scale, rtol=1e-9, err_msg=name)
        assert found.dimension == pytest.approx(expected.dimension, rel=1e-9)
        assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-9)


@pytest.mark.parametrize("more", ["k", "k + 1", "all"])
@pytest.mark.parametrize(
    "estimator",
    [
        Gride(),
        Gride(n1=2, n2=5, scan_to=20),
        Gride(n1=4, n2=8, interval="subsampling", n_subsamples=5),
        Gride(scan_to=16, interval="subsampling", n_subsamples=5),
        Gride(scale="plateau", scan_to=16),
        Gride(scale="plateau", scan_to=16, interval="subsampling", n_subsamples=5),
        Gride(scale="kstar", scan_to=40),
        Gride(scale="kstar", interval="subsampling", n_subsamples=5),
    ],
    ids=repr,
)
def test_from_distances_gives_the_bits_of_the_direct_call(estimator, more):
    rng = np.random.default_rng(10)
    cloud = np.concatenate([flat_torus(230, 2, 5, rng)] * 2)[:250].astype(np.float32)
    points = cloud[distinct_points(cloud).rows]
    columns = {"k": estimator.k, "k + 1": estimator.k + 1, "all": len(points) - 1}[more]
    lists = nearest_distances(cloud, columns, minimum=1)
    assert len(lists.rows) == 230
    found = estimator.from_distances(
        lists.distances, len(cloud), np.random.default_rng(3), indices=lists.indices, points=points
    )
    assert_same_bits(found, estimator(cloud, rng=np.random.default_rng(3)))


def test_the_points_answer_the_subsamples_that_the_lists_cannot(monkeypatch):
    cloud = flat_torus(200, 2, 4, np.random.default_rng(11))
    estimator = Gride(n1=4, n2=8, interval="subsampling", n_subsamples=5)
    expected = estimator(cloud, rng=np.random.default_rng(0))
    short = nearest_distances(cloud, 9)
    searched = []
    search = subsampling.nearest_distances
    monkeypatch.setattr(
        subsampling, "nearest_distances", lambda *given, **options: searched.append(1) or search(*given, **options)
    )
    found, without = (
        estimator.from_distances(short.distances, 200, np.random.default_rng(0), indices=short.indices, points=points)
        for points in (cloud, None)
    )
    assert searched
    assert_same_bits(found, expected)
    assert without.diagnostics["error_from_subsampling"] == 0.0
    assert without.dimension == expected.dimension


@pytest.mark.parametrize("scale", ["plateau", "kstar"])
def test_an_automatic_scale_is_not_misled_by_noise(scale):
    # At n = 2,000 the nearest neighbours are as far apart as noise of 0.02 in 12 coordinates.
    cloud = noisy_gaussian(2000, 0.02, seed=0)
    fixed = Gride()(cloud, rng=np.random.default_rng(0))
    chosen = Gride(scale=scale)(cloud, rng=np.random.default_rng(0))
    assert fixed.dimension > 3.7
    assert chosen.dimension == pytest.approx(3.0, abs=0.25)


def test_a_plateau_reports_the_number_of_the_scale_it_names():
    cloud = noisy_gaussian(2000, 0.02, seed=0)
    found = Gride(scale="plateau", interval="subsampling", n_subsamples=10)(cloud, rng=np.random.default_rng(0))
    n1, n2 = int(found.diagnostics["n1"]), int(found.diagnostics["n2"])
    assert n2 == 2 * n1
    assert 2 < found.diagnostics["plateau_from"] <= n2 <= found.diagnostics["plateau_to"] <= 64
    assert found.diagnostics["plateau_p_value"] >= 0.01
    assert found.dimension == found.dimension_by_scale[found.scales.tolist().index(n2)]
    assert found.dimension == pytest.approx(found.diagnostics["plateau_dimension"], rel=0.05)
    same = Gride(n1=n1, n2=n2, interval="subsampling", n_subsamples=10)(cloud, rng=np.random.default_rng(0))
    assert (found.dimension, found.standard_error, found.interval) == (
        same.dimension,
        same.standard_error,
        same.interval,
    )
    assert found.diagnostics["mean_radius"] == same.diagnostics["mean_radius"]


@pytest.mark.parametrize(
    ("cloud", "first"), [("power law", "15"), ("noisy roll", "7")], ids=["power law", "roll under noise"]
)
def test_without_a_plateau_it_warns_and_reads_the_given_orders(cloud, first):
    rng = np.random.default_rng(12)
    points = power_law(1000, 13) if cloud == "power law" else swiss_roll(2000, 2, 12, rng)
    if cloud == "noisy roll":
        points = points + 0.02 * rng.standard_normal(points.shape)
    with pytest.warns(
        UserWarning, match=f"from {first}.* at n2 = 2 to .* at n2 = 64 hold no plateau, so n1 = 1, n2 = 3"
    ):
        found = Gride(n1=1, n2=3, scale="plateau")(points, rng=np.random.default_rng(0))
    assert found.dimension == Gride(n1=1, n2=3)(points, rng=np.random.default_rng(0)).dimension
    assert (found.diagnostics["n1"], found.diagnostics["n2"]) == (1.0, 3.0)
    assert np.isnan([found.diagnostics[name] for name in ("plateau_from", "plateau_to", "plateau_p_value")]).all()


def test_a_clean_cloud_has_a_plateau_over_the_whole_scan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Gride(scale="plateau")(sphere(1500, 2, 8, np.random.default_rng(14)), rng=np.random.default_rng(0))
    assert (found.diagnostics["plateau_from"], found.diagnostics["plateau_to"]) == (2.0, 64.0)
    assert found.dimension == pytest.approx(2.0, abs=0.1)


def test_neighbourhoods_of_constant_density_are_described():
    cloud = gaussian(600, 3, 6, np.random.default_rng(15))
    found = Gride(scale="kstar")(cloud, rng=np.random.default_rng(0))
    sizes = found.diagnostics["neighborhoods"]
    assert found.scales.tolist() == [2, 4, 8, 16, 32, 64, 128]
    assert (sizes.shape, sizes.min() >= 3, sizes.max() <= 128) == ((600,), True, True)
    assert found.diagnostics["mean_neighborhood"] == sizes.mean()
    assert found.diagnostics["fraction_at_limit"] == (sizes == 128).mean()
    assert found.diagnostics["inner_ratio"] ** found.dimension == pytest.approx(0.2032, abs=0.002)
    assert 0.0 < found.diagnostics["fit_p_value"] <= 1.0
    assert found.interval[0] < found.dimension < found.interval[1]


def test_neighbourhoods_hold_at_most_a_quarter_of_a_small_cloud():
    cloud = gaussian(50, 3, 6, np.random.default_rng(16))
    found = Gride(scale="kstar")(cloud, rng=np.random.default_rng(0))
    assert found.diagnostics["neighborhoods"].max() == 12
    assert found.dimension == pytest.approx(3.0, abs=0.6)


@pytest.mark.parametrize("make", [sphere, gaussian])
def test_the_halves_of_a_neighbourhood_estimate_cover_its_spread(make):
    clouds = [make(400, 3, 6, np.random.default_rng(seed)) for seed in range(30)]
    estimator = Gride(scale="kstar", scan_to=50, interval="subsampling", n_subsamples=30)
    found = [estimator(cloud, rng=np.random.default_rng(0)) for cloud in clouds]
    spread = np.std([estimate.dimension for estimate in found], ddof=1)
    assert 0.9 < np.mean([estimate.standard_error for estimate in found]) / spread < 1.9
    for estimate in found:
        replicates = estimate.diagnostics["replicates"]
        assert replicates.shape == (30,)
        assert np.sqrt(np.mean((replicates - estimate.dimension) ** 2)) == pytest.approx(estimate.standard_error)


@pytest.mark.parametrize("scale", ["plateau", "kstar"])
def test_an_automatic_scale_keeps_the_contract(scale):
    # The contract hands over distances alone, and k* needs to know who the neighbours are.
    check_estimator(Gride(scale=scale), n=400, skip=("from_distances",) if scale == "kstar" else ())


def test_constant_density_needs_to_know_the_neighbours():
    lists = nearest_distances(gaussian(60, 2, 3, np.random.default_rng(17)), 20)
    with pytest.raises(ValueError, match="`indices` must be given for scale='kstar', got None"):
        Gride(scale="kstar").from_distances(lists.distances, 60, np.random.default_rng(0))
    with pytest.raises(DegenerateCloudError, match="points with 4 neighbours are needed"):
        Gride(scale="kstar").from_distances(
            lists.distances[:, :3], 60, np.random.default_rng(0), indices=lists.indices[:, :3]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "auto"}, "`scale` must be one of 'fixed', 'plateau', 'kstar', got 'auto'"),
        ({"scan_to": 1}, "`scan_to` must be an integer of at least 2, got 1"),
        ({"scale": "plateau", "scan_to": 7}, "`scan_to` must be an integer of at least 8, got 7"),
        ({"scale": "kstar", "scan_to": 3}, "`scan_to` must be an integer of at least 4, got 3"),
    ],
)
def test_an_option_outside_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Gride(**options)
