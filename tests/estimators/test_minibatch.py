"""Mini-batches: the mean over the very parts, an error that is the spread, a bias of known sign, linear cost."""

import inspect
import time

import numpy as np
import pytest

from gelora_estimators import (
    MLE,
    DegenerateCloudError,
    Gride,
    MiniBatch,
    PersistentHomology,
    TwoNN,
    check_estimator,
)
from gelora_estimators import minibatch as module
from gelora_estimators.clouds import flat_torus, gaussian, subspace
from gelora_estimators.protocol import DimensionEstimate

KINDS = (module.twonn, module.mle, module.gride)


class Recorder:
    """Keeps the clouds it is asked about, and returns their mean as the dimension."""

    def __init__(self):
        self.seen = []

    def __call__(self, points, *, rng):
        self.seen.append(np.array(points))
        return DimensionEstimate(float(points.mean()), standard_error=0.25, interval=(0.1, 9.0), n_points=len(points))


def line(n):
    return np.arange(1.0, n + 1.0)[:, None]


def rng():
    return np.random.default_rng(0)


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", [TwoNN(), MLE(k1=3, k2=6), Gride(), PersistentHomology()], ids=lambda e: e.name)
def test_the_dimension_is_the_mean_of_the_estimator_on_disjoint_batches(estimator):
    cloud = gaussian(430, 3, 6, rng())
    found = MiniBatch(estimator=estimator, batch_size=100, scan=False)(cloud, rng=rng())
    order = np.argsort(np.random.default_rng([0, 1]).random(430))
    parts = [np.sort(order[start : start + 100]) for start in range(0, 400, 100)]
    shared = rng()
    bare = getattr(estimator, "without_error", lambda: estimator)()
    values = [bare(cloud[part], rng=shared).dimension for part in parts]
    assert found.dimension == np.mean(values)
    np.testing.assert_array_equal(found.diagnostics["batch_dimensions"], values)
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / 2.0)
    assert found.diagnostics["batch_variance"] == pytest.approx(np.var(values, ddof=1))
    assert (found.diagnostics["n_batches"], found.diagnostics["n_left_over"], found.n_points) == (4.0, 30.0, 400)


def test_no_point_is_in_two_batches_and_the_parts_of_a_scan_divide_their_batch():
    recorder = Recorder()
    found = MiniBatch(estimator=recorder, batch_size=40)(line(130), rng=rng())
    sizes = [len(one) for one in recorder.seen]
    assert sizes == [40] * 3 + [10] * 12 + [20] * 6
    batches = [set(one.ravel()) for one in recorder.seen[:3]]
    assert len(set.union(*batches)) == 120
    for number, batch in enumerate(batches):
        quarters = recorder.seen[3 + 4 * number : 7 + 4 * number]
        halves = recorder.seen[15 + 2 * number : 17 + 2 * number]
        for parts in (quarters, halves):
            assert sorted(np.concatenate(parts).ravel()) == sorted(batch)
    np.testing.assert_array_equal(found.scales, [10, 20, 40])
    # Of a mean, parts and whole agree, so that the bias of small n is nothing.
    np.testing.assert_allclose(found.dimension_by_scale, found.dimension)
    assert found.diagnostics["bias"] == pytest.approx(0.0, abs=1e-9)


def test_the_interval_is_that_of_student():
    found = MiniBatch(estimator=Recorder(), batch_size=40, confidence=0.9)(line(120), rng=rng())
    low, high = found.interval
    assert high - found.dimension == pytest.approx(2.919986 * found.standard_error)  # t of 2 degrees at 0.95
    assert found.dimension - low == pytest.approx(high - found.dimension)


def test_a_single_batch_has_the_error_of_its_estimator():
    cloud = gaussian(150, 3, 6, rng())
    found = module.mle(batch_size=100, confidence=0.8)(cloud, rng=rng())
    part = np.sort(np.argsort(np.random.default_rng([0, 1]).random(150))[:100])
    alone = MLE(confidence=0.8)(cloud[part], rng=rng())
    assert (found.dimension, found.standard_error) == (alone.dimension, alone.standard_error)
    assert found.interval == alone.interval
    assert np.isnan(found.diagnostics["batch_variance"])


def test_fewer_batches_than_the_cloud_holds_can_be_asked_for():
    found = module.mle(batch_size=50, n_batches=3, scan=False)(gaussian(400, 3, 6, rng()), rng=rng())
    assert (found.diagnostics["n_batches"], found.diagnostics["n_left_over"], found.n_points) == (3.0, 250.0, 150)
    more = module.mle(batch_size=50, n_batches=30, scan=False)(gaussian(400, 3, 6, rng()), rng=rng())
    assert more.diagnostics["n_batches"] == 8.0


def test_the_division_depends_on_the_seed_and_the_number_of_points_alone():
    one, other = Recorder(), Recorder()
    MiniBatch(estimator=one, batch_size=40)(line(130), rng=np.random.default_rng(1))
    MiniBatch(estimator=other, batch_size=40)(3.0 * line(130), rng=np.random.default_rng(2))
    for first, second in zip(one.seen, other.seen, strict=True):
        np.testing.assert_array_equal(3.0 * first, second)
    third = Recorder()
    MiniBatch(estimator=third, batch_size=40, seed=1)(line(130), rng=np.random.default_rng(1))
    assert not np.array_equal(one.seen[0], third.seen[0])


def test_layers_divided_alike_have_a_difference_of_less_noise():
    same, own = [], []
    for seed in range(25):
        draw = np.random.default_rng(seed)
        first = np.tanh(draw.standard_normal((800, 6)) @ draw.standard_normal((6, 20)))
        second = np.tanh(first @ draw.standard_normal((20, 20)) / 4.0)
        read = {
            division: module.twonn(batch_size=100, scan=False, seed=division)(second, rng=rng()).dimension
            for division in (0, 1)
        }
        before = module.twonn(batch_size=100, scan=False)(first, rng=rng()).dimension
        same.append(read[0] - before)
        own.append(read[1] - before)
    assert np.std(same) < 0.85 * np.std(own)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(("cloud_of", "dimension"), [(flat_torus, 3), (gaussian, 5)])
def test_the_error_is_the_spread_over_new_clouds(make, cloud_of, dimension):
    estimator = make(batch_size=100, scan=False)
    found = [
        estimator(cloud_of(1000, dimension, 2 * dimension, np.random.default_rng(seed)), rng=rng())
        for seed in range(60)
    ]
    spread = np.std([one.dimension for one in found], ddof=1)
    error = np.sqrt(np.mean([one.standard_error**2 for one in found]))
    assert error == pytest.approx(spread, rel=0.3)  # three standard deviations of the spread of 60


@pytest.mark.smoke
def test_small_batches_of_a_cloud_of_dimension_ten_read_low_and_the_bias_says_so():
    cloud = subspace(6000, 10, 20, rng())
    twonn = module.twonn(batch_size=60, scan=False)(cloud, rng=rng())
    assert twonn.dimension + 3.0 * twonn.standard_error < TwoNN().without_error()(cloud, rng=rng()).dimension < 10.0
    found = module.mle(batch_size=200)(cloud, rng=rng())
    assert found.dimension + 3.0 * found.standard_error < MLE().without_error()(cloud, rng=rng()).dimension < 10.0
    step, error = (found.diagnostics[f"bias_per_doubling{end}"] for end in ("", "_error"))
    assert step > 3.0 * error > 0.0
    assert found.diagnostics["bias"] == pytest.approx(-step * np.log2(30.0))
    quarter, half, full = found.dimension_by_scale
    assert quarter < half < full == found.dimension
    assert full - half == pytest.approx(step)


def test_a_part_too_small_for_the_estimator_leaves_its_scale_undefined():
    found = module.mle(batch_size=60)(gaussian(300, 3, 6, rng()), rng=rng())
    assert np.isnan(found.dimension_by_scale[0])  # 15 points have no 20 neighbours
    assert np.isfinite(found.dimension_by_scale[1:]).all()


def test_too_few_points_are_refused_with_the_counts():
    cloud = gaussian(120, 3, 6, rng())
    repeated = np.concatenate([cloud, cloud])
    with pytest.raises(DegenerateCloudError, match=r"120 distinct points .*120 of them copies.* at least 150"):
        module.mle(batch_size=150)(repeated, rng=rng())
    with pytest.raises(DegenerateCloudError, match=r"said of a batch of 20 points; raise `batch_size`"):
        module.mle(batch_size=20)(cloud, rng=rng())


def test_copies_go_before_the_cloud_is_divided():
    cloud = gaussian(300, 3, 6, rng())
    repeated = np.concatenate([cloud, cloud[:60]])
    found = module.twonn(batch_size=100)(repeated, rng=rng())
    clean = module.twonn(batch_size=100)(cloud, rng=rng())
    assert found.dimension == clean.dimension
    assert (found.diagnostics["n_copies"], found.diagnostics["n_batches"]) == (60.0, 3.0)
    asked = Recorder()
    mixed = repeated[np.random.default_rng(1).permutation(360)]
    MiniBatch(estimator=asked, batch_size=100, scan=False)(mixed, rng=rng())
    assert len(np.unique(np.concatenate(asked.seen), axis=0)) == 300


@pytest.mark.slow
def test_twice_the_points_cost_twice_the_time():
    estimator = module.twonn(batch_size=500, scan=False)

    def seconds(n):
        cloud = gaussian(n, 10, 64, rng())
        spent = []
        for _ in range(3):
            begun = time.perf_counter()
            estimator(cloud, rng=rng())
            spent.append(time.perf_counter() - begun)
        return min(spent)

    assert seconds(40_000) < 2.8 * seconds(20_000)  # 4 times for an estimator of all pairs


def test_the_work_is_of_the_size_of_points_times_batch():
    for n in (200, 400, 800):
        recorder = Recorder()
        MiniBatch(estimator=recorder, batch_size=40, scan=False)(line(n), rng=rng())
        assert sum(len(one) ** 2 for one in recorder.seen) == 40 * n


def test_options_outside_their_range_are_refused():
    for options, match in (
        ({"estimator": MLE}, "`estimator` must be an estimator"),
        ({"estimator": "mle"}, "`estimator` must be an estimator, such as MLE\\(\\), got 'mle'"),
        ({"batch_size": 19}, "`batch_size` must be an integer of at least 20"),
        ({"n_batches": 0}, "`n_batches` must be an integer of at least 1"),
        ({"scan": 1}, "`scan` must be True or False"),
        ({"confidence": 1.0}, "`confidence` must be a number in"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
    ):
        with pytest.raises(ValueError, match=match):
            MiniBatch(**options)


def test_the_factories_show_their_options_and_pass_the_estimators_on():
    assert list(inspect.signature(module.mle).parameters) == [
        *("k1", "k2", "average", "unbiased", "device"),
        *("batch_size", "n_batches", "scan", "confidence", "seed"),
    ]
    made = module.mle(k1=3, k2=9, batch_size=100)
    assert made == MiniBatch(estimator=MLE(k1=3, k2=9), batch_size=100)
    assert [make().name for make in KINDS] == ["minibatch:twonn", "minibatch:mle", "minibatch:gride"]
    assert [make().citation for make in KINDS] == [TwoNN.citation, MLE.citation, Gride.citation]
    assert made.without_error() == MiniBatch(estimator=MLE(k1=3, k2=9), batch_size=100, scan=False)


def test_the_contract_holds_for_several_batches():
    check_estimator(module.gride(batch_size=150), n=450, tolerance=0.1)
    check_estimator(module.mle(batch_size=150, scan=False), n=450, tolerance=0.1)


def test_a_copy_in_one_layer_leaves_nearly_all_other_points_in_their_batch():
    rng = np.random.default_rng(7)
    cloud = rng.normal(size=(2000, 6))
    other = cloud + 1e-3 * rng.normal(size=cloud.shape)
    other[700] = other[3]
    seen = []

    def listening(points, *, rng):
        seen.append(points)
        return MLE(k1=2, k2=3)(points, rng=rng)

    for layer in (cloud, other):
        MiniBatch(estimator=listening, batch_size=200, scan=False)(layer, rng=rng)
    first, second = seen[:9], seen[10:19]
    shared = [
        np.isin(np.round(a[:, 0], 1), np.round(b[:, 0], 1)).mean() > 0.5
        and (np.abs(a[:, None] - b[None]).max(axis=2) < 0.01).any(axis=1).mean()
        for a, b in zip(first, second, strict=True)
    ]
    assert min(shared) > 0.9
