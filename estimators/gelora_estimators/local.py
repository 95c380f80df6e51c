"""Local dimension: TwoNN, MLE or Gride pooled over the neighbourhood of each point."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gelora_estimators.gride import Gride
from gelora_estimators.mle import MLE, log_ratio_sums
from gelora_estimators.neighbors import Neighbors
from gelora_estimators.options import check_choice, check_integer, check_number, check_orders, check_search
from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray
from gelora_estimators.subsampling import (
    Search,
    check_distances,
    columns_for_subsampling,
    neighbors_for,
    neighbors_within,
    normal_interval,
    search_within,
)
from gelora_estimators.twonn import TwoNN

_CITATIONS = {"twonn": TwoNN.citation, "mle": MLE.citation, "gride": Gride.citation}
_ORDERS = {"twonn": (1, 2), "mle": (10, 20), "gride": (1, 2)}
_FEWEST_MEMBERS = 3  # of a neighbourhood that is to have a dimension
_NEWTON_STEPS = 60
Present = NDArray[np.bool_] | None  # which points a half holds; None for all


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalDimension:
    """Dimension around each point, and its average over the cloud (after Ruppik2025).

    The neighbourhood of a point is the point itself and its ``n_neighbors`` nearest distinct
    points, m members. With r_k the distance of a member to its k-th neighbour in the whole cloud,

    * "twonn" pools log μ = log(r_2/r_1) to (m − 1)/Σ log μ (Facco2017);
    * "mle" pools T_k = Σ_{j<k} log(r_k/r_j) to (m(k − 1) − 1)/Σ T_k, averaged over k = k1 … k2
      (LevinaBickel2004, MacKayGhahramani2005);
    * "gride" takes the root of the likelihood of the members' log(r_{n2}/r_{n1}) (Denti2022).

    Parameters
    ----------
    estimator : {"twonn", "mle", "gride"}
        What is pooled.
    n_neighbors : int
        Neighbours of a point that share in its dimension, at least 5; all others in a smaller cloud.
    orders : tuple of int, optional
        (k1, k2) of "mle", (10, 20) by default; (n1, n2) of "gride", (1, 2) by default.
    statistic : {"mean", "median"}
        How the local dimensions are joined to one number.
    interval : {"subsampling", "none"}
        Error from halves of the cloud, or none, which saves most of the time.
    confidence : float
        Coverage of the interval, in (0, 1).
    n_subsamples : int
        Halves drawn, two complementary ones at a time.
    device, neighbors : str
        Where distances are computed ("auto", "cpu", "cuda:0" …), and how neighbours are searched (`nearest_distances`).

    Raises
    ------
    ValueError
        For an option outside its range or of another estimator.

    Notes
    -----
    Members keep the neighbours they have in the whole cloud. Ruppik2025 estimates within the sub-cloud
    of the neighbourhood, most of whose points lie at its rim and lose neighbours beyond it: it reads
    lower (TwoNN, 5,000 points of a Gaussian of dimension 10, m = 129: 8.5 against 9.4 here).

    ``diagnostics`` hold ``local_dimension`` (n_distinct,), in the order of ``distinct_points(points).rows``;
    ``local_quantiles`` (5, 50 and 95 %) and ``local_spread``, their standard deviation. Local
    dimensions from complementary halves have independent noise, so their covariance over the points
    is the variance of the dimension itself: ``heterogeneity`` is its root (0 where negative), and
    ``noise_spread`` the root of what is left, the spread that sampling noise alone gives. On flat tori
    of 1,000 points chance brings ``heterogeneity`` up to 0.7 times ``local_spread``.

    The standard error comes from complementary halves too, NaN where the cloud is too small for them.
    Against the true spread over 60 new clouds (flat tori, Gaussians and balls of dimension 3 to 10, 500 and
    1,000 points, all three estimators) it was 0.83 to 1.28 times as large, 1.00 on average.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import LocalDimension
    >>> cloud = np.random.default_rng(0).random((400, 2))
    >>> LocalDimension(n_neighbors=50)(cloud, rng=np.random.default_rng(0)).diagnostics["local_dimension"].shape
    (400,)
    """

    needs_indices: ClassVar[bool] = True  # distances alone do not make the number
    _CITATION: ClassVar[str] = """@misc{Ruppik2025,
  author = {Ruppik, Benjamin Matthias and von Rohrscheidt, Julius and van Niekerk, Carel and others},
  title = {Less is more: local intrinsic dimensions of contextual language models},
  year = {2025},
  eprint = {2506.01034},
  archiveprefix = {arXiv}
}"""

    estimator: str = "twonn"
    n_neighbors: int = 100
    orders: tuple[int, int] | None = None
    statistic: str = "mean"
    interval: str = "subsampling"
    confidence: float = 0.95
    n_subsamples: int = 50
    device: str = "auto"
    neighbors: str = "exact"

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, tuple(_ORDERS))
        check_integer("n_neighbors", self.n_neighbors, minimum=5)
        check_choice("statistic", self.statistic, ("mean", "median"))
        check_choice("interval", self.interval, ("subsampling", "none"))
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_integer("n_subsamples", self.n_subsamples, minimum=4)
        check_search(self.device, self.neighbors)
        names, least, gap = (("k1", "k2"), 2, 0) if self.estimator == "mle" else (("n1", "n2"), 1, 1)
        check_orders("orders", self._orders, names=names, minimum=least, gap=gap)
        if self.orders is not None:  # a list, as JSON gives it back, would leave the instance without a hash
            object.__setattr__(self, "orders", tuple(self.orders))
        if self.estimator == "twonn" and self._orders != _ORDERS["twonn"]:
            raise ValueError(f"`orders` of 'twonn' must be (1, 2), got {self.orders}: use 'gride' for others.")

    @property
    def name(self) -> str:
        """The name under which the estimator is registered."""
        return f"local:{self.estimator}"

    @property
    def citation(self) -> str:
        """BibTeX of what is pooled, and of the local view."""
        return f"{_CITATIONS[self.estimator]}\n{self._CITATION}"

    @property
    def k(self) -> int:
        """Neighbours worth searching: the neighbourhood, and what the subsampling error needs."""
        needed = columns_for_subsampling(self._orders[1]) if self.interval == "subsampling" else self._orders[1]
        return max(self.n_neighbors, needed)

    def without_error(self) -> "LocalDimension":
        """Return the same estimator with its cheapest error, for those who take the spread over resamples."""
        return replace(self, interval="none")

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d), around each point and on average.

        Raises
        ------
        DegenerateCloudError
            For fewer than max(10, k2 + 2) distinct points, a neighbourhood whose ratios are all 1, or
            where `nearest_distances` finds no dimension.
        """
        found = neighbors_for(self, points, minimum=self._fewest_points - 1)
        search = search_within(points, found.rows, k=self._orders[1], device=self.device, neighbors=self.neighbors)
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
        distances : ndarray of shape (n_distinct, at least n_neighbors and k2)
            As `nearest_distances` returns them; ``k`` columns serve the subsampling error best.
        n : int
            Points of the cloud, copies included; those beyond ``n_distinct`` are reported as copies.
        rng : numpy.random.Generator
            Draws the subsamples.
        indices : ndarray of the shape of ``distances``
            The neighbours, without which there are no neighbourhoods.
        points : array_like of shape (n_distinct, d), optional
            The distinct points, row by row as in ``distances``, to search the halves the lists cannot answer.

        Raises
        ------
        DegenerateCloudError
            Where no dimension is defined, with the counts.
        ValueError
            For arrays that are no neighbour lists, or without ``indices``.
        """
        if indices is None:
            raise ValueError(
                "`indices` must be given, got None: without them there are no neighbourhoods; pass both arrays of "
                "`nearest_distances`."
            )
        columns = max(self._orders[1], min(self.n_neighbors, len(distances) - 1))
        check_distances(distances, n, indices, columns=columns, fewest_points=self._fewest_points, points=points)
        search = search_within(points, None, k=self._orders[1], device=self.device, neighbors=self.neighbors)
        return self._estimate(distances, indices, n, rng, search)

    @property
    def _orders(self) -> tuple[int, int]:
        return _ORDERS[self.estimator] if self.orders is None else self.orders

    @property
    def _fewest_points(self) -> int:
        return max(10, self._orders[1] + 2)

    def _estimate(
        self,
        distances: FloatArray,
        indices: IndexArray,
        n: int,
        rng: np.random.Generator,
        search: Search | None,
        found: Neighbors | None = None,
    ) -> DimensionEstimate:
        # Columns beyond those of a direct call are left alone, so that they cannot change a bit.
        distances, indices = np.ascontiguousarray(distances[:, : self.k]), indices[:, : self.k]
        members = neighborhoods(indices, self.n_neighbors)
        local = self._local(members, self._statistics(distances[:, : self._orders[1]]), None)
        undefined = int(np.isnan(local).sum())
        if undefined:
            raise DegenerateCloudError(
                f"the local dimension is undefined around {undefined} of {len(local)} points: the neighbours of all "
                "members of the neighbourhood are equally far, as on a regular grid; widen it with n_neighbors."
            )
        dimension = self._join(local)
        diagnostics: dict[str, float | FloatArray] = {
            "n_copies": float(n - len(distances)),
            "n_neighbors": float(members.shape[1] - 1),
            "mean_radius": float(distances[:, members.shape[1] - 2].mean()),
            "local_dimension": local,
            "local_quantiles": np.quantile(local, [0.05, 0.5, 0.95]),
            "local_spread": float(local.std()),
        }
        if found is not None:
            diagnostics |= found.diagnostics
        halves = self._halves(distances, indices, members, rng, search)
        diagnostics["error_from_subsampling"] = float(halves is not None)
        standard_error, interval = float("nan"), (float("nan"), float("nan"))
        if halves is not None:
            spread, covariance = halves
            standard_error = float(np.sqrt(np.square(spread).mean()))
            interval = normal_interval(dimension, standard_error, self.confidence, len(spread) // 2)
            diagnostics["replicates"] = dimension + spread
            shared = min(max(covariance, 0.0), float(local.var()))
            diagnostics["heterogeneity"] = float(np.sqrt(shared))
            diagnostics["noise_spread"] = float(np.sqrt(local.var() - shared))
        return DimensionEstimate(
            dimension=dimension,
            standard_error=standard_error,
            interval=interval,
            n_points=len(local),
            diagnostics=diagnostics,
        )

    def _join(self, local: FloatArray) -> float:
        return float(np.nanmedian(local) if self.statistic == "median" else np.nanmean(local))

    def _statistics(self, distances: FloatArray) -> FloatArray:
        """Return what is pooled of each point, shape (n, s)."""
        first, last = self._orders
        if self.estimator == "mle":
            return log_ratio_sums(distances, first)
        return np.log(distances[:, last - 1 : last] / distances[:, first - 1 : first])

    def _local(self, members: IndexArray, statistics: FloatArray, present: Present) -> FloatArray:
        """Return the dimension of each neighbourhood, of the members that are present; NaN where undefined."""
        first, last = self._orders
        if self.estimator == "mle":
            free = np.arange(first - 1, last, dtype=np.float64)
            return pooled_likelihood(members, statistics, present, free=free, correction=1.0)
        if last - first > 1:
            return pooled_ratios(members, statistics[:, 0], present, first, last)
        # The log ratio of neighbours next to each other is exponential with rate n1 d.
        correction = float(self.estimator == "twonn")
        return pooled_likelihood(members, first * statistics, present, free=np.ones(1), correction=correction)

    def _halves(
        self,
        distances: FloatArray,
        indices: IndexArray,
        members: IndexArray,
        rng: np.random.Generator,
        search: Search | None,
    ) -> tuple[FloatArray, float] | None:
        """Return how far each half is from the mean of its pair, and the covariance of local dimensions in pairs.

        Halves without a common point are independent: a quarter of their squared difference is the variance
        of the whole, where that falls as 1/n. None if no halves can be had.
        """
        n, last = len(distances), self._orders[1]
        if self.interval == "none" or n // 2 <= last:
            return None
        within = neighbors_within(distances, indices, k=last, fraction=0.5, search=search)
        spread: list[float] = []
        covariances: list[float] = []
        for _ in range((self.n_subsamples + 1) // 2):
            pair = []
            for kept in np.sort(rng.permutation(n)[: n // 2 * 2].reshape(2, -1), axis=1):
                if (inside := within(kept)) is None:
                    return None
                present: NDArray[np.bool_] = np.zeros(n, dtype=np.bool_)
                present[kept] = True
                pooled = self._statistics(inside)
                statistics = np.zeros((n, pooled.shape[1]))
                statistics[kept] = pooled
                pair.append(self._local(members, statistics, present))
            defined = np.isfinite(pair[0]) & np.isfinite(pair[1])
            if not bool(defined.any()):
                return None
            joined = [self._join(half[defined]) for half in pair]
            # A point is left out of an odd number, which makes the halves a little smaller.
            factor = float(np.sqrt(n // 2 * 2 / n))
            spread.extend(factor * (value - sum(joined) / 2.0) for value in joined)
            covariances.append(float(np.mean(pair[0][defined] * (pair[1][defined] - pair[1][defined].mean()))))
        return np.array(spread), float(np.mean(covariances))


def neighborhoods(indices: IndexArray, n_neighbors: int) -> IndexArray:
    """Return the members of each neighbourhood, the point itself first, shape (n, min(n_neighbors, n − 1) + 1)."""
    own = np.arange(len(indices), dtype=np.int64)[:, None]
    return np.concatenate([own, indices[:, : min(n_neighbors, len(indices) - 1)]], axis=1)


def pooled_likelihood(
    members: IndexArray, statistics: FloatArray, present: Present, *, free: FloatArray, correction: float
) -> FloatArray:
    """Return the mean over the columns of (m · free − correction) / Σ statistics of the m members present.

    ``statistics`` (n, s) are sums of ``free`` (s,) exponentials of rate d each, 0 where absent.
    Neighbourhoods of fewer than 3 members, or whose sums vanish, give NaN.
    """
    n, size = members.shape
    table = csr_array((np.ones(n * size), members.ravel(), np.arange(0, n * size + 1, size)), shape=(n, n))
    count = np.full(n, float(size)) if present is None else table @ present.astype(np.float64)
    sums = np.asarray(table @ statistics)
    # Sums of equal logarithms may leave a rounding error of either sign.
    defined = (count >= _FEWEST_MEMBERS) & (sums > 1e-12 * free * count[:, None]).all(axis=1)
    values = (count[:, None] * free - correction) / np.where(defined[:, None], sums, np.nan)
    return np.asarray(values.mean(axis=1))


def pooled_ratios(members: IndexArray, log_ratios: FloatArray, present: Present, n1: int, n2: int) -> FloatArray:
    """Return the root of the likelihood of each neighbourhood's log(r_{n2}/r_{n1}), n2 > n1 + 1.

    m/d − (n2 − 1) Σ l + (n2 − n1 − 1) Σ l/(1 − e^{−dl}) falls with d and is convex: a Newton step from the
    right of the root lands on its left, and from there the steps climb towards it.
    """
    values = log_ratios[members]
    count = np.full(len(members), float(members.shape[1])) if present is None else present[members].sum(axis=1) * 1.0
    positive = values > 0.0
    total = values.sum(axis=1)
    defined = (count >= _FEWEST_MEMBERS) & (total > 0.0)
    values, positive, count, total = values[defined], positive[defined], count[defined], total[defined]
    zeros = count - positive.sum(axis=1)
    safe = np.where(positive, values, 1.0)
    lowest, highest = count * (n2 - n1) / ((n2 - 1) * total), count * (n2 - n1) / (n1 * total)
    root = np.sqrt(lowest * highest)
    for _ in range(_NEWTON_STEPS):
        loss = -np.expm1(-root[:, None] * safe)
        odds = np.where(positive, safe / loss, 0.0)
        slope = count / root - (n2 - 1) * total + (n2 - n1 - 1) * (odds.sum(axis=1) + zeros / root)
        bend = count / root**2 + (n2 - n1 - 1) * (((1.0 - loss) * odds**2).sum(axis=1) + zeros / root**2)
        before, root = root, np.clip(root + slope / bend, lowest, highest)
        if bool((np.abs(root - before) <= 1e-8 * before).all()):
            break  # the error is of the order of the square of the last step
    result = np.full(len(members), np.nan)
    result[defined] = root
    return result


def _factory(estimator: str, *names: str) -> Callable[..., LocalDimension]:
    """Return what an entry point resolves to; it takes the two orders by their own names."""
    defaults = dict(zip(names, _ORDERS[estimator], strict=False))

    def make(**options: Any) -> LocalDimension:
        orders = tuple(options.pop(name, default) for name, default in defaults.items())
        return LocalDimension(estimator=estimator, orders=orders or None, **options)

    own = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in defaults.items()]
    taken = signature(LocalDimension).parameters.values()
    shared = [parameter for parameter in taken if parameter.name not in ("estimator", "orders")]
    # The registry compares options with the signature, to suggest the nearest name.
    make.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]
    make.__name__ = make.__qualname__ = estimator
    make.__doc__ = f"Return `LocalDimension` for {estimator}, registered as ``local:{estimator}``."
    return make


twonn = _factory("twonn")
mle = _factory("mle", "k1", "k2")
gride = _factory("gride", "n1", "n2")
