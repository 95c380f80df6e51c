"""scikit-learn's manners for any estimator: ``fit(X).dimension_``."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from gelora_estimators.points import as_points
from gelora_estimators.protocol import DimensionEstimator


class SklearnEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Let scikit-learn clone and fit a dimension estimator.

    Parameters
    ----------
    estimator : DimensionEstimator
        What computes the number, e.g. ``TwoNN()``.
    random_state : int, numpy.random.Generator or None
        Seed; with None every fit draws anew.

    Attributes
    ----------
    dimension_ : float
        The estimate.
    standard_error_ : float
        Its standard error, NaN where there is none.
    estimate_ : DimensionEstimate
        Everything the estimator returned.
    n_features_in_ : int
        Coordinates of a point.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import SklearnEstimator, TwoNN
    >>> round(SklearnEstimator(TwoNN(), random_state=0).fit(np.random.default_rng(0).random((500, 2))).dimension_)
    2
    """

    def __init__(self, estimator: DimensionEstimator, *, random_state: int | np.random.Generator | None = None) -> None:
        self.estimator = estimator
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002  # scikit-learn's signature
        """Estimate the dimension of ``X``, an array of shape (n_samples, n_features).

        Raises
        ------
        DegenerateCloudError
            Where the estimator finds no dimension.
        """
        points = as_points(X)
        self.estimate_ = self.estimator(points, rng=np.random.default_rng(self.random_state))
        self.dimension_ = self.estimate_.dimension
        self.standard_error_ = self.estimate_.standard_error
        self.n_features_in_ = points.shape[1]
        return self
