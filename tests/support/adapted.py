"""Plans whose ranks differ from matrix to matrix, and what peft made of a model."""

from dataclasses import replace

from gelora.ranks import plan_ranks


def varied(plan):
    """The plan with another rank for each matrix in turn, so that a key on a wrong module is seen."""
    modules = (
        replace(m, rank=rank, alpha=plan.scaling * rank)
        for m, rank in ((m, 1 + place % 5) for place, m in enumerate(plan.modules))
    )
    return replace(plan, modules=tuple(modules))


def plan_of(model, targets="attention", **options):
    return varied(plan_ranks(None, model, "uniform", rank=1, targets=targets, **options))


def adapters(model):
    """(rank, α / r, parameters) of each adapted module, read from peft's layers by their attributes."""
    return {
        name.removeprefix("base_model.model."): (
            layer.r["default"],
            layer.scaling["default"],
            layer.lora_A["default"].weight.numel() + layer.lora_B["default"].weight.numel(),
        )
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "scaling")
    }
