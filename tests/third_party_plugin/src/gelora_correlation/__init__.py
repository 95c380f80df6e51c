"""The correlation dimension (Grassberger and Procaccia 1983) as an estimator for gelora."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gelora_estimators import DegenerateCloudError, DimensionEstimate, distinct_points


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrelationDimension:
    """Correlation dimension: the fraction of pairs closer than r grows as r to the dimension.

    Parameters
    ----------
    near, far : float
        Fractions of pairs between whose distances the slope is taken, 0 < near < far < 1.
    max_points : int
        Points drawn from a larger cloud: the cost grows with their square.
    """

    citation: ClassVar[str] = """@article{GrassbergerProcaccia1983,
  author = {Grassberger, Peter and Procaccia, Itamar},
  title = {Measuring the strangeness of strange attractors},
  journal = {Physica D},
  volume = {9},
  pages = {189--208},
  year = {1983}
}"""

    near: float = 0.002
    far: float = 0.02
    max_points: int = 2000

    def __post_init__(self) -> None:
        """Check the options once, so that the work below can trust them."""
        if not 0 < self.near < self.far < 1:
            raise ValueError(
                f"`near` and `far` must satisfy 0 < near < far < 1, got {self.near} and {self.far}: change one"
            )
        if self.max_points < 100:
            raise ValueError(f"`max_points` must be at least 100, got {self.max_points}")

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d), drawing with ``rng`` where there are too many."""
        # Checks the input, takes torch tensors and lists too, removes copies and subtracts the mean in float64;
        # raises DegenerateCloudError where no dimension is defined.
        cloud = distinct_points(points, minimum=100)
        kept = cloud.points
        if len(kept) > self.max_points:
            kept = kept[rng.choice(len(kept), self.max_points, replace=False)]
        radii = np.quantile(pair_distances(kept), [self.near, self.far])
        # Below this distance two points may be one vector, rounded differently.
        if not 2 * cloud.rounding_distance < radii[0] < radii[1]:
            raise DegenerateCloudError(
                f"the dimension is undefined: the nearest {self.near:.1%} of the pairs of {len(kept)} points cannot be "
                "told from copies, or have one distance with the others"
            )
        dimension = np.log(self.far / self.near) / np.log(radii[1] / radii[0])
        return DimensionEstimate(
            dimension=float(dimension), n_points=len(kept), diagnostics={"n_copies": float(cloud.n_copies)}
        )


def pair_distances(points: np.ndarray) -> np.ndarray:
    """Return the distance of every pair of ``points``, by subtraction: a product would lose digits."""
    rows = (np.linalg.norm(points[i + 1 :] - points[i], axis=1) for i in range(len(points) - 1))
    return np.concatenate(list(rows))
