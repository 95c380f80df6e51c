"""How far the ranks of a plan can be trusted, as plain values that JSON takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Column = tuple[str, int, tuple[str, ...]]  # a block, by stack and number, and those of its matrices that are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanUncertainty:
    """What resampling says of a plan.

    Parameters
    ----------
    ranks : tuple of int
        The ranks that have a probability, ascending.
    probabilities : tuple of tuple of float
        For each module of the plan, the probability of each of ``ranks``.
    expected : tuple of float
        Mean rank of each module.
    module_stability : tuple of float
        Probability that another draw of as many examples gives the module the same rank.
    stability : float
        The same for all modules at once.
    n_examples : int
        Examples behind the plan; of several profiles the fewest.
    n_settling : float
        Examples that would bring ``stability`` to ``confidence``; infinity where no number would.
    confidence : float
        What was asked for.
    n_replicates : int
        Resamples behind it; of several profiles the fewest.
    """

    ranks: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]
    expected: tuple[float, ...]
    module_stability: tuple[float, ...]
    stability: float
    n_examples: int
    n_settling: float
    confidence: float
    n_replicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanScales:
    """How a plan moves with the scale of its estimator.

    Parameters
    ----------
    scales : tuple of float
        Scales of the estimator; empty where it reads one only.
    ranks : tuple of tuple of int
        At each, the rank of every module of the plan.
    stabilities : tuple of float
        At each, the stability of that plan; NaN without replicates.
    taken, reason : str
        Which scale the plan was read at, and why.
    """

    scales: tuple[float, ...]
    ranks: tuple[tuple[int, ...], ...]
    stabilities: tuple[float, ...]
    taken: str
    reason: str


def alike_modules(modules: Sequence[Any], found: PlanUncertainty) -> dict[Column, list[int]]:
    """Return the places of the modules of each block whose rank and probabilities are the same, by block and roles."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, module in enumerate(modules):
        key = (module.stack, module.block, module.rank, found.probabilities[place])
        groups.setdefault(key, []).append(place)
    return {
        (stack, block, tuple(modules[place].role for place in members)): members
        for (stack, block, _, _), members in groups.items()
    }


def rank_shares(modules: Sequence[Any], found: PlanUncertainty) -> dict[int, tuple[float, ...]]:
    """Return the probability of each rank for each module, of a module's own rank too where it has none: 0."""
    known = [dict(zip(found.ranks, shares, strict=True)) for shares in found.probabilities]
    ranks = sorted({*found.ranks, *(module.rank for module in modules)})
    return {rank: tuple(shares.get(rank, 0.0) for shares in known) for rank in ranks}


def uncertainty_from_record(record: Mapping[str, Any] | None) -> PlanUncertainty | None:
    """Read the fields from plain values; null stands for infinity."""
    if record is None:
        return None
    settling = record["n_settling"]
    return PlanUncertainty(
        ranks=tuple(int(rank) for rank in record["ranks"]),
        probabilities=tuple(tuple(float(p) for p in row) for row in record["probabilities"]),
        expected=tuple(float(value) for value in record["expected"]),
        module_stability=tuple(float(value) for value in record["module_stability"]),
        stability=float(record["stability"]),
        n_examples=int(record["n_examples"]),
        n_settling=math.inf if settling is None else float(settling),
        confidence=float(record["confidence"]),
        n_replicates=int(record["n_replicates"]),
    )


def scales_from_record(record: Mapping[str, Any] | None) -> PlanScales | None:
    """Read the fields from plain values; null stands for NaN."""
    if record is None:
        return None
    return PlanScales(
        scales=tuple(float(scale) for scale in record["scales"]),
        ranks=tuple(tuple(int(rank) for rank in row) for row in record["ranks"]),
        stabilities=tuple(math.nan if value is None else float(value) for value in record["stabilities"]),
        taken=str(record["taken"]),
        reason=str(record["reason"]),
    )
