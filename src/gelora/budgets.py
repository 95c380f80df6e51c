"""Divide a budget of trainable adapter parameters among blocks or matrices, in whole ranks."""

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

_STEPS = 60
_WHOLE = 1e-9


def allocate(
    weights: Mapping[Key, float],
    costs: Mapping[Key, int],
    budget: int,
    *,
    base: int = 0,
    minimum: int = 1,
    caps: Mapping[Key, int] | None = None,
) -> dict[Key, int]:
    """Return the ranks ``base`` + t · weight, bounded and in whole numbers, for the largest t that ``budget`` pays.

    What rounding down leaves goes to those with the largest fraction, one rank each, as long as one fits: the
    ranks never cost more than ``budget``, and where some rank may still grow they cost less than one more of the
    cheapest such rank below it.

    Parameters
    ----------
    weights : mapping of key to float
        Not negative; all zero means all equal.
    costs : mapping of key to int
        Parameters for one rank.
    budget : int
        Trainable adapter parameters.
    base : int
        Rank at weight 0; less where the budget does not pay for it everywhere.
    minimum : int
        Smallest rank of any key.
    caps : mapping of key to int, optional
        Largest rank of each.

    Returns
    -------
    dict of key to int

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or the budget does not pay ``minimum`` everywhere.

    Examples
    --------
    >>> allocate({"a": 1.0, "b": 3.0}, {"a": 10, "b": 10}, 100)
    {'a': 2, 'b': 8}
    """
    bad = [key for key, weight in weights.items() if not math.isfinite(weight) or weight < 0]
    if bad:
        raise ValueError(f"a weight must be a finite number of at least 0, got {weights[bad[0]]} for {bad[0]}")
    keys = list(weights)
    limits = {key: max(minimum, caps[key] if caps else budget) for key in keys}
    least = sum(costs[key] * minimum for key in keys)
    if budget < least:
        raise ValueError(
            f"`budget` must pay for rank {minimum} in every block, {least:,} parameters, got {budget:,}: raise it, or "
            "adapt fewer matrices"
        )
    while base > minimum and sum(costs[key] * min(base, limits[key]) for key in keys) > budget:
        base -= 1  # the budget does not pay the base everywhere
    shares = weights if any(weights.values()) else dict.fromkeys(keys, 1.0)
    wanted = _fill(keys, shares, costs, budget, base, minimum, limits)
    # A sum of fractions may miss a whole number by rounding.
    ranks = {key: math.floor(wanted[key] + _WHOLE) for key in keys}
    rest = budget - sum(costs[key] * ranks[key] for key in keys)
    order = sorted(keys, key=lambda key: (ranks[key] - wanted[key], -shares[key]))
    while grown := [key for key in order if ranks[key] < limits[key] and costs[key] <= rest]:
        for key in grown:
            if costs[key] <= rest:
                ranks[key] += 1
                rest -= costs[key]
    return ranks


def _fill(
    keys: list[Key],
    weights: Mapping[Key, float],
    costs: Mapping[Key, int],
    budget: int,
    base: int,
    minimum: int,
    limits: Mapping[Key, int],
) -> dict[Key, float]:
    """Return the fractional ranks for the largest scale that the budget pays, by bisection."""

    def ranks(scale: float) -> dict[Key, float]:
        return {key: min(max(base + scale * weights[key], float(minimum)), float(limits[key])) for key in keys}

    def cost(scale: float) -> float:
        return sum(costs[key] * rank for key, rank in ranks(scale).items())

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
