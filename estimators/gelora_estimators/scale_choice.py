"""At which scale to read a dimension: a plateau of a scan, or a neighbourhood of constant density for each point."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import chi2

from gelora_estimators.options import check_integer, check_number
from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import DegenerateCloudError, FloatArray

_ERROR_FACTOR = 1.4  # what shared neighbours add to a Fisher error, see `choose_scale`
INNER_FRACTION = 0.20318786997997992  # p = exp(−2 (1 − p)), where the binomial error is smallest
_FIRST_TEST = 3  # order of the first neighbourhood whose density is compared
_PLAIN_STEPS = 10  # after these the dimension is bisected, which ends cycles
_SIMULATED_SETS = 999


@dataclass(frozen=True, slots=True)
class Plateau:
    """A run of neighbouring scales whose dimensions agree.

    Parameters
    ----------
    first, last : int
        Positions of its two ends in the scan.
    chosen : int
        Position of the scale whose dimension lies nearest to the mean of the run.
    dimension : float
        Weighted geometric mean of the run.
    p_value : float
        Of the χ² test that the run has one dimension.
    """

    first: int
    last: int
    chosen: int
    dimension: float
    p_value: float


@dataclass(frozen=True, slots=True)
class AdaptiveDimension:
    """A dimension read from neighbourhoods of constant density.

    Parameters
    ----------
    dimension : float
        log(Σ k_A / Σ k_B) / log τ.
    standard_error : float
        From the binomial Fisher information.
    neighborhoods : ndarray of shape (n,)
        k* of each point; k_B = k* − 1 points lie inside the ball up to the k*-th neighbour.
    inner : ndarray of shape (n,)
        k_A of each point: those of them within τ times that radius.
    ratio : float
        τ.
    n_steps : int
        Rounds until the dimension stood still.
    """

    dimension: float
    standard_error: float
    neighborhoods: IndexArray
    inner: IndexArray
    ratio: float
    n_steps: int


def choose_scale(
    dimensions: ArrayLike,
    standard_errors: ArrayLike,
    *,
    tolerance: float = 0.02,
    significance: float = 0.01,
    shortest: int = 3,
) -> Plateau | None:
    """Find the longest run of neighbouring scales that agree on the dimension.

    A run of m scales agrees if χ² = Σ (log d_s − mean)² / v_s has a p-value of at least
    ``significance`` with m − 1 degrees of freedom, where v_s = (1.4 e_s / d_s)² + t², t the ``tolerance``,
    and the mean is weighted by 1/v_s. The tolerance is the drift, relative to the dimension, that
    counts as none: without it the curvature and the edge of any cloud of some thousand points
    would end every plateau. Of runs of equal length the one with the larger p-value is taken.

    The number to report is that of the scale nearest to the mean of its run: it is an estimate at
    one definite scale, and the ends of a run are where noise (small scales) or curvature (large
    ones) begin to show.

    Parameters
    ----------
    dimensions, standard_errors : array_like of shape (n_scales,)
        The scan, from the smallest scale to the largest, with Fisher errors.
    tolerance : float
        Relative drift between scales that does not matter, in [0, 1).
    significance : float
        p-value below which a run is refused, in (0, 1).
    shortest : int
        Fewest scales of a run, at least 2.

    Returns
    -------
    Plateau or None
        None where no run agrees: the dimension depends on the scale.

    Raises
    ------
    ValueError
        For an option outside its range, or arrays that are no scan.

    Notes
    -----
    The estimates share their points. On uniform clouds without an edge (n = 1,000, d = 2 to 8) the
    spread of each is 1.1 to 1.5 times its Fisher error, at every scale alike (up to 2 for d = 1),
    hence the factor 1.4; estimates at neighbouring scales correlate by less than 0.2 either way
    (−0.4 for d = 1), since ratios of successive volumes around one point are independent. The χ²
    law is therefore close. A plateau is no proof of one dimension: strong noise has its own, and a
    mixture of a line and an 8-dimensional cube has one near 1.8 (`fit_p_value` sees that).

    Examples
    --------
    >>> from gelora_estimators import choose_scale
    >>> plateau = choose_scale([9.0, 5.1, 3.10, 3.02, 3.05], [0.2, 0.1, 0.05, 0.04, 0.03])
    >>> plateau.first, plateau.last, plateau.chosen
    (2, 4, 4)
    """
    check_number("tolerance", tolerance, low=0.0, high=1.0, closed_low=True)
    check_number("significance", significance, low=0.0, high=1.0)
    check_integer("shortest", shortest, minimum=2)
    values, errors = (np.asarray(array, dtype=np.float64) for array in (dimensions, standard_errors))
    _check_scan(values, errors)
    logs = np.log(values)
    variances = np.square(_ERROR_FACTOR * errors / values) + tolerance**2
    for length in range(len(logs), shortest - 1, -1):
        runs = [_run(logs, variances, first, length) for first in range(len(logs) - length + 1)]
        best = max(runs, key=lambda run: run.p_value)
        if best.p_value >= significance:
            return best
    return None


def optimal_neighborhoods(
    distances: FloatArray, indices: IndexArray, dimension: float, *, significance: float = 1e-6
) -> IndexArray:
    """Return k* of each point: how far out the density is constant, if the dimension is known.

    With V = r^d the volumes of the balls up to the k-th neighbour of point i and of its
    (k + 1)-th neighbour j, the likelihood ratio of two densities against one is
    D_k = −2k [log V_i + log V_j − 2 log(V_i + V_j) + log 4] = 4k log cosh(d (log r_i − log r_j)/2).
    Orders k = 3, 4, … are tested until D_k exceeds the χ² quantile of one degree of freedom; k* is
    the last neighbour that passed, 3 if none did, and the number of columns if all did.

    Parameters
    ----------
    distances, indices : ndarray of shape (n, n_columns)
        Neighbours as `nearest_distances` returns them, at least 4.
    dimension : float
        The intrinsic dimension d.
    significance : float
        Level of each test; 1e-6 is a threshold of 23.928, the choice of the paper.

    Raises
    ------
    ValueError
        For fewer than 4 columns, or an option outside its range.

    Notes
    -----
    From DiNoia2024. At 1e-6 the test has little power: among a hundred points the neighbourhood is
    the whole cloud, so cap the columns.
    """
    check_number("dimension", dimension, low=0.0, high=float("inf"))
    return _passed(_largest_dimensions(distances, indices, significance), dimension)


def binomial_dimension(
    distances: FloatArray, neighborhoods: IndexArray, ratio: float
) -> tuple[float, float, IndexArray]:
    """Return the dimension from counts in two balls around each point, its error, and the inner counts (n,).

    The outer ball of a point is open and ends at its k*-th neighbour, so it holds k_B = k* − 1 others:
    the k*-th sets the radius and is not counted. The inner ball is closed and has ``ratio`` times
    that radius, and holds k_A. Where the density is constant k_A is binomial with k_B trials and
    success τ^d, so d = log(Σ k_A / Σ k_B) / log τ, with standard error
    [(τ^{−d} − 1) / (Σ k_B log² τ)]^½ if all counts were independent. They are not: most pairs of
    points are counted from both ends, so the spread is about √2 times that, and 2.3 times on a cube.

    Parameters
    ----------
    distances : ndarray of shape (n, n_columns)
        Neighbours as `nearest_distances` returns them.
    neighborhoods : ndarray of shape (n,)
        k* of each point, from 2 to ``n_columns``.
    ratio : float
        τ, in (0, 1); the error is smallest at 0.2032^{1/d}.

    Raises
    ------
    DegenerateCloudError
        If the inner balls hold no point at all, or all points of the outer ones.
    ValueError
        For a ``ratio`` outside (0, 1).
    """
    check_number("ratio", ratio, low=0.0, high=1.0)
    radius = np.take_along_axis(distances, neighborhoods[:, None] - 1, axis=1)
    inner = np.asarray((distances <= ratio * radius).sum(axis=1), dtype=np.int64)
    inside, trials = int(inner.sum()), int(neighborhoods.sum()) - len(neighborhoods)
    if not 0 < inside < trials:
        raise DegenerateCloudError(
            f"the dimension is undefined: within {ratio:.3g} times the radius of the neighbourhoods of the "
            f"{len(distances)} points lie {inside} of their {trials} neighbours."
        )
    log_ratio = float(np.log(ratio))
    variance = (trials / inside - 1.0) / (trials * log_ratio**2)
    return float(np.log(inside / trials)) / log_ratio, float(np.sqrt(variance)), inner


def adaptive_dimension(
    distances: FloatArray,
    indices: IndexArray,
    *,
    start: float,
    significance: float = 1e-6,
    most_steps: int = 50,
) -> AdaptiveDimension:
    """Find the dimension and the neighbourhoods of constant density together (ABIDE, DiNoia2024).

    In turn k* follows from d (`optimal_neighborhoods`), and d from k* with τ = 0.2032^{1/d}
    (`binomial_dimension`), until d moves by less than a tenth of its standard error. Counts are
    integers, so in a small cloud d may jump back and forth: then it is enclosed that narrowly.

    Parameters
    ----------
    distances, indices : ndarray of shape (n, n_columns)
        Neighbours as `nearest_distances` returns them, at least 4; k* is at most ``n_columns``.
    start : float
        First guess of the dimension.
    significance : float
        Level of the tests of constant density.
    most_steps : int
        Rounds after which it stops with a warning.

    Raises
    ------
    DegenerateCloudError, ValueError
        See `binomial_dimension` and `optimal_neighborhoods`.

    Warns
    -----
    UserWarning
        If the dimension still moves after ``most_steps`` rounds.
    """
    check_number("start", start, low=0.0, high=float("inf"))
    check_integer("most_steps", most_steps, minimum=1)
    limits = _largest_dimensions(distances, indices, significance)
    guess, low, high = start, 0.0, float("inf")
    for step in range(1, most_steps + 1):
        neighborhoods, ratio = _passed(limits, guess), float(INNER_FRACTION ** (1.0 / guess))
        dimension, error, inner = binomial_dimension(distances, neighborhoods, ratio)
        found = AdaptiveDimension(dimension, error, neighborhoods, inner, ratio, step)
        if min(abs(dimension - guess), high - low) <= 0.1 * error:
            return found
        if step > _PLAIN_STEPS:
            low, high = (guess, high) if dimension > guess else (low, guess)
        guess = 0.5 * (low + high) if low > 0.0 and np.isfinite(high) else dimension
    warnings.warn(
        f"the dimension from neighbourhoods of constant density still moves after {most_steps} rounds: "
        f"{dimension:.4g} from {guess:.4g}.",
        stacklevel=2,
    )
    return found


def fit_p_value(indices: IndexArray, found: AdaptiveDimension, rng: np.random.Generator) -> tuple[float, int]:
    """Return the p-value of the binomial model, and how many neighbourhoods it rests on.

    Points are drawn in random order and kept if their neighbourhood shares no point with those kept
    before, so that their counts are independent. Pearson's Σ (k_A − k_B p)² / (k_B p (1 − p)) over
    them, p = Σ k_A / Σ k_B of the whole cloud, is compared with 999 simulated sets of binomial
    counts. Small where different points have different dimensions, or where the density varies
    inside the neighbourhoods.

    Notes
    -----
    It rejects 0 to 5 % of tori, spheres and Gaussians at 5 % (n = 1,000), 30 % of 3-dimensional
    cubes, whose edges it sees, and 73 % of mixtures of a 2- and a 3-dimensional cube (all of them at
    n = 2,000). A Kolmogorov–Smirnov test of all counts against simulated ones takes overlapping
    neighbourhoods for independent: it rejects 0 to 8 % of the tori and spheres, but 30 % of the
    Gaussians. With large k* few neighbourhoods are disjoint (4 for k* = 128 and n = 1,000).
    """
    chosen = _disjoint(indices, found.neighborhoods, rng)
    trials, inner = found.neighborhoods[chosen] - 1, found.inner[chosen]
    p = float(found.inner.sum() / (found.neighborhoods - 1).sum())

    def misfit(counts: NDArray[np.int64]) -> FloatArray:
        return np.asarray((np.square(counts - trials * p) / (trials * p * (1.0 - p))).sum(axis=-1))

    simulated = misfit(rng.binomial(trials, p, size=(_SIMULATED_SETS, len(trials))))
    # Equal counts may sum to numbers that differ by rounding.
    as_large = int((simulated >= misfit(inner) * (1.0 - 1e-12)).sum())
    return (1 + as_large) / (1 + _SIMULATED_SETS), len(chosen)


def dimensions_of_halves(
    indices: IndexArray, found: AdaptiveDimension, rng: np.random.Generator, n_pairs: int
) -> FloatArray:
    """Return the dimension on both halves of the cloud, split at random ``n_pairs`` times; shape (n_pairs, 2).

    A half keeps the two radii of each of its points and counts its own points inside, which the
    lists of the whole cloud answer exactly; NaN where it has no point inside. Two halves of a pair
    share no point: a quarter of their mean squared difference is the variance on all points, or up
    to twice that, since a half has a quarter of the pairs of points (measured: 1.0 to 1.5 times the
    standard deviation).
    """
    n = len(indices)
    kept = np.zeros((n, n_pairs, 2))
    for pair in range(n_pairs):
        order = rng.permutation(n)
        kept[order[: n // 2], pair, 0] = kept[order[n // 2 :], pair, 1] = 1.0
    flat = kept.reshape(n, -1)
    inside, trials = (
        (flat * np.asarray(_adjacency(indices, counts) @ flat)).sum(axis=0).reshape(n_pairs, 2)
        for counts in (found.inner, found.neighborhoods - 1)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log(inside / trials) / np.log(found.ratio)
    return np.where((inside > 0.0) & (inside < trials), values, np.nan)


def _check_scan(values: FloatArray, errors: FloatArray) -> None:
    """Raise unless the arrays are dimensions and their errors."""
    if values.ndim != 1 or values.shape != errors.shape:
        raise ValueError(
            f"`dimensions` and `standard_errors` must have one shape (n_scales,), got {values.shape} and "
            f"{errors.shape}: pass one number a scale in each."
        )
    if not bool((np.isfinite(values) & (values > 0.0) & np.isfinite(errors) & (errors > 0.0)).all()):
        raise ValueError(
            f"`dimensions` and `standard_errors` must be positive, got {values.tolist()} and {errors.tolist()}: "
            "leave out scales without a dimension."
        )


def _run(logs: FloatArray, variances: FloatArray, first: int, length: int) -> Plateau:
    """Return the run of that many scales with its mean and p-value."""
    values, weights = logs[first : first + length], 1.0 / variances[first : first + length]
    mean = float((weights * values).sum() / weights.sum())
    deviation = values - mean
    p_value = float(chi2.sf((weights * deviation**2).sum(), length - 1))
    chosen = first + int(np.argmin(np.abs(deviation)))
    return Plateau(first, first + length - 1, chosen, float(np.exp(mean)), p_value)


def _largest_dimensions(distances: FloatArray, indices: IndexArray, significance: float) -> FloatArray:
    """Return, for k = 3, 4, …, the largest dimension at which the tests up to k all pass.

    D_k ≤ threshold means d |log r_i − log r_j| ≤ 2 arcosh(exp(threshold / 4k)), so one table
    answers for every d.
    """
    check_number("significance", significance, low=0.0, high=1.0)
    columns = distances.shape[1]
    if columns <= _FIRST_TEST:
        raise ValueError(
            f"`distances` must have at least {_FIRST_TEST + 1} columns, got {columns}: search more neighbours."
        )
    k = np.arange(_FIRST_TEST, columns)
    reach = 2.0 * np.arccosh(np.exp(float(chi2.isf(significance, 1)) / (4.0 * k)))
    logs = np.log(distances)
    contrast = np.abs(logs[:, k - 1] - logs[indices[:, k], k - 1])
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum.accumulate(reach / contrast, axis=1))


def _passed(limits: FloatArray, dimension: float) -> IndexArray:
    """Return k* from the table of `_largest_dimensions`."""
    return np.asarray(_FIRST_TEST + (limits >= dimension).sum(axis=1), dtype=np.int64)


def _disjoint(indices: IndexArray, neighborhoods: IndexArray, rng: np.random.Generator) -> IndexArray:
    """Return points whose open balls share no point, taken greedily in random order."""
    used: NDArray[np.bool_] = np.zeros(len(indices), dtype=np.bool_)
    chosen = []
    for point in rng.permutation(len(indices)).tolist():
        inside = indices[point, : neighborhoods[point] - 1]
        if not used[point] and not used[inside].any():
            used[point] = used[inside] = True
            chosen.append(point)
    return np.array(chosen, dtype=np.int64)


def _adjacency(indices: IndexArray, counts: IndexArray) -> csr_array[np.float64, tuple[int, int]]:
    """Return the (n, n) matrix with ones at the first ``counts`` neighbours of each row."""
    n = len(indices)
    neighbors = indices[np.arange(indices.shape[1]) < counts[:, None]]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return csr_array((np.ones(len(neighbors)), neighbors, starts), shape=(n, n))
