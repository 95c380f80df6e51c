"""From evidence to module ranks, draw by draw: the distribution over ranks, the stability of a plan, plans by scale."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gelora.evidence import Evidence, stacked_spread
from gelora.geometry import FloatArray, RankArray, redraw_stability, settling_factor, to_ranks
from gelora.plan_uncertainty import PlanScales, PlanUncertainty
from gelora.policies import Policy, RankProblem, geometric, rises_and_dimensions
from gelora.targets import Matrix

STATISTICS: Mapping[str, Callable[[FloatArray, float], FloatArray]] = {
    "mean": lambda draws, _: np.asarray(draws.mean(axis=0)),
    "median": lambda draws, _: np.asarray(np.median(draws, axis=0)),
    "upper": lambda draws, confidence: np.asarray(np.quantile(draws, confidence, axis=0)),
}
N_DRAWS = 4000
N_DRAWS_OF_FUNCTIONS = 200  # a policy that is no formula is called for every draw
_LEAST_SHARE = 0.0005


@dataclass(frozen=True, slots=True)
class PlanRule:
    """What turns dimensions into the ranks of a plan's matrices.

    Parameters
    ----------
    policy : callable
        The policy.
    problem : RankProblem
        Its options and matrices.
    evidence : Evidence
        Its layers and how profiles are joined.
    adjustment : ndarray of shape (n_blocks,)
        Added to the rises: what a statistic other than the point estimate differs by.
    """

    policy: Policy
    problem: RankProblem
    evidence: Evidence
    adjustment: FloatArray

    def __call__(self, stacked: FloatArray) -> RankArray:
        """Return the ranks of the matrices, (n_draws, n_matrices), from dimensions (n_draws, n_profiles · n_layers)."""
        rises = np.maximum(self.evidence.rises(stacked) + self.adjustment, 0.0)
        if self.policy is geometric:
            return self._by_formula(rises)
        tops = self.evidence.tops(stacked)
        return np.array([self._by_call(rise, top) for rise, top in zip(rises, tops, strict=True)])

    def without_adjustment(self) -> "PlanRule":
        """Return the rule of the point estimate."""
        return replace(self, adjustment=np.zeros_like(self.adjustment))

    @property
    def n_draws(self) -> int:
        """Draws that the rule is worth."""
        return N_DRAWS if self.policy is geometric else N_DRAWS_OF_FUNCTIONS

    def _by_formula(self, rises: FloatArray) -> RankArray:
        problem = self.problem
        ranks = to_ranks(np.nan_to_num(rises), rounding=problem.rounding, offset=problem.offset)
        ranks = np.where(np.isnan(rises), 1, ranks)
        columns = [self.evidence.blocks.index((matrix.stack, matrix.block)) for matrix in problem.matrices]
        bounded = np.clip(ranks, problem.minimum, problem.maximum)[:, columns]
        return np.minimum(bounded, [_side(matrix) for matrix in problem.matrices])

    def _by_call(self, rises: FloatArray, tops: FloatArray) -> RankArray:
        named, dimensions = rises_and_dimensions(self.evidence.blocks, rises, tops)
        return np.array(module_ranks(self.policy, replace(self.problem, rises=named, dimensions=dimensions)))


def module_ranks(policy: Policy, problem: RankProblem) -> list[int]:
    """Return the rank of every matrix of a problem, within the bounds and the matrix.

    Raises
    ------
    ValueError, TypeError
        If the policy does not return a whole rank for every block or matrix.
    """
    chosen: dict[object, object] = dict(policy(problem).items())
    ranks = []
    for matrix in problem.matrices:
        keys = ((matrix.stack, matrix.block, matrix.role), (matrix.stack, matrix.block))
        value = next((chosen[key] for key in keys if key in chosen), None)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(
                f"the policy must return a whole rank for every (stack, block) or (stack, block, role), got {value!r} "
                f"for {keys[0]}"
            )
        ranks.append(min(max(int(value), problem.minimum), problem.maximum or _side(matrix), _side(matrix)))
    return ranks


def statistic_adjustment(evidence: Evidence, statistic: str, confidence: float, seed: int) -> FloatArray:
    """Return by how much a statistic of the rises over draws differs from the point estimate, (n_blocks,).

    Raises
    ------
    ValueError
        If the profiles have no replicates to draw from, or undefined ones.
    """
    if statistic == "point":
        return np.zeros(len(evidence.blocks))
    evidence.need_spread(f"`statistic`={statistic!r}")
    flat = evidence.dimensions.reshape(1, -1)
    draws = evidence.rises(flat + evidence.weights(seed, N_DRAWS) @ stacked_spread(evidence.spreads))
    return np.asarray(STATISTICS[statistic](draws, confidence) - evidence.rises(flat)[0])


def assess(rule: PlanRule, confidence: float, seed: int) -> PlanUncertainty | None:
    """Return how far the ranks that ``rule`` gives can be trusted; None where a profile has no replicates."""
    evidence = rule.evidence
    if not evidence.has_spread:
        return None
    flat, spread = evidence.dimensions.ravel(), stacked_spread(evidence.spreads)
    weights = evidence.weights(seed, rule.n_draws)
    draws = rule.without_adjustment()(flat + weights @ spread)
    stability, single = redraw_stability(flat, spread, weights, rule)
    factor = settling_factor(flat, spread, weights, rule, confidence)
    values = [int(value) for value in np.unique(draws) if (draws == value).mean(axis=0).max() >= _LEAST_SHARE]
    shares = np.array([(draws == value).mean(axis=0) for value in values]).T
    return PlanUncertainty(
        ranks=tuple(values),
        probabilities=tuple(tuple(float(share) for share in row / row.sum()) for row in shares),
        expected=tuple(float(value) for value in draws.mean(axis=0)),
        module_stability=tuple(float(value) for value in single),
        stability=stability,
        n_examples=evidence.n_examples,
        n_settling=evidence.n_examples * factor,
        confidence=confidence,
        n_replicates=min(int(record["n_replicates"]) for record in evidence.records),
    )


def by_scale(rule: PlanRule, seed: int) -> PlanScales:
    """Return the plan at every scale of the evidence, and how stable it is there."""
    evidence, plain = rule.evidence, rule.without_adjustment()  # the adjustment is that of the taken scale
    ranks, stabilities = [], []
    for place, dimensions in enumerate(evidence.by_scale):
        flat = dimensions.ravel()
        ranks.append(tuple(int(rank) for rank in plain(flat[None, :])[0]))
        spreads = evidence.spreads_by_scale[place]
        stabilities.append(_stability(plain, flat, spreads, evidence, seed))
    scales = tuple(float(scale) for scale in evidence.scales)
    return PlanScales(
        scales=scales, ranks=tuple(ranks), stabilities=tuple(stabilities), taken=evidence.taken, reason=evidence.reason
    )


def _stability(rule: PlanRule, flat: FloatArray, spreads: Sequence[FloatArray], evidence: Evidence, seed: int) -> float:
    if not spreads or any(len(spread) < 4 for spread in spreads):
        return math.nan
    weights = replace(evidence, spreads=tuple(spreads)).weights(seed, rule.n_draws)
    return redraw_stability(flat, stacked_spread(spreads), weights, rule)[0]


def _side(matrix: Matrix) -> int:
    return min(matrix.in_features, matrix.out_features)
