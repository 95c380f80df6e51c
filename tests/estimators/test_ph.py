"""Persistent homology: sizes and draws, the slope, its error and its bend, presets, backends and what is refused."""

import dataclasses
import sys
import warnings

import numpy as np
import pytest
from scipy.sparse import csgraph
from scipy.spatial.distance import cdist

from gelora_estimators import DegenerateCloudError, PersistentHomology
from gelora_estimators.clouds import ball, flat_torus, gaussian, sphere, subspace
from gelora_estimators.homology import line_fit
from gelora_estimators.ph import dimension_from_slope, draw_subsets, subsample_sizes


def noisy_sheet(n, noise, rng):
    """Return a square with noise of ten dimensions."""
    return np.pad(rng.random((n, 2)), ((0, 0), (0, 8))) + noise * rng.standard_normal((n, 10))


def clusters(n, rng):
    return rng.standard_normal((10, 5))[rng.integers(10, size=n)] + 0.05 * rng.standard_normal((n, 5))


def growth(cloud, sizes, seed, power=1.0):
    """Return α/(1 − m) from one draw of each size, by SciPy's trees and NumPy's least squares."""
    rng = np.random.default_rng(seed)
    energies = []
    for size in sizes:
        part = cloud[rng.choice(len(cloud), size=int(size), replace=False, shuffle=False)]
        energies.append(np.sum(csgraph.minimum_spanning_tree(cdist(part, part)).data ** power))
    return power / (1.0 - np.polyfit(np.log(sizes), np.log(energies), 1)[0])


@pytest.mark.smoke
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dimension", [2.5, 7.0])
def test_the_growth_law_gives_back_its_dimension(alpha, dimension):
    sizes = np.log(subsample_sizes(1000, 50, 2000, 8))
    slope, residual, curvature = line_fit(sizes, 3.0 + (dimension - alpha) / dimension * sizes)
    assert dimension_from_slope(slope, alpha, n=1000) == pytest.approx(dimension)
    assert residual == pytest.approx(0.0, abs=1e-12)
    assert curvature == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 4])
@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_flat_tori_read_their_dimension(dimension, statistic):
    cloud = flat_torus(600, dimension, 10, np.random.default_rng(0))
    found = PersistentHomology(alpha=0.5, statistic=statistic)(cloud, rng=np.random.default_rng(0))
    assert found.dimension == pytest.approx(dimension, rel=0.15)


# --- sizes and draws -------------------------------------------------------------------------------


def test_sizes_run_in_equal_steps_of_the_logarithm_to_the_cloud_or_the_limit():
    assert subsample_sizes(100, 50, 2000, 3).tolist() == [50, 71, 100]
    assert subsample_sizes(10_000, 50, 2000, 2).tolist() == [50, 2000]


def test_linear_sizes_run_in_equal_steps():
    assert subsample_sizes(390, 40, 512, 8, spacing="linear").tolist() == [40, 90, 140, 190, 240, 290, 340, 390]


def test_draws_come_line_by_line_from_the_generator_and_the_whole_cloud_once():
    sizes = np.array([5, 12, 20])
    drawn, number = draw_subsets(20, sizes, 4, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for line in range(4):
        for place, size in enumerate(sizes):
            expected = np.sort(rng.choice(20, size=int(size), replace=False, shuffle=False))
            np.testing.assert_array_equal(drawn[number[line, place]], expected)
    assert len(drawn) == 4 * 2 + 1


def test_one_draw_of_explicit_sizes_equals_an_independent_computation():
    cloud = gaussian(400, 4, 12, np.random.default_rng(1))
    sizes = (60, 110, 190, 300)
    found = PersistentHomology(sizes=sizes, n_draws=1, n_repetitions=1, alpha=0.7)(cloud, rng=np.random.default_rng(5))
    assert found.dimension == pytest.approx(growth(cloud, sizes, 5, power=0.7), rel=1e-9)
    assert found.diagnostics["sizes"].tolist() == list(sizes)


def test_a_large_cloud_is_subsampled_up_to_max_points():
    cloud = sphere(600, 2, 5, np.random.default_rng(3))
    found = PersistentHomology(max_points=200)(cloud, rng=np.random.default_rng(0))
    assert found.diagnostics["sizes"][[0, -1]].tolist() == [50, 200]
    assert found.n_points == 600
    assert found.dimension == pytest.approx(2.0, rel=0.15)


def test_another_order_of_rows_is_another_draw():
    cloud = gaussian(400, 3, 8, np.random.default_rng(4))
    first, second = (PersistentHomology()(part, rng=np.random.default_rng(0)) for part in (cloud, cloud[::-1]))
    assert first.dimension != second.dimension
    assert second.dimension == pytest.approx(first.dimension, rel=0.08)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": ()}, r"`alpha` must hold one or more different numbers, got \(\)"),
        ({"alpha": (1.0, 1.0)}, r"`alpha` must hold one or more different numbers, got \(1.0, 1.0\)"),
        ({"alpha": (1.0, -1.0)}, r"`alpha` must be a number in \(0, inf\), got -1.0"),
        ({"degree": 0.5}, r"`degree` must be an integer of at least 0, got 0.5"),
        ({"degree": 1}, r"`backend` must be 'giotto' or 'ripser'.*got 'torch' with degree=1: pass backend='giotto'"),
        ({"sizes": (50,)}, r"`sizes` must hold at least two sizes, ascending, got \(50,\)"),
        ({"sizes": (50, 50)}, r"`sizes` must hold at least two sizes, ascending, got \(50, 50\)"),
        ({"sizes": (3, 50)}, r"`sizes` must be an integer of at least 4, got 3"),
        ({"spacing": "even"}, r"`spacing` must be one of 'geometric', 'linear', got 'even'"),
        ({"max_points": 99}, r"`max_points` must be an integer of at least 100, got 99"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PersistentHomology(**options)


def test_lists_are_kept_as_tuples():
    found = PersistentHomology(alpha=[1, 0.5], sizes=np.array([50, 100]))
    assert found == PersistentHomology(alpha=(1.0, 0.5), sizes=(50, 100))
    assert hash(found) == hash(dataclasses.replace(found))
    assert all(type(size) is int for size in found.sizes)


# --- several powers --------------------------------------------------------------------------------


def test_several_powers_share_their_trees_and_the_first_is_the_main_one():
    cloud = subspace(400, 4, 9, np.random.default_rng(2))
    powers = (0.5, 1.0, 2.0)
    found = PersistentHomology(alpha=powers)(cloud, rng=np.random.default_rng(1))
    alone = [PersistentHomology(alpha=power)(cloud, rng=np.random.default_rng(1)) for power in powers]
    assert found.scales.tolist() == list(powers)
    assert found.dimension_by_scale.tolist() == [estimate.dimension for estimate in alone]
    assert (found.dimension, found.standard_error) == (alone[0].dimension, alone[0].standard_error)
    assert alone[0].scales is None
    # A cube of 4 dimensions: all powers below 4 measure the same.
    np.testing.assert_allclose(found.dimension_by_scale, 4.0, rtol=0.12)


def test_a_further_power_above_the_dimension_is_nan_and_the_main_one_stands():
    line = np.random.default_rng(4).random((300, 1)) @ np.ones((1, 3))
    found = PersistentHomology(alpha=(0.5, 3.0))(line, rng=np.random.default_rng(0))
    assert found.dimension == pytest.approx(1.0, abs=0.15)
    assert np.isnan(found.dimension_by_scale[1])


# --- errors and bends ------------------------------------------------------------------------------


def test_the_interval_holds_the_estimate_and_grows_with_confidence():
    cloud = ball(400, 3, 6, np.random.default_rng(0))
    narrow, wide = (PersistentHomology(confidence=c)(cloud, rng=np.random.default_rng(0)) for c in (0.5, 0.99))
    assert wide.interval[0] < narrow.interval[0] < narrow.dimension < narrow.interval[1] < wide.interval[1]
    # 140 degrees of freedom (20 for each size below the cloud) are nearly normal.
    assert narrow.interval[1] - narrow.dimension == pytest.approx(0.6745 * narrow.standard_error, rel=0.01)


def test_more_draws_shrink_the_error_but_not_below_that_of_the_cloud():
    cloud = flat_torus(500, 3, 8, np.random.default_rng(0))
    errors = [
        PersistentHomology(n_draws=draws, n_repetitions=1)(cloud, rng=np.random.default_rng(0)).standard_error
        for draws in (3, 20, 80)
    ]
    assert errors[0] > 1.3 * errors[1] > 1.3 * errors[2] > 0.5 * errors[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (lambda rng: flat_torus(500, 3, 8, rng), 0.75, 1.35),
        (lambda rng: ball(500, 4, 6, rng), 0.75, 1.35),
        # Density that all sizes share adds to the spread of draws, not to that of slopes: the error is too wide.
        (lambda rng: gaussian(500, 6, 8, rng), 0.85, 1.6),
    ],
    ids=["3-torus", "4-ball", "6-gaussian"],
)
def test_the_error_is_the_spread_over_new_clouds(make, low, high):
    found = [PersistentHomology()(make(np.random.default_rng(i)), rng=np.random.default_rng(i)) for i in range(48)]
    spread = np.std([estimate.dimension for estimate in found], ddof=1)
    assert low < np.mean([estimate.standard_error for estimate in found]) / spread < high


@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize(
    "make",
    [
        lambda n, rng: sphere(n, 2, 4, rng),
        lambda n, rng: flat_torus(n, 3, 8, rng),
        lambda n, rng: gaussian(n, 5, 8, rng),
    ],
    ids=["2-sphere", "3-torus", "5-gaussian"],
)
def test_clean_clouds_give_no_warning(make, n):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = PersistentHomology()(make(n, np.random.default_rng(7)), rng=np.random.default_rng(7))
    assert abs(found.diagnostics["bend"]) < 0.15
    assert found.diagnostics["curvature_z"] == pytest.approx(
        found.diagnostics["curvature"] / found.diagnostics["curvature_error"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_fewer_than_one_clean_cloud_in_fifty_warns(alpha):
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        for cloud in (sphere(500, 2, 4, rng), flat_torus(500, 3, 8, rng), gaussian(500, 5, 8, rng)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                PersistentHomology(alpha=alpha)(cloud, rng=rng)
            alarms += len(caught)
    assert alarms <= 3  # of 180


@pytest.mark.parametrize(
    "cloud",
    [noisy_sheet(800, 0.01, np.random.default_rng(0)), clusters(500, np.random.default_rng(0))],
    ids=["a sheet with noise", "clusters"],
)
def test_a_line_that_bends_is_reported_with_its_bend(cloud):
    message = (
        r"line behind the persistent homology dimension .* bends: .*sizes 50 to \d+ its slope changes by \+0\.\d+ ±"
    )
    with pytest.warns(UserWarning, match=message):
        found = PersistentHomology()(cloud, rng=np.random.default_rng(0))
    assert found.diagnostics["bend"] > 0.2
    assert found.diagnostics["curvature_z"] > 5.0


def test_a_line_of_three_sizes_has_no_curvature_and_no_warning():
    found = PersistentHomology(n_sizes=3)(
        noisy_sheet(500, 0.01, np.random.default_rng(0)), rng=np.random.default_rng(0)
    )
    assert np.isnan(found.diagnostics["curvature"])
    assert found.standard_error > 0.0


# --- presets ---------------------------------------------------------------------------------------


def test_the_settings_of_tulchinskii_are_those_of_the_paper_and_the_released_sizes():
    preset = PersistentHomology.tulchinskii2023()
    assert (preset.alpha, preset.n_sizes, preset.n_draws, preset.n_repetitions) == (1.0, 8, 7, 3)
    assert (preset.statistic, preset.spacing, preset.min_points, preset.max_points) == ("median", "linear", 40, 512)
    tokens = gaussian(390, 8, 50, np.random.default_rng(0))
    found = preset(tokens, rng=np.random.default_rng(0))
    # The released example counts from 40 in steps of (n − 40) // 7 and stops before n.
    assert found.diagnostics["sizes"].tolist() == [*range(40, 390, (390 - 40) // 7), 390]


def test_the_settings_of_birdal_give_what_their_recipe_gives():
    preset = PersistentHomology.birdal2021()
    assert (preset.alpha, preset.n_draws, preset.n_repetitions, preset.degree) == (1.0, 1, 1, 0)
    assert preset.sizes == tuple(range(200, 1000, 50))
    iterates = np.cumsum(np.random.default_rng(0).standard_normal((1000, 8)), axis=0)
    found = preset(iterates, rng=np.random.default_rng(3))
    assert found.dimension == pytest.approx(growth(iterates, range(200, 1000, 50), 3), rel=1e-9)
    assert 0.0 < found.standard_error < 0.2 * found.dimension


def test_explicit_sizes_need_a_cloud_as_large_as_the_largest():
    with pytest.raises(DegenerateCloudError, match=r"949 distinct points.*at least 950"):
        PersistentHomology.birdal2021()(gaussian(949, 3, 5, np.random.default_rng(0)), rng=np.random.default_rng(0))


# --- backends and degrees --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["giotto", "ripser"])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_the_backends_agree_for_the_same_generator(backend, shift):
    cloud = sphere(250, 3, 20, np.random.default_rng(1)) + shift
    ours = PersistentHomology(n_draws=3)(cloud, rng=np.random.default_rng(7))
    theirs = PersistentHomology(n_draws=3, backend=backend)(cloud, rng=np.random.default_rng(7))
    assert theirs.dimension == pytest.approx(ours.dimension, rel=1e-5)
    assert theirs.standard_error == pytest.approx(ours.standard_error, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (lambda rng: sphere(320, 2, 4, rng), "giotto"),
        (lambda rng: sphere(320, 2, 4, rng), "ripser"),
        (lambda rng: flat_torus(320, 2, 4, rng), "giotto"),
    ],
    ids=["2-sphere-giotto", "2-sphere-ripser", "2-torus-giotto"],
)
def test_loops_of_a_surface_read_two_within_a_factor_of_one_and_a_half(make, backend):
    estimator = PersistentHomology(degree=1, backend=backend, sizes=(80, 120, 170, 240), n_draws=2)
    found = estimator(make(np.random.default_rng(0)), rng=np.random.default_rng(0))
    assert 2.0 / 1.5 < found.dimension < 2.0 * 1.5


@pytest.mark.parametrize(("degree", "largest"), [(0, 2000), (1, 400), (2, 120)])
def test_higher_degrees_take_smaller_subsamples_by_default(degree, largest):
    assert PersistentHomology(degree=degree, backend="ripser")._largest == largest
    assert PersistentHomology(degree=degree, backend="ripser", min_points=1500)._largest == 3000


def test_points_on_a_line_have_no_loops():
    line = np.random.default_rng(4).random((300, 1)) @ np.ones((1, 3))
    with pytest.raises(
        DegenerateCloudError, match=r"in degree 1 is undefined: \d+ of \d+ subsamples have no finite bar"
    ):
        PersistentHomology(degree=1, backend="ripser", max_points=100, n_draws=1)(line, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("backend", "module", "hint"), [("giotto", "gph", r"gelora\[giotto\]"), ("ripser",) * 3])
def test_a_missing_backend_names_what_to_install(backend, module, hint, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    cloud = sphere(120, 2, 5, np.random.default_rng(6))
    with pytest.raises(ImportError, match=rf"`backend='{backend}'`.*pip install.*{hint}"):
        PersistentHomology(backend=backend)(cloud, rng=np.random.default_rng(0))


# --- what is refused or harmless -------------------------------------------------------------------


def test_offsets_single_precision_and_copies_do_not_mislead_it():
    clean = sphere(800, 5, 768, np.random.default_rng(2))
    spoilt = clean.copy()
    spoilt[:, :2] += [300.0, -1000.0]
    spoilt = np.concatenate([spoilt, spoilt[:80]]).astype(np.float32)
    found, expected = (PersistentHomology()(cloud, rng=np.random.default_rng(0)) for cloud in (spoilt, clean))
    assert found.dimension == pytest.approx(expected.dimension, rel=1e-3)
    assert found.dimension == pytest.approx(5.0, abs=0.5)
    assert (found.n_points, found.diagnostics["n_copies"]) == (800, 80)


def repeated(cloud, n_vectors, times):
    """Return the cloud with its first vectors repeated so many times, each rounded in another way."""
    rng = np.random.default_rng(1)
    parts = [cloud[:n_vectors] * (1.0 + rng.integers(1, 5, size=(n_vectors, 9)) * 2.0**-52) for _ in range(times)]
    return np.concatenate([cloud, *parts])


@pytest.mark.parametrize("backend", ["torch", "ripser"])
@pytest.mark.parametrize(("n_vectors", "times", "near"), [(101, 2, 303), (160, 1, 320), (20, 20, 420)])
def test_a_cloud_of_which_most_is_repeated_with_rounding_noise_is_refused(n_vectors, times, near, backend):
    cloud = repeated(gaussian(300, 3, 9, np.random.default_rng(0)), n_vectors, times)
    message = f"{near} of {len(cloud)} distinct points have their nearest neighbour within the rounding"
    with pytest.raises(DegenerateCloudError, match=message):
        PersistentHomology(backend=backend, n_draws=1)(cloud, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("n_vectors", "times"), [(99, 1), (60, 2)])
def test_a_cloud_of_which_less_than_half_is_repeated_is_read(n_vectors, times):
    cloud = repeated(gaussian(300, 3, 9, np.random.default_rng(0)), n_vectors, times)
    assert PersistentHomology()(cloud, rng=np.random.default_rng(0)).n_points == len(cloud)


def test_the_largest_subsamples_of_a_large_cloud_are_searched_for_repeated_vectors():
    cloud = repeated(gaussian(300, 3, 9, np.random.default_rng(0))[:20], 20, 20)
    with pytest.raises(DegenerateCloudError, match="of 100 distinct points have their nearest neighbour within"):
        PersistentHomology(max_points=100)(cloud, rng=np.random.default_rng(0))


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
