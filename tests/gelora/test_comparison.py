"""The difference of two profiles has the error of its draw of rows: smaller where both were made from the same."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import norm
from scipy.stats import t as student

from gelora.comparison import compare_profiles
from gelora.estimation import estimate, estimate_representations
from gelora.netcdf import read_dataset, write_dataset
from tiny_models import tiny_model

TABLES = ["difference", "standard_error", "ci_low", "ci_high", "z", "degrees_of_freedom"]


def tuned_pair(n, seed):
    """Return the same rows in two layers before and after a small change of the layers."""
    rng = np.random.default_rng(seed)
    base = rng.random((n, 5))
    mix = np.random.default_rng(1).normal(size=(5, 12))
    before = [base[:, :3] @ mix[:3], base @ mix]
    return before, [cloud + 0.02 * np.tanh(cloud[:, ::-1]) for cloud in before]


def profile_of(clouds, **options):
    given = {"estimator": "mle", "n_replicates": 12, "progress": False} | options
    return estimate_representations(clouds, **given)


@pytest.fixture(scope="module")
def profiles():
    before, after = tuned_pair(400, 0)
    estimators = ["mle", "twonn"]
    return profile_of(before, estimator=estimators), profile_of(after, estimator=estimators)


def test_the_difference_is_that_of_the_dimensions_and_its_paired_error_the_formula(profiles):
    a, b = profiles
    found = compare_profiles(a, b, paired=True, confidence=0.8)
    np.testing.assert_array_equal(found["difference"], b["dimension"].values - a["dimension"].values)
    halves = b["dimension_replicates"].values - a["dimension_replicates"].values
    splits = (halves[:, :, 0::2] - halves[:, :, 1::2]) / 2.0
    error = np.sqrt((splits**2).mean(axis=2))
    np.testing.assert_allclose(found["standard_error"], error)
    np.testing.assert_allclose(found["z"], found["difference"] / error)
    reach = student.ppf(0.9, 6) * error
    np.testing.assert_allclose(found["ci_low"], found["difference"] - reach)
    np.testing.assert_allclose(found["ci_high"], found["difference"] + reach)
    assert bool(found["paired"])
    assert (found["degrees_of_freedom"] == 6).all()
    assert found.attrs["confidence"] == 0.8
    assert found.attrs["pairing"] == "asked for: paired=True"
    for name in ("estimator", "layer", "name", "depth", "stack"):
        np.testing.assert_array_equal(found[name], a[name])


def test_independent_errors_are_added_in_quadrature_with_a_normal_interval(profiles):
    a, b = profiles
    found = compare_profiles(a, b)  # clouds in memory have the fingerprint of their numbers, which differ
    assert not bool(found["paired"])
    assert "data_fingerprint" in found.attrs["pairing"]
    error = np.sqrt(a["standard_error"].values ** 2 + b["standard_error"].values ** 2)
    np.testing.assert_allclose(found["standard_error"], error)
    np.testing.assert_allclose(found["ci_high"] - found["difference"], norm.ppf(0.975) * error)
    assert np.isinf(found["degrees_of_freedom"]).all()
    for one in (a, b):
        hollow = one.copy()
        hollow["standard_error"] = hollow["standard_error"].copy()
        hollow["standard_error"][1, 0] = np.nan
        lacking = compare_profiles(hollow, b) if one is a else compare_profiles(a, hollow)
        for name in set(TABLES) - {"difference"}:
            assert np.isnan(lacking[name]).values.tolist() == [[False, False], [True, False]]


def test_two_models_on_the_same_data_are_paired_by_themselves_and_in_both_directions():
    tokens = torch.randint(5, 64, (60, 8), generator=torch.Generator().manual_seed(0))
    options = {"estimator": "twonn", "n_replicates": 4, "progress": False}
    a, b = (estimate(tiny_model("bert", seed=seed), tokens, **options) for seed in (0, 1))
    assert a.attrs["weights_fingerprint"] != b.attrs["weights_fingerprint"]
    found, back = compare_profiles(a, b), compare_profiles(b, a)
    assert bool(found["paired"])
    assert found.attrs["pairing"] == "both were halved in the same way"
    assert found.attrs["weights_fingerprint_a"] == a.attrs["weights_fingerprint"]
    assert found.attrs["weights_fingerprint_b"] == b.attrs["weights_fingerprint"]
    np.testing.assert_allclose(back["difference"], -found["difference"])
    np.testing.assert_allclose(back["standard_error"], found["standard_error"])
    np.testing.assert_allclose(back["ci_low"], -found["ci_high"])
    assert not bool(compare_profiles(a, b, paired=False)["paired"])
    other = estimate(tiny_model("bert"), tokens.flip(0), **options)
    assert not bool(compare_profiles(a, other)["paired"])
    reseeded = estimate(tiny_model("bert"), tokens, seed=1, **options)
    assert not bool(compare_profiles(a, reseeded)["paired"])


def test_a_profile_differs_from_itself_by_nothing(profiles):
    found = compare_profiles(profiles[0], profiles[0])
    assert bool(found["paired"])
    for name in ("difference", "standard_error", "ci_low", "ci_high"):
        assert (found[name] == 0.0).all()
    assert np.isnan(found["z"]).all()


def test_the_paired_error_is_that_of_many_draws_where_independent_errors_overstate_it():
    differences, paired, independent = [], [], []
    for seed in range(24):
        a, b = (profile_of(clouds[:1], estimator="mle(n_subsamples=10)") for clouds in tuned_pair(200, 100 + seed))
        found = compare_profiles(a, b, paired=True)
        differences.append(float(found["difference"][0, 0]))
        paired.append(float(found["standard_error"][0, 0]))
        independent.append(float(compare_profiles(a, b)["standard_error"][0, 0]))
    true = np.std(differences, ddof=1)
    assert 0.75 < np.sqrt(np.mean(np.square(paired))) / true < 1.35
    assert np.sqrt(np.mean(np.square(independent))) / true > 5.0


def test_splits_with_an_undefined_half_are_left_out_and_without_any_the_error_is_missing(profiles):
    a, b = (one.copy(deep=True) for one in profiles)
    a["dimension_replicates"][0, 0, 3] = np.nan
    b["dimension_replicates"][1, 1, :] = np.nan
    found = compare_profiles(a, b, paired=True)
    freedom = found["degrees_of_freedom"].values
    assert freedom[0].tolist() == [5.0, 6.0]
    assert freedom[1, 0] == 6.0
    assert math.isnan(freedom[1, 1])
    assert math.isnan(found["standard_error"][1, 1])
    assert math.isnan(found["ci_low"][1, 1])
    a["dimension"][0, 1] = np.nan
    undefined = compare_profiles(a, b, paired=True).isel(estimator=0, layer=1)
    assert all(math.isnan(undefined[name]) for name in ("difference", "standard_error", "ci_low", "ci_high", "z"))


def test_what_only_one_profile_has_is_left_out_with_a_warning(profiles):
    a, b = profiles
    with pytest.warns(UserWarning, match=r"as only one profile has the estimator: \['mle'\]"):
        found = compare_profiles(a, b.sel(estimator=["twonn"]))
    assert found["estimator"].values.tolist() == ["twonn"]
    with pytest.warns(UserWarning, match=r"as only one profile has the layer: \[\('encoder', 0\)\]"):
        found = compare_profiles(a.isel(layer=[1]), b)
    np.testing.assert_array_equal(found["difference"], (b["dimension"] - a["dimension"])[:, 1:])


def test_estimators_are_matched_by_name_whatever_their_order(profiles):
    a, b = profiles
    turned = compare_profiles(a, b.isel(estimator=[1, 0], layer=[1, 0]), paired=True)
    plain = compare_profiles(a, b, paired=True)
    for name in TABLES:
        np.testing.assert_array_equal(turned[name], plain[name])


def test_layers_of_two_stacks_with_one_number_are_kept_apart():
    tokens = torch.randint(5, 64, (40, 8), generator=torch.Generator().manual_seed(0))
    data = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "decoder_input_ids": tokens}
    profile = estimate(tiny_model("t5"), data, progress=False)
    assert set(profile["stack"].values) == {"encoder", "decoder"}
    found = compare_profiles(profile, profile)
    assert found["stack"].values.tolist() == profile["stack"].values.tolist()
    assert (found["difference"] == 0).all()


def test_profiles_that_do_not_correspond_are_refused(profiles):
    a, b = profiles
    tokens = torch.randint(5, 64, (40, 8), generator=torch.Generator().manual_seed(0))
    bert, gpt2 = (estimate(tiny_model(name), tokens, progress=False) for name in ("bert", "gpt2"))
    with pytest.raises(ValueError, match=r"`a` and `b` must be profiles of one architecture, got bert .* and gpt2"):
        compare_profiles(bert, gpt2)
    deeper = profile_of([*tuned_pair(200, 0)[0], tuned_pair(200, 1)[0][0]])
    with (
        pytest.raises(ValueError, match=r"`a` and `b` must be profiles of one depth"),
        pytest.warns(UserWarning, match="left out of the comparison"),
    ):
        compare_profiles(a.sel(estimator=["mle"]), deeper)
    with pytest.raises(ValueError, match=r"`a` and `b` share no estimator: `a` has \['mle'\], `b` has \['twonn'\]"):
        compare_profiles(a.sel(estimator=["mle"]), b.sel(estimator=["twonn"]))
    with pytest.raises(ValueError, match="`a` and `b` share no layer"):
        compare_profiles(a.isel(layer=[0]), b.isel(layer=[1]))
    with pytest.raises(TypeError, match=r"`b` must be a profile, an xarray.Dataset as `gelora.estimate` returns"):
        compare_profiles(a, "after.nc")
    with pytest.raises(ValueError, match="`confidence` must be a number between 0 and 1"):
        compare_profiles(a, b, confidence=95)


def test_pairing_that_was_asked_for_is_refused_where_the_halves_are_not_the_same(profiles):
    a, b = profiles
    before = tuned_pair(400, 0)[0]
    single = profile_of(before, estimator=["mle", "twonn"], n_replicates=0)
    with pytest.raises(ValueError, match=r"`paired`=True needs .* but `b` had no replicates: estimate with"):
        compare_profiles(a, single, paired=True)
    with pytest.raises(ValueError, match="but the numbers of replicates differ, 12 and 4"):
        compare_profiles(a, profile_of(before, estimator=["mle", "twonn"], n_replicates=4), paired=True)
    with pytest.raises(ValueError, match="but their attributes differ or are missing: n_rows"):
        compare_profiles(a, profile_of(tuned_pair(300, 0)[1], estimator=["mle", "twonn"]), paired=True)
    with pytest.raises(ValueError, match="but their attributes differ or are missing: replicate_seed"):
        compare_profiles(a, b.assign_attrs(replicate_seed=5), paired=True)
    assert compare_profiles(a, single).attrs["pairing"].startswith("`b` had no replicates")


def test_unlike_poolings_and_unlike_options_are_said(profiles):
    a, b = profiles
    with pytest.warns(UserWarning, match="`a` was made with pooling 'mean', `b` with 'last'"):
        compare_profiles(a.assign_attrs(pooling="mean"), b.assign_attrs(pooling="last"))
    before, after = tuned_pair(200, 0)
    one, other = profile_of(before, estimator={"x": "mle(k2=10)"}), profile_of(after, estimator={"x": "mle(k2=12)"})
    with pytest.warns(UserWarning, match=r"were made with other options of the estimators \['x'\]"):
        compare_profiles(one, other)


def test_a_comparison_can_be_stored(profiles, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_profiles(*profiles, paired=True)
    again = read_dataset(write_dataset(found, tmp_path / "difference.nc"), made_by="")
    assert again.equals(found)
    assert bool(again["paired"])
