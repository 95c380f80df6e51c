"""Rank policies: functions from a `RankProblem` to ranks. Add one by writing a function; `POLICIES` names ours."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gelora.budgets import allocate, rank_cost, spend_rest
from gelora.geometry import BlockKey, FloatArray, to_ranks
from gelora.messages import nearest
from gelora.provenance import generator
from gelora.targets import Matrix

if TYPE_CHECKING:
    from torch import nn

MatrixKey = tuple[str, int, str]
Ranks = Mapping[BlockKey, int] | Mapping[MatrixKey, int]


@dataclass(frozen=True, kw_only=True)
class RankProblem:
    """What a policy decides on.

    Parameters
    ----------
    matrices : tuple of Matrix
        The matrices to adapt.
    rises : mapping of (stack, block) to float
        max(d_i − d_{i−1}, 0) of each block, joined over the profiles; NaN where undefined, empty without a profile.
    dimensions : mapping of (stack, block) to float
        Dimension of each block's output, likewise.
    rounding, offset
        Of the geometric rule, see `gelora.plan_ranks`.
    minimum, maximum : int
        Bounds of a rank.
    rank, budget : int, optional
        As given to `gelora.plan_ranks`.
    seed : int
        Of whatever a policy draws.
    model, data
        For policies that run the model.
    """

    matrices: tuple[Matrix, ...]
    rises: Mapping[BlockKey, float]
    dimensions: Mapping[BlockKey, float]
    rounding: str = "ceil"
    offset: int = 1
    minimum: int = 1
    maximum: int | None = None
    rank: int | None = None
    budget: int | None = None
    seed: int = 0
    model: "nn.Module | None" = None
    data: Any = None

    @cached_property
    def costs(self) -> dict[BlockKey, int]:
        """Parameters of one rank in every adapted matrix of each block, blocks in order."""
        costs: dict[BlockKey, int] = {}
        for matrix in self.matrices:
            key = (matrix.stack, matrix.block)
            costs[key] = costs.get(key, 0) + matrix.in_features + matrix.out_features
        return costs

    @cached_property
    def pieces(self) -> dict[BlockKey, list[tuple[int, int]]]:
        """Largest rank, and parameters of one rank, of each adapted matrix, by block."""
        pieces: dict[BlockKey, list[tuple[int, int]]] = {}
        for matrix in self.matrices:
            side = min(matrix.in_features, matrix.out_features, self.maximum or matrix.in_features)
            pieces.setdefault((matrix.stack, matrix.block), []).append((side, matrix.n_per_rank))
        return pieces

    @cached_property
    def caps(self) -> dict[BlockKey, int]:
        """Largest rank of each block: that of its matrix with the largest smaller side, at most ``maximum``."""
        return {key: max(limit for limit, _ in pieces) for key, pieces in self.pieces.items()}

    @cached_property
    def geometric(self) -> dict[BlockKey, int]:
        """GeLoRA's ranks within the bounds: rise, rounded, plus offset; the minimum where undefined."""
        self._need_profile()
        rises = np.array([self.rises.get(key, math.nan) for key in self.costs])
        ranks = to_ranks(np.nan_to_num(rises), rounding=self.rounding, offset=self.offset)
        ranks = np.where(np.isnan(rises), 1, ranks)
        return {
            key: int(min(max(rank, self.minimum), self.maximum or self.caps[key], self.caps[key]))
            for key, rank in zip(self.costs, ranks.tolist(), strict=True)
        }

    def spend(self) -> int:
        """Return the budget given, or what the geometric ranks cost."""
        if self.budget is not None:
            return self.budget
        if not self.rises:
            raise ValueError("`budget` must be given without a profile, whose geometric ranks would set it")
        return int(sum(rank_cost(self.pieces[key], rank) for key, rank in self.geometric.items()))

    def increments(self) -> dict[BlockKey, float]:
        """Return by how much each geometric rank exceeds the offset."""
        return {key: float(max(rank - self.offset, 0)) for key, rank in self.geometric.items()}

    def _need_profile(self) -> None:
        if not self.rises:
            raise ValueError("`profile` must be given for this policy: make one with `gelora.estimate`")


Policy = Callable[[RankProblem], Ranks]


def geometric(problem: RankProblem) -> Ranks:
    """GeLoRA (arXiv 2412.09250): the rise of dimension over the block, rounded, plus the offset."""
    return problem.geometric


def uniform(problem: RankProblem) -> Ranks:
    """LoRA: the same rank everywhere; what a budget leaves over goes to blocks drawn by the seed, one rank each."""
    both = problem.rank is not None and problem.budget is not None
    if both or (problem.rank is None and problem.budget is None and not problem.rises):
        raise ValueError(f"policy='uniform' needs either `rank` or `budget`, got {'both' if both else 'neither'}")
    keys = list(problem.costs)
    if problem.rank is not None:
        return dict.fromkeys(keys, problem.rank)
    spend, pieces = problem.spend(), problem.pieces
    rank = problem.minimum
    while rank < max(problem.caps.values()) and sum(rank_cost(pieces[key], rank + 1) for key in keys) <= spend:
        rank += 1
    if sum(rank_cost(pieces[key], rank) for key in keys) > spend:
        return _divide(problem, dict.fromkeys(keys, 1.0), 0)  # which says what would be enough
    order = [keys[place] for place in generator(problem.seed, "uniform remainder").permutation(len(keys))]
    return spend_rest({key: min(rank, problem.caps[key]) for key in keys}, pieces, spend, order, problem.caps)


def proportional(problem: RankProblem) -> Ranks:
    """Ranks in proportion to the dimension of each block's output, within the budget."""
    problem._need_profile()
    weights = {key: float(np.nan_to_num(problem.dimensions.get(key, math.nan))) for key in problem.costs}
    return _divide(problem, weights, 0)


def budget(problem: RankProblem) -> Ranks:
    """Return the geometric increments scaled to the budget; at the geometric ranks' own cost, those ranks."""
    return _divide(problem, problem.increments(), problem.offset)


def shuffled(problem: RankProblem) -> Ranks:
    """A control: the geometric increments in another order, drawn by the seed."""
    weights = problem.increments()
    values = list(weights.values())
    rng = generator(problem.seed, "shuffled")
    order = rng.permutation(len(values))
    while len(set(values)) > 1 and [values[place] for place in order] == values:
        order = rng.permutation(len(values))  # the same order would be no control
    return _divide(problem, {key: values[place] for key, place in zip(weights, order, strict=True)}, problem.offset)


def reversed_blocks(problem: RankProblem) -> Ranks:
    """A control: the geometric increments of each stack from its last block to its first."""
    weights = problem.increments()
    turned: dict[BlockKey, float] = {}
    for stack in dict.fromkeys(stack for stack, _ in weights):
        keys = [key for key in weights if key[0] == stack]
        turned |= dict(zip(keys, [weights[key] for key in keys[::-1]], strict=True))
    return _divide(problem, turned, problem.offset)


def random_ranks(problem: RankProblem) -> Ranks:
    """A control: what is left of the budget after the minimum, divided by a random point of the simplex."""
    draws = generator(problem.seed, "random ranks").exponential(size=len(problem.costs))
    return _divide(problem, dict(zip(problem.costs, draws.tolist(), strict=True)), problem.minimum)


def eva(problem: RankProblem) -> Ranks:
    """EVA (arXiv 2410.07170): ranks by the variance of each matrix's inputs that they explain, as peft has it."""
    from gelora.eva import eva_ranks

    if problem.rank is not None and problem.budget is not None:
        raise ValueError("policy='eva' takes `rank` or `budget`, got both")
    spend = None if problem.rank is not None else problem.spend()
    found = eva_ranks(
        _model(problem, "eva"),
        problem.data,
        problem.matrices,
        budget=spend,
        rank=problem.rank,
        minimum=problem.minimum,
    )
    if problem.maximum is None or spend is None:
        return found
    # What the bound takes from some goes to the others, those with the higher ranks first.
    pieces = {_key(m): [(min(m.in_features, m.out_features, problem.maximum), m.n_per_rank)] for m in problem.matrices}
    limits = {key: piece[0][0] for key, piece in pieces.items()}
    bounded = {key: min(rank, limits[key]) for key, rank in found.items()}
    return spend_rest(bounded, pieces, spend, sorted(bounded, key=lambda key: -found[key]), limits)


def fisher(problem: RankProblem) -> Ranks:
    """Ranks by the effective rank of each matrix's empirical Fisher information, which the dimension bounds from below.

    Without a budget or a profile a matrix gets that rank itself; otherwise ranks are in proportion to it.
    """
    from gelora.fisher import fisher_spectra

    spectra = fisher_spectra(_model(problem, "fisher"), problem.data, [matrix.name for matrix in problem.matrices])
    weights = {_key(matrix): float(spectra[matrix.name].effective_rank) for matrix in problem.matrices}
    sides = {_key(matrix): min(matrix.in_features, matrix.out_features) for matrix in problem.matrices}
    caps = {key: min(side, problem.maximum or side) for key, side in sides.items()}
    if problem.budget is None and not problem.rises:
        return {key: max(problem.minimum, min(math.ceil(weight), caps[key])) for key, weight in weights.items()}
    pieces = {_key(matrix): [(caps[_key(matrix)], matrix.n_per_rank)] for matrix in problem.matrices}
    return allocate(weights, pieces, problem.spend(), minimum=problem.minimum)


POLICIES: Mapping[str, Policy] = {
    "geometric": geometric,
    "recommended": geometric,  # with the estimator, scale and rounding of `gelora.recommended`
    "uniform": uniform,
    "proportional": proportional,
    "budget": budget,
    "random": random_ranks,
    "shuffled": shuffled,
    "reversed": reversed_blocks,
    "eva": eva,
    "fisher": fisher,
}
# Which of `rank` and `budget` a policy takes.
TAKES: Mapping[str, tuple[str, ...]] = {
    "geometric": (),
    "recommended": (),
    "uniform": ("rank", "budget"),
    "eva": ("rank", "budget"),
} | dict.fromkeys(("proportional", "budget", "random", "shuffled", "reversed", "fisher"), ("budget",))
TAKES_DATA = ("eva", "fisher")
# What can do without a profile, given a rank or a budget.
PROFILE_FREE = ("uniform", "eva", "fisher")
# Its rises drift least with the number of examples, see docs/benchmarks/rank_stability.md and docs/ranks.md.
RECOMMENDED_ESTIMATOR = "minibatch:mle(batch_size=1000)"
RECOMMENDED_ROUNDING = "round"


def recommended_label(profiles: Sequence[Any], estimator: str | None) -> str:
    """Return the label of the recommended estimator in all profiles.

    Raises
    ------
    ValueError
        If a profile lacks it, or another one is asked for.
    """
    if estimator not in (None, RECOMMENDED_ESTIMATOR):
        raise ValueError(
            f"policy='recommended' reads {RECOMMENDED_ESTIMATOR!r}, got `estimator`={estimator!r}: leave it out, or "
            "take policy='geometric'"
        )
    for profile in profiles:
        labels = [str(label) for label in profile["estimator"].values]
        if RECOMMENDED_ESTIMATOR not in labels:
            raise ValueError(
                f"policy='recommended' reads {RECOMMENDED_ESTIMATOR!r}, but the profile has {labels}: make it with "
                f"gelora.estimate(…, estimator=\"{RECOMMENDED_ESTIMATOR}\"), or take policy='geometric'"
            )
    return RECOMMENDED_ESTIMATOR


def check_takes(name: str, *, rank: int | None, budget: int | None, data: Any) -> None:
    """Raise ValueError if ``rank``, ``budget`` or ``data`` is given to a policy that does not take it."""
    if name not in POLICIES:
        return  # the caller's own function takes what it likes
    for option, value in (("rank", rank), ("budget", budget)):
        if value is not None and option not in TAKES[name]:
            others = [policy for policy, taken in TAKES.items() if option in taken]
            why = "the ranks follow from the profile" if not TAKES[name] else f"it takes `{TAKES[name][0]}`"
            raise ValueError(f"`{option}` does not go with policy={name!r}, {why}; it goes with {', '.join(others)}")
    if data is not None and name not in TAKES_DATA:
        raise ValueError(f"`data` goes with policies {' and '.join(TAKES_DATA)}, which run the model, got {name!r}")


def find_policy(policy: str | Policy) -> tuple[str, Policy]:
    """Return the name and the function of a policy.

    Raises
    ------
    ValueError
        If there is none of that name.
    TypeError
        If it is neither a name nor a function.
    """
    if callable(policy):
        name = f"{getattr(policy, '__module__', '')}.{getattr(policy, '__qualname__', type(policy).__name__)}"
        return name.lstrip("."), policy
    if not isinstance(policy, str):
        raise TypeError(f"`policy` must be a name or a function of a RankProblem, got {type(policy).__name__}")
    if policy not in POLICIES:
        raise ValueError(f"`policy` must be one of {', '.join(POLICIES)}, got {policy!r}{nearest(policy, POLICIES)}")
    return policy, POLICIES[policy]


def rises_and_dimensions(
    blocks: Sequence[BlockKey], rises: FloatArray, tops: FloatArray
) -> tuple[dict[BlockKey, float], dict[BlockKey, float]]:
    """Return the two mappings of a `RankProblem` from arrays along the blocks."""
    return dict(zip(blocks, rises.tolist(), strict=True)), dict(zip(blocks, tops.tolist(), strict=True))


def _divide(problem: RankProblem, weights: Mapping[BlockKey, float], base: int) -> dict[BlockKey, int]:
    return allocate(weights, problem.pieces, problem.spend(), base=base, minimum=problem.minimum)


def _key(matrix: Matrix) -> MatrixKey:
    return (matrix.stack, matrix.block, matrix.role)


def _model(problem: RankProblem, policy: str) -> Any:
    if problem.model is None or problem.data is None:
        raise ValueError(
            f"policy={policy!r} runs the model: `data` must be given, batches that it takes, as a DataLoader gives them"
        )
    return problem.model
