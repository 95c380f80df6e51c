"""The estimator interface: what goes in, what comes out, and how it fails.

NumPy and the standard library only, so that a plug-in needs neither torch nor gelora.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class DegenerateCloudError(ValueError):
    """The intrinsic dimension of a point cloud is undefined.

    Raised for too few distinct points, all points equal, non-finite values, or a fit that has no
    solution on this cloud. The message says which, with the counts.
    """


@dataclass(frozen=True, slots=True)
class DimensionEstimate:
    """An estimated intrinsic dimension with its uncertainty.

    Parameters
    ----------
    dimension : float
        The estimate, a positive number without unit.
    standard_error : float
        Standard error of ``dimension``; NaN where the estimator has none.
    interval : tuple of float
        Confidence (or credible) interval, lower and upper end; NaN where there is none.
    n_points : int
        Distinct points used.
    scales : ndarray of shape (n_scales,), optional
        For multiscale estimators: the neighbourhood size of each entry of ``dimension_by_scale``.
    dimension_by_scale : ndarray of shape (n_scales,), optional
        The estimate at each scale.
    diagnostics : mapping of str to float or ndarray
        What else the estimator measured, e.g. ``n_copies``.
    """

    dimension: float
    standard_error: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))
    n_points: int = 0
    scales: FloatArray | None = None
    dimension_by_scale: FloatArray | None = None
    diagnostics: Mapping[str, float | FloatArray] = field(default_factory=dict)


@runtime_checkable
class DimensionEstimator(Protocol):
    """Anything that is called with points (n, d) and a generator and returns an estimate.

    Notes
    -----
    ``isinstance`` only proves that the object is callable. `gelora_estimators.testing.check_estimator`
    proves the contract: no state, no change to the input, the same number from the same generator,
    no dependence on row order or position, `DegenerateCloudError` where no dimension is defined.
    """

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points``, an array of shape (n, d), NumPy or torch."""
        ...
