"""Divide a budget of trainable adapter parameters among blocks or matrices, in whole ranks."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
# (largest rank, parameters for one rank) of each matrix that shares a rank.
Pieces = Sequence[tuple[int, int]]

_STEPS = 60
_WHOLE = 1e-9


def rank_cost(pieces: Pieces, rank: float) -> float:
    """Return what a rank costs in all matrices that share it; a matrix at its largest rank costs no more.

    Examples
    --------
    >>> rank_cost([(8, 100), (2, 10)], 3)
    320
    """
    return sum(unit * min(rank, limit) for limit, unit in pieces)


def allocate(
    weights: Mapping[Key, float],
    pieces: Mapping[Key, Pieces],
    budget: int,
    *,
    base: int = 0,
    minimum: int = 1,
) -> dict[Key, int]:
    """Return the ranks ``base`` + t · weight, bounded and in whole numbers, for the largest t that ``budget`` pays.

    What rounding down leaves goes to those with the largest fraction, one rank each, as long as one fits: the
    ranks never cost more than ``budget``, and where some rank may still grow, no further one is paid for.

    Parameters
    ----------
    weights : mapping of key to float
        Not negative; all zero means all equal.
    pieces : mapping of key to sequence of (int, int)
        Largest rank and parameters for one rank of each matrix that shares the key's rank.
    budget : int
        Trainable adapter parameters.
    base : int
        Rank at weight 0; less where the budget does not pay for it everywhere.
    minimum : int
        Smallest rank of any key.

    Returns
    -------
    dict of key to int

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or the budget does not pay ``minimum`` everywhere.

    Examples
    --------
    >>> allocate({"a": 1.0, "b": 3.0}, {"a": [(99, 10)], "b": [(99, 10)]}, 100)
    {'a': 2, 'b': 8}
    """
    bad = [key for key, weight in weights.items() if not math.isfinite(weight) or weight < 0]
    if bad:
        raise ValueError(f"a weight must be a finite number of at least 0, got {weights[bad[0]]} for {bad[0]}")
    keys = list(weights)
    limits = {key: max(minimum, *(limit for limit, _ in pieces[key])) for key in keys}

    def total(ranks: Mapping[Key, float]) -> float:
        return sum(rank_cost(pieces[key], rank) for key, rank in ranks.items())

    least = int(total(dict.fromkeys(keys, minimum)))
    if budget < least:
        raise ValueError(
            f"`budget` must pay for rank {minimum} in every block, {least:,} parameters, got {budget:,}: raise it, or "
            "adapt fewer matrices"
        )
    while base > minimum and total(dict.fromkeys(keys, base)) > budget:
        base -= 1  # the budget does not pay the base everywhere
    shares = weights if any(weights.values()) else dict.fromkeys(keys, 1.0)
    wanted = _fill(shares, pieces, budget, base, minimum, limits)
    # A sum of fractions may miss a whole number by rounding.
    ranks = {key: math.floor(wanted[key] + _WHOLE) for key in keys}
    order = sorted(keys, key=lambda key: (ranks[key] - wanted[key], -shares[key]))
    return spend_rest(ranks, pieces, budget, order, limits)


def spend_rest(
    ranks: Mapping[Key, int],
    pieces: Mapping[Key, Pieces],
    budget: int,
    order: Sequence[Key],
    limits: Mapping[Key, int],
) -> dict[Key, int]:
    """Return ``ranks`` with what they leave of the budget spent in ``order``, one rank each, until none fits."""
    grown = dict(ranks)
    rest = budget - sum(rank_cost(pieces[key], rank) for key, rank in grown.items())
    growing = True
    while growing:
        growing = False
        for key in order:
            step = rank_cost(pieces[key], grown[key] + 1) - rank_cost(pieces[key], grown[key])
            if grown[key] < limits[key] and step <= rest:
                grown[key] += 1
                rest -= step
                growing = True
    return grown


def _fill(
    weights: Mapping[Key, float],
    pieces: Mapping[Key, Pieces],
    budget: int,
    base: int,
    minimum: int,
    limits: Mapping[Key, int],
) -> dict[Key, float]:
    """Return the fractional ranks for the largest scale that the budget pays, by bisection."""

    def ranks(scale: float) -> dict[Key, float]:
        return {
            key: min(max(base + scale * weight, float(minimum)), float(limits[key])) for key, weight in weights.items()
        }

    def cost(scale: float) -> float:
        return sum(rank_cost(pieces[key], rank) for key, rank in ranks(scale).items())

    low, high = 0.0, 1.0
    while cost(high) <= budget:
        low, high = high, 2.0 * high
        if all(rank >= limits[key] for key, rank in ranks(low).items() if weights[key] > 0):
            return ranks(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return ranks(low)
