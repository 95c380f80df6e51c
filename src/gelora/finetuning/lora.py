"""LoRA and its relatives rsLoRA and DoRA, by peft, with the ranks of a plan."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.finetuning.adaptation import PEFT, Adapted, Setting, count_trainable, train_in_float32
from gelora.messages import check_number
from gelora.plan import RankPlan

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LoRA:
    r"""LoRA: :math:`W + (α/r) B A` with B (out × r) and A (r × in), Hu et al. 2021 (arXiv 2106.09685).

    With a geometric plan this is GeLoRA.
    """

    name: ClassVar[str] = "lora"
    plan_use: ClassVar[str] = "required"

    def __call__(self, setting: Setting) -> Adapted:
        """Put a LoRA matrix of the planned rank beside each planned matrix."""
        return adapt(setting, lora_config(setting), setting.ranks.scaling)


@dataclass(frozen=True, kw_only=True)
class RsLoRA:
    r"""Rank-stabilised LoRA: the update is scaled by :math:`α/\sqrt r`, Kalajdzievski 2023 (arXiv 2312.03732).

    Parameters
    ----------
    alpha : float, optional
        One α for all matrices. By default the plan's scaling times the root of its largest rank, so that the
        matrices of that rank are scaled as LoRA would scale them.

    Raises
    ------
    ValueError
        If ``alpha`` is no positive number.
    """

    alpha: float | None = None

    name: ClassVar[str] = "rslora"
    plan_use: ClassVar[str] = "required"

    def __post_init__(self) -> None:
        if self.alpha is not None:
            check_number("alpha", self.alpha, "a positive number, or None for the plan's own", least_excluded=True)

    def __call__(self, setting: Setting) -> Adapted:
        """Put a LoRA matrix of the planned rank beside each planned matrix, scaled by α / √r."""
        plan = setting.ranks
        alpha = self.alpha or plan.scaling * math.sqrt(max(module.rank for module in plan.modules))
        config: Any = lora_config(setting)
        config.use_rslora, config.lora_alpha, config.alpha_pattern = True, alpha, {}
        return adapt(setting, config, alpha, rank_stabilised=True)


@dataclass(frozen=True, kw_only=True)
class DoRA:
    """DoRA: LoRA on the direction of each column, its magnitude trained apart, Liu et al. 2024 (arXiv 2402.09353)."""

    name: ClassVar[str] = "dora"
    plan_use: ClassVar[str] = "required"

    def __call__(self, setting: Setting) -> Adapted:
        """Put a DoRA adapter of the planned rank beside each planned matrix."""
        config = lora_config(setting)
        config.use_dora = True
        return adapt(setting, config, setting.ranks.scaling)


def lora_config(setting: Setting) -> "LoraConfig":
    """Return the plan as a ``LoraConfig`` for training: with dropout, and the head trained whole."""
    head = list(setting.classifier.head) or None
    return setting.ranks.to_lora_config(
        task_type=setting.classifier.task_type, lora_dropout=setting.dropout, modules_to_save=head
    )


def adapt(setting: Setting, config: "LoraConfig", scaling: float, *, rank_stabilised: bool = False) -> Adapted:
    """Wrap the model by peft as ``config`` says, and check that peft did.

    Raises
    ------
    RuntimeError
        If a module did not get its rank and scale: peft read the plan otherwise.
    """
    import peft

    model: Any = peft.get_peft_model(setting.classifier.model, config)
    check_ranks(model, setting.ranks, scaling, rank_stabilised=rank_stabilised)
    train_in_float32(model)
    return adapted_by_peft(model, setting.ranks)


def adapted_by_peft(model: Any, plan: RankPlan) -> Adapted:
    """Return what a trainer needs to know of a model wrapped by peft, whose ranks stay as planned."""
    head = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "modules_to_save" in name)
    count = count_trainable(model) - head
    ranks = {module.name: module.rank for module in plan.modules}
    scales = {
        name.removeprefix("base_model.model."): float(module.scaling["default"])
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }

    def save(folder: Path) -> None:
        model.save_pretrained(str(folder), save_embedding_layers=False)

    return Adapted(model=model, save=save, kind=PEFT, count=lambda: count, ranks=lambda: ranks, scales=lambda: scales)


def check_ranks(model: "nn.Module", plan: RankPlan, scaling: float, *, rank_stabilised: bool = False) -> None:
    """Raise RuntimeError unless exactly the planned modules are adapted, with their ranks and scales."""
    from peft.tuners.lora import LoraLayer

    found = {
        name.removeprefix("base_model.model."): (module.r["default"], round(module.scaling["default"], 9))
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    planned = {
        module.name: (module.rank, round(scaling / (math.sqrt(module.rank) if rank_stabilised else 1.0), 9))
        for module in plan.modules
    }
    if found != planned:
        name = min(set(found.items()) ^ set(planned.items()))[0]
        raise RuntimeError(
            f"the module {name!r} should have (rank, scale) {planned.get(name)}, but the adapted model has "
            f"{found.get(name)}: the installed peft reads the plan otherwise; install the tested version"
        )
