"""Numbers of other people's programs, from the fixtures that scikit-dimension ships.

They hold what R's intrinsicDimension and ider, DADApy, and the MATLAB code of the authors of TLE, MOM and FisherS gave
on small clouds that a script beside them draws again. Nothing of either is copied here.
"""

import json
import warnings
from importlib.resources import as_file, files
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest

from gelora_estimators import (
    MLE,
    CorrelationIntegral,
    Gride,
    ScikitDimension,
    TwoNN,
    nearest_distances,
    spanning_tree_lengths,
)
from required import absent

CLOUDS = ["ball5_in10", "sphere4_in5"]


@pytest.fixture(scope="module")
def reference():
    """Return the numbers and the functions that draw the clouds."""
    try:
        with warnings.catch_warnings():  # its import changes the filters
            folder = files("skdim") / "tests" / "reference"
    except ModuleNotFoundError:
        absent("scikit-dimension is not installed")
    if not (folder / "fixtures.json").is_file():
        absent("this scikit-dimension ships no reference fixtures")
    with as_file(folder / "data.py") as path, warnings.catch_warnings():
        spec = spec_from_file_location("skdim_reference_data", path)
        data = module_from_spec(spec)
        spec.loader.exec_module(data)
    return json.loads((folder / "fixtures.json").read_text()), {**data.id_datasets(), **data.dup_datasets()}


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", CLOUDS)
def test_twonn_equals_dadapy(reference, name):
    numbers, clouds = reference[0]["dadapy"][name], reference[1]
    # mu_fraction=0.9 is our discard=0.1; both set F_i = i/n and fit through the origin.
    regression = TwoNN(fit="regression", discard=0.1, interval="chi2")(clouds[name], rng=rng())
    assert regression.dimension == pytest.approx(numbers["twonn_base_mu0.9"], rel=1e-10)
    # Its "ml" takes every ratio: (n − 1)/Σ log μ, found by minimising numerically.
    likelihood = TwoNN(fit="likelihood", discard=0.0, interval="chi2")(clouds[name], rng=rng())
    assert likelihood.dimension == pytest.approx(numbers["twonn_ml"], rel=1e-7)


@pytest.mark.parametrize("name", CLOUDS)
def test_gride_equals_dadapy_up_to_its_correction_of_one_point(reference, name):
    numbers, cloud = reference[0]["dadapy"][name], reference[1][name]
    theirs, errors = (np.array(numbers[f"gride_range64_{what}"]) for what in ("ids", "errs"))
    found = Gride(scan_to=64)(cloud, rng=rng())
    assert found.scales.tolist() == [2, 4, 8, 16, 32, 64]
    # Theirs has (n − 1)/d in the derivative of the log-likelihood where it is n/d. At n1 = 1 that is a factor;
    # elsewhere a Newton step from their root, (1/d)/information = error²/d, leaves terms of order 1/n².
    n = len(cloud)
    assert found.dimension_by_scale[0] * (n - 1) / n == pytest.approx(theirs[0], rel=1e-8)
    np.testing.assert_allclose(found.dimension_by_scale, theirs + errors**2 / theirs, rtol=2.0 / n**2)
    np.testing.assert_allclose(
        found.diagnostics["standard_error_by_scale"], errors * found.dimension_by_scale / theirs, rtol=1.0 / n
    )


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("k", [5, 20])
def test_mle_equals_intrinsic_dimension_of_r(reference, name, k):
    numbers, cloud = reference[0]["intrinsicDimension"][name], reference[1][name]
    # One neighbourhood size, harmonic mean of (k − 1)/T over points: no correction of the numerator.
    harmonic = MLE(k1=k, k2=k, average="inverse", unbiased=False, interval="pointwise")(cloud, rng=rng())
    assert harmonic.dimension == pytest.approx(numbers[f"mle_k{k}"], rel=1e-12)


@pytest.mark.parametrize("name", CLOUDS)
def test_mle_equals_the_other_averages_of_r(reference, name):
    numbers, cloud = reference[0]["intrinsicDimension"][name], reference[1][name]
    mean = MLE(k1=20, k2=20, average="mean", unbiased=False, interval="pointwise")(cloud, rng=rng())
    assert mean.dimension == pytest.approx(numbers["mle_k20_mean"], rel=1e-12)
    # Its "unbiased" harmonic mean has n(k − 2) on top, which is right for the plain mean; ours n(k − 1) − 1.
    ours = MLE(k1=20, k2=20, average="inverse", unbiased=True, interval="pointwise")(cloud, rng=rng())
    n = len(cloud)
    assert ours.dimension * n * 18 / (n * 19 - 1) == pytest.approx(numbers["mle_k20_unbiased"], rel=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize("name", CLOUDS)
def test_the_correlation_integral_equals_ider_of_r(reference, name):
    numbers, clouds = reference[0]["ider"][name], reference[1]
    found = CorrelationIntegral(k1=10, k2=20)(clouds[name], rng=rng())
    assert found.dimension == pytest.approx(numbers["corint_k10_k20"], rel=1e-12)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_the_spanning_tree_has_the_total_length_that_scikit_dimension_sums(reference, name, alpha):
    # No number of another program for persistent homology is among the fixtures; its estimator draws other subsamples.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skdim.id._PH import _total_persistence
    cloud = reference[1][name]
    distances = np.linalg.norm(cloud[:, None] - cloud[None, :], axis=-1)
    expected = _total_persistence(distances, np.float64(alpha))
    assert (spanning_tree_lengths(cloud) ** alpha).sum() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize(
    ("estimator", "options", "source", "key"),
    [
        ("CorrInt", {"k1": 10, "k2": 20}, "ider", "corint_k10_k20"),
        ("FisherS", {}, "matlab", "fisher_n_single"),
        ("GRIDE", {}, "dadapy", "twonn_ml"),
        ("MLE", {"n_neighbors": 5}, "intrinsicDimension", "mle_k5"),
        ("MLE", {"n_neighbors": 20, "comb": "mean"}, "intrinsicDimension", "mle_k20_mean"),
        ("MLE", {"n_neighbors": 20, "unbiased": True}, "intrinsicDimension", "mle_k20_unbiased"),
        # R calls the fractional estimate MIND_MLi, the integer one MIND_MLk.
        ("MiND_ML", {"ver": "MLk", "k": 20, "D": 10}, "intrinsicDimension", "mind_mli_k20_D10"),
        ("MiND_ML", {"ver": "MLi", "k": 20, "D": 10}, "intrinsicDimension", "mind_mlk_k20_D10"),
        ("TwoNN", {"method": "mle", "discard_fraction": 0.0}, "dadapy", "twonn_ml"),
        ("lPCA", {"ver": "FO"}, "intrinsicDimension", "pca_FO"),
        ("lPCA", {"ver": "Fan"}, "intrinsicDimension", "pca_fan"),
        ("lPCA", {"ver": "maxgap"}, "intrinsicDimension", "pca_maxgap"),
    ],
)
def test_behind_our_interface_scikit_dimension_still_gives_the_reference(
    reference, name, estimator, options, source, key
):
    found = ScikitDimension(estimator=estimator, options=options)(reference[1][name], rng=rng())
    assert found.dimension == pytest.approx(reference[0][source][name][key], rel=1e-6)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_scales_of_gride_behind_our_interface_are_those_of_dadapy(reference, name):
    numbers = reference[0]["dadapy"][name]
    made = ScikitDimension(estimator="GRIDE", options={"multiscale": True, "range_max": 64})
    found = made(reference[1][name], rng=rng())
    assert found.scales.tolist() == [2, 4, 8, 16, 32, 64]
    np.testing.assert_allclose(found.dimension_by_scale, numbers["gride_range64_ids"], rtol=1e-6)
    np.testing.assert_allclose(found.diagnostics["standard_error_by_scale"], numbers["gride_range64_errs"], rtol=1e-6)
    assert found.standard_error == pytest.approx(numbers["gride_range64_errs"][0], rel=1e-6)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize(
    ("estimator", "source", "key"),
    [("MADA", "ider", "mada_local_k20"), ("MOM", "matlab", "mom_pw"), ("TLE", "matlab", "tle_pw")],
)
def test_pointwise_numbers_equal_the_reference(reference, name, estimator, source, key):
    made = ScikitDimension(estimator=estimator, options={"n_neighbors": 20})
    found = made(reference[1][name], rng=rng()).diagnostics["pointwise"]
    np.testing.assert_allclose(found, reference[0][source][name][key], rtol=1e-6)


@pytest.mark.parametrize("name", CLOUDS)
def test_danco_takes_the_calibration_that_r_exported(reference, name):
    numbers, cloud = reference[0]["danco"][name], reference[1][name]
    calibration = {
        "k": numbers["k"],
        "N": numbers["N"],
        "maxdim": len(numbers["calibration"]),
        "calibration_data": numbers["calibration"],
    }
    options = {"k": numbers["k"], "D": numbers["D"], "fractal": False, "calibration_data": calibration}
    assert ScikitDimension(estimator="DANCo", options=options)(cloud, rng=rng()).dimension == numbers["dim_est"]


def test_copies_are_removed_where_the_matlab_code_keeps_them(reference):
    numbers, cloud = reference[0]["matlab"]["ball5_dups"], reference[1]["ball5_dups"]
    found = nearest_distances(cloud, 20)
    assert (len(found.rows), found.n_copies) == (150, 30)
    ours = ScikitDimension(estimator="MOM", options={"n_neighbors": 20})(cloud, rng=rng()).diagnostics["pointwise"]
    # A point that stands twice is its own nearest neighbour there, which lowers the mean distance.
    assert ours.mean() > 1.05 * np.mean(numbers["mom_pw"])
