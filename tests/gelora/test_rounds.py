"""Extraction in rounds: spread over the data, nothing read twice, the same points as in one go."""

import json
import warnings

import numpy as np
import pytest

from gelora.estimation import estimate
from gelora.profile import open_profile, save_profile
from gelora.representations import extract_representations
from gelora.rounds import round_sizes, stratified_order
from gelora.stopping import UntilStable
from tiny_models import ragged_batch, tiny_model


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert")


def test_every_beginning_of_the_order_is_spread_over_the_data():
    order = stratified_order(10_000, seed=3)
    assert sorted(order) == list(range(10_000))
    for size in (100, 500, 2500):
        counts = np.bincount(order[:size] // 100, minlength=100)
        assert (counts == size // 100).all()
    assert (stratified_order(10_000, seed=4) != order).any()
    assert sorted(stratified_order(7, seed=0)) == list(range(7))


def test_rounds_grow_to_the_end_of_the_data():
    assert round_sizes(100) == [100]
    assert round_sizes(1300, first=200, growth=3) == [200, 600, 1300]


class After:
    first = 30

    def __init__(self, enough):
        self.enough = enough
        self.seen = []

    def __call__(self, representations):
        self.seen.append(representations)
        return len(self.seen) >= self.enough


def test_rounds_add_up_to_the_extraction_of_the_same_rows_and_read_nothing_twice(bert):
    data = ragged_batch(200)
    asked = After(3)
    found = extract_representations(bert, data, n_samples=asked, batch_size=8, progress=False)
    assert found.attributes["rounds"] == [30, 60, 120]
    rows = np.sort(stratified_order(200, 0)[:120])
    assert set(found.rows["encoder"]) <= set(rows)
    assert found.attributes["n_texts"] == 120
    assert found.attributes["text_copies_removed"] == 120 - len(found.rows["encoder"])
    every = extract_representations(bert, data, n_samples=None, batch_size=8, progress=False)
    place = {row: number for number, row in enumerate(every.rows["encoder"])}
    known = [place[row] for row in found.rows["encoder"] if row in place]
    for one, other in zip(found.clouds, every.clouds, strict=True):
        assert np.allclose(one[[row in place for row in found.rows["encoder"]]], other[known], atol=1e-5)
    assert (np.diff(found.rows["encoder"]) > 0).all()
    assert len(asked.seen[0].rows["encoder"]) < len(asked.seen[2].rows["encoder"])


def test_copies_of_earlier_rounds_are_left_out_even_where_a_round_has_nothing_else(bert):
    few = {key: np.asarray(value)[np.arange(200) % 25] for key, value in ragged_batch(25).items()}
    found = extract_representations(bert, few, n_samples=After(9), progress=False)
    once = extract_representations(bert, few, n_samples=None, progress=False)
    assert len(found[0]) == len(once[0])
    assert found.attributes["text_copies_removed"] == 200 - len(found[0])


def test_tokens_are_not_drawn_in_rounds(bert):
    with pytest.raises(ValueError, match="`n_samples` must be a number or None with pooling='tokens'"):
        extract_representations(bert, ragged_batch(40), n_samples=After(1), pooling="tokens", progress=False)


def test_auto_stops_when_the_ranks_are_stable_and_says_on_what_grounds(bert, tmp_path):
    rule = UntilStable(confidence=0.05, first=60, n_replicates=10)
    profile = estimate(bert, ragged_batch(400), estimator="mle(k1=3, k2=5)", n_samples=rule, progress=False)
    again = open_profile(save_profile(profile, tmp_path / "profile.nc"))
    rounds = json.loads(again.attrs["auto"])
    assert again.attrs["auto_stopped"] == "the ranks were stable"
    assert rounds[-1]["stability"] >= 0.05
    assert all(entry["stability"] < 0.05 for entry in rounds[:-1])
    assert again.attrs["n_replicates"] == 10
    assert again.attrs["n_rows"] == rounds[-1]["n_rows"] == int(again["n_points"].max())


def test_auto_ends_with_the_data_and_warns_how_many_examples_would_do(bert):
    with pytest.warns(UserWarning, match="the data ended at .* examples before the ranks were stable"):
        profile = estimate(
            bert, ragged_batch(80), estimator="twonn", n_samples="auto", confidence=0.999, progress=False
        )
    assert profile.attrs["auto_stopped"] == "the data ended"
    assert profile.attrs["n_replicates"] == 50


def test_the_first_estimator_decides_and_the_others_come_along(bert):
    rule = UntilStable(confidence=0.05, first=100, n_replicates=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        profile = estimate(
            bert, ragged_batch(300), estimator=["mle(k1=3, k2=5)", "twonn"], n_samples=rule, progress=False
        )
    assert profile.attrs["auto_estimator"] == "mle(k1=3, k2=5)"
    assert profile["dimension_replicates"].shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "`confidence` must be a number between 0 and 1"),
        ({"rounding": "up"}, "`rounding` must be one of ceil, round, floor"),
        ({"n_replicates": 2}, "`n_replicates` must be at least 4 to see a spread"),
        ({"growth": 1.0}, "`growth` must be a number above 1"),
        ({"first": 5}, "`first` must be an integer of at least 20"),
    ],
)
def test_options_of_the_rule_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        UntilStable(**options)


def test_another_word_than_auto_is_refused(bert):
    with pytest.raises(ValueError, match="`n_samples` must be a number, 'auto' or None for all, got 'most'"):
        estimate(bert, ragged_batch(40), n_samples="most", progress=False)


def test_the_profile_of_auto_is_that_of_its_rows_with_their_provenance(bert):
    rule = UntilStable(confidence=0.05, first=100, n_replicates=4)
    data = ragged_batch(300)
    found = estimate(bert, data, estimator="mle(k1=3, k2=5)", n_samples=rule, progress=False)
    rows = np.sort(stratified_order(300, 0)[: found.attrs["n_texts"]])
    part = {key: value[rows] for key, value in data.items()}
    alone = estimate(bert, part, estimator="mle(k1=3, k2=5)", n_samples=None, n_replicates=4, progress=False)
    assert found["dimension"].values == pytest.approx(alone["dimension"].values, rel=1e-4)
    assert found["dimension_replicates"].values == pytest.approx(alone["dimension_replicates"].values, rel=1e-3)
    assert {"architecture", "weights_fingerprint", "extraction_seconds", "n_available", "pooling"} <= set(found.attrs)
    assert found.attrs["n_available"] == 300


def test_a_confidence_that_nothing_reads_is_refused(bert):
    for n_samples in (40, UntilStable()):
        with pytest.raises(ValueError, match="`confidence` goes with n_samples='auto'"):
            estimate(bert, ragged_batch(40), n_samples=n_samples, confidence=0.99, progress=False)
