"""Extraction in growing rounds: rows spread evenly over the data, until somebody says that they are enough."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gelora.clouds import Representations, join_clouds
from gelora.encoding import Examples, Seen
from gelora.provenance import generator

FIRST = 500
GROWTH = 2.0
N_STRATA = 100

Take = Callable[[NDArray[np.int64], Seen], Examples]


def stratified_order(n_available: int, seed: int, *, n_strata: int = N_STRATA) -> NDArray[np.int64]:
    """Return a random order of the data rows whose every beginning is spread evenly over the data.

    The data are cut into strata of consecutive rows, since files are often sorted by source, document or class.
    One row of each stratum, in random order, comes before the second of any.

    Parameters
    ----------
    n_available : int
        Data rows.
    seed : int
        What the order depends on.
    n_strata : int
        Strata, or one a row where there are fewer rows.

    Examples
    --------
    >>> order = stratified_order(1000, seed=0, n_strata=10)
    >>> sorted((order[:10] // 100).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    rng = generator(seed, "stratified rows")
    strata = np.array_split(np.arange(n_available, dtype=np.int64), min(n_strata, n_available))
    turn = np.concatenate([rng.permutation(len(stratum)) for stratum in strata])
    return np.asarray(np.lexsort((rng.random(n_available), turn)))


def round_sizes(n_available: int, first: int = FIRST, growth: float = GROWTH) -> list[int]:
    """Return the rows drawn by the end of each round; the last round ends with the data.

    Examples
    --------
    >>> round_sizes(5000)
    [500, 1000, 2000, 4000, 5000]
    """
    sizes = [min(first, n_available)]
    while sizes[-1] < n_available:
        sizes.append(min(max(int(sizes[-1] * growth), sizes[-1] + 1), n_available))
    return sizes


def read_until(
    take: Take,
    collect: Callable[[Examples], Representations],
    enough: Callable[[Representations], bool],
    n_available: int,
    seed: int,
) -> Representations:
    """Extract in rounds until ``enough`` says so of everything extracted so far, or the data end.

    Parameters
    ----------
    take : callable
        From data rows, and the examples of earlier rounds, to the new examples.
    collect : callable
        From examples to their clouds.
    enough : callable
        From all clouds so far to whether to stop. Its attributes ``first`` and ``growth`` set the rounds.
    n_available : int
        Data rows.
    seed : int
        Of their order.

    Returns
    -------
    Representations
        With the rows drawn by the end of each round in the attribute ``rounds``.
    """
    order = stratified_order(n_available, seed)
    seen = Seen()
    counts = {"n_texts": 0, "text_copies_removed": 0, "n_truncated": 0}
    sizes, done = [], 0
    joined: Representations | None = None
    for size in round_sizes(n_available, getattr(enough, "first", FIRST), getattr(enough, "growth", GROWTH)):
        examples = take(np.sort(order[done:size]), seen)
        counts = {name: count + int(examples.record[name]) for name, count in counts.items()}
        sizes.append(size)
        done = size
        if not examples.features:  # all of them copies of earlier ones
            continue
        found = collect(examples)
        joined = found if joined is None else join_clouds([joined, found])
        if enough(joined):
            break
    if joined is None:
        raise ValueError("`data` must hold at least one example, got none")
    return Representations(
        clouds=joined.clouds,
        stacks=joined.stacks,
        layers=joined.layers,
        names=joined.names,
        rows=joined.rows,
        attributes={**joined.attributes, **counts, "rounds": sizes},
    )
