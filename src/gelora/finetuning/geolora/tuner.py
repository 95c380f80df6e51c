"""Put GeoLoRA layers into a model, and take them out: merged into its weights, or as factors of plain LoRA."""

from typing import Any

import torch
from torch import Tensor, nn

from gelora.finetuning.geolora.layer import GeoLoRALinear
from gelora.finetuning.geolora.optimizer import geolora_layers
from gelora.finetuning.geolora_options import check_geolora_options
from gelora.plan import RankPlan


def add_geolora(
    model: nn.Module,
    plan: RankPlan,
    *,
    plan_as: str = "start",
    max_rank: int = 32,
    min_rank: int = 2,
    dropout: float = 0.0,
    seed: int = 0,
) -> dict[str, GeoLoRALinear]:
    """Put a GeoLoRA layer in the place of each planned matrix, and freeze all other parameters.

    Parameters
    ----------
    model : nn.Module
        Changed in place; until it is trained it computes what it did.
    plan : RankPlan
        Bound to the model. Its scaling α / r is the factor on U S Vᵀ at every rank.
    plan_as : {"start", "ceiling"}
        Whether its ranks are those to start with, or those that must not be exceeded.
    max_rank : int
        The largest rank of any matrix, where the plan is the start; no rank exceeds the matrix either.
    min_rank : int
        With a plan to start from: no matrix starts below.
    dropout : float
        Of the inputs of the adapters.
    seed : int
        Of the bases.

    Returns
    -------
    dict of str to GeoLoRALinear
        By module name.

    Raises
    ------
    ValueError
        If an option is out of range, a planned rank exceeds ``max_rank``, or a module is not there or no linear layer.
    """
    check_geolora_options(plan_as=plan_as, max_rank=max_rank, min_rank=min_rank)
    bounds = {module.name: _bounds(module, plan_as, min_rank, max_rank) for module in plan.modules}
    known = dict(model.named_modules())
    for name in bounds:
        if name not in known:
            raise ValueError(f"`model` has no module {name!r}: bind the plan to it first, plan.bind(model)")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, (rank, most) in bounds.items():
        layer = GeoLoRALinear(known[name], rank, most, scale=plan.scaling, dropout=dropout, generator=generator)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.train(known[name].training))
    return geolora_layers(model)


def _bounds(module: Any, plan_as: str, min_rank: int, max_rank: int) -> tuple[int, int]:
    """Return the rank to start with and the largest."""
    side = min(module.in_features, module.out_features)
    if plan_as == "ceiling":
        return module.rank, module.rank
    if module.rank > max_rank:
        raise ValueError(
            f"`plan` starts {module.name!r} with rank {module.rank}, above `max_rank` {max_rank}: raise `max_rank`"
        )
    most = min(max_rank, side)
    return min(max(module.rank, min_rank), most), most


def ranks_of(model: nn.Module) -> dict[str, int]:
    """Return the present rank of each GeoLoRA layer by name, without the directions on trial."""
    return {name: layer.kept_rank for name, layer in geolora_layers(model).items()}


def lora_factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (A, B) of each layer by name, with U S Vᵀ = B A: plain LoRA of the present ranks."""
    return {name: layer.factors() for name, layer in geolora_layers(model).items()}


def merge(model: nn.Module) -> nn.Module:
    """Add every adapter to the weight beside it and put the plain layers back; return the model.

    Raises
    ------
    TypeError
        If a weight is quantised: nothing is changed then.
    """
    layers = geolora_layers(model)
    for name, layer in layers.items():
        kept: Any = layer.base_layer.weight
        if not kept.is_floating_point():
            raise TypeError(
                f"the weight of {name!r} is quantised ({kept.dtype}): save the adapter beside it, "
                "or load the model without quantisation to merge"
            )
    with torch.no_grad():
        for name, layer in layers.items():
            weight: Any = layer.base_layer.weight
            weight += layer.delta_weight().to(weight)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base_layer)
    return model
