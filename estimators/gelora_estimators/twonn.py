"""TwoNN: dimension from the ratio of the distances to the two nearest neighbours."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import gammainccinv, gammaincinv

from gelora_estimators.neighbors import Neighbors
from gelora_estimators.options import check_applies, check_choice, check_integer, check_number, check_search
from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray
from gelora_estimators.subsampling import (
    Search,
    check_distances,
    columns_for_subsampling,
    decimation_scan,
    neighbors_for,
    normal_interval,
    search_within,
    subsampling_error,
)

_FEWEST_POINTS = 10
_INTERVALS = {
    "regression": ("subsampling", "chi2"),
    "likelihood": ("subsampling", "chi2"),
    "posterior": ("subsampling", "posterior"),
}
# Taken off the number of kept ratios in the numerator of the likelihood form.
_CORRECTION = {"maximum": 0, "unbiased": 1, "least_error": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoNN:
    """Two-nearest-neighbour estimator (Facco2017).

    With μ = r_2/r_1 the logarithms log μ are exponential with rate d, the dimension. Exact copies
    are removed first. The m smallest of the n ratios are kept, and the n − m larger ones enter as
    being at least log μ_(m): T = Σ_{i≤m} log μ_(i) + (n − m) log μ_(m) is the censored sum, and 2dT
    follows χ² with 2m degrees of freedom where ratios are independent.

    * ``fit="regression"`` sorts the ratios, sets F_i = i/n and fits −log(1 − F) = d log μ through the
      origin on the kept ones.
    * ``fit="likelihood"`` returns (m − 1)/T, m/T or (m − 2)/T (Denti2022), as ``form`` says.
    * ``fit="posterior"`` takes d for a Gamma variable of shape a and rate b beforehand, which is then
      one of shape a + m and rate b + T (Denti2022), and returns its mean (a + m)/(b + T).

    Parameters
    ----------
    fit : {"regression", "likelihood", "posterior"}
        How d follows from the ratios.
    discard : float
        Fraction of the largest ratios left out, in [0, 1).
    form : {"unbiased", "least_error", "maximum"}
        For the likelihood: (m − 1)/T, free of bias; (m − 2)/T, of least mean squared error; m/T, the
        maximum itself, which reads high by a factor of m/(m − 1).
    prior_shape, prior_rate : float
        For the posterior: a and b of the prior, at least 0. Both are 0.001 unless said otherwise, a
        prior so wide that it adds a thousandth of a point to the data. At 0 and 0, the limit 1/d,
        the mean is m/T and the credible interval is the χ² interval.
    interval : {"subsampling", "chi2", "posterior"}
        Where standard error and interval come from; see the notes. "chi2" goes with the regression
        and the likelihood, "posterior" with the posterior.
    confidence : float
        Coverage of the interval, in (0, 1).
    n_subsamples : int
        Halves drawn for ``interval="subsampling"``.
    decimations : int
        How often to halve the cloud for a scan over scales; no scan at 0.
    device, neighbors : str
        Where distances are computed ("auto", "cpu", "cuda:0" …), and how neighbours are searched (`nearest_distances`).

    Raises
    ------
    ValueError
        For an option outside its range, or that does not go with the fit.

    Notes
    -----
    The number holds at the scale of the second neighbour: noise of that size raises it towards the
    ambient dimension. It reads low for d ≳ 15 at n ~ 1e3–1e4 (a true 20 reads 15 at n = 2,500).

    Intervals. "chi2" is [χ²_{2m} quantiles]/(2T), exact for independent ratios whatever the form; the
    standard error beside it is the dimension over √(m − 2). For the regression it is an approximation:
    T is replaced by (m − 1)/d. "posterior" is the equal-tailed credible interval beside the
    standard deviation of the posterior. Both take ratios for independent, but neighbours are shared:
    their errors are 1.2 to 1.4 times too small (coverage 0.83 to 0.90 for a nominal 0.95 on cubes
    with glued faces, n = 1,000). "subsampling", the difference between halves of the cloud, needs no such assumption:
    its errors were 0.91 to 1.01 times the true spread and its 0.95 intervals covered 0.92 to 0.955 on
    cubes with glued faces, d = 2, 5 and 10 (n = 1,000, 400 clouds each). No interval knows of bias: products of
    ten circles, whose chords cut corners, read 12.3; see `calibrated`.

    With ``decimations`` the scan holds the estimate on the cloud and its mean over 2, 4, 8, …
    disjoint random parts of n/2, n/4, n/8, … points, down to parts of 10: ``scales`` are the numbers
    of points in a part; ``diagnostics`` hold ``standard_error_by_scale``, the spread over the parts
    over the root of their number (for the whole cloud the error of the estimate), and
    ``mean_r2_by_scale``. Fewer points look at a larger scale: a plateau is the answer, a rise towards
    all points is noise. A scale at which a part has no dimension is NaN.

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
    form: str = "unbiased"
    prior_shape: float = 0.001
    prior_rate: float = 0.001
    interval: str = "subsampling"
    confidence: float = 0.95
    n_subsamples: int = 50
    decimations: int = 0
    device: str = "auto"
    neighbors: str = "exact"

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, tuple(_INTERVALS))
        check_number("discard", self.discard, low=0.0, high=1.0, closed_low=True)
        check_choice("form", self.form, tuple(_CORRECTION))
        check_number("prior_shape", self.prior_shape, low=0.0, high=np.inf, closed_low=True)
        check_number("prior_rate", self.prior_rate, low=0.0, high=np.inf, closed_low=True)
        check_applies("form", self.form, default="unbiased", other="fit", needed="likelihood", chosen=self.fit)
        for name, value in (("prior_shape", self.prior_shape), ("prior_rate", self.prior_rate)):
            check_applies(name, value, default=0.001, other="fit", needed="posterior", chosen=self.fit)
        if self.interval in ("chi2", "posterior") and self.interval not in _INTERVALS[self.fit]:
            raise ValueError(
                f"`interval` must be one of {', '.join(map(repr, _INTERVALS[self.fit]))} with fit={self.fit!r}, got "
                f"{self.interval!r}: 'chi2' goes with the regression and the likelihood, 'posterior' with "
                "fit='posterior'."
            )
        check_choice("interval", self.interval, _INTERVALS[self.fit])
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_integer("n_subsamples", self.n_subsamples, minimum=2)
        check_integer("decimations", self.decimations, minimum=0)
        check_search(self.device, self.neighbors)

    @property
    def k(self) -> int:
        """Neighbours worth searching: 2 for the number itself, more for halves of the cloud."""
        return columns_for_subsampling(2) if self.interval == "subsampling" or self.decimations else 2

    def without_error(self) -> "TwoNN":
        """Return the same estimator with its cheapest error, for those who take the spread over resamples."""
        return replace(self, interval="posterior" if self.fit == "posterior" else "chi2")

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than 10 distinct points, or where `nearest_distances` or the fit finds no
            dimension.
        """
        found = neighbors_for(self, points, minimum=_FEWEST_POINTS - 1)
        search = search_within(points, found.rows, k=2, device=self.device, neighbors=self.neighbors)
        return self._estimate(found.distances, found.indices, found.n_points, rng, search, found)

    def from_distances(
        self,
        distances: FloatArray,
        n: int,
        rng: np.random.Generator,
        *,
        indices: IndexArray | None = None,
        points: Any = None,
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
            The neighbours. Without them the error is the one of independent ratios and diagnostics
            say so.
        points : array_like of shape (n_distinct, d), optional
            The distinct points, row by row as in ``distances``, to search the subsamples the lists
            cannot answer. With ``indices`` and ``points`` everything but ``n_near_copies`` equals the
            call on the points; without ``points`` a scan ends at the first part that needs them.

        Raises
        ------
        DegenerateCloudError
            Where no dimension is defined, with the counts.
        ValueError
            For arrays that are no neighbour lists.
        """
        check_distances(distances, n, indices, columns=2, fewest_points=_FEWEST_POINTS, points=points)
        if points is None:
            return self._estimate(distances, indices, n, rng, None)
        # Which parts are searched must not depend on who else wanted a longer list.
        nearest = distances[:, : self.k]
        search = search_within(points, None, k=2, device=self.device, neighbors=self.neighbors)
        return self._estimate(nearest, None if indices is None else indices[:, : self.k], n, rng, search)

    def _estimate(
        self,
        distances: FloatArray,
        indices: IndexArray | None,
        n: int,
        rng: np.random.Generator,
        search: Search | None,
        found: Neighbors | None = None,
    ) -> DimensionEstimate:
        # A contiguous copy, so that wider lists give the same bits.
        nearest = np.ascontiguousarray(distances[:, :2])
        dimension = self._dimension(nearest)
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
            "n_kept": float(self._count_used(len(distances))),
            "mean_r1": float(nearest[:, 0].mean()),
            "mean_r2": float(nearest[:, 1].mean()),
            "error_from_subsampling": float(error is not None),
        }
        if found is not None:
            diagnostics |= found.diagnostics
        if self.fit == "posterior":
            diagnostics["posterior_shape"], diagnostics["posterior_rate"] = self._posterior(nearest)
        if error is None:
            standard_error, interval = self._independent_error(nearest, dimension)
        else:
            standard_error = error.standard_error
            interval = normal_interval(dimension, standard_error, self.confidence, error.n_pairs)
            diagnostics["replicates"] = error.replicates
        # Drawn after the halves, so that dimension and error are what they are without a scan.
        scan = self._scan(nearest, dimension, standard_error, distances, indices, rng, search)
        if scan is not None:
            diagnostics |= {"standard_error_by_scale": scan[:, 2], "mean_r2_by_scale": scan[:, 3]}
        return DimensionEstimate(
            dimension=dimension,
            standard_error=standard_error,
            interval=interval,
            n_points=len(distances),
            scales=None if scan is None else scan[:, 0],
            dimension_by_scale=None if scan is None else scan[:, 1],
            diagnostics=diagnostics,
        )

    def _scan(
        self,
        nearest: FloatArray,
        dimension: float,
        standard_error: float,
        distances: FloatArray,
        indices: IndexArray | None,
        rng: np.random.Generator,
        search: Search | None,
    ) -> FloatArray | None:
        """Return points, dimension, standard error and mean r_2 of the cloud and of its parts; None for no scan."""
        if self.decimations == 0:
            return None
        parts = decimation_scan(
            distances,
            indices,
            k=2,
            decimations=self.decimations,
            fewest_points=_FEWEST_POINTS,
            statistic=self._dimension,
            rng=rng,
            search=search,
        )
        return np.vstack([[len(nearest), dimension, standard_error, nearest[:, 1].mean()], parts])

    def _dimension(self, nearest: FloatArray) -> float:
        if self.fit == "posterior":
            shape, rate = self._posterior(nearest)
            return shape / rate
        log_ratios = np.log(nearest[:, 1] / nearest[:, 0])
        if self.fit == "regression":
            return regression_dimension(log_ratios, self.discard)
        return likelihood_dimension(log_ratios, self.discard, form=self.form)

    def _count_used(self, n: int) -> int:
        """Return how many of n ratios the fit uses: the regression never the last."""
        return min(_count_kept(n, self.discard), n - (self.fit == "regression"))

    def _posterior(self, nearest: FloatArray) -> tuple[float, float]:
        """Return shape and rate of the Gamma posterior."""
        total, n_kept = censored_sum(np.log(nearest[:, 1] / nearest[:, 0]), self.discard)
        return self.prior_shape + n_kept, self.prior_rate + total

    def _independent_error(self, nearest: FloatArray, dimension: float) -> tuple[float, tuple[float, float]]:
        """Return standard error and interval if the ratios were independent."""
        if self.fit == "posterior":
            shape, rate = self._posterior(nearest)
            return float(np.sqrt(shape)) / rate, gamma_interval(shape, rate, self.confidence)
        n_kept = self._count_used(len(nearest))
        if self.fit == "regression":
            # An approximation: the variance of the slope is a little larger than that of (m − 1)/T.
            total = (n_kept - 1) / dimension
        else:
            total = censored_sum(np.log(nearest[:, 1] / nearest[:, 0]), self.discard)[0]
        return dimension / float(np.sqrt(max(n_kept - 2, 1))), gamma_interval(n_kept, total, self.confidence)


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


def likelihood_dimension(log_ratios: FloatArray, discard: float, *, form: str = "unbiased") -> float:
    """Return (m − 1)/T, (m − 2)/T for "least_error" or m/T for "maximum", with T as `censored_sum` gives it.

    Raises
    ------
    DegenerateCloudError
        If every kept ratio is 1, or the numerator is 0.
    """
    total, n_kept = censored_sum(log_ratios, discard)
    numerator = n_kept - _CORRECTION[form]
    if numerator < 1:
        raise DegenerateCloudError(
            f"the dimension is undefined: the form {form!r} needs at least {1 + _CORRECTION[form]} ratios, but only "
            f"{n_kept} of {len(log_ratios)} are kept."
        )
    return numerator / total


def censored_sum(log_ratios: FloatArray, discard: float) -> tuple[float, int]:
    """Return T = Σ_{i≤m} log μ_(i) + (n − m) log μ_(m) for the m smallest of n ratios, and m.

    Raises
    ------
    DegenerateCloudError
        If every kept ratio is 1.
    """
    n = len(log_ratios)
    kept = np.sort(log_ratios)[: _count_kept(n, discard)]
    total = float(kept.sum() + (n - len(kept)) * kept[-1])
    _refuse_equal_distances(total, len(kept))
    return total, len(kept)


def gamma_interval(shape: float, rate: float, confidence: float) -> tuple[float, float]:
    """Return the equal-tailed interval of a Gamma variable.

    Its quantiles are those of χ² with 2 · ``shape`` degrees of freedom over 2 · ``rate``: with the
    number of kept ratios and the censored sum it is the confidence interval for independent
    ratios, with shape and rate of the posterior the credible interval.
    """
    tail = (1.0 - confidence) / 2.0
    return float(gammaincinv(shape, tail)) / rate, float(gammainccinv(shape, tail)) / rate


def _count_kept(n: int, discard: float) -> int:
    """Return how many of n ratios stay, at least 2."""
    return max(2, int(np.floor(n * (1.0 - discard) + 1e-9)))


def _refuse_equal_distances(total: float, n_kept: int) -> None:
    if not total > 0.0:
        raise DegenerateCloudError(
            f"the dimension is undefined: r_2 equals r_1 in all {n_kept} kept points, as on a regular grid."
        )
