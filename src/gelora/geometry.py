"""The rank rule of GeLoRA as arithmetic on dimensions, and what errors of dimensions do to ranks. NumPy alone."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

BlockKey = tuple[str, int]
FloatArray = NDArray[np.float64]
RankArray = NDArray[np.int64]
# From dimensions of shape (n_draws, n_layers) to ranks of shape (n_draws, n_blocks).
RanksOf = Callable[[FloatArray], RankArray]

ROUNDINGS: Mapping[str, Callable[[FloatArray], FloatArray]] = {"ceil": np.ceil, "round": np.round, "floor": np.floor}
N_DRAWS = 4000
_MOST_GROWTH = 1e4


def geometric_ranks(
    dimensions: Mapping[BlockKey, float], *, rounding: str = "ceil", offset: int = 1, undefined: str = "error"
) -> dict[BlockKey, int | None]:
    """Apply r_i = max(d_i − d_{i−1}, 0) + offset along each stack; differences never cross stacks.

    Parameters
    ----------
    dimensions : mapping of (stack, layer) to float
        Layer 0 is the input of block 1. NaN where undefined.
    rounding : {"ceil", "round", "floor"}
        From a difference to an integer.
    offset : int
        Added after rounding.
    undefined : {"error", "minimum"}
        What a block beside a layer of undefined dimension gets.

    Returns
    -------
    dict of (stack, block) to int
        None where undefined and ``undefined="minimum"``.

    Raises
    ------
    ValueError
        For an undefined dimension and ``undefined="error"``.

    Examples
    --------
    >>> geometric_ranks({("encoder", 0): 5.0, ("encoder", 1): 7.2, ("encoder", 2): 6.0})
    {('encoder', 1): 4, ('encoder', 2): 1}
    """
    ranks: dict[BlockKey, int | None] = {}
    for (stack, layer), rise in rises(dimensions).items():
        if math.isnan(rise):
            if undefined == "error":
                before = dimensions.get((stack, layer - 1), math.nan)
                bad = layer - 1 if math.isnan(before) else layer
                raise ValueError(
                    f"the dimension of layer {bad} of the {stack} is undefined, so block {layer} has no geometric "
                    "rank: choose another pooling or estimator, or undefined='minimum'"
                )
            ranks[stack, layer] = None
        else:
            ranks[stack, layer] = int(to_ranks(np.array([rise]), rounding=rounding, offset=offset)[0])
    return ranks


def rises(dimensions: Mapping[BlockKey, float]) -> dict[BlockKey, float]:
    """Return d_i − d_{i−1} of every block, NaN where one of the two is undefined.

    Examples
    --------
    >>> rises({("encoder", 0): 5.0, ("encoder", 1): 7.0})
    {('encoder', 1): 2.0}
    """
    return {
        (stack, layer): dimension - dimensions.get((stack, layer - 1), math.nan)
        for (stack, layer), dimension in dimensions.items()
        if layer > 0
    }


def to_ranks(differences: FloatArray, *, rounding: str = "ceil", offset: int = 1) -> RankArray:
    """Return max(difference, 0), rounded, plus ``offset``.

    Examples
    --------
    >>> to_ranks(np.array([-1.0, 0.2, 2.5]), rounding="round").tolist()
    [1, 1, 3]
    """
    return ROUNDINGS[rounding](np.maximum(differences, 0.0)).astype(np.int64) + offset


def block_columns(layers: Sequence[BlockKey]) -> tuple[tuple[BlockKey, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Return the blocks between ``layers``, and for each the columns of its input and of its output layer.

    Examples
    --------
    >>> block_columns([("encoder", 0), ("encoder", 1)])[0]
    (('encoder', 1),)
    """
    place = {key: column for column, key in enumerate(layers)}
    blocks = tuple(key for key in layers if (key[0], key[1] - 1) in place)
    before = np.array([place[stack, layer - 1] for stack, layer in blocks], dtype=np.int64)
    return blocks, before, np.array([place[key] for key in blocks], dtype=np.int64)


def geometric_rule(layers: Sequence[BlockKey], *, rounding: str = "ceil", offset: int = 1, minimum: int = 1) -> RanksOf:
    """Return the function from dimensions of ``layers``, (n_draws, n_layers), to the ranks of the blocks between them.

    Examples
    --------
    >>> geometric_rule([("encoder", 0), ("encoder", 1)])(np.array([[4.0, 6.5]])).tolist()
    [[4]]
    """
    _, before, after = block_columns(layers)

    def ranks_of(dimensions: FloatArray) -> RankArray:
        rise = dimensions[:, after] - dimensions[:, before]
        return np.maximum(to_ranks(rise, rounding=rounding, offset=offset), minimum)

    return ranks_of


def deviations(replicates: FloatArray, n: int, m: int) -> FloatArray:
    r"""Return how far replicates on subsamples lie from their centre, on the scale of all ``n`` examples.

    Parameters
    ----------
    replicates : ndarray of shape (n_replicates, n_layers)
        Estimates on subsamples of ``m`` of the n examples, the same examples in every layer. Replicates 2s and
        2s + 1 are the two halves of one split.
    n, m : int
        Examples in all, and in a subsample.

    Returns
    -------
    ndarray of shape (n_kept, n_layers)
        Of the splits whose both halves have every dimension.

    Notes
    -----
    A bootstrap would draw rows twice, and a copy at distance zero breaks every estimator of neighbours: the
    subsamples are drawn without replacement. Fewer points in the same space have their neighbours further away,
    so a subsample reads another dimension than the whole: each split is centred on its own mean, and only what is
    left is added to the full-sample estimate. For a mean with variance :math:`\sigma^2/n`, each of two subsamples of m
    rows that share none lies :math:`\sigma^2/(2m)` in variance from their mean, hence the factor
    :math:`\sqrt{2m/n}`. (Independent draws of m of n, centred on their common mean, would take
    :math:`\sqrt{m/(n - m)}`; both are 1 for halves.) Halves of different splits share rows, by an amount that the
    theory of means does not describe for statistics of neighbours, and are therefore never compared.
    """
    pairs = replicates.reshape(-1, 2, replicates.shape[1])
    pairs = pairs[np.isfinite(pairs).all(axis=(1, 2))]
    centred = pairs - pairs.mean(axis=1, keepdims=True)
    return np.asarray(math.sqrt(2 * m / n) * centred.reshape(-1, replicates.shape[1]))


def standard_draws(n_deviations: int, rng: np.random.Generator, n_draws: int = N_DRAWS) -> FloatArray:
    """Return weights (n_draws, n_deviations) that make multivariate Student draws out of deviations.

    The product with the deviations is multivariate Student with their covariance as scale matrix, whatever the number
    of layers, and as many degrees of freedom as there are splits, since that covariance is itself an estimate.
    """
    freedom = n_deviations // 2
    normal = rng.standard_normal((n_draws, n_deviations)) / math.sqrt(n_deviations)
    return np.asarray(normal * np.sqrt(freedom / rng.chisquare(freedom, size=(n_draws, 1))))


def agreement(draws: RankArray, ranks: RankArray) -> tuple[float, FloatArray]:
    """Return the share of draws with these ranks in all blocks, and in each block.

    Examples
    --------
    >>> total, single = agreement(np.array([[1, 2], [1, 3]]), np.array([1, 2]))
    >>> total, single.tolist()
    (0.5, [1.0, 0.5])
    """
    same = draws == ranks
    return float(same.all(axis=1).mean()), np.asarray(same.mean(axis=0))


def redraw_stability(
    dimensions: FloatArray, spread: FloatArray, weights: FloatArray, ranks_of: RanksOf
) -> tuple[float, FloatArray]:
    r"""Return the probability that a new draw of as many examples gives the same ranks: of all blocks, of each.

    Parameters
    ----------
    dimensions : ndarray of shape (n_layers,)
        The estimates from all examples.
    spread : ndarray of shape (n_deviations, n_layers)
        As from `deviations`.
    weights : ndarray of shape (n_draws, n_deviations)
        As from `standard_draws`.
    ranks_of : callable
        From dimensions (n_draws, n_layers) to ranks (n_draws, n_blocks).

    Notes
    -----
    The present estimate is itself a draw around the unknown truth, so a new one differs from it by the difference
    of two draws: its spread is :math:`\sqrt 2` times the standard error.
    """
    draws = ranks_of(dimensions + math.sqrt(2.0) * (weights @ spread))
    return agreement(draws, ranks_of(dimensions[None, :])[0])


def settling_factor(
    dimensions: FloatArray, spread: FloatArray, weights: FloatArray, ranks_of: RanksOf, confidence: float
) -> float:
    """Return by how much the number of examples must grow for the ranks to be stable with ``confidence``.

    Errors are taken to shrink with the root of the number. 1 where the ranks are stable already, infinity where
    ten thousand times as many would not do: a difference lies at a step of the rounding.
    """

    def stability(growth: float) -> float:
        return redraw_stability(dimensions, spread / math.sqrt(growth), weights, ranks_of)[0]

    if stability(1.0) >= confidence:
        return 1.0
    if stability(_MOST_GROWTH) < confidence:
        return math.inf
    low, high = 1.0, _MOST_GROWTH
    while high / low > 1.05:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if stability(middle) >= confidence else (middle, high)
    return high
