"""Correction of any estimator by simulation: what it reads on clouds of known dimension, turned round."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from gelora_estimators.calibration_curve import FAMILIES as FAMILIES
from gelora_estimators.calibration_curve import CalibrationCurve as CalibrationCurve
from gelora_estimators.calibration_curve import Correction as Correction
from gelora_estimators.calibration_curve import calibration_curve as calibration_curve
from gelora_estimators.calibration_curve import check_simulation, estimator_name, without_error
from gelora_estimators.options import check_number
from gelora_estimators.points import IndexArray, as_points, first_occurrences
from gelora_estimators.protocol import DimensionEstimate, DimensionEstimator, FloatArray


class InformationCeilingWarning(UserWarning):
    """The points are too few to tell this dimension from much larger ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedEstimator:
    """An estimator whose bias at this n is simulated and taken out, with an interval from the simulation.

    Clouds of known dimension with as many distinct points are drawn and given to the same
    estimator; the dimension whose clouds read what this cloud reads is the result. The interval
    holds every dimension that a test at the level 1 − ``confidence`` does not rule out (Neyman1937),
    whichever of the ``families`` the cloud resembles: a ball has an edge, which lowers an estimate,
    a sphere has none.

    Parameters
    ----------
    estimator : estimator
        What is corrected, e.g. ``TwoNN()``; `calibrated` also serves shared neighbour lists.
    families : tuple of str
        Kinds of clouds simulated: "ball", "sphere", "gaussian", "cube".
    n_replicates : int
        Clouds of each family and dimension, at least 3.
    grid : tuple of int, optional
        Dimensions simulated, ascending; no result exceeds the number of coordinates whatever they are.
        By default powers of √2, rounded, around the raw estimate: until its value is four spreads away
        from what they give, or a limit, the number of coordinates or 1,024, is reached.
    confidence : float
        Coverage of the interval, in (0, 1).
    precision : float
        Relative difference of dimensions that should be told apart; where it cannot be, there is a
        warning.
    embedding : {"minimal", "full"}
        Coordinates of the simulated clouds: as few as they need, for estimators that do not change
        under rotations and coordinates of zero (all of ours); as many as the cloud has, for others.
    seed : int
        Seed of the simulation. It does not use ``rng``: two layers of equal n meet the same clouds, and no
        number depends on what else was estimated.
    curve : CalibrationCurve, optional
        A ready `calibration_curve`, for clouds of equal n and this estimator; nothing is simulated then,
        and options of the simulation that are given too have to be those of the curve.

    Raises
    ------
    ValueError
        For an option outside its range or unlike the ``curve``, or when called with a ``curve`` for another n or
        for fewer coordinates than the cloud has.

    Warns
    -----
    InformationCeilingWarning
        If the simulated range does not bound the interval above, or if dimensions that differ by
        ``precision`` read less apart than chance may bring. Raw estimates grow ever more slowly with
        the dimension (as its root in the end), while their spread stays what n makes it, so that
        every n has a ceiling; below some 200 points TwoNN is there from the start.

    Notes
    -----
    The correction is for clouds like those simulated: one homogeneous piece, evenly filled, without noise.
    At n = 1,000 and d = 5, 10, 20 intervals at 0.95 held the dimension of 94.5 to 99.5 % of 200 balls or
    spheres, 98 % on average (TwoNN and MLE, two seeds). Shapes that are not simulated may lie outside
    of the envelope: TwoNN's intervals held 91 to 97 % of Gaussians and 68 to 93 % of cubes, whose edge is
    longer than a ball's; MLE's, four times as narrow in the raw estimate, 33 to 100 % of Gaussians and 3 to 31 % of
    cubes. All four as ``families`` make the interval honest about shape, at twice the cost.

    The standard error is the simulated relative spread of raw estimates divided by the slope of the
    curve, times the dimension. A call runs the estimator about 120 times; a ready ``curve`` serves
    all layers of equal n.

    ``diagnostics`` hold ``raw_dimension``, ``raw_standard_error``, ``by_family``, the curve
    (``curve_grid``, ``curve_mean``, ``curve_sd``), its ``slope`` and ``spread``, and the ``seed``.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import TwoNN, calibrated
    >>> cloud = np.random.default_rng(0).standard_normal((500, 8)) @ np.eye(8, 12)
    >>> found = calibrated(TwoNN(), n_replicates=3)(cloud, rng=np.random.default_rng(0))
    >>> bool(found.diagnostics["raw_dimension"] < found.dimension and found.interval[0] < 8 < found.interval[1])
    True
    """

    estimator: DimensionEstimator
    families: tuple[str, ...] = ("ball", "sphere")
    n_replicates: int = 12
    grid: tuple[int, ...] | None = None
    confidence: float = 0.95
    precision: float = 0.25
    embedding: str = "minimal"
    seed: int = 0
    curve: CalibrationCurve | None = None

    def __post_init__(self) -> None:
        _check(self)
        # Lists, as JSON gives them back, become tuples: a frozen instance should be hashable.
        object.__setattr__(self, "families", tuple(self.families))
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))

    @property
    def name(self) -> str:
        """The name of the estimator, said to be calibrated."""
        return f"calibrated({estimator_name(self.estimator)})"

    @property
    def citation(self) -> str:
        """BibTeX of the estimator."""
        return str(getattr(self.estimator, "citation", ""))

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d) and correct it.

        Raises
        ------
        DegenerateCloudError
            Where the estimator finds no dimension, on this cloud or on all simulated ones.
        """
        stored = as_points(points)
        raw = self.estimator(points, rng=rng)
        return self._corrected(raw, len(first_occurrences(stored)), stored.shape[1])

    @property
    def k(self) -> int:
        """Neighbours worth searching, those of the estimator; only there if it has them."""
        inner: Any = self.estimator
        return int(inner.k)

    @property
    def device(self) -> str:
        """Where the estimator searches neighbours; only there if it says so."""
        inner: Any = self.estimator
        return str(inner.device)

    @property
    def neighbors(self) -> str:
        """How the estimator searches neighbours; only there if it says so."""
        inner: Any = self.estimator
        return str(inner.neighbors)

    @property
    def from_distances(self) -> Callable[..., DimensionEstimate]:
        """The estimator's ``from_distances``, corrected; only there if it has one.

        Without ``points`` the number of coordinates is unknown, so that only the simulated range, or what
        the ``curve`` was made for, can bound the interval above.
        """
        inner: Any = self.estimator
        shared = inner.from_distances
        parameters = inspect.signature(shared).parameters
        anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        taken = [key for key in ("indices", "points") if anything or key in parameters]

        def estimate(
            distances: FloatArray,
            n: int,
            rng: np.random.Generator,
            *,
            indices: IndexArray | None = None,
            points: FloatArray | None = None,
        ) -> DimensionEstimate:
            lists = {"indices": indices, "points": points}
            raw = shared(distances, n, rng, **{key: lists[key] for key in taken if lists[key] is not None})
            return self._corrected(raw, len(distances), None if points is None else int(points.shape[1]))

        return estimate

    def _corrected(self, raw: DimensionEstimate, n: int, ambient: int | None) -> DimensionEstimate:
        curve = self.curve
        if curve is None:
            curve = calibration_curve(
                self.estimator,
                n,
                ambient,
                families=self.families,
                n_replicates=self.n_replicates,
                grid=self.grid,
                covering=(raw.dimension,),
                embedding=self.embedding,
                seed=self.seed,
            )
        else:
            _check_cloud(curve, n, ambient)
        found = curve.correct(raw.dimension, confidence=self.confidence, ambient=ambient)
        self._warn(raw.dimension, n, found)
        diagnostics: dict[str, float | FloatArray] = {
            "n_copies": raw.diagnostics.get("n_copies", 0.0),
            "raw_dimension": raw.dimension,
            "raw_standard_error": raw.standard_error,
            "by_family": found.by_family,
            "curve_grid": curve.grid,
            "curve_mean": curve.mean,
            "curve_sd": curve.sd,
            "slope": found.slope,
            "spread": found.spread,
            "seed": float(curve.seed),
        }
        if "neighbor_recall" in raw.diagnostics:
            diagnostics["neighbor_recall"] = raw.diagnostics["neighbor_recall"]
        return DimensionEstimate(
            dimension=found.dimension,
            standard_error=found.dimension * found.spread / found.slope if found.slope > 0.0 else float("inf"),
            interval=found.interval,
            n_points=raw.n_points,
            diagnostics=diagnostics,
        )

    def _warn(self, raw: float, n: int, found: Correction) -> None:
        reach = NormalDist().inv_cdf(0.5 + self.confidence / 2.0) * found.spread
        if found.bounded and found.slope * np.log1p(self.precision) >= reach:
            return
        why = (
            f"dimensions {self.precision:.0%} apart read less than their spread apart"
            if found.bounded
            else "the simulated dimensions do not bound it above"
        )
        warnings.warn(
            f"{n} points are too few to tell this dimension from larger ones with {self.name}: it reads {raw:.4g}, the "
            f"dimension is at least {found.interval[0]:.4g}, and {why}; take more points.",
            InformationCeilingWarning,
            stacklevel=4,
        )


def calibrated(estimator: DimensionEstimator, **options: Any) -> CalibratedEstimator:
    """Return the estimator with its bias simulated and taken out.

    Parameters
    ----------
    estimator : estimator
        What is corrected.
    **options
        The options of `CalibratedEstimator`.

    Examples
    --------
    >>> from gelora_estimators import TwoNN, calibrated
    >>> calibrated(TwoNN()).name
    'calibrated(twonn)'
    """
    return CalibratedEstimator(estimator=estimator, **options)


def _check(options: CalibratedEstimator) -> None:
    if isinstance(options.estimator, type) or not callable(options.estimator):
        raise TypeError(f"`estimator` must be an estimator such as TwoNN(), got {options.estimator!r}: make one first.")
    check_simulation(options.families, options.n_replicates, options.grid, options.embedding, options.seed)
    check_number("confidence", options.confidence, low=0.0, high=1.0)
    check_number("precision", options.precision, low=0.0, high=np.inf)
    if options.curve is not None and options.curve.estimator != repr(without_error(options.estimator)):
        raise ValueError(
            f"`curve` must be of the same estimator, {without_error(options.estimator)!r}, got one of "
            f"{options.curve.estimator}: make it with calibration_curve(estimator, n, ambient)."
        )
    if options.curve is not None:
        _check_alike(options, options.curve)


def _check_alike(options: CalibratedEstimator, curve: CalibrationCurve) -> None:
    """Raise where an option of the simulation is neither left out nor that of the ready curve."""
    of_curve = {name: getattr(curve, name) for name in ("families", "n_replicates", "embedding", "seed")}
    of_curve["grid"] = tuple(curve.grid.astype(int).tolist())
    for name, value in of_curve.items():
        given = getattr(options, name)
        default = CalibratedEstimator.__dataclass_fields__[name].default
        if (tuple(given) if isinstance(given, list) else given) not in (default, value):
            raise ValueError(
                f"`{name}` must be left out beside a `curve`, whose own is {value!r}, got {given!r}: for another make "
                f"the curve with calibration_curve(estimator, n, ambient, {name}={given!r})."
            )


def _check_cloud(curve: CalibrationCurve, n: int, ambient: int | None) -> None:
    """Raise unless the ready curve is for clouds of n distinct points in so many coordinates."""
    remedy = f"make it with calibration_curve(estimator, {n}, {'ambient' if ambient is None else ambient})"
    if curve.n != n:
        raise ValueError(f"`curve` must be for the {n} distinct points of this cloud, got one for {curve.n}: {remedy}.")
    if ambient is None or curve.ambient is None:
        return
    if curve.embedding == "full" and curve.ambient != ambient:
        raise ValueError(
            f"`curve` must be for the {ambient} coordinates of this cloud, got one with embedding='full' for "
            f"{curve.ambient}: {remedy[:-1]}, embedding='full')."
        )
    if curve.ambient < ambient and curve.grid[-1] == curve.ambient:
        raise ValueError(
            f"`curve` must reach beyond {curve.ambient} dimensions for the {ambient} coordinates of this cloud, got "
            f"one for {curve.ambient} coordinates: {remedy}."
        )
