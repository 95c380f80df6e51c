"""scikit-learn's manners."""

import numpy as np
import pytest
from sklearn.base import clone

from gelora_estimators import MLE, DegenerateCloudError, SklearnEstimator, TwoNN
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
    assert copy.get_params() == {"estimator": MLE(k1=5), "random_state": 1}
    assert not hasattr(copy, "dimension_")
    assert copy.fit(CLOUD).standard_error_ == fitted.standard_error_
    assert copy.set_params(estimator=TwoNN()).fit(CLOUD).dimension_ != fitted.dimension_


def test_a_generator_is_used_as_it_is():
    found = SklearnEstimator(TwoNN(), random_state=np.random.default_rng(3)).fit(CLOUD, None)
    assert found.standard_error_ == TwoNN()(CLOUD, rng=np.random.default_rng(3)).standard_error


def test_a_degenerate_cloud_is_refused():
    with pytest.raises(DegenerateCloudError, match="all 30 points are equal"):
        SklearnEstimator(TwoNN()).fit(np.ones((30, 3)))
