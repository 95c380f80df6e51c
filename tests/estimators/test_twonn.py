"""TwoNN: closed forms, the χ² law and hidden-state traps."""

import numpy as np
import pytest

from gelora_estimators import DegenerateCloudError, TwoNN
from gelora_estimators.clouds import flat_torus, sphere
from gelora_estimators.twonn import likelihood_dimension, regression_dimension


def from_ratios(log_ratios):
    """Return distances (n, 2) with these logarithms of r_2 / r_1."""
    first = np.linspace(0.5, 2.0, len(log_ratios))
    return np.stack([first, first * np.exp(log_ratios)], axis=1)


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
