"""Calibration: what is simulated, how it is turned round, and how often the interval holds."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from gelora_estimators import (
    MLE,
    CalibratedEstimator,
    DegenerateCloudError,
    DimensionEstimate,
    Gride,
    InformationCeilingWarning,
    LocalDimension,
    PersistentHomology,
    Spectral,
    TwoNN,
    calibrated,
    check_estimator,
    distinct_points,
    nearest_distances,
)
from gelora_estimators.calibration import CalibrationCurve, calibration_curve
from gelora_estimators.calibration_curve import FAMILIES, without_error
from gelora_estimators.clouds import ball, gaussian, sphere

GRID = (2, 3, 4, 6, 8, 11, 16, 23, 32)


@cache
def shared_curve(estimator, n_replicates=6):
    """Return one curve at n = 1,000 for all tests."""
    return calibration_curve(estimator, 1000, 64, grid=GRID, n_replicates=n_replicates)


def power_law(*, factor=0.8, power=0.9, spread=0.02, n_replicates=20, ambient=None, top=6, embedding="minimal"):
    """Return a curve that reads factor · d^power exactly, as if both families agreed."""
    grid = 2.0 ** np.arange(top)
    mean = np.tile(factor * grid**power, (2, 1))
    return CalibrationCurve(
        n=100,
        ambient=ambient,
        estimator=repr(without_error(TwoNN())),
        grid=grid,
        families=("ball", "sphere"),
        mean=mean,
        sd=spread * mean,
        n_replicates=n_replicates,
        seed=0,
        embedding=embedding,
    )


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """A stand-in that reads the number of coordinates that vary."""

    interval: str = "never"

    def __call__(self, points, *, rng):
        rank = float(np.linalg.matrix_rank(points - points.mean(axis=0)))
        return DimensionEstimate(dimension=rank, n_points=len(points))


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Somebody's estimator that takes lists of distances and nothing else; its fields are its own business."""

    interval: str = "chi2"
    n_subsamples: int = 7
    name: str = "twonn"
    k: int = 2

    def __call__(self, points, *, rng):
        found = nearest_distances(points, self.k)
        return self.from_distances(found.distances, len(points), rng)

    def from_distances(self, distances, n, rng):
        ratios = distances[:, 1] / distances[:, 0]
        return DimensionEstimate(dimension=float(1.0 / np.log(ratios).mean()), n_points=n)


class Keywords(Plugin):
    """The same, noting what else it is offered."""

    def from_distances(self, distances, n, rng, **lists):
        OFFERED.append(set(lists))
        return super().from_distances(distances, n, rng)


class Pointed(Plugin):
    """The same, taking the points alone."""

    def from_distances(self, distances, n, rng, *, points=None):
        OFFERED.append(None if points is None else {"points"})
        return super().from_distances(distances, n, rng)


OFFERED = []


@pytest.mark.smoke
def test_a_power_law_is_inverted_exactly_between_and_below_the_grid_points():
    curve = power_law()
    for d in (0.4, 1.0, 3.0, 11.0, 31.0):
        raw = 0.8 * d**0.9 if d >= 1 else 0.8 * d  # proportional below the grid
        found = curve.correct(raw)
        assert found.dimension == pytest.approx(d, rel=1e-3)
        np.testing.assert_allclose(found.by_family, d, rtol=1e-3)
        assert found.slope == pytest.approx(0.9 if d >= 1.1 else 1.0, abs=0.01)
        assert found.spread == pytest.approx(0.02, rel=1e-6)


def test_the_interval_holds_what_the_test_at_each_dimension_does_not_refuse():
    curve = power_law(n_replicates=2000)  # so many that curve and spread are known
    found = curve.correct(0.8 * 8.0**0.9, confidence=0.9)
    reach = np.exp(1.6449 * 0.02 / 0.9)
    assert found.interval == pytest.approx((8.0 / reach, 8.0 * reach), rel=1e-3)
    few = power_law(n_replicates=3).correct(0.8 * 8.0**0.9, confidence=0.9)
    assert few.interval[0] < found.interval[0] < found.interval[1] < few.interval[1]


def test_families_that_differ_widen_the_interval_to_their_envelope():
    one = power_law()
    two = CalibrationCurve(
        n=100,
        ambient=None,
        estimator=one.estimator,
        grid=one.grid,
        families=one.families,
        mean=one.mean * np.array([[1.0], [1.2]]),
        sd=one.sd * np.array([[1.0], [1.2]]),
        n_replicates=20,
        seed=0,
    )
    raw = 0.8 * 10.0**0.9
    found = two.correct(raw)
    np.testing.assert_allclose(found.by_family, [10.0, 10.0 / 1.2 ** (1 / 0.9)], rtol=2e-3)
    assert found.dimension == pytest.approx(found.by_family.mean())
    assert found.interval[1] == pytest.approx(one.correct(raw).interval[1])
    assert found.interval[0] == pytest.approx(one.correct(raw / 1.2).interval[0])


def test_a_raw_value_beyond_the_simulated_range_is_bounded_by_the_coordinates_alone():
    raw = 0.8 * 60.0**0.9
    assert power_law().correct(raw).interval[1] == np.inf
    assert power_law(ambient=500).correct(raw).interval[1] == 500.0
    assert not power_law(ambient=500).correct(raw).bounded
    whole = power_law(ambient=32).correct(raw)  # every dimension that fits was simulated
    assert whole.bounded
    assert whole.interval[1] == whole.dimension == 32.0


def test_the_coordinates_of_the_cloud_at_hand_are_the_ceiling():
    raw = 0.8 * 20.0**0.9
    for curve in (power_law(), power_law(ambient=500), power_law(ambient=10)):
        free = curve.correct(raw, ambient=1000)
        assert free.dimension == pytest.approx(20.0, rel=1e-3)
        capped = curve.correct(raw, ambient=15)
        assert (capped.dimension, capped.interval, capped.bounded) == (15.0, (15.0, 15.0), True)
        assert bool((capped.by_family == 15.0).all())
        near = curve.correct(raw, ambient=20)
        assert near.interval == (free.interval[0], 20.0)
    beyond = power_law(ambient=500).correct(0.8 * 60.0**0.9, ambient=70)
    assert (beyond.interval[1], beyond.bounded) == (70.0, False)


def test_a_ready_curve_takes_the_ceiling_from_the_cloud():
    cloud = gaussian(100, 3, 3, np.random.default_rng(0))
    wide = np.concatenate([cloud, np.zeros((100, 12))], axis=1)
    curve = power_law(ambient=64)
    estimator = calibrated(TwoNN(), curve=curve, precision=9.0)
    narrow, padded = (estimator(one, rng=np.random.default_rng(0)) for one in (cloud, wide))
    raw = padded.diagnostics["raw_dimension"]
    assert padded.interval == curve.correct(raw).interval
    assert padded.interval[1] > 3.0
    assert narrow.interval == (min(padded.interval[0], 3.0), 3.0)
    assert narrow.dimension <= 3.0
    short = calibrated(TwoNN(), curve=power_law(ambient=64, top=1))  # simulates nothing but lines
    with pytest.warns(InformationCeilingWarning, match="do not bound it above"):
        assert short(wide, rng=np.random.default_rng(0)).interval[1] == 15.0
    found = nearest_distances(cloud, estimator.k)
    lists = {"indices": found.indices, "points": cloud}
    shared = estimator.from_distances(found.distances, 100, np.random.default_rng(0), **lists)
    assert shared.interval == narrow.interval
    blind = estimator.from_distances(found.distances, 100, np.random.default_rng(0), indices=found.indices)
    assert blind.interval == curve.correct(blind.diagnostics["raw_dimension"]).interval


def test_a_curve_that_ends_at_fewer_coordinates_is_refused():
    cloud = gaussian(100, 9, 15, np.random.default_rng(0))
    match = r"`curve` must reach beyond 4 dimensions for the 15 coordinates.*calibration_curve\(estimator, 100, 15\)"
    with pytest.raises(ValueError, match=match):
        calibrated(TwoNN(), curve=power_law(ambient=4, top=3))(cloud, rng=np.random.default_rng(0))
    match = r"`curve` must be for the 15 coordinates.*for 64: .*\(estimator, 100, 15, embedding='full'\)"
    full = power_law(ambient=64, embedding="full")
    with pytest.raises(ValueError, match=match):
        calibrated(TwoNN(), curve=full)(cloud, rng=np.random.default_rng(0))


def test_options_that_contradict_a_ready_curve_are_refused():
    curve = power_law()
    alike = {"families": ("ball", "sphere"), "n_replicates": 20, "grid": (1, 2, 4, 8, 16, 32), "seed": 0}
    calibrated(TwoNN(), curve=curve, **alike)
    calibrated(TwoNN(), curve=power_law(ambient=9, embedding="full"), embedding="full")
    for options in ({"families": ("cube",)}, {"n_replicates": 5}, {"grid": (2, 4)}, {"embedding": "full"}, {"seed": 3}):
        (name,) = options
        match = rf"`{name}` must be left out beside a `curve`, .*calibration_curve\(estimator, n, ambient, {name}="
        with pytest.raises(ValueError, match=match):
            calibrated(TwoNN(), curve=curve, **options)


def test_curves_rise_whatever_the_noise():
    curve = power_law()
    noisy = np.array([[1.0, 2.0, 1.7, 1.8, 9.0, 8.0]] * 2)
    kinked = CalibrationCurve(
        n=100,
        ambient=None,
        estimator=curve.estimator,
        grid=curve.grid,
        families=curve.families,
        mean=noisy,
        sd=0.05 * noisy,
        n_replicates=5,
        seed=0,
    )
    raws = np.linspace(0.5, 12.0, 200)
    found = [kinked.correct(raw) for raw in raws]
    for values in (
        [one.dimension for one in found],
        [one.interval[0] for one in found],
        [one.interval[1] for one in found],
    ):
        finite = np.array(values)[np.isfinite(values)]
        assert bool((np.diff(finite) >= 0).all())
        assert bool(np.isfinite(values[: len(finite)]).all())  # infinity, if at all, comes last
    assert all(one.interval[0] <= one.dimension <= one.interval[1] for one in found)


@pytest.mark.parametrize("estimator", [TwoNN(), MLE()], ids=repr)
def test_the_simulated_curve_rises_and_bends(estimator):
    curve = shared_curve(estimator)
    assert bool((np.diff(curve.mean, axis=1) > 0).all())
    share = curve.mean / curve.grid
    assert bool((share[:, -1] < 0.8).all())
    assert bool((share[0] < share[1] + 0.02).all())  # a ball has an edge, a sphere has none


@pytest.mark.smoke
@pytest.mark.parametrize("dimension", [5, 10, 20])
def test_the_corrected_dimension_is_nearer_than_the_raw_one_and_within_its_interval(dimension):
    for estimator in (TwoNN(), MLE()):
        for make in (ball, sphere):
            cloud = make(1000, dimension, 64, np.random.default_rng(20 + dimension))
            found = calibrated(estimator, curve=shared_curve(estimator))(cloud, rng=np.random.default_rng(0))
            raw = found.diagnostics["raw_dimension"]
            assert raw == estimator(cloud, rng=np.random.default_rng(0)).dimension
            assert found.interval[0] <= dimension <= found.interval[1]
            nearer = abs(found.dimension - dimension) < abs(raw - dimension)
            # At dimension 5 the raw estimate of a sphere has no bias to speak of.
            assert nearer or (dimension == 5 and make is sphere)


def test_the_correction_takes_the_bias_out_on_average():
    for estimator in (TwoNN(), MLE()):
        curve = shared_curve(estimator)
        for family, (make, extra) in list(FAMILIES.items())[:2]:
            raws = [
                without_error(estimator)(
                    make(1000, 20, 20 + extra, np.random.default_rng([3, seed])), rng=np.random.default_rng(0)
                ).dimension
                for seed in range(15)
            ]
            place = curve.families.index(family)
            found = np.mean([curve.correct(raw).by_family[place] for raw in raws])
            assert np.mean(raws) < 17.5
            assert found == pytest.approx(20.0, abs=0.9)


def test_equal_seeds_give_equal_bits_and_the_generator_does_not_matter():
    cloud = ball(300, 6, 10, np.random.default_rng(0))
    estimator = calibrated(TwoNN(), n_replicates=3)
    first, second = (estimator(cloud, rng=np.random.default_rng(seed)) for seed in (0, 1))
    assert (first.dimension, first.interval, first.standard_error) == (
        second.dimension,
        second.interval,
        second.standard_error,
    )
    np.testing.assert_array_equal(first.diagnostics["curve_mean"], second.diagnostics["curve_mean"])
    other = calibrated(TwoNN(), n_replicates=3, seed=1)(cloud, rng=np.random.default_rng(0))
    assert other.dimension != first.dimension
    assert (first.diagnostics["seed"], other.diagnostics["seed"]) == (0.0, 1.0)


def test_what_is_read_at_one_dimension_does_not_depend_on_the_others():
    wide = calibration_curve(TwoNN(), 150, None, grid=(2, 5, 9), n_replicates=3)
    narrow = calibration_curve(TwoNN(), 150, None, grid=(5,), n_replicates=3, families=("sphere",))
    assert narrow.mean[0, 0] == wide.mean[1, 1]
    assert narrow.sd[0, 0] == wide.sd[1, 1]


def test_the_range_simulated_passes_the_raw_estimate_by_its_spread():
    for raw in (0.9, 4.0, 17.0):
        curve = calibration_curve(TwoNN(), 300, None, covering=(raw,), n_replicates=4)
        spread = np.sqrt(np.mean(np.square(curve.sd / curve.mean)))
        assert bool((np.log(curve.mean[:, -1] / raw) > 4 * spread).all())
        assert curve.grid[0] == 1.0 or bool((np.log(raw / curve.mean[:, 0]) > 4 * spread).all())
        assert len(curve.grid) >= 5
    assert calibration_curve(TwoNN(), 100, 3, covering=(2.5,), n_replicates=3).grid.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.smoke
def test_a_warning_tells_that_200_points_cannot_see_200_dimensions():
    cloud = gaussian(200, 200, 200, np.random.default_rng(1))
    with pytest.warns(InformationCeilingWarning, match=r"^200 points are too few .*calibrated\(twonn\): it reads \d"):
        found = calibrated(TwoNN(), n_replicates=4)(cloud, rng=np.random.default_rng(0))
    assert found.diagnostics["raw_dimension"] < 90
    assert found.interval[1] - found.interval[0] > 40
    with pytest.warns(
        InformationCeilingWarning, match=r"at least \d+(\.\d+)?, and the simulated dimensions do not bound"
    ):
        found = calibrated(TwoNN(), n_replicates=4, grid=(2, 4, 8, 16))(cloud, rng=np.random.default_rng(0))
    assert found.interval[1] == 200.0


def test_1000_points_see_five_dimensions_without_a_warning():
    cloud = gaussian(1000, 5, 20, np.random.default_rng(1))
    found = calibrated(TwoNN(), curve=shared_curve(TwoNN()))(cloud, rng=np.random.default_rng(0))
    assert found.interval[0] < 5 < found.interval[1] < 7


@pytest.mark.parametrize(
    "estimator", [TwoNN(), MLE(k1=5, k2=10), Gride(), LocalDimension(n_neighbors=30)], ids=lambda one: one.name
)
def test_from_distances_equals_the_call_bit_by_bit_whatever_the_columns(estimator):
    cloud = sphere(200, 4, 9, np.random.default_rng(0))
    repeated = np.concatenate([cloud, cloud[:9]])
    corrected = calibrated(estimator, n_replicates=3)
    direct = corrected(repeated, rng=np.random.default_rng(0))
    assert corrected.k == estimator.k
    assert (direct.n_points, direct.diagnostics["n_copies"]) == (200, 9)
    points = repeated[distinct_points(repeated).rows]
    for columns in (corrected.k, corrected.k + 1, 199):
        found = nearest_distances(repeated, columns)
        shared = corrected.from_distances(
            found.distances, 209, np.random.default_rng(0), indices=found.indices, points=points
        )
        assert (shared.dimension, shared.interval) == (direct.dimension, direct.interval)
        assert shared.standard_error == direct.standard_error
        assert set(shared.diagnostics) == set(direct.diagnostics)
        for key, value in shared.diagnostics.items():
            np.testing.assert_array_equal(value, direct.diagnostics[key], err_msg=key)


def test_neighbour_lists_are_offered_only_where_the_estimator_takes_them():
    assert hasattr(calibrated(TwoNN()), "from_distances")
    assert not hasattr(calibrated(PersistentHomology()), "from_distances")
    assert not hasattr(calibrated(PersistentHomology()), "k")


@pytest.mark.parametrize(
    ("kind", "offered"), [(Plugin, None), (Keywords, {"indices", "points"}), (Pointed, {"points"})]
)
def test_a_plug_in_gets_only_the_lists_its_signature_takes(kind, offered):
    cloud = sphere(100, 3, 6, np.random.default_rng(0))
    estimator = calibrated(kind(), grid=(2, 3, 4, 6), n_replicates=3, precision=9.0)
    direct = estimator(cloud, rng=np.random.default_rng(0))
    found = nearest_distances(cloud, 5)
    OFFERED.clear()
    lists = {"indices": found.indices, "points": cloud}
    shared = estimator.from_distances(found.distances, 100, np.random.default_rng(0), **lists)
    assert (shared.dimension, shared.interval) == (direct.dimension, direct.interval)
    assert OFFERED[:1] == ([] if offered is None else [offered])
    OFFERED.clear()
    estimator.from_distances(found.distances, 100, np.random.default_rng(0))
    assert OFFERED[:1] == {Plugin: [], Keywords: [set()], Pointed: [None]}[kind]


def test_the_device_is_that_of_the_estimator_if_it_has_one():
    assert calibrated(TwoNN(device="cpu")).device == "cpu"
    assert calibrated(TwoNN()).device == "auto"
    assert not hasattr(calibrated(Plugin()), "device")
    with pytest.raises(AttributeError, match="'Plugin' object has no attribute 'device'"):
        calibrated(Plugin()).device  # noqa: B018


def test_an_estimator_of_another_kind_is_corrected_too():
    cloud = gaussian(120, 3, 12, np.random.default_rng(0))
    estimator = PersistentHomology(n_sizes=4, n_draws=3, n_repetitions=1, min_points=30)
    found = calibrated(estimator, n_replicates=4)(cloud, rng=np.random.default_rng(0))
    assert found.interval[0] < 3 < found.interval[1]
    # Spheres of dimension 1 have none at alpha = 1, so that the curve starts above.
    counter = calibrated(Coordinates(), families=("ball",), n_replicates=3)
    exact = counter(cloud, rng=np.random.default_rng(0))
    assert (exact.dimension, exact.standard_error) == (pytest.approx(3.0), 0.0)
    assert exact.interval == pytest.approx((3.0, 3.0))
    assert counter.name == "calibrated(Coordinates)"


def test_full_embedding_draws_in_as_many_coordinates_as_the_cloud_has():
    seen = []

    def spy(points, *, rng):
        seen.append(points.shape)
        return TwoNN()(points, rng=rng)

    cloud = gaussian(60, 2, 9, np.random.default_rng(0))
    calibrated(spy, embedding="full", grid=(2, 8), n_replicates=3, precision=9.0)(cloud, rng=np.random.default_rng(0))
    assert set(seen) == {(60, 9)}
    seen.clear()
    calibrated(spy, grid=(2, 8), n_replicates=3, precision=9.0)(cloud, rng=np.random.default_rng(0))
    assert set(seen[1:]) == {(60, 2), (60, 3), (60, 8), (60, 9)}
    with pytest.raises(ValueError, match=r"`ambient` must be above 1 for embedding='full'.*got None"):
        calibration_curve(TwoNN(), 60, None, embedding="full")


def test_the_simulation_spares_errors_and_nothing_else():
    assert without_error(TwoNN(discard=0.2, n_subsamples=9)) == TwoNN(discard=0.2, interval="chi2")
    assert without_error(TwoNN(fit="posterior")) == TwoNN(fit="posterior", interval="posterior")
    assert without_error(TwoNN(fit="likelihood")) == TwoNN(fit="likelihood", interval="chi2")
    assert without_error(MLE()).interval == "pointwise"
    assert without_error(Gride(interval="subsampling")).interval == "fisher"
    assert without_error(LocalDimension()).interval == "none"
    assert without_error(Spectral(method="entropy")) == Spectral(method="entropy", interval="none")
    cloud = sphere(300, 4, 9, np.random.default_rng(0))
    posterior = TwoNN(fit="posterior")
    for estimator in (TwoNN(), posterior, MLE(), Gride(interval="subsampling"), LocalDimension(), Spectral()):
        bare = without_error(estimator)(cloud, rng=np.random.default_rng(0))
        assert bare.dimension == estimator(cloud, rng=np.random.default_rng(0)).dimension


def test_an_estimator_that_offers_no_cheaper_version_is_left_as_it_is():
    for estimator in (Coordinates(), Plugin(), Keywords(), PersistentHomology()):
        assert without_error(estimator) is estimator


def test_a_curve_of_another_n_or_estimator_is_refused():
    cloud = ball(90, 3, 5, np.random.default_rng(0))
    match = r"`curve` must be for the 90 distinct .* got one for 100: .*calibration_curve\(estimator, 90, 5\)"
    with pytest.raises(ValueError, match=match):
        calibrated(TwoNN(), curve=power_law())(cloud, rng=np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"`curve` must be of the same estimator, MLE\(.*got one of TwoNN\(.*\(estimator, n, ambient\)"
    ):
        calibrated(MLE(), curve=power_law())


def test_options_outside_their_range_are_refused():
    for options, match in (
        ({"families": ()}, r'`families` must be a tuple that names at least one .* pass families=\("ball",\)'),
        ({"families": "cube"}, r"`families` must be a tuple .*got 'cube': pass families=\(\"cube\",\)"),
        ({"families": 3}, r'`families` must be a tuple .*got 3: pass families=\("ball",\)'),
        ({"families": ("torus",)}, "`families` must be one of"),
        ({"n_replicates": 2}, "`n_replicates` must be an integer of at least 3"),
        ({"grid": (0, 2)}, "`grid` must be an integer of at least 1"),
        ({"grid": (2, 2.5)}, "`grid` must be an integer of at least 1, got 2.5"),
        ({"grid": ()}, r"`grid` must be a tuple of at least one dimension, got \(\)"),
        ({"grid": 5}, "`grid` must be a tuple of at least one dimension, got 5"),
        ({"grid": (4, 2, 4)}, r"`grid` must ascend, each dimension once, got \(4, 2, 4\): pass \(2, 4\)"),
        ({"confidence": 1.0}, "`confidence` must be a number in"),
        ({"precision": 0.0}, "`precision` must be a number in"),
        ({"embedding": "none"}, "`embedding` must be one of"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
    ):
        with pytest.raises(ValueError, match=match):
            CalibratedEstimator(estimator=TwoNN(), **options)
    with pytest.raises(TypeError, match="`estimator` must be an estimator such as"):
        calibrated(TwoNN)


def test_a_grid_beyond_the_coordinates_of_the_cloud_never_takes_the_result_there():
    cloud = gaussian(100, 3, 3, np.random.default_rng(0))
    estimator = calibrated(TwoNN(), grid=[2, 4, 6, 8, 11, 16], n_replicates=3, precision=9.0)
    assert estimator.grid == (2, 4, 6, 8, 11, 16)
    assert hash(estimator) == hash(calibrated(TwoNN(), grid=(2, 4, 6, 8, 11, 16), n_replicates=3, precision=9.0))
    found = estimator(cloud, rng=np.random.default_rng(0))
    assert found.interval[1] == 3.0
    assert found.dimension <= 3.0
    match = r"`grid` must end at 2 for embedding='full' and the families .* in 3 coordinates, got 16"
    with pytest.raises(ValueError, match=match):
        calibrated(TwoNN(), grid=(2, 16), embedding="full")(cloud, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="`ambient` must be an integer of at least 1, got 0"):
        calibration_curve(TwoNN(), 100, 0)


def test_an_estimator_without_a_number_on_the_simulated_clouds_has_no_curve():
    def undefined(points, *, rng):
        raise DegenerateCloudError("no number")

    with pytest.raises(DegenerateCloudError, match="undefined finds no dimension on simulated clouds of 50 points"):
        calibration_curve(undefined, 50, 8, covering=(3.0,), n_replicates=3)


def test_the_contract_holds():
    curve = calibration_curve(TwoNN(), 300, grid=(1, 2, 3, 4, 6, 8, 12), n_replicates=6)
    check_estimator(calibrated(TwoNN(n_subsamples=10), curve=curve), n=300)


@pytest.mark.slow
def test_the_contract_holds_with_a_simulation_in_every_call():
    check_estimator(calibrated(TwoNN(n_subsamples=10), n_replicates=4), n=300)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [TwoNN(), MLE()], ids=lambda one: one.name)
@pytest.mark.parametrize("dimension", [5, 10, 20])
def test_the_interval_covers_the_dimension_as_often_as_it_says(estimator, dimension):
    curve = shared_curve(estimator, 12)
    shares = []
    for family in curve.families:
        make, extra = FAMILIES[family]
        hits = 0
        for seed in range(200):
            cloud = make(1000, dimension, dimension + extra, np.random.default_rng([77, seed]))
            low, high = curve.correct(without_error(estimator)(cloud, rng=np.random.default_rng(0)).dimension).interval
            hits += low <= dimension <= high
        shares.append(hits / 200)
    assert min(shares) >= 0.90
    assert np.mean(shares) <= 0.99


@pytest.mark.slow
def test_a_cube_is_covered_if_cubes_are_simulated():
    estimator = without_error(MLE())
    covered = {}
    for families in (("ball", "sphere"), ("ball", "sphere", "gaussian", "cube")):
        curve = calibration_curve(MLE(), 1000, 64, grid=(4, 6, 8, 11, 16, 23), families=families)
        hits = 0
        for seed in range(100):
            cloud = FAMILIES["cube"][0](1000, 10, 10, np.random.default_rng([78, seed]))
            low, high = curve.correct(estimator(cloud, rng=np.random.default_rng(0)).dimension).interval
            hits += low <= 10 <= high
        covered[len(families)] = hits / 100
    assert covered[2] < 0.5
    assert covered[4] >= 0.9
