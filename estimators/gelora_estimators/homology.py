"""Bars of persistent homology, from our spanning tree or a library, and how their lengths grow with the points."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.options import check_choice, check_integer
from gelora_estimators.points import IndexArray, distinct_points
from gelora_estimators.protocol import FloatArray
from gelora_estimators.spanning_tree import minimum_spanning_tree, pairwise_distances, tree_lengths

if TYPE_CHECKING:
    import networkx as nx

BACKENDS = ("torch", "giotto", "ripser")
_MOST_POINTS = {1: 1000}  # a Vietoris–Rips complex of more takes minutes
_MOST_POINTS_BEYOND = 200  # in degree 2 and above
_SIMILARITY = 0.2  # of the fluctuations at two sizes, as a power of their ratio; measured on flat tori


def persistence_diagram(
    points: Any, *, degree: int = 0, backend: str = "auto", max_points: int | None = None, device: str = "auto"
) -> FloatArray:
    """Return birth and death of every bar of the Vietoris–Rips filtration in one degree.

    A simplex enters at its longest edge, so that the scale is a distance, not a radius. In degree 0
    every point is born at 0, the finite deaths are the edge lengths of the minimum spanning tree
    (Adams2020, Birdal2021) and one bar never dies. Exact copies are removed first: they would only
    add bars of length zero.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor.
    degree : int
        0 for components, 1 for loops, 2 for voids …
    backend : {"auto", "torch", "giotto", "ripser"}
        "torch" is our spanning tree in float64, degree 0 only. "giotto" (the extra ``gelora[giotto]``)
        and "ripser" take distances in float32: each birth and death is exact to 6e-8 times the
        largest distance, and shorter bars may be missing. "auto" takes "torch" in degree 0, else
        "giotto" where it is installed, else "ripser".
    max_points : int, optional
        Distinct points beyond which a cloud is refused rather than begun; by default without limit
        in degree 0, 1,000 in degree 1 and 200 above (a 3-torus of 800 points takes 7 s in degree 1,
        and the time grows with the third power or faster).
    device : str
        Where distances are computed: "auto", "cpu", "cuda:0" …

    Returns
    -------
    ndarray of shape (n_bars, 2)
        Births and deaths in the unit of the points, ordered by birth, then by death; ``inf`` where a
        bar never dies (one bar of degree 0, none of a higher degree).

    Raises
    ------
    DegenerateCloudError
        For a cloud that `distinct_points` refuses, with the counts.
    ValueError
        For more distinct points than ``max_points``, an unknown backend, or "torch" above degree 0.
    ImportError
        For a backend that is not installed, naming what to install.

    Notes
    -----
    One long bar of degree 1 is a loop; many short ones are sampling noise. Noise around a loop
    shortens its bar, outliers inside of it kill it.

    Examples
    --------
    >>> from gelora_estimators import persistence_diagram
    >>> persistence_diagram([[0.0], [1.0], [3.0]]).tolist()
    [[0.0, 1.0], [0.0, 2.0], [0.0, inf]]
    """
    check_integer("degree", degree, minimum=0)
    check_choice("backend", backend, ("auto", *BACKENDS))
    chosen = installed_backend(degree) if backend == "auto" else backend
    check_backend(chosen, degree)
    if max_points is not None:
        check_integer("max_points", max_points, minimum=2)
    most = most_points(degree) if max_points is None else max_points
    cloud = distinct_points(points, minimum=2)
    if most is not None and len(cloud.points) > most:
        raise ValueError(
            f"`points` must hold at most max_points={most} distinct points in degree {degree}, got "
            f"{len(cloud.points)}: pass a subsample, or a larger `max_points` and patience."
        )
    if chosen == "torch":
        deaths = np.append(minimum_spanning_tree(points, device=device).lengths, np.inf)
        return np.stack([np.zeros(len(deaths)), deaths], axis=1)
    return diagram(pairwise_distances(cloud.points, device=device), chosen, degree=degree)


def spanning_tree_graph(points: Any, *, device: str = "auto") -> "nx.Graph[int]":
    """Return the Euclidean minimum spanning tree as a networkx graph.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor; exact copies are removed first.
    device : str
        Where distances are computed: "auto", "cpu", "cuda:0" …

    Returns
    -------
    networkx.Graph
        A node for each distinct point, named by the row of ``points`` in which it occurs first; edges
        with the attribute ``weight``, their length in the unit of the points; ``graph["n_copies"]``
        counts the rows left out.

    Raises
    ------
    DegenerateCloudError
        For a cloud that `distinct_points` refuses, with the counts.
    ImportError
        Where networkx is not installed, naming what to install.

    Examples
    --------
    >>> from gelora_estimators.homology import spanning_tree_graph
    >>> list(spanning_tree_graph([[0.0], [5.0], [0.0], [2.0]]).edges(data="weight"))
    [(0, 3, 2.0), (1, 3, 3.0)]
    """
    try:
        import networkx as nx
    except ImportError as error:
        raise ImportError(
            "`spanning_tree_graph` needs networkx, which is not installed: pip install networkx, or use "
            "`minimum_spanning_tree`, which returns the same edges as arrays."
        ) from error
    tree = minimum_spanning_tree(points, device=device)
    graph: nx.Graph[int] = nx.Graph(n_copies=tree.n_copies)
    graph.add_nodes_from(tree.rows.tolist())
    ends = tree.rows[tree.edges].tolist()
    graph.add_weighted_edges_from(
        (left, right, length) for (left, right), length in zip(ends, tree.lengths.tolist(), strict=True)
    )
    return graph


def most_points(degree: int) -> int | None:
    """Return how many points a diagram of this degree is begun with by default; None without limit."""
    return None if degree == 0 else _MOST_POINTS.get(degree, _MOST_POINTS_BEYOND)


def installed_backend(degree: int) -> str:
    """Return what "auto" takes in this degree: "torch" in degree 0, else giotto-ph where it is installed."""
    if degree == 0:
        return "torch"
    return "giotto" if find_spec("gph") is not None else "ripser"


def check_backend(backend: str, degree: int) -> None:
    """Raise unless the backend computes bars of this degree.

    Raises
    ------
    ValueError
        For "torch" above degree 0.
    """
    if backend == "torch" and degree > 0:
        raise ValueError(
            f"`backend` must be 'giotto' or 'ripser' for bars of degree 1 and above, got 'torch' with degree={degree}: "
            "pass backend='giotto' (pip install 'gelora[giotto]') or backend='ripser'."
        )


def bars(distances: FloatArray, backend: str, *, degree: int = 0) -> FloatArray:
    """Return the lengths of the finite bars of a distance matrix, ascending; n − 1 of them in degree 0.

    Raises
    ------
    ImportError
        For a backend that is not installed, naming what to install.
    """
    if backend == "torch":
        return tree_lengths(distances)
    found = diagram(distances, backend, degree=degree)
    return np.sort((found[:, 1] - found[:, 0])[np.isfinite(found[:, 1])])


def diagram(distances: FloatArray, backend: str, *, degree: int) -> FloatArray:
    """Return births and deaths (n_bars, 2) from "giotto" or "ripser", by birth, then by death.

    Both take float32: the distances go in divided by the largest, so that none overflows or vanishes.
    """
    largest = float(distances.max())
    single = np.asarray(distances / largest, dtype=np.float32)
    from_library = _giotto if backend == "giotto" else _ripser
    found = from_library(single, degree).astype(np.float64) * largest
    if degree == 0 and len(found) < len(distances):
        # A bar of length zero (two points nearer than float32 can say) is left out by the libraries.
        found = np.concatenate([np.zeros((len(distances) - len(found), 2)), found])
    return np.asarray(found[np.lexsort((found[:, 1], found[:, 0]))])


def log_energy(lengths: FloatArray, alpha: float) -> float:
    """Return log Σ length^α, safe from overflow."""
    positive = lengths[lengths > 0.0]
    powers = alpha * np.log(positive)
    top = float(powers.max())
    return top + float(np.log(np.exp(powers - top).sum()))


def line_fit(log_sizes: FloatArray, log_energy: FloatArray) -> tuple[float, float, float]:
    """Return the least-squares slope, the root mean square residual and the change of slope.

    The last is the slope of the upper half less that of the lower; NaN for fewer than four sizes.
    """
    slope = float(_slope_weights(log_sizes) @ log_energy)
    level = log_energy - slope * log_sizes
    return slope, float(level.std()), float(_curvature_weights(log_sizes) @ log_energy)


@dataclass(frozen=True, slots=True)
class GrowthLine:
    """The line of log E against log n and how sure it is.

    Parameters
    ----------
    slope, residual, curvature : float
        See `line_fit`.
    slope_error, curvature_error : float
        Standard errors; NaN for a single draw of three sizes or fewer.
    freedom : int
        Degrees of freedom behind them.
    log_energy : ndarray of shape (n_sizes,)
        What the line was fitted to.
    """

    slope: float
    residual: float
    curvature: float
    slope_error: float
    curvature_error: float
    freedom: int
    log_energy: FloatArray


def growth_line(sizes: IndexArray, log_energy: FloatArray, *, n: int, statistic: str) -> GrowthLine:
    """Return the line through the log energies of subsamples, with its errors from `size_covariance`.

    Parameters
    ----------
    sizes : ndarray of shape (n_sizes,)
        Points in each subsample.
    log_energy : ndarray of shape (n_repetitions, n_draws, n_sizes)
        log E of every draw.
    n : int
        Points of the cloud they were drawn from.
    statistic : {"median", "mean"}
        How draws are joined; repetitions are averaged.
    """
    n_draws, n_sizes = log_energy.shape[1:]
    joined = np.asarray((np.median if statistic == "median" else np.mean)(log_energy, axis=1)).mean(axis=0)
    x, lines = np.log(sizes), log_energy.reshape(-1, n_sizes)
    slope, residual, curvature = line_fit(x, joined)
    # The variance of a median of J normal numbers in units of that of their mean, within 3 % for odd J.
    excess = n_draws * np.pi / (2.0 * n_draws + np.pi - 2.0) if statistic == "median" else 1.0
    covariance = size_covariance(sizes, n, n_lines=len(lines) / excess)
    if len(lines) > 1:
        inner = sizes < n  # draws of the whole cloud have no spread
        left_to_draw = (1.0 - np.square(sizes / n)) / sizes
        unit = float((lines.var(axis=0, ddof=1)[inner] / left_to_draw[inner]).mean())
        freedom = (len(lines) - 1) * int(inner.sum())
    else:
        # Residuals of a parabola, so that a bend is not taken for noise.
        parabola = np.vander(x - x.mean(), 3)
        beyond = np.eye(n_sizes) - parabola @ np.linalg.pinv(parabola)
        freedom = n_sizes - 3
        unit = float(np.square(beyond @ joined).sum() / np.trace(beyond @ covariance)) if freedom > 0 else np.nan
    weights = (_slope_weights(x), _curvature_weights(x))
    slope_error, curvature_error = (float(np.sqrt(unit * (w @ covariance @ w))) for w in weights)
    return GrowthLine(slope, residual, curvature, slope_error, curvature_error, freedom, joined)


def size_covariance(sizes: IndexArray, n: int, *, n_lines: float) -> FloatArray:
    """Return the covariance of log E of subsamples of m of n points, averaged over draws, in a unit c.

    A sum over local configurations of m points has a relative variance of c/m. Configurations are
    counted by pairs: a share (m/n)² of the variance is the cloud's, the same for every draw, and the
    rest is left to the draw, so ``n_lines`` draws reduce it. The cloud's parts at two sizes correlate
    as (m/m′)^0.2. What all sizes share alike, as the density of the cloud, moves no slope and is left
    out; but it adds to the spread of the draws, hence to c, which is on the safe side.
    """
    ratio = np.minimum.outer(sizes, sizes) / np.maximum.outer(sizes, sizes)
    cloud = ratio**_SIMILARITY * np.sqrt(np.outer(sizes, sizes)) / float(n) ** 2
    return np.asarray(cloud + np.diag((1.0 - np.square(sizes / n)) / sizes / n_lines))


def _giotto(distances: NDArray[np.float32], degree: int) -> NDArray[np.float32]:
    try:
        from gph import ripser_parallel
    except ImportError as error:
        raise ImportError(
            "`backend='giotto'` needs giotto-ph, which is not installed: pip install 'gelora[giotto]' "
            f"(Python 3.12 or older), or use {_instead(degree, 'ripser')}."
        ) from error
    return np.asarray(ripser_parallel(distances, maxdim=degree, metric="precomputed")["dgms"][degree])


def _ripser(distances: NDArray[np.float32], degree: int) -> NDArray[np.float32]:
    try:
        from ripser import ripser
    except ImportError as error:
        raise ImportError(
            "`backend='ripser'` needs ripser, which is not installed: pip install ripser, or use "
            f"{_instead(degree, 'giotto')}."
        ) from error
    return np.asarray(ripser(distances, maxdim=degree, distance_matrix=True)["dgms"][degree])


def _instead(degree: int, other: str) -> str:
    return f"backend={'torch' if degree == 0 else other!r}, which gives the same bars"


def _slope_weights(x: FloatArray) -> FloatArray:
    centred = x - x.mean()
    return np.asarray(centred / (centred @ centred))


def _curvature_weights(x: FloatArray) -> FloatArray:
    """Return the weights of the slope of the upper half less those of the lower; they share the middle."""
    half, weights = len(x) // 2, np.zeros(len(x))
    if half < 2:
        return np.full(len(x), np.nan)
    weights[-half - 1 :] += _slope_weights(x[-half - 1 :])
    weights[: half + 1] -= _slope_weights(x[: half + 1])
    return weights
