"""Persistent homology: the slope, the backends and what is refused."""

import sys

import numpy as np
import pytest

from gelora_estimators import DegenerateCloudError, PersistentHomology
from gelora_estimators.clouds import flat_torus, sphere
from gelora_estimators.ph import dimension_from_slope, draw_error, line_fit, log_energy, subsample_sizes


@pytest.mark.smoke
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dimension", [2.5, 7.0])
def test_the_growth_law_gives_back_its_dimension(alpha, dimension):
    sizes = np.log(subsample_sizes(1000, 50, 2000, 8))
    slope, residual, curvature = line_fit(sizes, 3.0 + (dimension - alpha) / dimension * sizes)
    assert dimension_from_slope(slope, alpha, n=1000) == pytest.approx(dimension)
    assert residual == pytest.approx(0.0, abs=1e-12)
    assert curvature == pytest.approx(0.0, abs=1e-12)


def test_a_bent_line_has_the_curvature_of_its_halves():
    x = np.arange(8.0)
    assert line_fit(x, np.where(x < 4, x, 4 + 3 * (x - 4)))[2] == pytest.approx(2.0, abs=0.6)


def test_energies_are_sums_of_powers():
    lengths = np.array([0.0, 0.5, 2.0])
    assert log_energy(lengths, 2.0) == pytest.approx(np.log(0.25 + 4.0))
    assert log_energy(lengths * 1e-300, 2.0) == pytest.approx(np.log(4.25) - 600 * np.log(10))


def test_the_error_is_the_spread_of_single_draws_carried_to_the_dimension():
    x = np.log(np.array([10.0, 100.0]))
    slopes = np.array([[0.70, 0.72], [0.74, 0.76]])
    energies = slopes[..., None] * x
    expected = 4.0**2 * slopes.std(ddof=1) / np.sqrt(2)
    assert draw_error(x, energies, 4.0, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize("dimension", [1, 2, 4])
@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_flat_tori_read_their_dimension(dimension, statistic):
    cloud = flat_torus(600, dimension, 10, np.random.default_rng(0))
    found = PersistentHomology(alpha=0.5, statistic=statistic)(cloud, rng=np.random.default_rng(0))
    assert found.dimension == pytest.approx(dimension, rel=0.15)


@pytest.mark.parametrize("backend", ["giotto", "ripser"])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_the_backends_agree_for_the_same_generator(backend, shift):
    cloud = sphere(250, 3, 20, np.random.default_rng(1)) + shift
    ours = PersistentHomology(n_draws=3)(cloud, rng=np.random.default_rng(7))
    theirs = PersistentHomology(n_draws=3, backend=backend)(cloud, rng=np.random.default_rng(7))
    assert theirs.dimension == pytest.approx(ours.dimension, rel=1e-5)
    assert theirs.standard_error == pytest.approx(ours.standard_error, rel=1e-3)


def test_offsets_single_precision_and_copies_do_not_mislead_it():
    clean = sphere(800, 5, 768, np.random.default_rng(2))
    spoilt = clean.copy()
    spoilt[:, :2] += [300.0, -1000.0]
    spoilt = np.concatenate([spoilt, spoilt[:80]]).astype(np.float32)
    found, expected = (PersistentHomology()(cloud, rng=np.random.default_rng(0)) for cloud in (spoilt, clean))
    assert found.dimension == pytest.approx(expected.dimension, rel=1e-3)
    assert found.dimension == pytest.approx(5.0, abs=0.5)
    assert (found.n_points, found.diagnostics["n_copies"]) == (800, 80)


def test_a_large_cloud_is_subsampled_up_to_max_points(monkeypatch):
    cloud = sphere(600, 2, 5, np.random.default_rng(3))
    estimator = PersistentHomology(max_points=200)
    whole = estimator(cloud, rng=np.random.default_rng(0))
    monkeypatch.setattr("gelora_estimators.ph._ONE_MATRIX_LIMIT", 100)
    parts = estimator(cloud, rng=np.random.default_rng(0))
    assert whole.diagnostics["sizes"].max() == 200
    assert parts.dimension == pytest.approx(whole.dimension, rel=1e-9)


def test_sizes_run_in_equal_steps_of_the_logarithm_to_the_cloud_or_the_limit():
    assert subsample_sizes(100, 50, 2000, 3).tolist() == [50, 71, 100]
    assert subsample_sizes(10_000, 50, 2000, 2).tolist() == [50, 2000]


@pytest.mark.parametrize("slope", [-0.5, 0.0, 1.0, 1.3])
def test_a_slope_outside_of_zero_and_one_is_refused_with_its_value(slope):
    with pytest.raises(DegenerateCloudError, match=rf"77 distinct points.*slope of log E.*is {slope:.4g}, outside"):
        dimension_from_slope(slope, 1.0, n=77)


def test_a_power_above_the_dimension_is_refused_on_a_real_cloud():
    line = np.random.default_rng(4).random((300, 1)) @ np.ones((1, 3))
    with pytest.raises(DegenerateCloudError, match=r"outside \(0, 1\).*would not exceed alpha = 3"):
        PersistentHomology(alpha=3.0)(line, rng=np.random.default_rng(0))


def test_a_cloud_of_fewer_than_twice_the_smallest_subsample_is_refused():
    cloud = sphere(99, 2, 5, np.random.default_rng(5))
    with pytest.raises(DegenerateCloudError, match=r"99 distinct points.*at least 100"):
        PersistentHomology()(cloud, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("backend", "module", "hint"), [("giotto", "gph", r"gelora\[giotto\]"), ("ripser",) * 3])
def test_a_missing_backend_names_what_to_install(backend, module, hint, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    cloud = sphere(120, 2, 5, np.random.default_rng(6))
    with pytest.raises(ImportError, match=rf"`backend='{backend}'`.*pip install.*{hint}"):
        PersistentHomology(backend=backend)(cloud, rng=np.random.default_rng(0))
