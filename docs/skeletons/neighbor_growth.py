"""Dimension from the growth of the distance from one neighbour to a farther one: a skeleton of an estimator."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gelora_estimators import DegenerateCloudError, DimensionEstimate, nearest_distances


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighborGrowth:
    """Where the density is constant, log(r_k2 / r_k1) has the mean (1/k1 + … + 1/(k2 − 1)) / d.

    Parameters
    ----------
    k1, k2 : int
        Orders of the two neighbours, 1 ≤ k1 < k2.

    Raises
    ------
    ValueError
        For orders that are no such integers.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).random((500, 2))
    >>> bool(1.7 < NeighborGrowth()(cloud, rng=np.random.default_rng(0)).dimension < 2.2)
    True
    """

    name: ClassVar[str] = "growth"
    citation: ClassVar[str] = "% BibTeX of the paper, for gelora.citation"

    k1: int = 5
    k2: int = 10

    def __post_init__(self) -> None:
        """Check the options once, so that the work below can trust them."""
        if not (isinstance(self.k1, int) and isinstance(self.k2, int) and 1 <= self.k1 < self.k2):
            raise ValueError(f"`k1` and `k2` must be integers with 1 <= k1 < k2, got {self.k1!r} and {self.k2!r}")

    @property
    def k(self) -> int:
        """Neighbours worth searching."""
        return self.k2

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d)."""
        # Checks the input, takes torch tensors and lists too, removes and counts copies, searches exactly;
        # raises DegenerateCloudError where no dimension is defined.
        found = nearest_distances(points, self.k, minimum=self.k + 1)
        return self.from_distances(found.distances, found.n_points, rng)

    def from_distances(
        self,
        distances: "np.ndarray[Any, np.dtype[np.float64]]",
        n: int,
        rng: np.random.Generator,  # noqa: ARG002 - nothing is drawn here
        *,
        indices: Any = None,  # noqa: ARG002 - part of the interface
        points: Any = None,  # noqa: ARG002
    ) -> DimensionEstimate:
        """Estimate from lists of neighbours (n_distinct, at least k), which one search makes for all estimators."""
        growth = np.log(distances[:, self.k2 - 1] / distances[:, self.k1 - 1])
        if not growth.sum() > 0:
            raise DegenerateCloudError(
                f"the dimension is undefined: neighbours {self.k1} and {self.k2} of all {len(growth)} points are "
                "equally far"
            )
        dimension = (1.0 / np.arange(self.k1, self.k2)).sum() / growth.mean()
        return DimensionEstimate(
            dimension=float(dimension),
            n_points=len(distances),
            diagnostics={"n_copies": float(n - len(distances))},
        )
