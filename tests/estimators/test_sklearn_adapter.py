"""scikit-learn's manners."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.utils.estimator_checks import check_estimator

from gelora_estimators import MLE, DegenerateCloudError, Gride, SklearnEstimator, TwoNN
from gelora_estimators.clouds import sphere

CLOUD = sphere(200, 2, 5, np.random.default_rng(0))


def test_fit_sets_what_the_estimator_returns():
    found = SklearnEstimator(TwoNN(), random_state=3).fit(CLOUD)
    expected = TwoNN()(CLOUD, rng=np.random.default_rng(3))
    assert (found.dimension_, found.standard_error_) == (expected.dimension, expected.standard_error)
    assert found.estimate_.interval == expected.interval
    assert found.n_features_in_ == 5


def test_clone_and_parameters_work_as_in_scikit_learn():
    fitted = SklearnEstimator(MLE(k1=5), random_state=1).fit(CLOUD)
    copy = clone(fitted)
    assert copy.get_params(deep=False) == {"estimator": MLE(k1=5), "random_state": 1}
    assert not hasattr(copy, "dimension_")
    assert copy.fit(CLOUD).standard_error_ == fitted.standard_error_
    assert copy.set_params(estimator=TwoNN()).fit(CLOUD).dimension_ != fitted.dimension_


def test_a_generator_is_used_as_it_is():
    found = SklearnEstimator(TwoNN(), random_state=np.random.default_rng(3)).fit(CLOUD, None)
    assert found.standard_error_ == TwoNN()(CLOUD, rng=np.random.default_rng(3)).standard_error


def test_a_degenerate_cloud_is_refused():
    with pytest.raises(DegenerateCloudError, match="all 30 points are equal"):
        SklearnEstimator(TwoNN()).fit(np.ones((30, 3)))


@pytest.mark.smoke
@pytest.mark.parametrize("estimator", [None, TwoNN(), MLE(k1=3, k2=5), Gride()], ids=repr)
def test_every_check_of_scikit_learn_passes(estimator):
    results = check_estimator(SklearnEstimator(estimator), on_fail=None, on_skip=None)
    # The one skipped takes array-API input, which scikit-learn tries only where SCIPY_ARRAY_API is set.
    assert {(result["check_name"], result["status"]) for result in results if result["status"] != "passed"} <= {
        ("check_array_api_input", "skipped")
    }
    assert len(results) > 35


def test_twonn_is_the_default():
    found = SklearnEstimator(random_state=3).fit(CLOUD)
    assert found.estimator is None
    assert found.dimension_ == SklearnEstimator(TwoNN(), random_state=3).fit(CLOUD).dimension_


def test_an_adapter_around_another_estimator_does_not_import_torch():
    program = """
import sys, numpy as np
from gelora_estimators import DimensionEstimate, SklearnEstimator
found = SklearnEstimator(lambda points, *, rng: DimensionEstimate(2.5, n_points=len(points))).fit(np.eye(4))
assert (found.dimension_, found.estimate_.n_points) == (2.5, 4)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_options_of_the_estimator_are_parameters_too():
    given = TwoNN()
    adapter = SklearnEstimator(given)
    assert adapter.get_params()["estimator__discard"] == 0.1
    assert adapter.set_params(estimator__discard=0.2, random_state=5) is adapter
    assert adapter.estimator == TwoNN(discard=0.2)
    assert adapter.random_state == 5
    assert given == TwoNN()
    assert SklearnEstimator().set_params(estimator__fit="likelihood").estimator == TwoNN(fit="likelihood")
    assert adapter.set_params(estimator__k2=7, estimator=MLE(k1=4)).estimator == MLE(k1=4, k2=7)
    fits = [clone(adapter).set_params(**params).fit(CLOUD) for params in ParameterGrid({"estimator__k2": [5, 9]})]
    assert [fit.dimension_ for fit in fits] == [
        MLE(k1=4, k2=k2)(CLOUD, rng=np.random.default_rng(5)).dimension for k2 in (5, 9)
    ]


def test_an_unknown_option_or_a_wrong_value_is_refused():
    with pytest.raises(ValueError, match=r"must name an option of TwoNN \(fit, discard.*got k2, speed: pick one"):
        SklearnEstimator().set_params(estimator__speed=1, estimator__k2=3)
    with pytest.raises(ValueError, match=r"`discard` must be a number in \[0, 1\), got 2"):
        SklearnEstimator().set_params(estimator__discard=2)
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        SklearnEstimator().set_params(depth=1)


def test_an_estimator_that_is_no_dataclass_has_no_options_but_works():
    def estimate(points, *, rng):
        return TwoNN(interval="chi2")(points, rng=rng)

    adapter = SklearnEstimator(estimate)
    assert adapter.get_params() == {"estimator": estimate, "random_state": None}
    assert adapter.fit(CLOUD).dimension_ == TwoNN()(CLOUD, rng=np.random.default_rng(0)).dimension
    with pytest.raises(ValueError, match=r"option of function \(it has none\), got k"):
        adapter.set_params(estimator__k=1)


def test_names_of_columns_are_kept_and_a_fitted_adapter_can_be_pickled():
    frame = pd.DataFrame(CLOUD, columns=list("abcde"))
    found = SklearnEstimator(random_state=1).fit(frame)
    assert found.feature_names_in_.tolist() == list("abcde")
    assert found.dimension_ == SklearnEstimator(random_state=1).fit(CLOUD).dimension_
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert (again.dimension_, again.standard_error_) == (found.dimension_, found.standard_error_)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_keep_their_precision(kind):
    tensor = torch.from_numpy(CLOUD).to(kind).requires_grad_()
    found = SklearnEstimator(random_state=2).fit(tensor)
    expected = TwoNN()(tensor, rng=np.random.default_rng(2))
    assert (found.dimension_, found.standard_error_) == (expected.dimension, expected.standard_error)
    assert found.n_features_in_ == 5


def test_half_precision_arrays_are_recognised_behind_the_checks_of_scikit_learn():
    noisy = np.random.default_rng(0).permutation(np.repeat(CLOUD[:40].astype(np.float16), 5, axis=0))
    noisy *= 1 + np.random.default_rng(1).integers(0, 2, noisy.shape) * np.float16(2.0**-10)
    with pytest.raises(DegenerateCloudError, match="relative size 9.8e-04"):
        SklearnEstimator().fit(noisy)


def test_a_legacy_generator_seeds_like_in_scikit_learn():
    found = [
        SklearnEstimator(random_state=np.random.RandomState(seed)).fit(CLOUD).standard_error_ for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (CLOUD[0], "Expected 2D array, got 1D array instead"),
        (CLOUD[:1], r"Found array with 1 sample\(s\)"),
        (CLOUD[:, :0], r"Found array with 0 feature\(s\)"),
        (CLOUD + 1j, "Complex data not supported"),
        (np.where(CLOUD[3, 1] == CLOUD, np.nan, CLOUD), "1 of 200 points hold NaN or infinite values"),
    ],
)
def test_data_that_is_no_cloud_is_refused(points, message):
    with pytest.raises(ValueError, match=message):
        SklearnEstimator().fit(points)


def test_sparse_data_is_refused():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        SklearnEstimator().fit(csr_array(CLOUD))
