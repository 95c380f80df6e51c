"""Rank policies: a profile becomes a rank plan."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from gelora.blocks import (
    ROLES,
    Architecture,
    Block,
    UnknownArchitectureError,
    architecture_of,
    check_finite_parameters,
    find_blocks,
    is_transposed,
    matrix_shape,
    weights_fingerprint,
)
from gelora.messages import check_integer, nearest
from gelora.models import load_pretrained
from gelora.plan import ModuleRank, RankPlan, check_same_architecture, warn_other_weights
from gelora.profile import attribute, check_profile
from gelora.provenance import fingerprint, generator, package_versions, timestamp

if TYPE_CHECKING:
    from torch import nn

POLICIES = ("geometric", "uniform")
ROUNDINGS: dict[str, Callable[[float], int]] = {"ceil": math.ceil, "round": round, "floor": math.floor}
BlockKey = tuple[str, int]


def plan_ranks(
    profile: xr.Dataset | None,
    model: Any,
    policy: str = "geometric",
    *,
    estimator: str | None = None,
    rounding: str = "ceil",
    offset: int = 1,
    minimum: int = 1,
    maximum: int | None = None,
    undefined: str = "error",
    rank: int | None = None,
    budget: int | None = None,
    scaling: float = 2.0,
    roles: Sequence[str] = ROLES,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> RankPlan:
    r"""Choose a LoRA rank for the attention matrices of every block.

    ``"geometric"`` is GeLoRA's rule: block i gets :math:`r_i = \max(d_i - d_{i-1}, 0) + 1`, the same for its
    query, key, value and attention-output matrices, where :math:`d_i` is the intrinsic dimension of layer i. In a
    decoder that also attends to an encoder, the matrices are those of its self-attention.

    Parameters
    ----------
    profile : xarray.Dataset or None
        As `gelora.estimate` returns; ``policy="uniform"`` needs none, and only checks that one given belongs to
        the model.
    model : PreTrainedModel, str or Path
        The model to adapt: loaded (the meta device will do, its weights are then not compared), or its folder
        or hub name.
    policy : {"geometric", "uniform"}
        ``"uniform"`` gives every block ``rank``, or what ``budget`` pays for.
    estimator : str, optional
        Which of the profile's estimators decides; may be left out where it has one.
    rounding : {"ceil", "round", "floor"}
        From a difference of dimensions to an integer.
    offset : int
        Added after rounding.
    minimum, maximum : int
        Bounds of a rank; no rank exceeds the smaller side of its matrix either.
    undefined : {"error", "minimum"}
        What a block beside a layer of undefined dimension gets.
    rank : int, optional
        For ``"uniform"``: the rank of every block.
    budget : int, optional
        For ``"uniform"``: trainable adapter parameters. Every block gets the rank that this pays for throughout;
        the remainder goes to blocks drawn by ``seed``, one rank each.
    scaling : float
        α / r, the same for every matrix.
    roles : sequence of str
        The matrices to adapt, of ``"query"``, ``"key"``, ``"value"``, ``"output"``; a fused
        ``"query_key_value"`` matrix is one matrix of the block's rank.
    seed : int
        Seed of the draw for the remainder of a budget.
    revision, trust_remote_code
        For a model given by name.

    Returns
    -------
    RankPlan

    Raises
    ------
    ValueError
        If an option is out of range, the estimator is not named though the profile has several, a dimension is
        undefined, or the profile belongs to another architecture, depth or width.

    Warns
    -----
    UserWarning
        If the profile was made with other weights.

    Notes
    -----
    The rule as stated is a reading of summaries and of a reproduction of arXiv 2412.09250, consistent with the
    parameter counts published there; rounding and offset are not given in the paper.
    """
    _check_options(policy, rounding, offset, minimum, maximum, undefined, scaling, roles)
    loaded = _model(model, revision, trust_remote_code)
    check_finite_parameters(loaded)
    blocks = find_blocks(loaded)
    architecture, weights = architecture_of(loaded, blocks), weights_fingerprint(loaded, blocks) or ""
    shapes = _shapes(loaded, blocks, roles)
    options: dict[str, Any] = {"minimum": minimum, "maximum": maximum, "roles": list(roles)}
    record: dict[str, Any] = {}
    if policy == "geometric":
        if rank is not None or budget is not None:
            raise ValueError(
                "`rank` and `budget` go with policy='uniform': the geometric ranks follow from the profile"
            )
        chosen, record, weights = _from_profile(
            profile, architecture, weights, blocks, estimator, rounding, offset, undefined
        )
        options |= {"rounding": rounding, "offset": offset, "undefined": undefined}
    else:
        if profile is not None:
            _check_belongs(profile, architecture, weights)
        chosen = _uniform(blocks, shapes, rank, budget, seed)
        options |= {"rank": rank, "budget": budget, "seed": seed}
    bounded = {key: int(max(minimum, min(value, maximum or value))) for key, value in chosen.items()}
    return RankPlan(
        policy=policy,
        modules=_module_ranks(loaded, blocks, shapes, bounded, scaling),
        architecture=architecture,
        weights_fingerprint=weights,
        scaling=float(scaling),
        provenance={
            "options": options,
            "profile": record,
            "model": str(getattr(loaded, "name_or_path", "")),
            "created": timestamp(),
            "versions": package_versions(),
        },
    )


def _module_ranks(
    model: "nn.Module",
    blocks: Sequence[Block],
    shapes: Mapping[BlockKey, Mapping[str, tuple[int, int]]],
    ranks: Mapping[BlockKey, int],
    scaling: float,
) -> tuple[ModuleRank, ...]:
    modules = dict(model.named_modules())
    return tuple(
        _module_rank(
            block, role, ranks[block.stack, block.index], scaling, shape, is_transposed(modules[block.roles[role]])
        )
        for block in blocks
        if (block.stack, block.index) in ranks
        for role, shape in shapes[block.stack, block.index].items()
    )


def _module_rank(
    block: Block, role: str, rank: int, scaling: float, shape: tuple[int, int], transposed: bool
) -> ModuleRank:
    bounded = min(rank, *shape)
    return ModuleRank(
        stack=block.stack,
        block=block.index,
        role=role,
        name=block.roles[role],
        rank=bounded,
        alpha=scaling * bounded,
        in_features=shape[0],
        out_features=shape[1],
        transposed=transposed,
    )


def geometric_ranks(
    dimensions: Mapping[BlockKey, float], *, rounding: str = "ceil", offset: int = 1, undefined: str = "error"
) -> dict[BlockKey, int | None]:
    """Apply r_i = max(d_i − d_{i−1}, 0) + offset along each stack; differences never cross stacks.

    Parameters
    ----------
    dimensions : mapping of (stack, layer) to float
        Layer 0 is the input of block 1. NaN where undefined.
    rounding, offset, undefined
        As for `plan_ranks`.

    Returns
    -------
    dict of (stack, block) to int
        None where undefined and ``undefined="minimum"``.

    Examples
    --------
    >>> geometric_ranks({("encoder", 0): 5.0, ("encoder", 1): 7.2, ("encoder", 2): 6.0})
    {('encoder', 1): 4, ('encoder', 2): 1}
    """
    ranks: dict[BlockKey, int | None] = {}
    for (stack, layer), dimension in dimensions.items():
        if layer == 0:
            continue
        before = dimensions.get((stack, layer - 1), math.nan)
        difference = dimension - before
        if math.isnan(difference):
            if undefined == "error":
                bad = layer - 1 if math.isnan(before) else layer
                raise ValueError(
                    f"the dimension of layer {bad} of the {stack} is undefined, so block {layer} has no geometric "
                    "rank: choose another pooling or estimator, or undefined='minimum'"
                )
            ranks[stack, layer] = None
        else:
            ranks[stack, layer] = int(ROUNDINGS[rounding](max(difference, 0.0))) + offset
    return ranks


def _from_profile(
    profile: xr.Dataset | None,
    architecture: Architecture,
    weights: str,
    blocks: Sequence[Block],
    estimator: str | None,
    rounding: str,
    offset: int,
    undefined: str,
) -> tuple[dict[BlockKey, int], dict[str, Any], str]:
    """Return the ranks of the blocks, the record of the profile, and the weights it was made with."""
    if profile is None:
        raise ValueError("`profile` must be given for policy='geometric': make one with `gelora.estimate`")
    own = _check_belongs(profile, architecture, weights)
    label = _estimator_label(profile, estimator)
    row = profile.sel(estimator=label)
    keys = zip(row["stack"].values, row["layer"].values, strict=True)
    dimensions = {
        (str(stack), int(layer)): float(d) for (stack, layer), d in zip(keys, row["dimension"].values, strict=True)
    }
    stacks = {stack for stack, _ in dimensions}
    expected = {(b.stack, n) for b in blocks if b.stack in stacks for n in (b.index - 1, b.index)}
    if expected != set(dimensions):
        raise ValueError(
            f"the profile has {len(dimensions)} layers, but `model` has blocks for {len(expected)} ({architecture}): "
            "make the profile again for this model"
        )
    ranks = geometric_ranks(dimensions, rounding=rounding, offset=offset, undefined=undefined)
    record = {
        "estimator": label,
        "dimensions": {f"{stack} {layer}": _json_float(d) for (stack, layer), d in dimensions.items()},
        "fingerprint": fingerprint(
            [row["dimension"].values.tobytes()]
            + [str(profile.attrs.get(name, "")).encode() for name in ("data_fingerprint", "weights_fingerprint")]
        ),
        "model": str(profile.attrs.get("model", "")),
        "data": str(profile.attrs.get("data", "")),
        "pooling": str(profile.attrs.get("pooling", "")),
        "n_points": int(row["n_points"].min()),
    }
    return {key: 1 if value is None else value for key, value in ranks.items()}, record, own or weights


def _check_belongs(profile: xr.Dataset, architecture: Architecture, weights: str) -> str:
    """Check that ``profile`` was made with this architecture, warn of other weights, and return their fingerprint."""
    check_profile(profile)
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


def _estimator_label(profile: xr.Dataset, estimator: str | None) -> str:
    labels = [str(label) for label in profile["estimator"].values]
    if estimator is None:
        if len(labels) > 1:
            raise ValueError(
                f"`estimator` must say which of the profile's estimators decides the ranks: one of {labels}"
            )
        return labels[0]
    if estimator not in labels:
        raise ValueError(f"`estimator`: the profile has no {estimator!r}, it has {labels}{nearest(estimator, labels)}")
    return estimator


def _uniform(
    blocks: Sequence[Block],
    shapes: Mapping[BlockKey, Mapping[str, tuple[int, int]]],
    rank: int | None,
    budget: int | None,
    seed: int,
) -> dict[BlockKey, int]:
    if (rank is None) == (budget is None):
        raise ValueError("policy='uniform' needs either `rank` or `budget`, got " + ("both" if rank else "neither"))
    keys = [(block.stack, block.index) for block in blocks]
    if rank is not None:
        return dict.fromkeys(keys, check_integer("rank", rank, 1))
    budget = check_integer("budget", budget, 1)
    costs = {key: sum(i + o for i, o in shapes[key].values()) for key in keys}
    floor, rest = divmod(budget, sum(costs.values()))
    if floor < 1:
        raise ValueError(
            f"`budget` must pay for rank 1 in every block, {sum(costs.values()):,} parameters, got {budget:,}"
        )
    ranks = dict.fromkeys(keys, floor)
    for position in generator(seed, "uniform remainder").permutation(len(keys)):
        key = keys[position]
        if costs[key] <= rest:
            ranks[key] += 1
            rest -= costs[key]
    return ranks


def _shapes(
    model: "nn.Module", blocks: Sequence[Block], roles: Sequence[str]
) -> dict[BlockKey, dict[str, tuple[int, int]]]:
    modules = dict(model.named_modules())
    wanted = set(roles) | ({"query_key_value"} if {"query", "key", "value"} <= set(roles) else set())
    shapes = {
        (block.stack, block.index): {
            role: matrix_shape(modules[name]) for role, name in block.roles.items() if role in wanted
        }
        for block in blocks
    }
    if not all(shapes.values()):
        raise UnknownArchitectureError(
            f"`roles` {list(roles)} name no matrix of {type(model).__name__}, whose blocks have "
            f"{list(blocks[0].roles)}; a fused query_key_value matrix is adapted whole or not at all"
        )
    return shapes


def _model(model: Any, revision: str | None, trust_remote_code: bool) -> "nn.Module":
    if isinstance(model, str | Path):
        loaded: nn.Module = load_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        return loaded
    if not hasattr(model, "named_modules"):
        raise TypeError(f"`model` must be a loaded model, a folder or a hub name, got {type(model).__name__}")
    found: nn.Module = model
    return found


def _check_options(
    policy: str,
    rounding: str,
    offset: int,
    minimum: int,
    maximum: int | None,
    undefined: str,
    scaling: float,
    roles: Sequence[str],
) -> None:
    for name, value, allowed in (
        ("policy", policy, POLICIES),
        ("rounding", rounding, tuple(ROUNDINGS)),
        ("undefined", undefined, ("error", "minimum")),
    ):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}")
    check_integer("offset", offset, 0)
    check_integer("minimum", minimum, 1)
    if maximum is not None:
        check_integer("maximum", maximum, minimum)
    if not isinstance(scaling, int | float) or not math.isfinite(scaling) or scaling <= 0:
        raise ValueError(f"`scaling` must be a positive number, α / r, got {scaling!r}")
    if isinstance(roles, str) or not roles or set(roles) - set(ROLES):
        raise ValueError(f"`roles` must be a list of some of {', '.join(ROLES)}, got {roles!r}")


def _json_float(value: float) -> float | None:
    return value if math.isfinite(value) else None
