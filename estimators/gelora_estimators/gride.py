"""Gride: dimension from the ratio of the distances to two neighbours of any order."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import brentq

from gelora_estimators.neighbors import nearest_distances
from gelora_estimators.options import check_choice, check_integer, check_number
from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray
from gelora_estimators.subsampling import (
    Search,
    check_distances,
    columns_for_subsampling,
    normal_interval,
    search_within,
    subsampling_error,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gride:
    """Generalised ratios estimator (Denti2022).

    With μ = r_{n2}/r_{n1} the density is f(μ) = d (μ^d − 1)^{n2−n1−1} / (μ^{(n2−1)d+1} B(n2−n1, n1)), so
    μ^{−d} ~ Beta(n1, n2 − n1). The estimate is the only root of the likelihood's derivative; for
    n1 = 1, n2 = 2 it is n / Σ log μ, TwoNN's likelihood before its correction (n − 1)/n. The
    standard error is the inverse root of the observed Fisher information.

    Parameters
    ----------
    n1, n2 : int
        Orders of the two neighbours, 1 ≤ n1 < n2.
    scan_to : int, optional
        Largest n2 of a scan n2 = 2 n1 = 2, 4, 8, … into ``dimension_by_scale`` (64 in the paper);
        no scan by default.
    interval : {"fisher", "subsampling"}
        Error from the Fisher information, which takes the points for independent and is too
        narrow the more neighbours are shared (large n2), or from halves of the cloud.
    confidence : float
        Coverage of the interval, in (0, 1).
    n_subsamples : int
        Halves drawn for ``interval="subsampling"``.
    device : str
        Where distances are computed: "auto", "cpu", "cuda:0" …

    Raises
    ------
    ValueError
        For an option outside its range.

    Notes
    -----
    The number holds at the scale of r_{n2}. On noisy data small orders see the noise; a plateau of
    the scan is the answer, and where there is none no single dimension exists.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import Gride
    >>> bool(1.8 < Gride()(np.random.default_rng(0).random((500, 2)), rng=np.random.default_rng(0)).dimension < 2.2)
    True
    """

    name: ClassVar[str] = "gride"
    citation: ClassVar[str] = """@article{Denti2022,
  author = {Denti, Francesco and Doimo, Diego and Laio, Alessandro and Mira, Antonietta},
  title = {The generalized ratios intrinsic dimension estimator},
  journal = {Scientific Reports},
  volume = {12},
  pages = {20005},
  year = {2022},
  doi = {10.1038/s41598-022-20991-1}
}"""

    n1: int = 1
    n2: int = 2
    scan_to: int | None = None
    interval: str = "fisher"
    confidence: float = 0.95
    n_subsamples: int = 50
    device: str = "auto"

    def __post_init__(self) -> None:
        check_integer("n1", self.n1, minimum=1)
        check_integer("n2", self.n2, minimum=self.n1 + 1)
        if self.scan_to is not None:
            check_integer("scan_to", self.scan_to, minimum=2)
        check_choice("interval", self.interval, ("fisher", "subsampling"))
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_integer("n_subsamples", self.n_subsamples, minimum=2)

    @property
    def k(self) -> int:
        """Neighbours worth searching: n2 for the number itself, more for a scan or a subsampling error."""
        needed = columns_for_subsampling(self.n2) if self.interval == "subsampling" else self.n2
        return max(needed, *self._scan) if self._scan else needed

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than max(10, n2 + 2) distinct points, or where `nearest_distances` or the
            likelihood finds no dimension.
        """
        found = nearest_distances(points, self.k, minimum=self._fewest_points - 1, device=self.device)
        search = search_within(points, found.rows, k=self.n2, device=self.device)
        n = len(found.rows) + found.n_copies
        return self._estimate(found.distances, found.indices, n, rng, search, near=found.n_near_copies)

    def from_distances(
        self, distances: FloatArray, n: int, rng: np.random.Generator, *, indices: IndexArray | None = None
    ) -> DimensionEstimate:
        """Estimate from neighbour distances found elsewhere, e.g. once for several estimators.

        Parameters
        ----------
        distances : ndarray of shape (n_distinct, at least n2)
            As `nearest_distances` returns them; a scan goes as far as there are columns.
        n : int
            Points of the cloud, copies included; those beyond ``n_distinct`` are reported as copies.
        rng : numpy.random.Generator
            Draws the subsamples.
        indices : ndarray of the shape of ``distances``, optional
            The neighbours. Without them the error is the Fisher one and diagnostics say so.

        Raises
        ------
        DegenerateCloudError
            Where no dimension is defined, with the counts.
        ValueError
            For arrays that are no neighbour lists.
        """
        check_distances(distances, n, indices, columns=self.n2, fewest_points=self._fewest_points)
        return self._estimate(distances, indices, n, rng, None)

    @property
    def _fewest_points(self) -> int:
        return max(10, self.n2 + 2)

    @property
    def _scan(self) -> list[int]:
        """The n2 of the scan: powers of two up to ``scan_to``."""
        return [] if self.scan_to is None else [2**power for power in range(1, self.scan_to.bit_length())]

    def _estimate(
        self,
        distances: FloatArray,
        indices: IndexArray | None,
        n: int,
        rng: np.random.Generator,
        search: Search | None,
        near: int | None = None,
    ) -> DimensionEstimate:
        dimension, standard_error = likelihood_dimension(distances, self.n1, self.n2)
        error = None
        if self.interval == "subsampling" and indices is not None:
            error = subsampling_error(
                distances,
                indices,
                k=self.n2,
                estimate=dimension,
                statistic=lambda inside: likelihood_dimension(inside, self.n1, self.n2)[0],
                rng=rng,
                n_subsamples=self.n_subsamples,
                search=search,
            )
        diagnostics: dict[str, float | FloatArray] = {
            "n_copies": float(n - len(distances)),
            "mean_radius": float(distances[:, self.n2 - 1].mean()),
            "error_from_subsampling": float(error is not None),
        }
        if near is not None:
            diagnostics["n_near_copies"] = float(near)
        if error is not None:
            standard_error = error.standard_error
            diagnostics["replicates"] = error.replicates
        orders = [order for order in self._scan if order <= distances.shape[1]]
        scan = np.array([likelihood_dimension(distances, order // 2, order) for order in orders]).reshape(-1, 2)
        if orders:
            diagnostics["standard_error_by_scale"] = scan[:, 1]
            diagnostics["mean_radius_by_scale"] = distances[:, np.array(orders) - 1].mean(axis=0)
        return DimensionEstimate(
            dimension=dimension,
            standard_error=standard_error,
            interval=normal_interval(dimension, standard_error, self.confidence),
            n_points=len(distances),
            scales=np.array(orders, dtype=np.float64) if orders else None,
            dimension_by_scale=scan[:, 0] if orders else None,
            diagnostics=diagnostics,
        )


def likelihood_dimension(distances: FloatArray, n1: int, n2: int) -> tuple[float, float]:
    """Return the maximum-likelihood dimension and its standard error from neighbours n1 and n2.

    With l = log μ the derivative of the log-likelihood is
    n/d − (n2 − 1) Σ l + (n2 − n1 − 1) Σ l / (1 − e^{−dl}). It falls with d, and since
    1/d ≤ l/(1 − e^{−dl}) ≤ 1/d + l its root lies between n (n2 − n1)/((n2 − 1) Σ l) and
    n (n2 − n1)/(n1 Σ l).

    Raises
    ------
    DegenerateCloudError
        If every ratio is 1.
    """
    log_ratios = np.log(distances[:, n2 - 1] / distances[:, n1 - 1])
    n, total = len(log_ratios), float(log_ratios.sum())
    if not total > 0.0:
        raise DegenerateCloudError(
            f"the dimension is undefined: neighbours {n1} and {n2} are equally far in all {n} points."
        )
    low, high = n * (n2 - n1) / ((n2 - 1) * total), n * (n2 - n1) / (n1 * total)

    def slope(dimension: float) -> float:
        return n / dimension - (n2 - 1) * total + (n2 - n1 - 1) * _odds_sum(log_ratios, dimension)

    root = low
    if n2 - n1 > 1:
        # The ends are bounds in exact arithmetic; widen them by more than rounding.
        root = float(brentq(slope, low * (1.0 - 1e-6), high * (1.0 + 1e-6), xtol=1e-13 * low, rtol=1e-14))
    information = n / root**2 + (n2 - n1 - 1) * _curvature_sum(log_ratios, root)
    return root, 1.0 / float(np.sqrt(information))


def _odds_sum(log_ratios: FloatArray, dimension: float) -> float:
    """Return Σ l / (1 − e^{−dl}), with the limit 1/d at l = 0."""
    positive = log_ratios[log_ratios > 0.0]
    at_zero = (len(log_ratios) - len(positive)) / dimension
    return at_zero + float((positive / -np.expm1(-dimension * positive)).sum())


def _curvature_sum(log_ratios: FloatArray, dimension: float) -> float:
    """Return Σ l² e^{−dl} / (1 − e^{−dl})², with the limit 1/d² at l = 0."""
    positive = log_ratios[log_ratios > 0.0]
    at_zero = (len(log_ratios) - len(positive)) / dimension**2
    terms = positive * np.exp(-0.5 * dimension * positive) / -np.expm1(-dimension * positive)
    return at_zero + float(np.square(terms).sum())
