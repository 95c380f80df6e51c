"""Gride: dimension from the ratio of the distances to two neighbours of any order."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from scipy.special import digamma

from gelora_estimators.neighbors import Neighbors
from gelora_estimators.options import check_choice, check_integer, check_number, check_search
from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray
from gelora_estimators.scale_choice import adaptive_dimension, choose_scale, dimensions_of_halves, fit_p_value
from gelora_estimators.subsampling import (
    Search,
    check_distances,
    columns_for_subsampling,
    neighbors_for,
    normal_interval,
    search_within,
    subsampling_error,
)

_SCAN_TO = {"plateau": 64, "kstar": 128}
_LEAST_SCAN_TO = {"fixed": 2, "plateau": 8, "kstar": 4}
_MOST_STEPS = 100
_QUADRATIC = 1e-8  # a Newton step of this relative size leaves an error of its square


@dataclass(frozen=True, slots=True)
class _Reading:
    """A dimension at one scale, with what belongs to it."""

    dimension: float
    standard_error: float
    mean_radius: float
    replicates: FloatArray | None
    diagnostics: dict[str, float | FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gride:
    """Generalised ratios estimator (Denti2022).

    With μ = r_{n2}/r_{n1} the density is f(μ) = d (μ^d − 1)^{n2−n1−1} / (μ^{(n2−1)d+1} B(n2−n1, n1)), so μ^{−d} ~
    Beta(n1, n2 − n1). The estimate is the only root of the likelihood's derivative; for n1 = 1, n2 = 2 it is n / Σ log
    μ (TwoNN's likelihood, uncorrected). The standard error is the inverse root of the observed Fisher information.

    Parameters
    ----------
    n1, n2 : int
        Orders of the two neighbours, 1 ≤ n1 < n2.
    scale : {"fixed", "plateau", "kstar"}
        Where the number is read. "fixed": at n1 and n2. "plateau": at a scale of the scan that agrees with its
        neighbours (`choose_scale`); where none do it warns and reads n1 and n2. "kstar": in neighbourhoods of
        constant density, one size for each point, with the binomial estimator ABIDE (DiNoia2024,
        `adaptive_dimension`); n1 and n2 give its first guess.
    scan_to : int, optional
        Largest n2 of a scan n2 = 2 n1 = 2, 4, 8, … into ``dimension_by_scale`` (64 in the paper); a scale at which
        every ratio is 1 is NaN there. By default none for "fixed", 64 for "plateau", and 128 for "kstar", whose
        neighbourhoods hold no more points than this, and no more than a quarter of the cloud.
    interval : {"fisher", "subsampling"}
        Error from the Fisher information, which takes the points for independent, or from halves of the cloud.
        Neighbours are shared, so the former is 1.1 to 1.5 times too narrow ("kstar": 1.3 to 2.3 times); the latter
        covered as often as promised on cubes with glued faces.
    confidence : float
        Coverage of the interval, in (0, 1).
    n_subsamples : int
        Halves drawn for ``interval="subsampling"``.
    device, neighbors : str
        Where distances are computed ("auto", "cpu", "cuda:0" …), and how neighbours are searched (`nearest_distances`).

    Raises
    ------
    ValueError
        For an option outside its range.

    Warns
    -----
    UserWarning
        With ``scale="plateau"`` where there is none.

    Notes
    -----
    The number holds at the scale of r_{n2}. On noisy data small orders see the noise; a plateau of the scan is the
    answer, and where there is none no single dimension exists. Scales chosen for two clouds may differ, and so may
    their dimensions for that reason alone: compare layers at one scale. "kstar" looks as far as the density seems
    constant, past edges and bends: with 1,000 points it reads 0.9 times the truth on a 3-dimensional cube and a
    5-dimensional sphere, 1.3 times on a flat 4-torus; a smaller ``scan_to`` keeps it closer. ``fit_p_value`` is small
    where one dimension does not fit all points (`gelora_estimators.scale_choice.fit_p_value`).

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
}
@misc{DiNoia2024,
  author = {Di Noia, Antonio and Macocco, Iuri and Glielmo, Aldo and Laio, Alessandro and Mira, Antonietta},
  title = {Beyond the noise: intrinsic dimension estimation with optimal neighbourhood identification},
  year = {2024},
  eprint = {2405.15132},
  archivePrefix = {arXiv}
}"""

    n1: int = 1
    n2: int = 2
    scale: str = "fixed"
    scan_to: int | None = None
    interval: str = "fisher"
    confidence: float = 0.95
    n_subsamples: int = 50
    device: str = "auto"
    neighbors: str = "exact"

    def __post_init__(self) -> None:
        check_integer("n1", self.n1, minimum=1)
        check_integer("n2", self.n2, minimum=self.n1 + 1)
        check_choice("scale", self.scale, ("fixed", *_SCAN_TO))
        if self.scan_to is not None:
            check_integer("scan_to", self.scan_to, minimum=_LEAST_SCAN_TO[self.scale])
        check_choice("interval", self.interval, ("fisher", "subsampling"))
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_integer("n_subsamples", self.n_subsamples, minimum=2)
        check_search(self.device, self.neighbors)

    @property
    def k(self) -> int:
        """Neighbours worth searching: n2 for the number itself, more for a scan, k* or a subsampling error."""
        if self.scale == "kstar":
            return max(self.n2, self._reach)
        orders = [self.n2, *(self._scan if self.scale == "plateau" else [])]
        needed = columns_for_subsampling(max(orders)) if self.interval == "subsampling" else self.n2
        return max(needed, *self._scan) if self._scan else needed

    @property
    def needs_indices(self) -> bool:
        """Whether distances alone do not make the number."""
        return self.scale == "kstar"

    def without_error(self) -> "Gride":
        """Return the same estimator with its cheapest error, for those who take the spread over resamples."""
        return replace(self, interval="fisher")

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than max(10, n2 + 2) distinct points, or where search or likelihood finds no dimension.
        """
        found = neighbors_for(self, points, minimum=self._fewest_points - 1)
        search = partial(search_within, points, found.rows, device=self.device, neighbors=self.neighbors)
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

        With ``indices``, ``points`` and at least ``k`` columns (or all there are) it is the direct call, bit for bit.

        Parameters
        ----------
        distances : ndarray of shape (n_distinct, at least n2)
            As `nearest_distances` returns them; a scan goes as far as there are columns.
        n : int
            Points of the cloud, copies included; those beyond ``n_distinct`` are reported as copies.
        rng : numpy.random.Generator
            Draws the subsamples.
        indices : ndarray of the shape of ``distances``, optional
            The neighbours; without them the error is the Fisher one.
        points : array_like of shape (n_distinct, d), optional
            The distinct points, for the rare subsample that the lists cannot answer (else the Fisher error).

        Raises
        ------
        DegenerateCloudError
            Where no dimension is defined, with the counts.
        ValueError
            For arrays that are no neighbour lists, or ``scale="kstar"`` without ``indices``.
        """
        columns = max(self.n2, _LEAST_SCAN_TO["kstar"]) if self.scale == "kstar" else self.n2
        check_distances(distances, n, indices, columns=columns, fewest_points=self._fewest_points, points=points)
        search = partial(search_within, points, None, device=self.device, neighbors=self.neighbors)
        return self._estimate(distances, indices, n, rng, search)

    @property
    def _fewest_points(self) -> int:
        return max(10, self.n2 + 2)

    @property
    def _reach(self) -> int:
        """The largest order of the scan and of k*; 0 for no scan."""
        return _SCAN_TO.get(self.scale, 0) if self.scan_to is None else self.scan_to

    @property
    def _scan(self) -> list[int]:
        """The n2 of the scan: powers of two up to its end."""
        return [2**power for power in range(1, self._reach.bit_length())]

    def _estimate(
        self,
        distances: FloatArray,
        indices: IndexArray | None,
        n: int,
        rng: np.random.Generator,
        search: Callable[..., Search | None],
        found: Neighbors | None = None,
    ) -> DimensionEstimate:
        orders = [order for order in self._scan if order <= distances.shape[1]]
        scan = scan_dimensions(distances, orders)
        if self.scale == "kstar":
            reading = self._read_adaptively(distances, indices, rng)
        else:
            n1, n2, choice = self._choose(orders, scan)
            reading = self._read(distances, indices, (n1, n2), rng, search, choice)
        diagnostics: dict[str, float | FloatArray] = {
            "n_copies": float(n - len(distances)),
            "mean_radius": reading.mean_radius,
            "error_from_subsampling": float(reading.replicates is not None),
            **reading.diagnostics,
        }
        if found is not None:
            diagnostics |= found.diagnostics
        if reading.replicates is not None:
            diagnostics["replicates"] = reading.replicates
        if orders:
            diagnostics["standard_error_by_scale"] = scan[:, 1]
            diagnostics["mean_radius_by_scale"] = np.array([distances[:, order - 1].mean() for order in orders])
        return DimensionEstimate(
            dimension=reading.dimension,
            standard_error=reading.standard_error,
            interval=normal_interval(
                reading.dimension,
                reading.standard_error,
                self.confidence,
                None if reading.replicates is None else len(reading.replicates) // 2,
            ),
            n_points=len(distances),
            scales=np.array(orders, dtype=np.float64) if orders else None,
            dimension_by_scale=scan[:, 0] if orders else None,
            diagnostics=diagnostics,
        )

    def _choose(self, orders: list[int], scan: FloatArray) -> tuple[int, int, dict[str, float | FloatArray]]:
        """Return the orders to read at, and what the choice rests on."""
        if self.scale == "fixed":
            return self.n1, self.n2, {}
        defined = np.flatnonzero(np.isfinite(scan[:, 0]))
        orders, scan = [orders[at] for at in defined], scan[defined]
        plateau = choose_scale(scan[:, 0], scan[:, 1])
        if plateau is None:
            reason = (
                f"the dimension depends on the scale: {len(orders)} scales from {scan[0, 0]:.4g} at n2 = {orders[0]} "
                f"to {scan[-1, 0]:.4g} at n2 = {orders[-1]} hold no plateau"
                if orders
                else "no scale of the scan has a dimension"
            )
            warnings.warn(f"{reason}, so n1 = {self.n1}, n2 = {self.n2} is reported.", stacklevel=4)
            n1, n2, found = self.n1, self.n2, [float("nan")] * 4
        else:
            n2 = orders[plateau.chosen]
            n1 = n2 // 2
            found = [orders[plateau.first], orders[plateau.last], plateau.dimension, plateau.p_value]
        names = ("n1", "n2", "plateau_from", "plateau_to", "plateau_dimension", "plateau_p_value")
        return n1, n2, {name: float(value) for name, value in zip(names, (n1, n2, *found), strict=True)}

    def _read(
        self,
        distances: FloatArray,
        indices: IndexArray | None,
        orders: tuple[int, int],
        rng: np.random.Generator,
        search: Callable[..., Search | None],
        diagnostics: dict[str, float | FloatArray],
    ) -> _Reading:
        """Read the dimension at one pair of orders."""
        n1, n2 = orders
        dimension, standard_error = likelihood_dimension(distances, n1, n2)
        replicates = None
        if self.interval == "subsampling" and indices is not None:
            error = subsampling_error(
                distances,
                indices,
                k=n2,
                estimate=dimension,
                statistic=lambda inside: likelihood_dimension(inside, n1, n2)[0],
                rng=rng,
                n_subsamples=self.n_subsamples,
                search=search(k=n2),
            )
            if error is not None:
                standard_error, replicates = error.standard_error, error.replicates
        return _Reading(dimension, standard_error, float(distances[:, n2 - 1].mean()), replicates, diagnostics)

    def _read_adaptively(self, distances: FloatArray, indices: IndexArray | None, rng: np.random.Generator) -> _Reading:
        """Read the dimension in neighbourhoods of constant density."""
        if indices is None:
            raise ValueError("`indices` must be given for scale='kstar', got None: pass those of `nearest_distances`.")
        n = len(distances)
        # A neighbourhood of most of the cloud passes the test for want of points, not of structure.
        columns = min(self._reach, max(n // 4, _LEAST_SCAN_TO["kstar"]), distances.shape[1])
        start = likelihood_dimension(distances, self.n1, self.n2)[0]
        nearest, numbers = distances[:, :columns], indices[:, :columns]
        found = adaptive_dimension(nearest, numbers, start=start)
        p_value, n_disjoint = fit_p_value(numbers, found, rng)
        standard_error, replicates = found.standard_error, None
        if self.interval == "subsampling":
            halves = dimensions_of_halves(numbers, found, rng, (self.n_subsamples + 1) // 2)
            if bool(np.isfinite(halves).all()):
                spread = halves - halves.mean(axis=1, keepdims=True)
                standard_error = float(np.sqrt(np.square(spread).mean()))
                replicates = np.asarray(found.dimension + spread.ravel())
        diagnostics: dict[str, float | FloatArray] = {
            "neighborhoods": found.neighborhoods.astype(np.float64),
            "mean_neighborhood": float(found.neighborhoods.mean()),
            "fraction_at_limit": float((found.neighborhoods == columns).mean()),
            "inner_ratio": found.ratio,
            "n_steps": float(found.n_steps),
            "fit_p_value": p_value,
            "n_disjoint": float(n_disjoint),
        }
        radius = np.take_along_axis(nearest, found.neighborhoods[:, None] - 1, axis=1)
        return _Reading(found.dimension, standard_error, float(radius.mean()), replicates, diagnostics)


def scan_dimensions(distances: FloatArray, orders: list[int]) -> FloatArray:
    """Return dimension and error at n1 = n2/2 for each n2, shape (n_orders, 2); NaN where every ratio is 1."""
    scan = np.full((len(orders), 2), np.nan)
    for row, order in enumerate(orders):
        if bool((distances[:, order - 1] > distances[:, order // 2 - 1]).any()):
            scan[row] = likelihood_dimension(distances, order // 2, order)
    return scan


def likelihood_dimension(distances: FloatArray, n1: int, n2: int) -> tuple[float, float]:
    """Return the maximum-likelihood dimension and its standard error from neighbours n1 and n2.

    With l = log μ and m = n2 − n1 − 1 the dimension is the root of
    F(d) = n − (n2 − 1) d Σ l + m Σ φ(d l), d times the derivative of the log-likelihood, where
    φ(x) = x/(1 − e^{−x}). F is convex and falls, and the tangent at any d > 0 is positive at 0, so
    Newton's method cannot leave d > 0 and climbs to the root from its second step on. It starts at
    n (ψ(n2) − ψ(n1)) / Σ l, which has the right mean of l. The information is
    (n + m Σ c) / d² with c = φ (φ − d l).

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
    m = n2 - n1 - 1
    if m == 0:
        root = n / (n1 * total)
        return root, root / float(np.sqrt(n))
    root = n * float(digamma(n2) - digamma(n1)) / total
    for _ in range(_MOST_STEPS):
        bend, curvature = _sums(log_ratios, root)
        before = root
        root = (n + m * curvature) / ((n2 - 1) * total - m * (bend - curvature) / root)
        if abs(root - before) <= _QUADRATIC * root:
            break
    return root, root / float(np.sqrt(n + m * _sums(log_ratios, root)[1]))


def _sums(log_ratios: FloatArray, dimension: float) -> tuple[float, float]:
    """Return Σ φ(dl) and Σ φ(dl) (φ(dl) − dl), with the limit 1 of both terms at l = 0."""
    scaled = dimension * log_ratios
    with np.errstate(invalid="ignore"):
        bend = scaled / -np.expm1(-scaled)
    bend[scaled == 0.0] = 1.0
    return float(bend.sum()), float((bend * (bend - scaled)).sum())
