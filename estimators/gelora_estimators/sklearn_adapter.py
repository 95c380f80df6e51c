"""scikit-learn's manners for any estimator: ``fit(X).dimension_``."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from gelora_estimators.points import as_points
from gelora_estimators.protocol import DimensionEstimator

_PREFIX = "estimator__"


class SklearnEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Let scikit-learn clone, search and fit a dimension estimator.

    Options of the estimator are parameters too: ``set_params(estimator__discard=0.2)`` puts an estimator
    with that option in the place of the present one, which stays as it is.

    Parameters
    ----------
    estimator : DimensionEstimator, optional
        What computes the number; ``TwoNN()`` by default.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
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
    feature_names_in_ : ndarray of str
        Their names, where ``X`` has names for its columns.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import SklearnEstimator, TwoNN
    >>> round(SklearnEstimator(TwoNN(), random_state=0).fit(np.random.default_rng(0).random((500, 2))).dimension_)
    2
    """

    def __init__(
        self,
        estimator: DimensionEstimator | None = None,
        *,
        random_state: int | np.random.Generator | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002  # scikit-learn's signature
        """Estimate the dimension of ``X``, an array, data frame or torch tensor of shape (n_samples, n_features).

        Raises
        ------
        DegenerateCloudError
            Where the estimator finds no dimension; NaN and infinite values are such a case.
        ValueError, TypeError
            For data that scikit-learn refuses: sparse, complex, not two-dimensional, empty, one sample.
        """
        if hasattr(X, "detach"):
            # scikit-learn does not take tensors of 16 bits; ours keeps their precision and device.
            self.n_features_in_ = as_points(X).shape[1]
            points = X
        else:
            points = validate_data(self, X, dtype="numeric", ensure_all_finite=False, ensure_min_samples=2)
        self.estimate_ = self._chosen(points, rng=_generator(self.random_state))
        self.dimension_ = self.estimate_.dimension
        self.standard_error_ = self.estimate_.standard_error
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with ``deep`` also ``estimator__<option>`` for every option of the estimator."""
        params: dict[str, Any] = super().get_params(deep=deep)
        return params | {_PREFIX + name: getattr(self._chosen, name) for name in self._options} if deep else params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; those of the form ``estimator__<option>`` after ``estimator`` itself.

        Raises
        ------
        ValueError
            For a name that is no parameter, or a value the estimator does not take.
        """
        nested = {name.removeprefix(_PREFIX): value for name, value in params.items() if name.startswith(_PREFIX)}
        super().set_params(**{name: value for name, value in params.items() if not name.startswith(_PREFIX)})
        unknown = sorted(set(nested) - set(self._options))
        if unknown:
            raise ValueError(
                f"`estimator__…` must name an option of {type(self._chosen).__name__} "
                f"({', '.join(self._options) or 'it has none'}), got {', '.join(unknown)}: pick one from the list."
            )
        if nested:
            chosen: Any = self._chosen
            self.estimator = replace(chosen, **nested)
        return self

    @property
    def _chosen(self) -> DimensionEstimator:
        if self.estimator is not None:
            return self.estimator
        # Imported here, for it needs torch, which an adapter around another estimator does not.
        from gelora_estimators.twonn import TwoNN

        return TwoNN()

    @property
    def _options(self) -> tuple[str, ...]:
        """Names of the options of a dataclass; an estimator of another kind has none we know."""
        chosen: Any = self._chosen
        return tuple(field.name for field in fields(chosen)) if is_dataclass(chosen) else ()


def _generator(random_state: int | np.random.Generator | np.random.RandomState | None) -> np.random.Generator:
    """Return the generator that a ``random_state`` stands for."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**32, dtype=np.uint64))
    return np.random.default_rng(random_state)
