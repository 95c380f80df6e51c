"""Simulated curves of what an estimator reads against the true dimension, and their inverse."""

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression
from scipy.stats import t as student

from gelora_estimators.clouds import ball, gaussian, sphere, subspace
from gelora_estimators.options import check_choice, check_integer
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimator, FloatArray

Family = Callable[[int, int, int, np.random.Generator], FloatArray]

# What draws a cloud, and how many coordinates it needs beyond its dimension.
FAMILIES: Mapping[str, tuple[Family, int]] = {
    "ball": (ball, 0),
    "sphere": (sphere, 1),
    "gaussian": (gaussian, 0),
    "cube": (subspace, 0),
}
_LARGEST_DIMENSION = 1024
_BELOW, _FINE = 5.0, 2000  # how far below the grid curves go, on the scale of logarithms; points there and within
_WINDOW, _SPREAD_WINDOW = 5, 9  # grid points that share in one value of the smoothed curve, and of its spread
_MARGIN = 4.0  # spreads by which the simulated range passes the raw estimate


@dataclass(frozen=True, slots=True)
class Correction:
    """A raw estimate read through a `CalibrationCurve`.

    Parameters
    ----------
    dimension : float
        Mean over the families of the dimension whose clouds give the raw estimate on average.
    interval : tuple of float
        Every dimension that some family does not rule out; the upper end is the number of coordinates, or
        infinity where that is unknown, if the simulated range does not bound it.
    by_family : ndarray of shape (n_families,)
        The dimension by each family.
    spread : float
        Relative standard deviation of raw estimates at ``dimension``.
    slope : float
        d log(raw) / d log(dimension) there, the mean over the families.
    bounded : bool
        Whether the simulated range bounds the interval above.
    """

    dimension: float
    interval: tuple[float, float]
    by_family: FloatArray
    spread: float
    slope: float
    bounded: bool


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCurve:
    """Raw estimates on simulated clouds of ``n`` points, by family and dimension.

    Parameters
    ----------
    n : int
        Distinct points of every cloud.
    ambient : int or None
        Coordinates of the cloud to be corrected, the largest dimension it can have.
    estimator : str
        What was run, errors left out.
    grid : ndarray of shape (n_grid,)
        The dimensions simulated, ascending.
    families : tuple of str
        The kinds of clouds.
    mean, sd : ndarray of shape (n_families, n_grid)
        Mean and standard deviation of the raw estimates.
    n_replicates, seed : int
        Clouds behind each of them, and what they were drawn from.
    embedding : {"minimal", "full"}
        Coordinates of the simulated clouds: as few as they need, or ``ambient``.
    """

    n: int
    ambient: int | None
    estimator: str
    grid: FloatArray
    families: tuple[str, ...]
    mean: FloatArray
    sd: FloatArray
    n_replicates: int
    seed: int
    embedding: str = "minimal"

    def correct(self, raw: float, *, confidence: float = 0.95, ambient: int | None = None) -> Correction:
        """Return the dimensions that explain a raw estimate.

        On logarithmic scales each family's means are smoothed (quadratic fits over 5 grid points), made
        monotone and joined by a monotone cubic; below the grid raw and true dimension are taken to be
        proportional. The interval inverts a test: d stays unless log(raw) is outside of its central
        ``confidence`` range at d, by Student's t with the spread pooled over families and 9 grid
        points, the error of the curve included. Families are joined by their envelope. No number
        exceeds ``ambient``, the coordinates of the cloud, by default those of the curve.
        """
        known = self.ambient if ambient is None else ambient
        ceiling = float("inf") if known is None else float(known)
        nodes = np.log(self.grid)
        smoother = _smoother(nodes)
        variance, freedom = self._pooled_variance()
        # Of one new raw estimate, and of the smoothed mean of the simulated ones.
        total = variance * (1.0 + np.square(smoother).sum(axis=1) / self.n_replicates)
        below = np.linspace(nodes[0] - _BELOW, nodes[0], _FINE, endpoint=False)
        level = np.unique(np.concatenate([below, np.linspace(nodes[0], nodes[-1], _FINE)]))
        reach = np.interp(level, nodes, np.sqrt(total)) * float(student.ppf(0.5 + confidence / 2.0, freedom))
        curves = [_curve(nodes, smoother @ np.log(mean), level) for mean in self.mean]
        lowest = [np.minimum.accumulate((curve - reach)[::-1])[::-1] for curve in curves]
        highest = [np.maximum.accumulate(curve + reach) for curve in curves]
        seen = float(np.log(raw))
        # The last one exactly, so that no rounding takes the interval off the number of coordinates.
        dimensions = np.append(np.exp(level[:-1]), self.grid[-1])
        by_family = np.minimum([np.interp(seen, curve, dimensions) for curve in curves], ceiling)
        low = min(float(np.interp(seen, curve, dimensions)) for curve in highest)
        high = max(float(np.interp(seen, curve, dimensions)) for curve in lowest)
        bounded = bool(self.grid[-1] >= ceiling) or all(float(curve[-1]) > seen for curve in lowest)
        place = int(np.searchsorted(dimensions, by_family.mean()).clip(1, len(level) - 1))
        slopes = [(curve[place] - curve[place - 1]) / (level[place] - level[place - 1]) for curve in curves]
        return Correction(
            dimension=float(by_family.mean()),
            interval=(min(low, ceiling), min(high, ceiling) if bounded else ceiling),
            by_family=by_family,
            spread=float(np.interp(level[place], nodes, np.sqrt(variance))),
            slope=float(np.mean(slopes)),
            bounded=bounded,
        )

    def _pooled_variance(self) -> tuple[FloatArray, int]:
        """Return the relative variance at each grid point, pooled over its window, and its degrees of freedom."""
        relative = np.square(self.sd / self.mean).mean(axis=0)
        windows = _windows(len(self.grid), _SPREAD_WINDOW)
        freedom = len(self.families) * min(_SPREAD_WINDOW, len(self.grid)) * (self.n_replicates - 1)
        return np.array([relative[window].mean() for window in windows]), freedom


def calibration_curve(
    estimator: DimensionEstimator,
    n: int,
    ambient: int | None = None,
    *,
    families: Sequence[str] = ("ball", "sphere"),
    n_replicates: int = 12,
    grid: Sequence[int] | None = None,
    covering: Sequence[float] | None = None,
    embedding: str = "minimal",
    seed: int = 0,
) -> CalibrationCurve:
    """Simulate what an estimator reads on clouds of n points of known dimension.

    Parameters
    ----------
    estimator : estimator
        What is run; its error is reduced to what costs nothing.
    n, ambient : int
        Distinct points and coordinates of the cloud that is to be corrected.
    families, n_replicates, grid, embedding, seed
        See `CalibratedEstimator`.
    covering : sequence of float, optional
        Raw estimates the curve is to correct, without ``grid``; by default all that can occur.

    Raises
    ------
    ValueError
        For an option outside its range, or a ``grid`` whose clouds do not fit into ``ambient`` coordinates.
    DegenerateCloudError
        If the estimator finds no dimension on the simulated clouds.

    Examples
    --------
    >>> from gelora_estimators import TwoNN
    >>> from gelora_estimators.calibration import calibration_curve
    >>> calibration_curve(TwoNN(), 100, 6, n_replicates=3).grid.tolist()
    [1.0, 2.0, 3.0, 4.0, 6.0]
    """
    check_simulation(families, n_replicates, grid, embedding, seed)
    check_integer("n", n, minimum=2)
    if ambient is not None:
        check_integer("ambient", ambient, minimum=1)
    simulation = _Simulation(
        estimator=without_error(estimator),
        n=n,
        ambient=ambient if embedding == "full" else None,
        families=tuple(families),
        n_replicates=n_replicates,
        seed=seed,
    )
    limit = _limit(simulation.families, ambient, embedding)
    if grid is not None:
        if embedding == "full" and max(grid) > limit:
            raise ValueError(
                f"`grid` must end at {limit} for embedding='full' and the families {simulation.families} in {ambient} "
                f"coordinates, got {max(grid)}: leave the larger ones out."
            )
        drawn = {d: simulation.reads(d) for d in grid}
    elif covering is not None:
        drawn = _cover(simulation, _powers(limit), min(covering), max(covering))
    else:
        drawn = {d: simulation.reads(d) for d in _powers(limit)}
    levels = [d for d, reads in drawn.items() if bool(np.isfinite(reads).all())]
    if not levels:
        raise DegenerateCloudError(
            f"there is no calibration curve: {estimator_name(estimator)} finds no dimension on simulated clouds of "
            f"{n} points."
        )
    table = np.stack([drawn[d] for d in sorted(levels)], axis=1)
    return CalibrationCurve(
        n=n,
        ambient=ambient,
        estimator=repr(simulation.estimator),
        grid=np.array(sorted(levels), dtype=np.float64),
        families=simulation.families,
        mean=table.mean(axis=-1),
        sd=table.std(axis=-1, ddof=1),
        n_replicates=n_replicates,
        seed=seed,
        embedding=embedding,
    )


def check_simulation(
    families: Sequence[str], n_replicates: int, grid: Sequence[int] | None, embedding: str, seed: int
) -> None:
    """Raise unless the options of a simulation can be used.

    Raises
    ------
    ValueError
        Naming the option, the requirement and the value received.
    """
    if isinstance(families, str) or not isinstance(families, Sequence) or not families:
        raise ValueError(
            f"`families` must be a tuple that names at least one of {', '.join(FAMILIES)}, got {families!r}: pass "
            f'families=("{families if families in tuple(FAMILIES) else "ball"}",).'
        )
    for family in families:
        check_choice("families", family, tuple(FAMILIES))
    check_integer("n_replicates", n_replicates, minimum=3)
    if grid is not None:
        _check_grid(grid)
    check_choice("embedding", embedding, ("minimal", "full"))
    check_integer("seed", seed, minimum=0)


def _check_grid(grid: Sequence[int]) -> None:
    if not isinstance(grid, Sequence) or not grid:
        raise ValueError(f"`grid` must be a tuple of at least one dimension, got {grid!r}: pass grid=(2, 4, 8), say.")
    for d in grid:
        check_integer("grid", d, minimum=1)
    if any(after <= before for before, after in pairwise(grid)):
        raise ValueError(
            f"`grid` must ascend, each dimension once, got {tuple(grid)}: pass {tuple(sorted(set(grid)))}."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Simulation:
    """What is run at each dimension; ``ambient`` is None for as few coordinates as a cloud needs."""

    estimator: DimensionEstimator
    n: int
    ambient: int | None
    families: tuple[str, ...]
    n_replicates: int
    seed: int

    def reads(self, d: int) -> FloatArray:
        """Return the raw estimates (n_families, n_replicates); NaN where there is none."""
        return np.array(
            [[self._read(d, family, number) for number in range(self.n_replicates)] for family in self.families]
        )

    def _read(self, d: int, family: str, number: int) -> float:
        draw, extra = FAMILIES[family]
        # From the seed and what is drawn alone, so that no number depends on what else is simulated.
        rng = np.random.default_rng([self.seed, zlib.crc32(family.encode()), self.n, d, number])
        cloud = draw(self.n, d, d + extra if self.ambient is None else self.ambient, rng)
        with warnings.catch_warnings():
            # What the estimator warns of need not be said of every simulated cloud.
            warnings.simplefilter("ignore")
            try:
                return float(self.estimator(cloud, rng=rng).dimension)
            except DegenerateCloudError:
                return float("nan")


def _cover(simulation: _Simulation, levels: Sequence[int], smallest: float, largest: float) -> dict[int, FloatArray]:
    """Return the raw estimates at those levels that raw estimates from smallest to largest call for."""
    low = max(int(np.searchsorted(levels, 0.7 * smallest, side="right")) - 1, 0)
    high = min(int(np.searchsorted(levels, 1.2 * largest)), len(levels) - 1)
    drawn = {d: simulation.reads(d) for d in levels[low : high + 1]}

    def passed(place: int, raw: float, side: float) -> bool:
        """Tell whether all families read clearly more (with side −1, less) than the raw estimate, or nothing."""
        reads = drawn[levels[place]]
        known = [found for found in drawn.values() if bool(np.isfinite(found).all())]
        if not known or not bool(np.isfinite(reads).all()):
            return bool(known)
        spread = np.sqrt(np.mean([np.square(found.std(axis=1, ddof=1) / found.mean(axis=1)) for found in known]))
        return bool((side * np.log(reads.mean(axis=1) / raw) > _MARGIN * spread).all())

    while high + 1 < len(levels) and not passed(high, largest, 1.0):
        high += 1
        drawn[levels[high]] = simulation.reads(levels[high])
    while low > 0 and not passed(low, smallest, -1.0):
        low -= 1
        drawn[levels[low]] = simulation.reads(levels[low])
    # A smoothed value needs as many levels as share in one, best on both sides of it.
    more = [*levels[high + 1 :], *reversed(levels[:low])][: max(_WINDOW - len(drawn), 0)]
    return drawn | {d: simulation.reads(d) for d in more}


def _powers(limit: int) -> list[int]:
    """Return the powers of √2 up to the limit, rounded, and the limit."""
    powers = np.rint(np.sqrt(2.0) ** np.arange(2 * limit.bit_length())).astype(int).tolist()
    return sorted({power for power in powers if power < limit} | {limit})


def _limit(families: Sequence[str], ambient: int | None, embedding: str) -> int:
    """Return the largest dimension to simulate."""
    if embedding == "minimal":
        return min(_LARGEST_DIMENSION, ambient or _LARGEST_DIMENSION)
    extra = max(FAMILIES[family][1] for family in families)
    if ambient is None or ambient <= extra:
        raise ValueError(
            f"`ambient` must be above {extra} for embedding='full' with the families {tuple(families)}, got {ambient}: "
            "give `points` with the neighbour lists, or use embedding='minimal'."
        )
    return min(_LARGEST_DIMENSION, ambient - extra)


def without_error(estimator: DimensionEstimator) -> DimensionEstimator:
    """Return the estimator with the cheapest error it offers by ``without_error()``; as it is where it has none."""
    bare: Any = getattr(estimator, "without_error", None)
    if bare is None:
        return estimator
    cheap = bare()
    halves = getattr(cheap, "__dataclass_fields__", {}).get("n_subsamples")
    # Without halves their number means nothing; the default keeps equal estimators equal.
    found: DimensionEstimator = cheap if halves is None else replace(cheap, n_subsamples=halves.default)
    return found


def _curve(nodes: FloatArray, values: FloatArray, level: FloatArray) -> FloatArray:
    """Return the monotone curve through the values, proportional below the first node."""
    rising = np.asarray(isotonic_regression(values).x)
    inside = np.maximum(level, nodes[0])
    above = PchipInterpolator(nodes, rising)(inside) if len(nodes) > 1 else np.full(len(level), rising[0])
    # The smallest of slopes keeps ties from having two inverses.
    return np.asarray(above + np.minimum(level - nodes[0], 0.0) + 1e-12 * np.arange(len(level)))


def _windows(size: int, width: int) -> list[slice]:
    """Return the grid points that share in the value of each: the nearest ``width``, or all."""
    width = min(width, size)
    starts = np.clip(np.arange(size) - width // 2, 0, size - width).tolist()
    return [slice(start, start + width) for start in starts]


def _smoother(nodes: FloatArray) -> FloatArray:
    """Return the matrix that replaces each value by a local fit: quadratic from 4 points on, else a line."""
    matrix = np.zeros((len(nodes), len(nodes)))
    for row, window in enumerate(_windows(len(nodes), _WINDOW)):
        powers = np.arange(min(3, max(len(nodes[window]) - 1, min(len(nodes), 2))))
        matrix[row, window] = np.linalg.pinv((nodes[window] - nodes[row])[:, None] ** powers)[0]
    return np.asarray(matrix)


def estimator_name(estimator: DimensionEstimator) -> str:
    """Return the name under which an estimator is known, or that of the function or class."""
    return str(getattr(estimator, "name", getattr(estimator, "__name__", type(estimator).__name__)))
