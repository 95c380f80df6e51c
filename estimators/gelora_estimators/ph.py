"""Persistent homology dimension from the growth of the lengths of bars with the number of points."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.stats import t as student

from gelora_estimators.homology import BACKENDS, GrowthLine, bars, check_backend, growth_line, log_energy
from gelora_estimators.neighbors import resolve_device
from gelora_estimators.options import check_choice, check_device, check_integer, check_number
from gelora_estimators.points import DistinctRows, IndexArray, distinct_rows, refuse_repeated_vectors
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray
from gelora_estimators.spanning_tree import minimum_spanning_tree, pairwise_distances, subset_tree_lengths

_MAX_POINTS = {0: 2000, 1: 400}  # by degree: what is done within seconds
_MAX_POINTS_BEYOND = 120
_TOLERATED_BEND = 0.1  # relative change of the dimension along the line that clean finite clouds show
_SURE = 0.98  # two-sided confidence of the bend beyond which there is a warning


@dataclass(frozen=True, kw_only=True, slots=True)
class PersistentHomology:
    """Persistent homology dimension (Steele1988, Adams2020, Birdal2021, Tulchinskii2023).

    The finite bars of degree 0 are the edges of the Euclidean minimum spanning tree. E_α(n) = Σ length^α
    grows as n^{(d−α)/d}, in every degree: m is the slope of log E_α against log n over subsamples of
    growing size, and the dimension is α/(1 − m), for 0 < α < d. At each size the ``statistic`` is taken
    over ``n_draws`` subsamples drawn without replacement; the slopes of ``n_repetitions`` such fits are
    averaged. `tulchinskii2023` and `birdal2021` give the settings of those papers.

    Parameters
    ----------
    alpha : float or sequence of float
        Power of the lengths, above 0 and below the dimension. Several are all taken from the same bars:
        ``scales`` holds them, ``dimension_by_scale`` their dimensions (NaN where undefined), and the
        first gives ``dimension`` and everything else.
    degree : int
        Degree of homology. 1 and above need ``backend`` "giotto" or "ripser".
    sizes : sequence of int, optional
        The subsample sizes, ascending, in place of ``spacing``, ``n_sizes``, ``min_points`` and
        ``max_points``. The cloud must have as many distinct points as the largest.
    spacing : {"geometric", "linear"}
        Equal steps of log n or of n.
    n_sizes : int
        Subsample sizes, from ``min_points`` to min(n, ``max_points``).
    n_draws : int
        Subsamples of each size in one repetition.
    n_repetitions : int
        Fits averaged.
    statistic : {"median", "mean"}
        How the draws of one size are joined.
    backend : {"torch", "giotto", "ripser"}
        What computes the bars: our spanning tree (float64), ``gph.ripser_parallel`` (the extra
        ``gelora[giotto]``) or ``ripser.ripser``. The latter two work in float32; they get the
        distances divided by the largest, which leaves each bar exact to 6e-8 of it.
    max_points : int, optional
        Largest subsample; 2,000 by default in degree 0 (the cost grows with its square), 400 in
        degree 1 and 120 above (at least with its third power), or twice ``min_points`` if that is more.
    min_points : int
        Smallest subsample. The cloud must have twice as many distinct points.
    confidence : float
        Coverage of the interval, in (0, 1).
    device : str
        Where distances are computed: "auto", "cpu", "cuda:0" …

    Raises
    ------
    ValueError
        For an option outside its range, or ``backend="torch"`` above degree 0.

    Warns
    -----
    UserWarning
        Where the line bends by more than a tenth of the dimension beyond doubt, see Notes.

    Notes
    -----
    Subsamples are drawn by row number: another order of the same rows is another draw from the same
    generator.

    The standard error is that of the slope under the covariance of `size_covariance`. Its one unknown
    factor comes from the spread of the draws of each size, or from the residuals for a single draw. Its
    mean over the spread of the estimates of new clouds: flat 3-tori 0.99, 0.92, 1.14 and 0.95 (n = 500,
    1,000, 2,000, 8,000; 40 to 100 clouds each), 2-spheres 1.0, 4-balls 1.07 and 6-dimensional Gaussians
    1.07 (n = 1,000). Density makes it too wide: Gaussians of 3 to 5 dimensions, n = 200 to 2,000, have
    1.1 to 1.3. It does not cover bias: those tori read 3.22, 3.17, 3.14 and 3.15, and finite clouds
    read low for d ≳ 10 (a 12-dimensional Gaussian of 1,000 points 11.0).

    ``diagnostics["curvature"]`` is the slope over the upper half of the sizes minus that of the lower,
    ``curvature_error`` its standard error, ``curvature_z`` their ratio and ``bend`` the change of the
    dimension that it means, relative to the dimension. Clean finite clouds bend a little (flat 3-tori
    by −5 %, for α = 0.5 by −7 %), so the warning tests for a bend beyond 10 %, one-sided at 99 %. It
    came for none of 1,320 clean clouds (2-spheres, flat 3-tori, Gaussians of 3 to 12 dimensions), for
    each of 72 sheets with noise of 1 or 2 % in ten dimensions, and for 106 of 108 clouds of 5 to 20
    clusters. Such a number is a mean over scales.

    In degree 1 loops become more numerous faster than points at first, so it needs many points and
    reads high: 2-spheres 2.7 for n = 400 and 2.1 to 2.3 for 1,500, squares 2.7 to 3.7 for 1,500, while
    4-dimensional Gaussians have no dimension up to 400 points (slope above 1).

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

    alpha: float | Sequence[float] = 1.0
    degree: int = 0
    sizes: Sequence[int] | None = None
    spacing: str = "geometric"
    n_sizes: int = 8
    n_draws: int = 7
    n_repetitions: int = 3
    statistic: str = "median"
    backend: str = "torch"
    max_points: int | None = None
    min_points: int = 50
    confidence: float = 0.95
    device: str = "auto"

    def __post_init__(self) -> None:
        for power in _check_alphas(self.alpha):
            check_number("alpha", power, low=0.0, high=np.inf)
        check_integer("degree", self.degree, minimum=0)
        check_choice("spacing", self.spacing, ("geometric", "linear"))
        check_integer("n_sizes", self.n_sizes, minimum=2)
        check_integer("n_draws", self.n_draws, minimum=1)
        check_integer("n_repetitions", self.n_repetitions, minimum=1)
        check_choice("statistic", self.statistic, ("median", "mean"))
        check_choice("backend", self.backend, BACKENDS)
        check_backend(self.backend, self.degree)
        check_integer("min_points", self.min_points, minimum=4)
        check_integer("max_points", self._largest, minimum=2 * self.min_points)
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_device(self.device)
        # Lists, as JSON gives them back, become tuples: a frozen instance should be hashable.
        if isinstance(self.alpha, Sequence | np.ndarray):
            object.__setattr__(self, "alpha", tuple(float(power) for power in self.alpha))
        if self.sizes is not None:
            object.__setattr__(self, "sizes", _check_sizes(self.sizes))

    @classmethod
    def tulchinskii2023(cls) -> "PersistentHomology":
        """Return the settings of Tulchinskii2023, for the token vectors of one text.

        As in the paper: α = 1, 8 sizes, 7 draws of each, their median, 3 repetitions averaged. The
        sizes are ours to choose, since we only know those of the authors' released example: linear
        steps of ⌊(n − 40)/7⌋ from 40, which is ``spacing="linear"`` from 40 to n without n itself. That
        example also differs from the paper: it takes 9 draws of the sizes below n/2 (7 is the default
        of its class) and 3 of the others. 512 is the number of tokens at which its texts are cut. The
        preset reads texts of at least 80 distinct token vectors, twice the smallest size.
        """
        return cls(n_sizes=8, spacing="linear", n_draws=7, n_repetitions=3, min_points=40, max_points=512)

    @classmethod
    def birdal2021(cls) -> "PersistentHomology":
        """Return the settings of Birdal2021's released code, for the last 1,000 iterates of an optimiser.

        α = 1, sizes 200, 250, … 950, one draw of each, least squares in log–log coordinates, degree 0
        of the Vietoris–Rips filtration (theirs by ripser, which gives the same bars). The smallest size
        and the step are options of the paper's algorithm; the values are those of the code. With one
        draw the standard error comes from the residuals of the line, and is our addition.
        """
        return cls(sizes=range(200, 1000, 50), n_draws=1, n_repetitions=1)

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than 2 · ``min_points`` distinct points (or the largest of ``sizes``), vectors
            repeated with rounding noise, a subsample without bars of this degree, a slope outside
            (0, 1) or an estimate not above ``alpha``.
        ImportError
            For a backend that is not installed, naming what to install.
        """
        cloud = distinct_rows(points, minimum=self.sizes[-1] if self.sizes else 2 * self.min_points)
        n, alphas = len(cloud.rows), _check_alphas(self.alpha)
        sizes = self._sizes(n)
        energies = self._log_energies(cloud, sizes, rng, str(resolve_device(points, self.device)))
        lines = [growth_line(sizes, energy, n=n, statistic=self.statistic) for energy in energies]
        line = lines[0]
        dimension = dimension_from_slope(line.slope, alphas[0], n=n)
        carry = dimension**2 / alphas[0]  # derivative of the dimension by the slope
        bend, bend_error = line.curvature * carry / dimension, line.curvature_error * carry / dimension
        _warn_of_bend(bend, bend_error, line, sizes, dimension)
        reach = float(student.ppf(0.5 + self.confidence / 2.0, max(line.freedom, 1))) * line.slope_error * carry
        several = len(alphas) > 1
        return DimensionEstimate(
            dimension=dimension,
            standard_error=line.slope_error * carry,
            interval=(max(dimension - reach, 0.0), dimension + reach),
            n_points=n,
            scales=np.array(alphas) if several else None,
            dimension_by_scale=_dimension_by_power(lines, alphas) if several else None,
            diagnostics={
                "n_copies": float(cloud.n_copies),
                "slope": line.slope,
                "residual": line.residual,
                "curvature": line.curvature,
                "curvature_error": line.curvature_error,
                "curvature_z": bend / bend_error if bend_error > 0.0 else float("nan"),
                "bend": bend,
                "sizes": sizes.astype(np.float64),
                "log_energy": line.log_energy,
            },
        )

    @property
    def _largest(self) -> int:
        if self.max_points is not None:
            return self.max_points
        return max(_MAX_POINTS.get(self.degree, _MAX_POINTS_BEYOND), 2 * self.min_points)

    def _sizes(self, n: int) -> IndexArray:
        if self.sizes is not None:
            return np.asarray(self.sizes, dtype=np.int64)
        return subsample_sizes(n, self.min_points, self._largest, self.n_sizes, spacing=self.spacing)

    def _log_energies(
        self, cloud: DistinctRows, sizes: IndexArray, rng: np.random.Generator, device: str
    ) -> FloatArray:
        """Return log E_α of every draw, shape (n_alphas, n_repetitions, n_draws, n_sizes)."""
        n, shape = len(cloud.rows), (self.n_repetitions, self.n_draws, len(sizes))
        drawn, number = draw_subsets(n, sizes, self.n_repetitions * self.n_draws, rng)
        largest = [drawn[i] for i in np.unique(number[:, -1])]
        if self.backend == "torch":
            lengths = subset_tree_lengths(cloud.stored, drawn, device=device)
            trees = [lengths[i] for i in np.unique(number[:, -1])]
        else:
            trees = subset_tree_lengths(cloud.stored, largest, device=device)
        for subset, tree in zip(largest, trees, strict=True):
            _refuse_repeated(cloud, cloud.stored[subset].astype(np.float64), tree, device)
        if self.backend != "torch":
            lengths = [self._library_bars(cloud.stored[subset] - cloud.centre, device) for subset in drawn]
        _refuse_missing_bars(lengths, drawn, self.degree)
        energies = [[log_energy(part, alpha) for part in lengths] for alpha in _check_alphas(self.alpha)]
        return np.array(energies)[:, number].reshape(-1, *shape)

    def _library_bars(self, points: FloatArray, device: str) -> FloatArray:
        return bars(pairwise_distances(points, device=device), self.backend, degree=self.degree)


def draw_subsets(
    n: int, sizes: IndexArray, n_lines: int, rng: np.random.Generator
) -> tuple[list[IndexArray], IndexArray]:
    """Return ascending subsets of n points, and for every line and size the number of its subset.

    The whole cloud is listed once.
    """
    drawn: list[IndexArray] = []
    number = np.empty((n_lines, len(sizes)), dtype=np.int64)
    for line, place in np.ndindex(number.shape):
        subset = np.sort(rng.choice(n, size=int(sizes[place]), replace=False, shuffle=False))
        if len(subset) == n and line > 0:
            number[line, place] = number[0, place]
        else:
            number[line, place] = len(drawn)
            drawn.append(subset)
    return drawn, number


def subsample_sizes(n: int, smallest: int, largest: int, n_sizes: int, *, spacing: str = "geometric") -> IndexArray:
    """Return the distinct sizes from ``smallest`` to min(n, ``largest``), in equal steps of log n or of n."""
    spread = np.geomspace if spacing == "geometric" else np.linspace
    return np.unique(np.rint(spread(smallest, min(n, largest), n_sizes)).astype(np.int64))


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


def _dimension_by_power(lines: Sequence[GrowthLine], alphas: Sequence[float]) -> FloatArray:
    pairs = zip(lines, alphas, strict=True)
    return np.array([alpha / (1.0 - line.slope) if 0.0 < line.slope < 1.0 else np.nan for line, alpha in pairs])


def _warn_of_bend(bend: float, error: float, line: GrowthLine, sizes: IndexArray, dimension: float) -> None:
    """Warn if the bend is larger than what clean finite clouds show, beyond doubt; NaN never is."""
    quantile = float(student.ppf(0.5 + _SURE / 2.0, max(line.freedom, 1)))
    if abs(bend) - _TOLERATED_BEND > quantile * error:
        warnings.warn(
            f"the line behind the persistent homology dimension {dimension:.3g} bends: from the lower to the upper "
            f"half of the sizes {sizes[0]} to {sizes[-1]} its slope changes by {line.curvature:+.3f} ± "
            f"{line.curvature_error:.3f}, which moves the dimension by {bend:+.0%}. Noise, clusters or several "
            "dimensions do that: choose `sizes` within one regime, or give the dimension with its sizes.",
            UserWarning,
            stacklevel=3,
        )


def _refuse_repeated(cloud: DistinctRows, points: FloatArray, tree: FloatArray, device: str) -> None:
    """Raise if most of the points have their nearest neighbour within rounding distance."""
    # Each short edge gives at most two points a near neighbour: in a healthy cloud no search is needed.
    if 4 * int((tree <= cloud.rounding_distance).sum()) <= len(points):
        return
    # The tree holds an edge from every point to a nearest neighbour of it.
    found = minimum_spanning_tree(points, device=device)
    nearest = np.full(len(found.rows), np.inf)
    np.minimum.at(nearest, found.edges, found.lengths[:, None])
    refuse_repeated_vectors(nearest, cloud)


def _refuse_missing_bars(lengths: Sequence[FloatArray], drawn: Sequence[IndexArray], degree: int) -> None:
    missing = [len(subset) for part, subset in zip(lengths, drawn, strict=True) if not bool((part > 0.0).any())]
    if missing:
        raise DegenerateCloudError(
            f"the persistent homology dimension in degree {degree} is undefined: {len(missing)} of {len(drawn)} "
            f"subsamples have no finite bar of positive length, the largest of {max(missing)} points."
        )


def _check_alphas(alpha: float | Sequence[float]) -> tuple[float, ...]:
    """Return the powers as a tuple; raise if there is none or one twice."""
    if not isinstance(alpha, Sequence | np.ndarray):
        return (alpha,)
    if len(alpha) == 0 or len(set(alpha)) < len(alpha):
        raise ValueError(
            f"`alpha` must hold one or more different numbers, got {alpha!r}: pass alpha=1.0 or (1.0, 0.5)."
        )
    return tuple(alpha)


def _check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes as a tuple; raise unless they are at least two, ascending."""
    for size in sizes:
        check_integer("sizes", size, minimum=4)
    if len(sizes) < 2 or bool((np.diff(sizes) <= 0).any()):
        raise ValueError(
            f"`sizes` must hold at least two sizes, ascending, got {sizes!r}: pass e.g. sizes=(50, 100, 200)."
        )
    return tuple(int(size) for size in sizes)
