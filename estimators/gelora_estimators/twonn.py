"""TwoNN: dimension from the ratio of the distances to the two nearest neighbours."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.stats import chi2

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

_FEWEST_POINTS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoNN:
    """Two-nearest-neighbour estimator (Facco2017).

    With μ = r_2/r_1 the logarithms log μ are exponential with rate d, the dimension. Exact copies
    are removed first. ``fit="regression"`` sorts them, sets F_i = i/n, drops the largest ``discard``
    and fits −log(1 − F) = d log μ through the origin. ``fit="likelihood"`` keeps the m smallest and
    returns (m − 1) / (Σ_{i≤m} log μ_(i) + (n − m) log μ_(m)), the unbiased censored form, which is
    (n − 1)/S for ``discard=0``.

    Parameters
    ----------
    fit : {"regression", "likelihood"}
        How d follows from the ratios.
    discard : float
        Fraction of the largest ratios left out, in [0, 1).
    interval : {"subsampling", "chi2"}
        Error from halves of the cloud, or from the χ² law of independent ratios. Neighbours are
        shared, so the latter is 1.2 to 1.3 times too narrow (coverage 0.88 for a nominal 0.95 on
        flat tori, n = 1,000); halves are on the safe side, 1.2 to 1.6 times too wide.
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
    The number holds at the scale of the second neighbour: noise of that size raises it towards the
    ambient dimension. It reads low for d ≳ 15 at n ~ 1e3–1e4 (a true 20 reads 15 at n = 2,500).

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import TwoNN
    >>> bool(1.8 < TwoNN()(np.random.default_rng(0).random((500, 2)), rng=np.random.default_rng(0)).dimension < 2.2)
    True
    """

    name: ClassVar[str] = "twonn"
    citation: ClassVar[str] = """@article{Facco2017,
  author = {Facco, Elena and d'Errico, Maria and Rodriguez, Alex and Laio, Alessandro},
  title = {Estimating the intrinsic dimension of datasets by a minimal neighborhood information},
  journal = {Scientific Reports},
  volume = {7},
  pages = {12140},
  year = {2017},
  doi = {10.1038/s41598-017-11873-y}
}"""

    fit: str = "regression"
    discard: float = 0.1
    interval: str = "subsampling"
    confidence: float = 0.95
    n_subsamples: int = 50
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, ("regression", "likelihood"))
        check_number("discard", self.discard, low=0.0, high=1.0, closed_low=True)
        check_choice("interval", self.interval, ("subsampling", "chi2"))
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_integer("n_subsamples", self.n_subsamples, minimum=2)

    @property
    def k(self) -> int:
        """Neighbours worth searching: 2 for the number itself, more for the subsampling error."""
        return columns_for_subsampling(2) if self.interval == "subsampling" else 2

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than 10 distinct points, or where `nearest_distances` or the fit finds no
            dimension.
        """
        found = nearest_distances(points, self.k, minimum=_FEWEST_POINTS - 1, device=self.device)
        search = search_within(points, found.rows, k=2, device=self.device)
        n = len(found.rows) + found.n_copies
        return self._estimate(found.distances, found.indices, n, rng, search, near=found.n_near_copies)

    def from_distances(
        self, distances: FloatArray, n: int, rng: np.random.Generator, *, indices: IndexArray | None = None
    ) -> DimensionEstimate:
        """Estimate from neighbour distances found elsewhere, e.g. once for several estimators.

        Parameters
        ----------
        distances : ndarray of shape (n_distinct, at least 2)
            As `nearest_distances` returns them; ``k`` columns serve the subsampling error best.
        n : int
            Points of the cloud, copies included; those beyond ``n_distinct`` are reported as copies.
        rng : numpy.random.Generator
            Draws the subsamples.
        indices : ndarray of the shape of ``distances``, optional
            The neighbours. Without them the error is the χ² one and diagnostics say so.

        Raises
        ------
        DegenerateCloudError
            Where no dimension is defined, with the counts.
        ValueError
            For arrays that are no neighbour lists.
        """
        check_distances(distances, n, indices, columns=2, fewest_points=_FEWEST_POINTS)
        return self._estimate(distances, indices, n, rng, None)

    def _estimate(
        self,
        distances: FloatArray,
        indices: IndexArray | None,
        n: int,
        rng: np.random.Generator,
        search: Search | None,
        near: int | None = None,
    ) -> DimensionEstimate:
        dimension = self._dimension(distances[:, :2])
        n_kept = _count_kept(len(distances), self.discard)
        error = None
        if self.interval == "subsampling" and indices is not None:
            error = subsampling_error(
                distances,
                indices,
                k=2,
                estimate=dimension,
                statistic=self._dimension,
                rng=rng,
                n_subsamples=self.n_subsamples,
                search=search,
            )
        diagnostics: dict[str, float | FloatArray] = {
            "n_copies": float(n - len(distances)),
            "n_kept": float(n_kept),
            "mean_r1": float(distances[:, 0].mean()),
            "mean_r2": float(distances[:, 1].mean()),
            "error_from_subsampling": float(error is not None),
        }
        if near is not None:
            diagnostics["n_near_copies"] = float(near)
        if error is None:
            standard_error, interval = chi2_error(dimension, n_kept, self.confidence)
        else:
            standard_error = error.standard_error
            interval = normal_interval(dimension, standard_error, self.confidence)
            diagnostics["replicates"] = error.replicates
        return DimensionEstimate(
            dimension=dimension,
            standard_error=standard_error,
            interval=interval,
            n_points=len(distances),
            diagnostics=diagnostics,
        )

    def _dimension(self, distances: FloatArray) -> float:
        log_ratios = np.log(distances[:, 1] / distances[:, 0])
        if self.fit == "regression":
            return regression_dimension(log_ratios, self.discard)
        return likelihood_dimension(log_ratios, self.discard)


def regression_dimension(log_ratios: FloatArray, discard: float) -> float:
    """Return the slope through the origin of −log(1 − i/n) on the sorted log μ.

    The last ratio has F = 1 and is left out even for ``discard=0``.

    Raises
    ------
    DegenerateCloudError
        If every kept ratio is 1.
    """
    n = len(log_ratios)
    kept = np.sort(log_ratios)[: min(_count_kept(n, discard), n - 1)]
    height = -np.log1p(-np.arange(1, len(kept) + 1) / n)
    _refuse_equal_distances(float(kept.sum()), len(kept))
    return float((kept @ height) / (kept @ kept))


def likelihood_dimension(log_ratios: FloatArray, discard: float) -> float:
    """Return (m − 1) / (Σ_{i≤m} log μ_(i) + (n − m) log μ_(m)) for the m smallest of n ratios.

    Raises
    ------
    DegenerateCloudError
        If every kept ratio is 1.
    """
    n = len(log_ratios)
    kept = np.sort(log_ratios)[: _count_kept(n, discard)]
    total = float(kept.sum() + (n - len(kept)) * kept[-1])
    _refuse_equal_distances(total, len(kept))
    return (len(kept) - 1) / total


def chi2_error(dimension: float, n_kept: int, confidence: float) -> tuple[float, tuple[float, float]]:
    """Return standard error and interval if the ratios were independent.

    With T the censored sum, 2dT follows χ² with 2m degrees of freedom; T = (m − 1)/dimension.
    For the regression, whose variance is a little larger, this is an approximation.
    """
    total = (n_kept - 1) / dimension
    tail = (1.0 - confidence) / 2.0
    low, high = (float(chi2.ppf(q, 2 * n_kept)) / (2.0 * total) for q in (tail, 1.0 - tail))
    return dimension / float(np.sqrt(max(n_kept - 2, 1))), (low, high)


def _count_kept(n: int, discard: float) -> int:
    """Return how many of n ratios stay, at least 2."""
    return max(2, int(np.floor(n * (1.0 - discard) + 1e-9)))


def _refuse_equal_distances(total: float, n_kept: int) -> None:
    if not total > 0.0:
        raise DegenerateCloudError(
            f"the dimension is undefined: r_2 equals r_1 in all {n_kept} kept points, as on a regular grid."
        )
