"""From profiles to a rank plan: options checked, a policy asked, its ranks assessed."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from gelora.blocks import (
    ROLES,
    Architecture,
    Block,
    architecture_of,
    check_finite_parameters,
    find_blocks,
    weights_fingerprint,
)
from gelora.evidence import Evidence, read_evidence
from gelora.geometry import geometric_ranks as geometric_ranks
from gelora.masking import masked
from gelora.models import load_pretrained
from gelora.plan import ModuleRank, RankPlan, check_same_architecture, warn_other_weights
from gelora.plan_options import PlanOptions
from gelora.policies import (
    POLICIES,
    PROFILE_FREE,
    RECOMMENDED_ROUNDING,
    Policy,
    RankProblem,
    check_takes,
    find_policy,
    recommended_label,
    rises_and_dimensions,
)
from gelora.profile import attribute, check_profile
from gelora.provenance import package_versions, timestamp
from gelora.rank_uncertainty import PlanRule, assess, by_scale, module_ranks, statistic_adjustment
from gelora.targets import Matrix, find_matrices

if TYPE_CHECKING:
    from torch import nn

Profiles = xr.Dataset | Sequence[xr.Dataset] | None


def plan_ranks(
    profile: Profiles,
    model: Any,
    policy: str | Policy = "geometric",
    *,
    estimator: str | None = None,
    scale: float | None = None,
    statistic: str = "point",
    confidence: float = 0.9,
    combine: str = "max",
    rounding: str | None = None,
    offset: int = 1,
    minimum: int = 1,
    maximum: int | None = None,
    undefined: str = "error",
    rank: int | None = None,
    budget: int | None = None,
    scaling: float = 2.0,
    targets: str = "attention",
    roles: Sequence[str] = ROLES,
    data: Any = None,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> RankPlan:
    r"""Choose a LoRA rank for every adapted matrix.

    ``"geometric"`` is GeLoRA's rule: block i gets :math:`r_i = \max(d_i - d_{i-1}, 0) + 1`, the same for all its
    adapted matrices, where :math:`d_i` is the intrinsic dimension of layer i. In a decoder that also attends to an
    encoder, the attention matrices are those of its self-attention.

    Parameters
    ----------
    profile : xarray.Dataset, list of these, or None
        As `gelora.estimate` returns; several, of several tasks, are joined by ``combine``. None for policies that
        need none.
    model : PreTrainedModel, str or Path
        The model to adapt: loaded (the meta device will do, its weights are then not compared), or its folder
        or hub name.
    policy : str or callable
        ``"geometric"``, the paper's rule; ``"recommended"``, the same rule with the estimator and rounding that
        drifted least with the number of examples; ``"uniform"``, ``rank`` everywhere or what ``budget`` pays for;
        ``"proportional"``, in proportion to the dimension; ``"budget"``, geometric increments scaled to ``budget``;
        the controls ``"random"``, ``"shuffled"`` and ``"reversed"``; ``"eva"`` (arXiv 2410.07170) and ``"fisher"``,
        the effective rank of the empirical Fisher information, which run the model on ``data``. Or a function from a
        `gelora.policies.RankProblem` to ranks by (stack, block) or (stack, block, role); where a profile has
        replicates or scales it is called for every draw and scale.
    estimator : str, optional
        Which of the profile's estimators decides; may be left out where it has one.
    scale : float, optional
        For an estimator that reads several scales: take its dimensions at this one.
    statistic : {"point", "mean", "median", "upper"}
        What of a rise enters the rule: the estimate from all examples; or mean, median or the upper quantile
        ``confidence`` of its distribution, for profiles with replicates.
    confidence : float
        Of that quantile, and the stability below which a warning says how many examples would settle the ranks.
    combine : {"max", "mean"}
        Of several profiles: the largest rise of each block, or the mean.
    rounding : {"ceil", "round", "floor"}, optional
        From a rise to an integer: ``"ceil"``, but as measured best for ``"recommended"``.
    offset : int
        Added after rounding.
    minimum, maximum : int
        Bounds of a rank; no rank exceeds the smaller side of its matrix either.
    undefined : {"error", "minimum"}
        What a block beside a layer of undefined dimension gets.
    rank : int, optional
        For ``"uniform"`` and ``"eva"``: the rank of every block, or the mean rank.
    budget : int, optional
        Trainable adapter parameters, never exceeded and met to less than one rank of one block. Policies that
        take one and are given a profile default to the cost of its geometric ranks.
    scaling : float
        α / r, the same for every matrix.
    targets : str
        ``"attention"``, ``"ffn"``, ``"all-linear"``, or a regular expression of module paths; see
        `gelora.targets.find_matrices`.
    roles : sequence of str
        With ``targets="attention"``: some of ``"query"``, ``"key"``, ``"value"``, ``"output"``; a fused
        ``"query_key_value"`` matrix is one matrix of the block's rank.
    data : iterable of mappings, optional
        For ``"eva"`` and ``"fisher"``: batches that the model takes, as a DataLoader gives them; ``"fisher"`` needs
        ``labels`` in them, and a model that returns a loss.
    seed : int
        Seed of whatever is drawn: remainders, controls, and the draws behind the probabilities.
    revision, trust_remote_code
        For a model given by name.

    Returns
    -------
    RankPlan
        With ``probabilities``, ``stability`` and ``module_stability`` where the profile has replicates
        (``n_replicates`` of `gelora.estimate`), and ``ranks_by_scale`` where its estimator reads several scales.

    Raises
    ------
    ValueError
        If an option is out of range, the estimator is not named though the profile has several, a dimension is
        undefined, or the profile belongs to another architecture, depth or width.

    Warns
    -----
    UserWarning
        If the profile was made with other weights, or the plan is less stable than ``confidence``.

    Notes
    -----
    The rule as stated is a reading of summaries and of a reproduction of arXiv 2412.09250, consistent with the
    parameter counts published there; rounding and offset are not given in the paper.
    """
    name, function = find_policy(policy)
    options = PlanOptions(
        estimator=estimator,
        scale=scale,
        statistic=statistic,
        confidence=confidence,
        combine=combine,
        rounding=rounding or (RECOMMENDED_ROUNDING if name == "recommended" else "ceil"),
        offset=offset,
        minimum=minimum,
        maximum=maximum,
        undefined=undefined,
        rank=rank,
        budget=budget,
        scaling=scaling,
        targets=targets,
        roles=roles,
        seed=seed,
    )
    profiles = _as_profiles(profile)
    check_takes(name, rank=rank, budget=budget, data=data)
    options.check_profile_options(bool(profiles))
    loaded = _model(model, revision, trust_remote_code)
    check_finite_parameters(loaded)
    blocks = find_blocks(loaded)
    architecture, weights = architecture_of(loaded, blocks), weights_fingerprint(loaded, blocks) or ""
    made_with = [_check_belongs(one, architecture, weights) for one in profiles]
    # Where one stack alone was read, the other is left as it is, by the controls too.
    stacks = {str(stack) for one in profiles for stack in one["stack"].values} or {block.stack for block in blocks}
    read = [block for block in blocks if block.stack in stacks]
    matrices = find_matrices(loaded, read, targets, roles)
    evidence = _evidence(name, profiles, options, blocks, architecture)
    problem = _problem(options, matrices, evidence, loaded, data)
    rule, ranks = _decide(function, problem, evidence, options)
    plan = RankPlan(
        policy=name,
        modules=tuple(_module_rank(matrix, one, scaling) for matrix, one in zip(matrices, ranks, strict=True)),
        architecture=architecture,
        weights_fingerprint=next(filter(None, made_with), "") or weights,
        scaling=float(scaling),
        uncertainty=None if rule is None else assess(rule, confidence, seed),
        by_scale=None if rule is None else by_scale(rule, seed),
        provenance=_provenance(options, evidence, loaded),
    )
    _warn_unstable(plan)
    return plan


def _as_profiles(profile: Profiles) -> list[xr.Dataset]:
    if profile is None:
        return []
    if isinstance(profile, Sequence):
        if not profile:
            raise ValueError("`profile` must hold at least one profile, or be None, got an empty list")
        return [check_profile(one) for one in profile]
    return [check_profile(profile)]


def _evidence(
    name: str, profiles: Sequence[xr.Dataset], options: PlanOptions, blocks: Sequence[Block], architecture: Architecture
) -> Evidence | None:
    """Read what the ranks rest on; None where the policy or the number given asks for no profile."""
    if name in PROFILE_FREE and (options.rank or options.budget or not profiles):
        return None
    if not profiles:
        if name not in POLICIES or (name == "random" and options.budget is not None):
            return None
        raise ValueError(f"`profile` must be given for policy={name!r}: make one with `gelora.estimate`")
    label = recommended_label(profiles, options.estimator) if name == "recommended" else options.estimator
    evidence = read_evidence(profiles, label, scale=options.scale, combine=options.combine)
    stacks = {stack for stack, _ in evidence.layers}
    expected = {(b.stack, n) for b in blocks if b.stack in stacks for n in (b.index - 1, b.index)}
    if expected != set(evidence.layers):
        raise ValueError(
            f"the profile has {len(evidence.layers)} layers, but `model` has blocks for {len(expected)} "
            f"({architecture}): make the profile again for this model, with all layers: ranks are differences between "
            "each and the next"
        )
    for dimensions in evidence.dimensions:
        named = dict(zip(evidence.layers, dimensions.tolist(), strict=True))
        geometric_ranks(named, undefined=options.undefined)  # which names the undefined layer
    return evidence


def _problem(
    options: PlanOptions, matrices: tuple[Matrix, ...], evidence: Evidence | None, model: "nn.Module", data: Any
) -> RankProblem:
    rises: dict[tuple[str, int], float] = {}
    dimensions: dict[tuple[str, int], float] = {}
    if evidence is not None:
        flat = evidence.dimensions.reshape(1, -1)
        adjustment = statistic_adjustment(evidence, options.statistic, options.confidence, options.seed)
        rise = np.maximum(evidence.rises(flat)[0] + adjustment, 0.0)
        rises, dimensions = rises_and_dimensions(evidence.blocks, rise, evidence.tops(flat)[0])
    return RankProblem(
        matrices=matrices,
        rises=rises,
        dimensions=dimensions,
        rounding=options.rounding,
        offset=options.offset,
        minimum=options.minimum,
        maximum=options.maximum,
        rank=options.rank,
        budget=options.budget,
        seed=options.seed,
        model=model,
        data=data,
    )


def _decide(
    policy: Policy, problem: RankProblem, evidence: Evidence | None, options: PlanOptions
) -> tuple[PlanRule | None, list[int]]:
    """Return the ranks, and the rule that made them from the evidence, where one did."""
    ranks = module_ranks(policy, problem)
    if evidence is None or policy in [POLICIES[name] for name in PROFILE_FREE]:
        return None, ranks  # the profile has set their budget, no more
    adjustment = statistic_adjustment(evidence, options.statistic, options.confidence, options.seed)
    return PlanRule(policy, problem, evidence, adjustment), ranks


def _provenance(options: PlanOptions, evidence: Evidence | None, model: "nn.Module") -> dict[str, Any]:
    records = [] if evidence is None else evidence.records
    return {
        "options": options.record(),
        "profile": records[0] if records else {},
        "more_profiles": records[1:],
        "model": masked(str(getattr(model, "name_or_path", ""))),
        "created": timestamp(),
        "versions": package_versions(),
    }


def _warn_unstable(plan: RankPlan) -> None:
    found = plan.uncertainty
    if found is None or found.stability >= found.confidence:
        return
    worst = min(range(len(plan.modules)), key=lambda place: found.module_stability[place])
    need = (
        "no number of examples would settle it, a rise lies at a step of the rounding"
        if math.isinf(found.n_settling)
        else f"about {found.n_settling:,.0f} examples would settle it"
    )
    warnings.warn(
        f"another draw of {found.n_examples:,} examples would give the same ranks with probability "
        f"{found.stability:.2f} only, less than `confidence` {found.confidence:g}; the least certain is block "
        f"{plan.modules[worst].block} of the {plan.modules[worst].stack} ({found.module_stability[worst]:.2f}); {need}",
        stacklevel=3,
    )


def _module_rank(matrix: Matrix, rank: int, scaling: float) -> ModuleRank:
    return ModuleRank(
        stack=matrix.stack,
        block=matrix.block,
        role=matrix.role,
        name=matrix.name,
        rank=rank,
        alpha=scaling * rank,
        in_features=matrix.in_features,
        out_features=matrix.out_features,
        transposed=matrix.transposed,
    )


def _check_belongs(profile: xr.Dataset, architecture: Architecture, weights: str) -> str:
    """Check that ``profile`` was made with this architecture, warn of other weights, and return their fingerprint."""
    recorded = attribute(profile, "architecture")
    if recorded:
        try:
            made_for = Architecture.from_record(recorded)
        except ValueError as error:
            raise ValueError(f"`profile`: its attribute `architecture` is damaged: {error}") from error
        check_same_architecture(made_for, architecture, "the profile")
    own = str(profile.attrs.get("weights_fingerprint", ""))
    warn_other_weights(own, weights, "the profile")
    return own


def _model(model: Any, revision: str | None, trust_remote_code: bool) -> "nn.Module":
    if isinstance(model, str | Path):
        loaded: nn.Module = load_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        return loaded
    if not hasattr(model, "named_modules"):
        raise TypeError(f"`model` must be a loaded model, a folder or a hub name, got {type(model).__name__}")
    found: nn.Module = model
    return found
