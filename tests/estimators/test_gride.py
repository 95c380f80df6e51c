"""Gride: the root of the likelihood, its error and its closed forms."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import betaln

from gelora_estimators import DegenerateCloudError, Gride, TwoNN
from gelora_estimators.clouds import flat_torus, sphere
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
