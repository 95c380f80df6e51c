"""Replicates: the same halves of the rows in every layer, looked up or searched with one result."""

import numpy as np
import pytest

from gelora.clouds import Representations
from gelora.estimation import estimate_representations
from gelora.evidence import rise_intervals
from gelora.messages import check_replicates
from gelora.provenance import generator
from gelora.registry import make_estimator
from gelora.replicates import draw_halves, half_estimates, rows_fingerprints
from gelora_estimators import nearest_distances

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def clouds():
    rng = RNG(0)
    base = rng.normal(size=(401, 6))
    return [base[:, :3] @ rng.normal(size=(3, 12)), base @ rng.normal(size=(6, 12)), rng.random((401, 12))]


def test_halves_share_no_row_and_hold_the_same_rows_in_every_stack():
    rows = {"encoder": np.arange(0, 22, 2), "decoder": np.repeat(np.arange(0, 22, 2), 3)}
    halves = draw_halves(rows, 6, seed=1)
    assert (len(halves), halves.n_rows) == (6, 11)
    for split in range(3):
        first, second = (set(rows["encoder"][halves.points(2 * split + side, "encoder")]) for side in (0, 1))
        assert len(first) == len(second) == 5
        assert not first & second
        tokens = rows["decoder"][halves.points(2 * split, "decoder")]
        assert set(tokens) == first  # tokens of one text stay together
        assert len(tokens) == 15
    again = draw_halves({"encoder": rows["encoder"] * 7}, 6, seed=1)
    assert (again.members == halves.members).all()  # by seed and number of rows alone
    assert (draw_halves(rows, 6, seed=2).members != halves.members).any()


@pytest.mark.parametrize(
    "name", ["twonn", "mle", "gride(scan_to=16)", "ph", "spectral", "corrint", "gride(scale='kstar')"]
)
def test_an_estimate_on_a_half_is_that_of_its_points_whether_looked_up_or_not(clouds, name):
    estimator = make_estimator(name)
    halves = draw_halves({"encoder": np.arange(401)}, 4, seed=0)
    parts = [halves.points(number, "encoder") for number in range(4)]
    found = nearest_distances(clouds[1], 120)
    whole = estimator(clouds[1], rng=RNG(0))
    looked_up = half_estimates(clouds[1], estimator, whole, parts, found, RNG)
    searched = half_estimates(clouds[1], estimator, whole, parts, None, RNG)
    for part, one, other in zip(parts, looked_up, searched, strict=True):
        alone = estimator(clouds[1][part], rng=RNG(0)).dimension
        assert one.dimension == other.dimension or abs(one.dimension / other.dimension - 1) < 1e-12
        if name != "ph":  # which draws
            assert one.dimension == pytest.approx(alone, rel=1e-12)


def test_replicates_stand_in_the_profile_and_no_number_depends_on_them(clouds):
    plain = estimate_representations(clouds, estimator=["mle", "twonn"], progress=False)
    rich = estimate_representations(clouds, estimator=["mle", "twonn"], n_replicates=6, progress=False)
    assert rich["dimension_replicates"].dims == ("estimator", "layer", "replicate")
    assert rich["dimension_replicates"].shape == (2, 3, 6)
    assert rich["dimension_scale_replicates"].sizes["scale"] == 11
    assert (rich["dimension"] == plain["dimension"]).all()
    assert (rich["standard_error"] == plain["standard_error"]).all()
    halves = draw_halves({"encoder": np.arange(401)}, 6, seed=0)
    part = clouds[2][halves.points(3, "encoder")]
    expected = make_estimator("mle")(part, rng=RNG(0))
    assert float(rich["dimension_replicates"][0, 2, 3]) == pytest.approx(expected.dimension)
    assert rich["dimension_scale_replicates"][0, 2, :, 3].values == pytest.approx(expected.dimension_by_scale)
    assert np.isnan(rich["dimension_scales"].sel(estimator="twonn")).all()
    assert (rich.attrs["n_rows"], rich.attrs["replicate_rows"], rich.attrs["n_replicates"]) == (401, 200, 6)
    alone = estimate_representations([clouds[2]], estimator="mle", n_replicates=6, progress=False)
    assert (alone["dimension_replicates"][0, 0] == rich["dimension_replicates"][0, 2]).all()


def test_a_half_without_a_dimension_is_nan_and_copies_do_no_harm(clouds):
    repeated = [np.concatenate([cloud, cloud[:40]]) for cloud in clouds]
    found = estimate_representations(repeated, estimator="mle", n_replicates=4, progress=False)
    assert np.isfinite(found["dimension_replicates"]).all()
    few = [cloud[:40] for cloud in clouds]
    with pytest.warns(UserWarning, match="on halves of the rows"):
        halved = estimate_representations(few, estimator="mle", n_replicates=4, progress=False)
    assert np.isfinite(halved["dimension"]).all()
    assert np.isnan(halved["dimension_replicates"]).all()  # 20 points lack 20 neighbours


def test_wrong_numbers_of_replicates_are_refused(clouds):
    with pytest.raises(ValueError, match="`n_replicates` must be even, two for each split into halves, got 7: give 8"):
        check_replicates(7)
    with pytest.raises(ValueError, match="`n_replicates` must be an integer of at least 0"):
        estimate_representations(clouds, n_replicates=-2, progress=False)
    with pytest.raises(ValueError, match="`n_replicates` needs clouds of one length"):
        estimate_representations([clouds[0], clouds[1][:300]], n_replicates=4, progress=False)
    with pytest.raises(ValueError, match="`n_replicates` needs at least 4 data rows to split, got 3"):
        draw_halves({"encoder": np.arange(3)}, 2, seed=0)


def test_the_fingerprint_of_rows_tells_other_rows_and_no_other_type():
    rows = {"encoder": np.arange(5)}
    assert rows_fingerprints(rows) == rows_fingerprints({"encoder": np.arange(5, dtype=np.int32)})
    assert rows_fingerprints(rows) != rows_fingerprints({"encoder": np.arange(1, 6)})
    assert generator(0, "a").integers(9) == generator(0, "a").integers(9)


def test_halves_of_many_batches_come_from_the_estimate_itself_with_the_same_spread_as_halves_of_rows():
    rng = RNG(5)
    layers = [rng.normal(size=(1600, 4)), rng.normal(size=(1600, 8))]
    estimator = make_estimator("minibatch:mle(batch_size=50, scan=False)")
    profile = estimate_representations(layers, estimator={"it": estimator}, n_replicates=40, progress=False)
    whole = estimator(layers[0], rng=RNG(0))
    pairs = profile["dimension_replicates"].values[0, 0].reshape(-1, 2)
    assert pairs.mean(axis=1) == pytest.approx(whole.dimension)  # 32 batches: two halves make the whole
    assert np.sqrt(((pairs[:, 0] - pairs[:, 1]) ** 2).mean()) / 2 == pytest.approx(whole.standard_error, rel=0.35)
    assert len(np.unique(pairs)) > 30
    few = make_estimator("minibatch:mle(batch_size=200, scan=False)")
    assert few.half_dimensions(few(layers[0], rng=RNG(0)), 4) is None
    assert np.isfinite(
        estimate_representations(layers, estimator={"it": few}, n_replicates=4, progress=False)["dimension_replicates"]
    ).all()


def test_tokens_of_one_text_stay_together_also_where_an_estimate_contains_halves():
    """Texts differ in dimension: halves of batches of tokens would not see the spread between texts."""
    rng = RNG(6)
    texts = [np.pad(rng.normal(size=(40, 2 + number % 5)), ((0, 0), (0, 4 - number % 5))) for number in range(40)]
    cloud = np.concatenate(texts) + 1e-3 * rng.normal(size=(1600, 6))
    rows = {"encoder": np.repeat(np.arange(40), 40)}
    clouds = Representations(clouds=(cloud,), stacks=("encoder",), layers=(0,), names=("x",), rows=rows)
    estimator = make_estimator("minibatch:mle(batch_size=50, scan=False)")
    profile = estimate_representations(clouds, estimator={"it": estimator}, n_replicates=4, progress=False)
    halves = draw_halves(rows, 4, seed=0)
    part = halves.points(2, "encoder")
    assert len(np.unique(rows["encoder"][part])) == 20
    expected = estimator(cloud[part], rng=RNG(0)).dimension
    assert float(profile["dimension_replicates"][0, 0, 2]) == pytest.approx(expected)


def test_undefined_halves_are_said_and_not_taken_for_none(clouds):
    few = [cloud[:40] for cloud in clouds]
    with pytest.warns(UserWarning, match=r"mle: on halves of the rows the dimension of layer 0 .* 4 of 4 times"):
        profile = estimate_representations(few, estimator="mle", n_replicates=4, progress=False)
    with pytest.raises(ValueError, match="the error of a rise needs .* undefined on most halves of the rows"):
        rise_intervals(profile)
    plain = estimate_representations(clouds, estimator="mle", progress=False)
    with pytest.raises(ValueError, match="the error of a rise needs .* estimate the profile with n_replicates=50"):
        rise_intervals(plain)


def test_one_split_is_named_as_too_few_not_as_undefined(clouds):
    with pytest.warns(UserWarning, match=r"2 halves of the rows are one split, .* `n_replicates` of at least 4"):
        estimate_representations(clouds, estimator="twonn", n_replicates=2, progress=False)
