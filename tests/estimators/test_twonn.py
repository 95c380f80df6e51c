"""TwoNN: closed forms, the χ² law and hidden-state traps."""

import numpy as np
import pytest
from scipy import integrate, stats

from gelora_estimators import DegenerateCloudError, TwoNN, distinct_points, nearest_distances
from gelora_estimators.clouds import flat_torus, sphere
from gelora_estimators.subsampling import decimation_scan
from gelora_estimators.twonn import censored_sum, likelihood_dimension, regression_dimension

SHARED = [
    TwoNN(),
    TwoNN(decimations=4),
    TwoNN(fit="likelihood", discard=0.0, form="maximum", interval="chi2", decimations=2),
    TwoNN(fit="posterior", n_subsamples=7),
    TwoNN(fit="posterior", interval="posterior"),
]


def from_ratios(log_ratios):
    """Return distances (n, 2) with these logarithms of r_2 / r_1."""
    first = np.linspace(0.5, 2.0, len(log_ratios))
    return np.stack([first, first * np.exp(log_ratios)], axis=1)


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
    return {name: None if value is None else np.asarray(value).tobytes() for name, value in numbers.items()}


@pytest.mark.smoke
@pytest.mark.parametrize("discard", [0.0, 0.1, 0.5])
def test_the_regression_is_exact_on_the_quantiles_of_a_pareto_law(discard):
    n, dimension = 100, 6.5
    level = np.arange(1, n + 1) / n
    log_ratios = np.append(-np.log(1 - level[:-1]), 50.0) / dimension
    assert regression_dimension(np.random.default_rng(0).permutation(log_ratios), discard) == pytest.approx(dimension)


def test_the_likelihood_form_is_n_minus_one_over_the_sum():
    log_ratios = np.random.default_rng(0).exponential(1 / 4, size=80)
    found = TwoNN(fit="likelihood", discard=0.0).from_distances(from_ratios(log_ratios), 80, np.random.default_rng(0))
    assert found.dimension == pytest.approx(79 / log_ratios.sum())
    assert found.standard_error == pytest.approx(found.dimension / np.sqrt(78))


def test_the_trimmed_likelihood_is_the_censored_form():
    log_ratios = np.array([0.5, 0.1, 0.2, 9.0, 0.4])
    assert likelihood_dimension(log_ratios, 0.4) == pytest.approx(2 / (0.1 + 0.2 + 0.4 + 2 * 0.4))


@pytest.mark.parametrize("discard", [0.0, 0.1, 0.5])
def test_the_likelihood_form_is_unbiased_on_pareto_ratios(discard):
    rng = np.random.default_rng(1)
    found = [likelihood_dimension(rng.exponential(1 / 7, size=50), discard) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(7.0, abs=4 * np.std(found) / np.sqrt(4000))


def test_the_chi2_interval_covers_independent_ratios_as_often_as_it_says():
    rng = np.random.default_rng(2)
    for discard in (0.0, 0.1):
        estimator = TwoNN(fit="likelihood", discard=discard, interval="chi2", confidence=0.9)
        hits = 0
        for _ in range(1000):
            low, high = estimator.from_distances(from_ratios(rng.exponential(1 / 5, size=60)), 60, rng).interval
            hits += low <= 5.0 <= high
        assert hits == pytest.approx(900, abs=38)  # four standard deviations


@pytest.mark.parametrize("discard", [0.0, 0.1, 0.5])
def test_the_forms_differ_in_the_numerator_and_share_the_exact_interval(discard):
    log_ratios = np.random.default_rng(3).exponential(1 / 4, size=80)
    m = round(80 * (1 - discard))
    ordered = np.sort(log_ratios)
    total = ordered[:m].sum() + (80 - m) * ordered[m - 1]
    for form, numerator in (("maximum", m), ("unbiased", m - 1), ("least_error", m - 2)):
        estimator = TwoNN(fit="likelihood", form=form, discard=discard, interval="chi2", confidence=0.8)
        found = estimator.from_distances(from_ratios(log_ratios), 80, np.random.default_rng(0))
        assert found.dimension == pytest.approx(numerator / total)
        assert found.interval == pytest.approx(stats.chi2.ppf([0.1, 0.9], 2 * m) / (2 * total))
        assert found.standard_error == pytest.approx(found.dimension / np.sqrt(m - 2))


@pytest.mark.parametrize("discard", [0.0, 0.5])
def test_each_form_has_the_bias_and_the_error_of_its_law(discard):
    rng = np.random.default_rng(4)
    m = round(20 * (1 - discard))
    samples = rng.exponential(1 / 7, size=(20_000, 20))
    found = {
        form: np.array([likelihood_dimension(sample, discard, form=form) for sample in samples])
        for form in ("maximum", "unbiased", "least_error")
    }
    for form, numerator in (("maximum", m), ("unbiased", m - 1), ("least_error", m - 2)):
        mean, deviation = 7.0 * numerator / (m - 1), 7.0 * numerator / (m - 1) / np.sqrt(m - 2)
        assert found[form].mean() == pytest.approx(mean, abs=5 * deviation / np.sqrt(20_000))
        assert found[form].std() == pytest.approx(deviation, rel=0.04)
    squared = {form: float(np.square(values - 7.0).mean()) for form, values in found.items()}
    assert squared["least_error"] < squared["unbiased"] < squared["maximum"]


def test_the_least_error_form_refuses_two_ratios():
    estimator = TwoNN(fit="likelihood", form="least_error", discard=0.8, interval="chi2")
    ratios = from_ratios(np.linspace(0.1, 1.0, 10))
    with pytest.raises(DegenerateCloudError, match="'least_error' needs at least 3 ratios, but only 2 of 10 are kept"):
        estimator.from_distances(ratios, 10, np.random.default_rng(0))
    assert TwoNN(fit="likelihood", discard=0.8, interval="chi2").from_distances(
        ratios, 10, np.random.default_rng(0)
    ).dimension == pytest.approx(1 / (0.1 + 9 * 0.2))


@pytest.mark.parametrize("discard", [0.0, 0.3])
def test_the_posterior_is_prior_times_likelihood(discard):
    log_ratios = np.random.default_rng(5).exponential(1 / 3, size=30)
    estimator = TwoNN(
        fit="posterior", discard=discard, prior_shape=2.5, prior_rate=0.7, interval="posterior", confidence=0.9
    )
    found = estimator.from_distances(from_ratios(log_ratios), 30, np.random.default_rng(0))
    m = round(30 * (1 - discard))
    ordered = np.sort(log_ratios)

    def density(dimension):
        """The prior times the density of the kept ratios times the chance that the others are larger."""
        kept = stats.expon.logpdf(ordered[:m], scale=1 / dimension).sum()
        larger = (30 - m) * stats.expon.logsf(ordered[m - 1], scale=1 / dimension)
        return np.exp(kept + larger + stats.gamma.logpdf(dimension, 2.5, scale=1 / 0.7) - 20.0)

    norm, mean, square, low, high = (
        integrate.quad(lambda d, power=power: d**power * density(d), start, stop, epsabs=0.0, epsrel=1e-10)[0]
        for power, start, stop in (
            (0, 0, 20),
            (1, 0, 20),
            (2, 0, 20),
            (0, 0, found.interval[0]),
            (0, found.interval[1], 20),
        )
    )
    assert found.dimension == pytest.approx(mean / norm, rel=1e-6)
    assert found.standard_error == pytest.approx(np.sqrt(square / norm - (mean / norm) ** 2), rel=1e-6)
    assert (low / norm, high / norm) == (pytest.approx(0.05, rel=1e-5), pytest.approx(0.05, rel=1e-5))
    assert found.diagnostics["posterior_shape"] == 2.5 + m
    assert found.diagnostics["posterior_rate"] == pytest.approx(0.7 + censored_sum(log_ratios, discard)[0])


def test_without_prior_weight_the_posterior_is_the_maximum_likelihood_with_the_chi2_interval():
    cloud = sphere(300, 4, 9, np.random.default_rng(6))
    empty, wide, maximum = (
        estimator(cloud, rng=np.random.default_rng(0))
        for estimator in (
            TwoNN(fit="posterior", prior_shape=0, prior_rate=0, interval="posterior"),
            TwoNN(fit="posterior", interval="posterior"),
            TwoNN(fit="likelihood", form="maximum", interval="chi2"),
        )
    )
    assert empty.dimension == pytest.approx(maximum.dimension, rel=1e-12)
    assert empty.interval == pytest.approx(maximum.interval, rel=1e-12)
    assert wide.dimension == pytest.approx(empty.dimension, rel=1e-4)
    assert wide.interval == pytest.approx(empty.interval, rel=1e-4)
    strong = TwoNN(fit="posterior", prior_shape=3e7, prior_rate=1e7)(cloud, rng=np.random.default_rng(0))
    assert strong.dimension == pytest.approx(3.0, abs=1e-3)


def test_the_credible_interval_holds_a_dimension_drawn_from_the_prior_as_often_as_it_says():
    rng = np.random.default_rng(7)
    estimator = TwoNN(
        fit="posterior", discard=0.2, prior_shape=6.0, prior_rate=2.0, interval="posterior", confidence=0.8
    )
    hits = 0
    for _ in range(1000):
        dimension = rng.gamma(6.0, 1 / 2.0)
        low, high = estimator.from_distances(from_ratios(rng.exponential(1 / dimension, size=12)), 12, rng).interval
        hits += low <= dimension <= high
    assert hits == pytest.approx(800, abs=51)  # four standard deviations


def test_halves_give_the_error_of_every_fit_unless_another_interval_is_named():
    cloud = sphere(300, 4, 9, np.random.default_rng(8))
    for fit in ("regression", "likelihood", "posterior"):
        found = TwoNN(fit=fit)(cloud, rng=np.random.default_rng(0))
        assert found.diagnostics["error_from_subsampling"] == 1.0
        assert found.standard_error == pytest.approx(np.std(found.diagnostics["replicates"]))


@pytest.mark.parametrize(
    ("fit", "interval", "allowed"),
    [
        ("regression", "posterior", "'subsampling', 'chi2' with fit='regression', got 'posterior'"),
        ("likelihood", "posterior", "'subsampling', 'chi2' with fit='likelihood', got 'posterior'"),
        ("posterior", "chi2", "'subsampling', 'posterior' with fit='posterior', got 'chi2'"),
    ],
)
def test_an_interval_that_does_not_go_with_the_fit_is_refused(fit, interval, allowed):
    with pytest.raises(ValueError, match=f"`interval` must be one of {allowed}: 'chi2' goes with"):
        TwoNN(fit=fit, interval=interval)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "mle"}, "`fit` must be one of 'regression', 'likelihood', 'posterior', got 'mle'"),
        ({"form": "best"}, "`form` must be one of 'maximum', 'unbiased', 'least_error', got 'best'"),
        ({"prior_shape": -1.0}, r"`prior_shape` must be a number in \[0, inf\), got -1.0"),
        ({"prior_rate": np.inf}, r"`prior_rate` must be a number in \[0, inf\), got inf"),
        ({"decimations": -1}, "`decimations` must be an integer of at least 0, got -1"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TwoNN(**options)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"fit": "regression", "form": "maximum"}, "likelihood"),
        ({"fit": "posterior", "form": "least_error"}, "likelihood"),
        ({"fit": "regression", "prior_shape": 2.0}, "posterior"),
        ({"fit": "likelihood", "prior_rate": 0.0}, "posterior"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options, needed):
    name = next(option for option in options if option != "fit")
    default = TwoNN.__dataclass_fields__[name].default
    message = f"`{name}` must be left at {default!r} with `fit`={options['fit']!r}, got {options[name]!r}"
    with pytest.raises(ValueError, match=f"{message}.*pass fit='{needed}'"):
        TwoNN(**options)
    assert TwoNN(**{name: default}, fit=options["fit"]) == TwoNN(fit=options["fit"])


@pytest.mark.parametrize("discard", [0.0, 0.005, 0.1, 0.5])
@pytest.mark.parametrize("fit", ["regression", "likelihood", "posterior"])
def test_the_kept_ratios_are_those_the_number_depends_on(fit, discard):
    logs = np.sort(np.random.default_rng(5).exponential(size=100))
    estimator = TwoNN(fit=fit, discard=discard, interval="posterior" if fit == "posterior" else "chi2")

    def dimension(values):
        return estimator.from_distances(from_ratios(values), 100, np.random.default_rng(0))

    found = dimension(logs)
    n_kept = int(found.diagnostics["n_kept"])
    assert n_kept == min(round(np.floor(100 * (1 - discard) + 1e-9)), 99 if fit == "regression" else 100)
    last, beyond = logs.copy(), logs.copy()
    last[n_kept - 1] *= 1 + 1e-6
    beyond[n_kept:] *= 3.0
    assert dimension(last).dimension != found.dimension
    assert dimension(beyond).dimension == pytest.approx(found.dimension, rel=1e-12)


@pytest.mark.parametrize("fit", ["regression", "likelihood"])
@pytest.mark.parametrize(("dimension", "tolerance"), [(1, 0.12), (3, 0.4), (6, 0.9)])
def test_flat_tori_read_their_dimension(fit, dimension, tolerance):
    cloud = flat_torus(1500, dimension, 20, np.random.default_rng(3))
    found = TwoNN(fit=fit)(cloud, rng=np.random.default_rng(0))
    assert found.dimension == pytest.approx(dimension, abs=tolerance)
    assert found.interval[0] < dimension < found.interval[1]


@pytest.mark.smoke
def test_offsets_single_precision_and_copies_do_not_mislead_it():
    clean = sphere(1000, 5, 768, np.random.default_rng(4))
    spoilt = clean.copy()
    spoilt[:, 0] += 300.0
    spoilt[:, 1] -= 1000.0
    spoilt = np.concatenate([spoilt, spoilt[:100]]).astype(np.float32)
    for estimator in (TwoNN(), TwoNN(fit="likelihood")):
        expected = estimator(clean, rng=np.random.default_rng(0)).dimension
        found = estimator(spoilt, rng=np.random.default_rng(0))
        assert expected == pytest.approx(4.9, abs=0.3)
        assert found.dimension == pytest.approx(expected, abs=0.02)
        assert (found.n_points, found.diagnostics["n_copies"]) == (1000, 100)


def test_ten_points_are_enough_and_nine_are_not():
    cloud = np.random.default_rng(5).standard_normal((10, 3))
    assert TwoNN()(cloud, rng=np.random.default_rng(0)).n_points == 10
    with pytest.raises(DegenerateCloudError, match=r"9 distinct points.*at least 10"):
        TwoNN()(cloud[:9], rng=np.random.default_rng(0))


@pytest.mark.parametrize("fit", ["regression", "likelihood"])
def test_a_regular_grid_has_no_ratio_to_fit(fit):
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    with pytest.raises(DegenerateCloudError, match=r"r_2 equals r_1 in all 3[26] kept points"):
        TwoNN(fit=fit)(grid, rng=np.random.default_rng(0))


def test_a_scan_holds_the_means_over_disjoint_parts():
    cloud = sphere(420, 3, 5, np.random.default_rng(9))
    found = TwoNN(interval="chi2", decimations=3)(cloud, rng=np.random.default_rng(10))
    order = np.random.default_rng(10).permutation(420)
    assert found.scales.tolist() == [420, 210, 105, 52]
    assert found.dimension_by_scale[0] == found.dimension
    assert found.diagnostics["standard_error_by_scale"][0] == found.standard_error
    assert found.diagnostics["mean_r2_by_scale"][0] == found.diagnostics["mean_r2"]
    for level, size in ((1, 210), (2, 105), (3, 52)):
        parts = [order[start : start + size] for start in range(0, size * 2**level, size)]
        nearest = [nearest_distances(cloud[part], 2).distances for part in parts]
        each = [regression_dimension(np.log(rows[:, 1] / rows[:, 0]), 0.1) for rows in nearest]
        assert found.dimension_by_scale[level] == pytest.approx(np.mean(each), rel=1e-12)
        error = np.std(each, ddof=1) / np.sqrt(2**level)
        assert found.diagnostics["standard_error_by_scale"][level] == pytest.approx(error, rel=1e-9)
        radius = np.mean([rows[:, 1].mean() for rows in nearest])
        assert found.diagnostics["mean_r2_by_scale"][level] == pytest.approx(radius, rel=1e-12)


@pytest.mark.parametrize("fit", ["regression", "likelihood", "posterior"])
def test_a_scan_leaves_dimension_and_error_as_they_are(fit):
    cloud = sphere(200, 3, 5, np.random.default_rng(11))
    without, scanned = (TwoNN(fit=fit, decimations=levels)(cloud, rng=np.random.default_rng(12)) for levels in (0, 9))
    assert without.scales is None
    assert without.dimension_by_scale is None
    assert scanned.scales.tolist() == [200, 100, 50, 25, 12]  # parts of 6 would be too few
    names = ["dimension", "standard_error", "interval", "replicates"]
    assert [contents(without)[name] for name in names] == [contents(scanned)[name] for name in names]


def test_noise_shows_as_a_rise_towards_all_points():
    rng = np.random.default_rng(13)
    cloud = flat_torus(3000, 2, 8, rng) + 0.02 * rng.standard_normal((3000, 8))
    found = TwoNN(decimations=6)(cloud, rng=np.random.default_rng(0))
    assert found.dimension_by_scale[0] > 3.5
    assert found.dimension_by_scale[-1] == pytest.approx(2.0, abs=0.3)
    assert np.all(np.diff(found.diagnostics["mean_r2_by_scale"]) > 0.0)


def test_a_size_at_which_a_part_has_no_dimension_is_nan():
    found = nearest_distances(sphere(80, 3, 5, np.random.default_rng(14)), 79)

    def statistic(inside):
        if len(inside) == 20:
            raise DegenerateCloudError("no dimension here")
        return float(inside.mean())

    scan = decimation_scan(
        found.distances,
        found.indices,
        k=2,
        decimations=3,
        fewest_points=10,
        statistic=statistic,
        rng=np.random.default_rng(0),
    )
    assert scan[:, 0].tolist() == [40, 20, 10]
    assert np.isnan(scan[:, 1]).tolist() == [False, True, False]


def test_a_scan_ends_where_neither_list_nor_points_can_answer():
    cloud = sphere(2000, 3, 5, np.random.default_rng(15))
    estimator = TwoNN(decimations=3)
    found = nearest_distances(cloud, estimator.k)
    options = {"indices": found.indices, "points": cloud}
    for without, scales in (((), [2000, 1000, 500, 250]), (("points",), [2000, 1000]), (("points", "indices"), [2000])):
        given = {name: value for name, value in options.items() if name not in without}
        scan = estimator.from_distances(found.distances, 2000, np.random.default_rng(0), **given)
        assert scan.scales.tolist() == scales


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", SHARED, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_shared_list_of_any_length_gives_the_same_bits_as_the_points(estimator, dtype):
    cloud = sphere(250, 4, 9, np.random.default_rng(16)).astype(dtype)
    cloud = np.concatenate([cloud, cloud[:9]])
    direct = contents(estimator(cloud, rng=np.random.default_rng(17)))
    points = cloud[distinct_points(cloud).rows]
    for columns in (estimator.k, estimator.k + 1, 249):
        found = nearest_distances(cloud, columns)
        shared = estimator.from_distances(
            found.distances, 259, np.random.default_rng(17), indices=found.indices, points=points
        )
        assert contents(shared) == direct


def test_a_list_too_short_for_halves_is_completed_by_a_search():
    cloud = sphere(250, 4, 9, np.random.default_rng(18))
    found = nearest_distances(cloud, 4)
    shared = TwoNN().from_distances(
        found.distances, 250, np.random.default_rng(19), indices=found.indices, points=cloud
    )
    assert contents(shared) == contents(TwoNN()(cloud, rng=np.random.default_rng(19)))


def test_points_that_do_not_belong_to_the_lists_are_refused():
    cloud = sphere(50, 4, 9, np.random.default_rng(20))
    found = nearest_distances(cloud, 32)
    with pytest.raises(ValueError, match="`points` must hold one row for each row of `distances`, 50, got 49"):
        TwoNN().from_distances(found.distances, 50, np.random.default_rng(0), indices=found.indices, points=cloud[:49])
