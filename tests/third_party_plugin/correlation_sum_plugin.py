"""Grassberger and Procaccia's correlation sum, by NumPy and the interface alone."""

from dataclasses import dataclass

import numpy as np

from gelora_estimators.points import distinct_points
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationSum:
    """Slope of log C(r) between two quantiles of the pairwise distances."""

    low: float = 0.01
    high: float = 0.05

    def __call__(self, points, *, rng):
        cloud = distinct_points(points, minimum=10)
        distances = np.sort(_pairs(cloud.points))
        ranks = np.array([int(self.low * distances.size), int(self.high * distances.size)])
        near, far = distances[ranks]
        if near == far:
            raise DegenerateCloudError(f"all of {distances.size} distances are equal")
        slope = np.diff(np.log(ranks + 1.0))[0] / np.log(far / near)
        return DimensionEstimate(dimension=float(slope), n_points=len(cloud.points))


def _pairs(points):
    from scipy.spatial.distance import pdist

    return pdist(points)
