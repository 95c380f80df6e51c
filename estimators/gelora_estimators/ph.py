"""Persistent homology dimension from the growth of the minimum spanning tree."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gelora_estimators.neighbors import resolve_device
from gelora_estimators.options import check_choice, check_integer, check_number
from gelora_estimators.points import DistinctPoints, IndexArray, distinct_points, refuse_repeated_vectors
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray
from gelora_estimators.spanning_tree import pairwise_distances, tree_lengths
from gelora_estimators.subsampling import normal_interval

_ONE_MATRIX_LIMIT = 4096  # distinct points up to which one distance matrix serves every subsample


@dataclass(frozen=True, kw_only=True, slots=True)
class PersistentHomology:
    """Persistent homology dimension in degree 0 (Steele1988, Adams2020, Birdal2021, Tulchinskii2023).

    The finite bars are the edges of the Euclidean minimum spanning tree. E_α(n) = Σ length^α grows as
    n^{(d−α)/d}: m is the slope of log E_α against log n over subsamples of growing size, and the dimension
    is α/(1 − m), for 0 < α < d. At each size the ``statistic`` is taken over ``n_draws`` subsamples
    drawn without replacement; the slopes of ``n_repetitions`` such fits are averaged.

    Parameters
    ----------
    alpha : float
        Power of the lengths, above 0 and below the dimension.
    n_sizes : int
        Subsample sizes, in equal steps of log n from ``min_points`` to min(n, ``max_points``).
    n_draws : int
        Subsamples of each size in one repetition.
    n_repetitions : int
        Fits averaged.
    statistic : {"median", "mean"}
        How the draws of one size are joined.
    backend : {"torch", "giotto", "ripser"}
        What computes the bars: our spanning tree (float64), ``gph.ripser_parallel`` (the extra
        ``gelora[giotto]``) or ``ripser.ripser``. The latter two work in float32; they get the
        distances divided by the largest, which leaves each bar exact to 6e-8.
    max_points : int
        Largest subsample; the cost grows with its square.
    min_points : int
        Smallest subsample. The cloud must have twice as many distinct points.
    confidence : float
        Coverage of the interval, in (0, 1).
    device : str
        Where distances are computed: "auto", "cpu", "cuda:0" …

    Raises
    ------
    ValueError
        For an option outside its range.

    Notes
    -----
    The standard error is the standard deviation of the dimensions that single draws give (one
    subsample of each size), divided by √``n_repetitions``. Against the true spread over new clouds it
    was 1.2 to 1.4 times too wide on flat 3-tori of 500 and 2,000 points, 1.8 times on 6-dimensional
    Gaussians of 1,000 (24 clouds each). It does not cover bias: those tori read 3.21 and 3.13. The
    slope of a finite cloud reads low for d ≳ 10, and noise or several components bend the line:
    ``diagnostics["curvature"]`` is the slope over the upper half of the sizes minus that of the lower.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import PersistentHomology
    >>> cloud = np.random.default_rng(0).random((400, 2))
    >>> bool(1.7 < PersistentHomology()(cloud, rng=np.random.default_rng(0)).dimension < 2.3)
    True
    """

    name: ClassVar[str] = "ph"
    citation: ClassVar[str] = """@article{Steele1988,
  author = {Steele, J. Michael},
  title = {Growth rates of {E}uclidean minimal spanning trees with power weighted edges},
  journal = {The Annals of Probability},
  volume = {16},
  number = {4},
  pages = {1767--1787},
  year = {1988}
}
@incollection{Adams2020,
  author = {Adams, Henry and Aminian, Manuchehr and Farnell, Elin and Kirby, Michael and Mirth, Joshua and
    Neville, Rachel and Peterson, Chris and Shonkwiler, Clayton},
  title = {A fractal dimension for measures via persistent homology},
  booktitle = {Topological Data Analysis},
  year = {2020}
}
@inproceedings{Birdal2021,
  author = {Birdal, Tolga and Lou, Aaron and Guibas, Leonidas and {\\c{S}}im{\\c{s}}ekli, Umut},
  title = {Intrinsic dimension, persistent homology and generalization in neural networks},
  booktitle = {Advances in Neural Information Processing Systems 34},
  year = {2021}
}
@inproceedings{Tulchinskii2023,
  author = {Tulchinskii, Eduard and Kuznetsov, Kristian and Kushnareva, Laida and Cherniavskii, Daniil and
    Barannikov, Serguei and Piontkovskaya, Irina and Nikolenko, Sergey and Burnaev, Evgeny},
  title = {Intrinsic dimension estimation for robust detection of {AI}-generated texts},
  booktitle = {Advances in Neural Information Processing Systems 36},
  year = {2023}
}"""

    alpha: float = 1.0
    n_sizes: int = 8
    n_draws: int = 7
    n_repetitions: int = 3
    statistic: str = "median"
    backend: str = "torch"
    max_points: int = 2000
    min_points: int = 50
    confidence: float = 0.95
    device: str = "auto"

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, low=0.0, high=np.inf)
        check_integer("n_sizes", self.n_sizes, minimum=2)
        check_integer("n_draws", self.n_draws, minimum=1)
        check_integer("n_repetitions", self.n_repetitions, minimum=1)
        check_choice("statistic", self.statistic, ("median", "mean"))
        check_choice("backend", self.backend, ("torch", "giotto", "ripser"))
        check_integer("min_points", self.min_points, minimum=4)
        check_integer("max_points", self.max_points, minimum=2 * self.min_points)
        check_number("confidence", self.confidence, low=0.0, high=1.0)

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than 2 · ``min_points`` distinct points, vectors repeated with rounding noise, a
            slope outside (0, 1) or an estimate not above ``alpha``.
        ImportError
            For a backend that is not installed, naming what to install.
        """
        cloud = distinct_points(points, minimum=2 * self.min_points)
        device = str(resolve_device(points, self.device))
        sizes = subsample_sizes(len(cloud.points), self.min_points, self.max_points, self.n_sizes)
        log_energy = self._log_energies(cloud, sizes, rng, device)
        join = np.median if self.statistic == "median" else np.mean
        mean_line = np.asarray(join(log_energy, axis=1)).mean(axis=0)
        slope, residual, curvature = line_fit(np.log(sizes), mean_line)
        dimension = dimension_from_slope(slope, self.alpha, n=len(cloud.points))
        standard_error = draw_error(np.log(sizes), log_energy, dimension, self.alpha)
        return DimensionEstimate(
            dimension=dimension,
            standard_error=standard_error,
            interval=normal_interval(dimension, standard_error, self.confidence),
            n_points=len(cloud.points),
            diagnostics={
                "n_copies": float(cloud.n_copies),
                "slope": slope,
                "residual": residual,
                "curvature": curvature,
                "sizes": sizes.astype(np.float64),
                "log_energy": mean_line,
            },
        )

    def _log_energies(
        self, cloud: DistinctPoints, sizes: IndexArray, rng: np.random.Generator, device: str
    ) -> FloatArray:
        """Return log E_α of every draw, shape (n_repetitions, n_draws, n_sizes)."""
        points, n = cloud.points, len(cloud.points)
        whole = pairwise_distances(points, device=device) if n <= _ONE_MATRIX_LIMIT else None
        result = np.empty((self.n_repetitions, self.n_draws, len(sizes)))
        for place in np.ndindex(result.shape):
            drawn = np.sort(rng.choice(n, size=int(sizes[place[2]]), replace=False, shuffle=False))
            distances = whole[np.ix_(drawn, drawn)] if whole is not None else _distances(points[drawn], device)
            if place[2] == len(sizes) - 1:
                refuse_repeated_vectors(_nearest(distances), cloud)
            result[place] = log_energy(bars(distances, self.backend), self.alpha)
        return result


def subsample_sizes(n: int, smallest: int, largest: int, n_sizes: int) -> IndexArray:
    """Return the distinct sizes from ``smallest`` to min(n, ``largest``), in equal steps of the logarithm."""
    sizes = np.geomspace(smallest, min(n, largest), n_sizes)
    return np.unique(np.rint(sizes).astype(np.int64))


def bars(distances: FloatArray, backend: str) -> FloatArray:
    """Return the n − 1 finite bars of degree 0 of a distance matrix, ascending.

    Raises
    ------
    ImportError
        For a backend that is not installed, naming what to install.
    """
    if backend == "torch":
        return tree_lengths(distances)
    largest = float(distances.max())
    # Both libraries take float32; the largest distance becomes 1, so none overflows or vanishes.
    single = np.asarray(distances / largest, dtype=np.float32)
    deaths = _giotto_deaths(single) if backend == "giotto" else _ripser_deaths(single)
    finite = np.sort(deaths[np.isfinite(deaths)].astype(np.float64)) * largest
    # A bar of length zero (two points nearer than float32 can say) is left out by the libraries.
    return np.concatenate([np.zeros(len(distances) - 1 - len(finite)), finite])


def log_energy(lengths: FloatArray, alpha: float) -> float:
    """Return log Σ length^α, safe from overflow."""
    positive = lengths[lengths > 0.0]
    powers = alpha * np.log(positive)
    top = float(powers.max())
    return top + float(np.log(np.exp(powers - top).sum()))


def line_fit(log_sizes: FloatArray, log_energy: FloatArray) -> tuple[float, float, float]:
    """Return the least-squares slope, the root mean square residual and the change of slope."""
    slope, intercept = _slope(log_sizes, log_energy)
    residual = float(np.sqrt(np.mean(np.square(log_energy - slope * log_sizes - intercept))))
    half = len(log_sizes) // 2
    if half < 2:
        return slope, residual, float("nan")
    upper = _slope(log_sizes[-half - 1 :], log_energy[-half - 1 :])[0]
    lower = _slope(log_sizes[: half + 1], log_energy[: half + 1])[0]
    return slope, residual, upper - lower


def dimension_from_slope(slope: float, alpha: float, *, n: int) -> float:
    """Return α/(1 − m).

    Raises
    ------
    DegenerateCloudError
        For a slope outside (0, 1), hence also for an estimate of ``alpha`` or less.
    """
    if not 0.0 < slope < 1.0:
        why = "would be infinite or negative" if slope >= 1.0 else f"would not exceed alpha = {alpha:g}"
        raise DegenerateCloudError(
            f"the persistent homology dimension of these {n} distinct points is undefined: the slope of log E against "
            f"log n is {slope:.4g}, outside (0, 1), so that the estimate {why}."
        )
    return alpha / (1.0 - slope)


def draw_error(log_sizes: FloatArray, log_energy: FloatArray, dimension: float, alpha: float) -> float:
    """Return the standard error from the slopes of single draws.

    Draw j of repetition r gives one slope over the sizes. Their standard deviation, carried to
    the dimension by its derivative d²/α, is divided by the root of the number of repetitions.
    """
    slopes = [_slope(log_sizes, line)[0] for line in log_energy.reshape(-1, log_energy.shape[-1])]
    if len(slopes) < 2:
        return float("nan")
    return dimension**2 / alpha * float(np.std(slopes, ddof=1)) / float(np.sqrt(log_energy.shape[0]))


def _slope(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    centred = x - x.mean()
    slope = float((centred @ y) / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def _distances(points: FloatArray, device: str) -> FloatArray:
    """Return the distances of a subsample, centred on its own mean so that the product is exact."""
    return pairwise_distances(points - points.mean(axis=0), device=device)


def _nearest(distances: FloatArray) -> FloatArray:
    """Return the smallest distance of each row to another point."""
    return np.asarray(np.partition(distances, 1, axis=1)[:, 1])


def _giotto_deaths(distances: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> FloatArray:
    try:
        from gph import ripser_parallel
    except ImportError as error:
        raise ImportError(
            "`backend='giotto'` needs giotto-ph, which is not installed: pip install 'gelora[giotto]' "
            "(Python 3.12 or older), or use backend='torch', which gives the same bars."
        ) from error
    found = ripser_parallel(distances, maxdim=0, metric="precomputed")
    return np.asarray(found["dgms"][0][:, 1], dtype=np.float64)


def _ripser_deaths(distances: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> FloatArray:
    try:
        from ripser import ripser
    except ImportError as error:
        raise ImportError(
            "`backend='ripser'` needs ripser, which is not installed: pip install ripser, or use backend='torch', "
            "which gives the same bars."
        ) from error
    found = ripser(distances, maxdim=0, distance_matrix=True)
    return np.asarray(found["dgms"][0][:, 1], dtype=np.float64)
