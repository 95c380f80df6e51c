"""scikit-dimension behind our interface: the same numbers, and the process as found."""

import inspect
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

import gelora_estimators.skdim
from gelora_estimators import DegenerateCloudError, Gride, ScikitDimension, TwoNN
from gelora_estimators.clouds import gaussian
from gelora_estimators.skdim import ESTIMATORS, _fit_parameters, _parameters

CLOUD = gaussian(300, 3, 8, np.random.default_rng(0))


def original(name):
    """Return scikit-dimension's class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import skdim
    return getattr(skdim.id, name)


def global_state():
    """Return the state of NumPy's global generator as something that can be compared."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return kind, keys.tolist(), rest


def test_the_names_are_those_of_scikit_dimension_and_of_pyproject():
    original("TwoNN")
    import skdim

    offered = {name for name, found in vars(skdim.id).items() if inspect.isclass(found)}
    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = table["project"]["entry-points"]["gelora.estimators"]
    assert set(ESTIMATORS) == offered
    assert {name: value for name, value in declared.items() if name.startswith("skdim:")} == {
        f"skdim:{name}": f"gelora_estimators.skdim:{name}" for name in offered
    }


@pytest.mark.parametrize("name", ["CorrInt", "FisherS", "GRIDE", "MADA", "MLE", "MOM", "MiND_ML", "TwoNN", "lPCA"])
def test_the_number_is_that_of_the_original_on_centred_points(name):
    found = ScikitDimension(estimator=name)(CLOUD, rng=np.random.default_rng(0)).dimension
    options = {"verbose": False} if name == "lPCA" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = original(name)(**options).fit(CLOUD - CLOUD.mean(axis=0)).dimension_
    assert found == pytest.approx(expected, rel=1e-6)


def test_scikit_dimension_and_ours_agree_where_the_formula_is_the_same():
    rng = np.random.default_rng(0)
    theirs = ScikitDimension(estimator="GRIDE", options={"n1": 4, "n2": 8})(CLOUD, rng=rng).dimension
    # Theirs has n − 1 where the derivative of the likelihood has n.
    assert Gride(n1=4, n2=8)(CLOUD, rng=rng).dimension == pytest.approx(theirs, rel=1 / 300)
    ratio = ScikitDimension(estimator="TwoNN")(CLOUD, rng=rng).dimension
    assert TwoNN()(CLOUD, rng=rng).dimension == pytest.approx(ratio, rel=0.03)


def test_the_unit_does_not_matter_though_tle_has_an_absolute_threshold():
    found = [
        ScikitDimension(estimator="TLE")(CLOUD * unit, rng=np.random.default_rng(0)).dimension for unit in (1, 1e-4)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    with np.errstate(all="ignore"):
        raw = [original("TLE")().fit(CLOUD * unit).dimension_ for unit in (1, 1e-4)]
    assert raw[1] > 1.2 * raw[0]  # the reason for our rule


def test_factories_take_the_options_of_the_class():
    made = gelora_estimators.skdim.MiND_ML(k=10)
    assert made == ScikitDimension(estimator="MiND_ML", options={"k": 10})
    assert made.name == "skdim:MiND_ML"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        gelora_estimators.skdim.Nonsense  # noqa: B018


def test_options_of_fit_are_taken_beside_those_of_the_class():
    made = ScikitDimension(estimator="MLE", options={"unbiased": True, "n_neighbors": 7, "comb": "median"})
    found = made(CLOUD, rng=np.random.default_rng(0))
    expected = original("MLE")(unbiased=True).fit(CLOUD - CLOUD.mean(axis=0), n_neighbors=7, comb="median")
    assert found.dimension == pytest.approx(expected.dimension_, rel=1e-9)
    np.testing.assert_allclose(found.diagnostics["pointwise"], expected.dimension_pw_, rtol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_option_of_a_class_is_one_of_its_fit_too(name):
    assert not _parameters(original(name)) & _fit_parameters(original(name))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TwoNN", {"discard": 0.2}),
        ("TwoNN", {"dist": True}),
        ("CorrInt", {"DM": True}),
        ("lPCA", {"fit_explained_variance": True}),
        ("MLE", {"precomputed_knn_arrays": None}),
    ],
)
def test_options_that_are_unknown_or_take_no_points_are_refused_with_the_list(name, options):
    with pytest.raises(ValueError, match=rf"`options` of skdim:{name} must be among .*, got {next(iter(options))}"):
        ScikitDimension(estimator=name, options=options)


def test_gride_brings_its_error_and_its_scales():
    found = gelora_estimators.skdim.GRIDE(multiscale=True, range_max=32)(CLOUD, rng=np.random.default_rng(0))
    ours = Gride(scan_to=32)(CLOUD, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found.scales, ours.scales)
    np.testing.assert_allclose(found.dimension_by_scale, ours.dimension_by_scale, rtol=2 / 300)
    assert found.standard_error == pytest.approx(ours.standard_error, rel=2 / 300)
    assert np.isnan(ScikitDimension(estimator="TwoNN")(CLOUD, rng=np.random.default_rng(0)).standard_error)


def test_several_dimensions_at_once_are_refused():
    made = gelora_estimators.skdim.PH(alpha=(0.5, 1.0), nsteps=3, subsamples=1)
    with pytest.raises(ValueError, match="`options` of skdim:PH must ask for one dimension, got 2 of them"):
        made(CLOUD, rng=np.random.default_rng(0))


def test_a_random_estimator_follows_the_generator():
    estimator = ScikitDimension(estimator="KNN")
    found = [estimator(CLOUD, rng=np.random.default_rng(seed)).dimension for seed in (1, 1, 2, 3, 4, 5)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_filters_error_handling_and_the_global_generator_stay_as_found_after_a_call():
    filters, state, handling = list(warnings.filters), global_state(), np.geterr()
    for name in set(ESTIMATORS) - {"DANCo", "ESS", "PH"}:  # those three are slow
        ScikitDimension(estimator=name)(CLOUD, rng=np.random.default_rng(0))
    assert list(warnings.filters) == filters
    assert global_state() == state
    assert np.geterr() == handling


@pytest.mark.smoke
def test_filters_stay_as_found_when_scikit_dimension_is_first_imported():
    program = """
import sys, warnings, numpy as np
from gelora_estimators import ScikitDimension
filters, options = list(warnings.filters), np.get_printoptions()
assert "skdim" not in sys.modules
ScikitDimension(estimator="FisherS")(np.random.default_rng(0).random((50, 3)), rng=np.random.default_rng(0))
assert "skdim" in sys.modules
assert list(warnings.filters) == filters, warnings.filters
assert np.get_printoptions() == options
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("result", [np.nan, np.inf, 0.0, -1.0])
def test_a_result_that_is_no_dimension_is_refused_with_its_value(result, monkeypatch):
    kind = original("TwoNN")
    monkeypatch.setattr(kind, "fit", lambda self, _: setattr(self, "dimension_", result) or self)
    with pytest.raises(DegenerateCloudError, match=f"skdim:TwoNN finds no dimension on these 300.*returns {result}"):
        ScikitDimension(estimator="TwoNN")(CLOUD, rng=np.random.default_rng(0))


def test_a_failure_inside_is_reported_with_its_own_words():
    with pytest.raises(DegenerateCloudError, match=r"skdim:GRIDE finds no dimension.*ValueError: n2=64 needs at least"):
        ScikitDimension(estimator="GRIDE", options={"n1": 32, "n2": 64})(CLOUD[:40], rng=np.random.default_rng(0))


def test_a_missing_library_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skdim", None)
    with pytest.raises(ImportError, match=r"skdim:lPCA needs scikit-dimension.*pip install scikit-dimension"):
        ScikitDimension(estimator="lPCA")(CLOUD, rng=np.random.default_rng(0))
