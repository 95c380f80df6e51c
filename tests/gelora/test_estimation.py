"""A profile holds what each estimator says of each layer, and nothing depends on what else was asked."""

import dataclasses
import json
import threading
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

from gelora.covariates import mean_norm, spectrum_covariates
from gelora.estimation import estimate, estimate_representations, resolve_estimators
from gelora.provenance import generator
from gelora.registry import make_estimator
from gelora.representations import extract_representations
from gelora_estimators.neighbors import nearest_distances
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate
from tiny_models import ragged_batch, tiny_model, tiny_texts, tiny_tokenizer

NUMBERS = ["dimension", "standard_error", "ci_low", "ci_high"]


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(3)
    return [(rng.uniform(size=(400, d)) @ rng.normal(size=(d, 20))).astype(np.float32) for d in (2, 4, 3)]


@pytest.mark.smoke
def test_each_number_is_what_the_estimator_says_of_the_layer(clouds):
    profile = estimate_representations(clouds, estimator=["twonn", "mle"], seed=7, progress=False)
    for name in ("twonn", "mle"):
        for layer, cloud in enumerate(clouds):
            found = make_estimator(name)(cloud, rng=generator(7, name, "encoder", f"cloud {layer}"))
            entry = profile.sel(estimator=name, layer=layer)
            values = [float(entry[key]) for key in NUMBERS]
            assert values == [found.dimension, found.standard_error, *found.interval]
            assert int(entry["n_points"]) == found.n_points == 400


def test_a_number_does_not_depend_on_other_estimators_or_layers(clouds):
    whole = estimate_representations(clouds, estimator=["ph", "gride", "twonn", "mle"], progress=False)
    alone = estimate_representations(clouds[:2], estimator="ph", progress=False)
    for key in NUMBERS:
        np.testing.assert_array_equal(alone[key].sel(estimator="ph"), whole[key].sel(estimator="ph", layer=[0, 1]))
    named = dict(zip("abc", clouds, strict=True))
    whole = estimate_representations(named, estimator=["mle", "ph"], progress=False)
    last = estimate_representations({"c": clouds[2]}, estimator="ph", progress=False)
    for key in NUMBERS:
        assert float(last[key].sel(estimator="ph", layer=0)) == float(whole[key].sel(estimator="ph", layer=2))


@pytest.mark.smoke
def test_one_search_serves_every_neighbour_estimator_and_changes_no_number(clouds, monkeypatch):
    names = ["twonn", "mle", "gride(scan_to=64)", "local:mle", "corrint"]
    rng = np.random.default_rng(5)
    copied = [np.concatenate([cloud, cloud[rng.integers(400, size=9)]]) for cloud in clouds]
    alone = {name: estimate_representations(copied, estimator=name, progress=False) for name in names}
    calls = []

    def counted(points, k, **options):
        calls.append(k)
        return nearest_distances(points, k, **options)

    monkeypatch.setattr("gelora.measuring.nearest_distances", counted)
    for module in ("subsampling", "corrint"):
        monkeypatch.setattr(f"gelora_estimators.{module}.nearest_distances", counted)
    together = estimate_representations(copied, estimator=names, progress=False)
    assert calls == [max(make_estimator(name).k for name in names)] * len(copied)
    for name in names:
        for key in (*NUMBERS, "n_points", "mean_nearest_distance"):
            expected, found = alone[name][key], together[key]
            if "estimator" in found.dims:
                expected, found = expected.sel(estimator=name), found.sel(estimator=name)
            np.testing.assert_array_equal(found, expected)


def test_a_plug_in_that_takes_distances_alone_shares_the_search_too(clouds):
    class Median:
        k = 3

        def __call__(self, points, *, rng):
            raise AssertionError("the shared search should have served")

        def from_distances(self, distances, n, rng):
            return DimensionEstimate(float(np.median(distances[:, 2])), n_points=n)

    profile = estimate_representations(clouds, estimator={"median": Median(), "twonn": "twonn"}, progress=False)
    expected = [np.median(nearest_distances(cloud, 3).distances[:, 2]) for cloud in clouds]
    np.testing.assert_array_equal(profile["dimension"].sel(estimator="median"), expected)


def test_the_output_of_a_block_has_one_dimension_whichever_layers_are_read():
    model, batch = tiny_model("bert"), ragged_batch(200, longest=12)
    both, second = (
        estimate(model, batch, estimator="ph", layers=layers, progress=False)
        for layers in (["encoder.layer.0", "encoder.layer.1"], ["encoder.layer.1"])
    )
    names = both["name"].values.tolist()
    for key in NUMBERS:
        here = float(both[key][0, names.index("encoder.layer.1")])
        assert here == float(second[key][0, second["name"].values.tolist().index("encoder.layer.1")])


def test_the_same_profile_twice_from_one_seed_is_equal_bit_for_bit():
    model, batch = tiny_model("bert"), ragged_batch(200, longest=12)
    one, two = (
        estimate(model, batch, estimator=["twonn", "mle", "ph"], n_samples=150, seed=5, progress=False)
        for _ in range(2)
    )
    for name in one.variables:
        assert one[name].values.tobytes() == two[name].values.tobytes() or one[name].equals(two[name])
    for name in NUMBERS:
        assert one[name].values.tobytes() == two[name].values.tobytes()
    timed = {"created", "extraction_seconds", "estimation_seconds", "estimator_seconds", "neighbor_search_seconds"}
    assert {k: v for k, v in one.attrs.items() if k not in timed} == {
        k: v for k, v in two.attrs.items() if k not in timed
    }


def test_estimate_is_extraction_followed_by_estimation():
    model, texts, tokenizer = tiny_model("bert"), tiny_texts(120), tiny_tokenizer()
    profile = estimate(model, texts, estimator="mle(k1=2, k2=5)", tokenizer=tokenizer, seed=2, progress=False)
    representations = extract_representations(model, texts, tokenizer=tokenizer, seed=2, progress=False)
    direct = estimate_representations(representations, estimator="mle(k1=2, k2=5)", seed=2, progress=False)
    xr.testing.assert_equal(profile, direct)
    record = profile.attrs
    assert json.loads(record["architecture"])["blocks"] == {"encoder": 2}
    assert record["pooling"] == "mean"
    assert record["n_texts"] == 120
    assert record["text_copies_removed"] == 120 - len(representations[0])
    assert record["seed"] == record["sample_seed"] == 2
    assert profile["name"].values.tolist() == ["encoder.layer.0 (input)", "encoder.layer.0", "encoder.layer.1"]


def test_an_undefined_layer_is_nan_with_its_reason_and_the_others_are_kept():
    model, texts = tiny_model("bert"), tiny_texts(150)
    with pytest.warns(UserWarning, match="undefined for twonn, layer 0 of the encoder"):
        profile = estimate(model, texts, tokenizer=tiny_tokenizer(), pooling="cls", progress=False)
    assert profile["dimension"].isnull().values.tolist() == [[True, False, False]]
    assert "points are equal" in profile["undefined"].values[0, 0]
    assert profile["undefined"].values[0, 1:].tolist() == ["", ""]
    assert np.isnan(profile["participation_ratio"].values[0])


def test_a_handful_of_distinct_vectors_is_never_a_number():
    """Last-token pooling at layer 0 gives one vector per length of text."""
    texts = tiny_texts(400, longest=12)
    with pytest.warns(UserWarning, match="layer 0"):
        profile = estimate(
            tiny_model("bert"),
            texts,
            tokenizer=tiny_tokenizer(limit=30),
            pooling="last",
            estimator=["twonn", "mle", "gride"],
            progress=False,
        )
    assert profile["dimension"].sel(layer=0).isnull().all()
    assert profile["dimension"].sel(layer=[1, 2]).notnull().all()


def test_what_an_estimator_warns_about_comes_with_its_name_and_the_layer(clouds):
    def doubtful(points, *, rng):
        if len(points) == 390:
            warnings.warn("the line bends", RuntimeWarning, stacklevel=2)
        return DimensionEstimate(2.0, n_points=len(points))

    with pytest.warns(RuntimeWarning, match=r"^doubtful, layer 1 of the encoder: the line bends$") as caught:
        profile = estimate_representations([clouds[0], clouds[1][:390]], estimator=doubtful, progress=False)
    assert len(caught) == 1
    assert (profile["dimension"] == 2.0).all()
    kept = {"where": "layer 1 of the encoder", "category": "RuntimeWarning", "message": "the line bends"}
    assert json.loads(profile.attrs["estimator_warnings"]) == {"doubtful": [kept]}


def test_a_profile_holds_the_copies_that_each_estimator_removed_or_that_it_counts_none(clouds):
    def plain(points, *, rng):
        return DimensionEstimate(2.0, n_points=len(points))

    repeated = np.concatenate([clouds[1][:-5], clouds[1][:5]])
    profile = estimate_representations([clouds[0], repeated], estimator=["twonn", plain], progress=False)
    np.testing.assert_array_equal(profile["n_copies"], [[0, 5], [np.nan, np.nan]])
    np.testing.assert_array_equal(profile["n_points"][0] + profile["n_copies"][0], [len(clouds[0]), len(clouds[1])])
    assert json.loads(profile.attrs["estimator_warnings"]) == {}


def test_like_warnings_of_several_layers_are_given_once_with_all_layers(clouds):
    def doubtful(points, *, rng):
        warnings.warn(f"the line bends by {points[0, 0]:.2f}", UserWarning, stacklevel=2)
        return DimensionEstimate(2.0, n_points=len(points))

    with pytest.warns(UserWarning, match="alike") as caught:
        estimate_representations(clouds, estimator=doubtful, progress=False)
    first = f"the line bends by {clouds[0][0, 0]:.2f}"
    layers = "layer 0 of the encoder, layer 1 of the encoder, layer 2 of the encoder"
    assert [str(entry.message) for entry in caught] == [f"doubtful, {layers}: {first} (the first of 3 alike)"]


def test_no_dimension_at_all_is_an_error():
    with pytest.raises(DegenerateCloudError, match=r"no dimension is defined on any layer; twonn, layer 0"):
        estimate(tiny_model("bert"), ["w1"], tokenizer=tiny_tokenizer(), progress=False)


def test_both_stacks_of_an_encoder_decoder_stand_in_one_profile():
    batch = ragged_batch(150)
    profile = estimate(tiny_model("t5"), {**batch, "labels": batch["input_ids"].flip(0)}, progress=False)
    assert profile["stack"].values.tolist() == ["encoder"] * 3 + ["decoder"] * 3
    assert profile["layer"].values.tolist() == [0, 1, 2, 0, 1, 2]
    assert profile["depth"].values.tolist() == [0, 0.5, 1, 0, 0.5, 1]


def test_clouds_come_as_lists_mappings_and_torch_tensors(clouds):
    expected = estimate_representations(clouds, progress=False)
    named = estimate_representations(dict(zip("abc", clouds, strict=True)), progress=False)
    tensors = estimate_representations([torch.from_numpy(cloud) for cloud in clouds], progress=False)
    np.testing.assert_array_equal(expected["dimension"], named["dimension"])  # which depends on no draw
    np.testing.assert_array_equal(expected["dimension"], tensors["dimension"])
    assert named["name"].values.tolist() == ["a", "b", "c"]
    half = estimate_representations([torch.from_numpy(clouds[0]).bfloat16()], progress=False)
    stored = torch.from_numpy(clouds[0]).bfloat16().double().numpy()
    np.testing.assert_allclose(
        half["dimension"], estimate_representations([stored], progress=False)["dimension"], rtol=1e-9
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, TypeError, "`representations` must be"),
        ([], ValueError, "at least one cloud"),
        ([np.zeros(4)], ValueError, r"of shape \(n_points, width\)"),
        ([np.array([["a"]])], ValueError, "must be a numeric array"),
    ],
)
def test_what_is_no_list_of_clouds_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        estimate_representations(given, progress=False)


def test_estimators_come_by_name_instance_list_and_mapping():
    twonn = make_estimator("twonn")
    assert list(resolve_estimators("twonn")) == ["twonn"]
    assert list(resolve_estimators(twonn)) == ["twonn"]
    assert list(resolve_estimators(["mle(k1=5)", twonn])) == ["mle(k1=5)", "twonn"]
    assert list(resolve_estimators({"mine": twonn, "its": "twonn"})) == ["mine", "its"]
    with pytest.raises(ValueError, match="has 'twonn' twice"):
        resolve_estimators(["twonn", twonn])
    with pytest.raises(ValueError, match="at least one"):
        resolve_estimators([])
    with pytest.raises(TypeError, match="that is a class: pass an instance"):
        resolve_estimators(type(twonn))
    with pytest.raises(TypeError, match="must be a name"):
        resolve_estimators([3])


def test_a_mistyped_estimator_is_found_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'twonn'"):
        estimate(tmp_path / "no-model", ["a"], estimator="twon")


def test_what_an_estimator_returns_is_checked(clouds):
    with pytest.raises(TypeError, match="must return a DimensionEstimate, got float"):
        estimate_representations(clouds, estimator={"bad": lambda points, rng: 3.0}, progress=False)
    sometimes = iter([DimensionEstimate(np.inf, 1.0, (1.0, 2.0)), DimensionEstimate(2.0), DimensionEstimate(-3.0)])
    with pytest.warns(UserWarning, match=r"the estimator returned (inf|-3\.0)"):
        profile = estimate_representations(
            clouds, estimator={"odd": lambda points, rng: next(sometimes)}, scheduler="serial", progress=False
        )
    assert profile["dimension"].isnull().values.tolist() == [[True, False, True]]
    assert np.isnan(profile["standard_error"].values[0, 0])
    assert np.isnan(profile["ci_low"].values[0, 0])


def test_a_function_goes_by_its_name_and_a_seed_may_be_a_numpy_integer(clouds):
    def my_estimator(points, *, rng):
        return DimensionEstimate(float(points.shape[1]))

    profile = estimate_representations(clouds, estimator=my_estimator, seed=np.int64(3), progress=False)
    assert profile["estimator"].values.tolist() == ["my_estimator"]
    assert type(profile.attrs["seed"]) is int


def test_covariates_have_their_closed_forms(rng):
    cloud = rng.normal(size=(20_000, 4)) * [2.0, 1.0, 1.0, 0.0]
    shares = np.array([4, 1, 1]) / 6
    found = spectrum_covariates(cloud + 100.0)
    assert found["anisotropy"] == pytest.approx(4 / 6, rel=0.02)
    assert found["participation_ratio"] == pytest.approx(36 / 18, rel=0.03)
    assert found["spectral_entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=0.02)
    wide = rng.normal(size=(5, 50))
    assert spectrum_covariates(wide)["participation_ratio"] == pytest.approx(
        spectrum_covariates(np.vstack([wide] * 20))["participation_ratio"]
    )
    assert all(np.isnan(list(spectrum_covariates(np.full((9, 3), 1e6)).values())))
    for scale in (1e-200, 1e200):
        assert spectrum_covariates(wide * scale) == pytest.approx(spectrum_covariates(wide))
    assert mean_norm(np.array([[3.0, 4.0], [0.0, 0.0]])) == 2.5
    profile = estimate_representations([cloud[:300]], progress=False)
    gaps = np.linalg.norm(cloud[:300, None] - cloud[None, :300], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert float(profile["mean_nearest_distance"][0]) == pytest.approx(gaps.min(1).mean(), rel=1e-9)


def test_an_estimator_within_an_estimator_is_described_with_its_class(clouds):
    @dataclasses.dataclass(frozen=True)
    class Halved:
        estimator: object
        lock: object = dataclasses.field(default_factory=threading.Lock)

        def __call__(self, points, *, rng):
            return self.estimator(points, rng=rng)

    profile = estimate_representations(clouds[:1], estimator={"own": Halved(make_estimator("mle"))}, progress=False)
    described = json.loads(profile.attrs["estimators"])["own"]["options"]
    assert described["estimator"]["class"] == "gelora_estimators.mle.MLE"
    assert described["estimator"]["options"]["k1"] == 10
    assert "lock" in described["lock"]


def test_half_precision_keeps_its_spacing():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(30, 64))[np.arange(300) % 30] * (1 + 4e-4 * rng.integers(-1, 2, size=(300, 64)))
    for cloud in (atoms.astype(np.float16), torch.tensor(atoms).half()):
        with pytest.raises(DegenerateCloudError, match="rounding of the stored numbers"):
            estimate_representations([cloud], estimator="twonn", progress=False)
