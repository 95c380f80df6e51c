"""A classifier and a rank plan → an adapted model. One entry of `ADAPTERS` an adapter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gelora.finetuning.classifiers import Classifier
from gelora.messages import nearest
from gelora.plan import RankPlan

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback


@dataclass(frozen=True, slots=True)
class Adapted:
    """What the trainer trains.

    Parameters
    ----------
    model : torch.nn.Module
        With ``save_pretrained``; only what is to be trained requires a gradient.
    plan : RankPlan
        Bound to the model.
    n_adapter, n_head : int
        Trainable parameters of the adapter, and of the head and other modules trained whole.
    callbacks : tuple of transformers.TrainerCallback
        For adapters that act between the steps of the optimiser.
    """

    model: "nn.Module"
    plan: RankPlan
    n_adapter: int
    n_head: int
    callbacks: tuple["TrainerCallback", ...] = ()


Adapter = Callable[[Classifier, RankPlan, float], Adapted]


def adapt_lora(classifier: Classifier, plan: RankPlan, dropout: float) -> Adapted:
    """Put a LoRA matrix of the planned rank beside each planned matrix, and make the head trainable.

    Parameters
    ----------
    classifier : Classifier
        Its model is changed.
    plan : RankPlan
        Bound to the model here.
    dropout : float
        Of the inputs of the LoRA matrices.

    Raises
    ------
    ValueError
        If the plan is of another model.
    RuntimeError
        If a module did not get its rank and α / r: peft read the plan otherwise.
    """
    import peft

    bound = plan.bind(classifier.model)
    config = bound.to_lora_config(
        task_type="SEQ_CLS", lora_dropout=dropout, modules_to_save=list(classifier.head) or None
    )
    model = peft.get_peft_model(classifier.model, config)
    check_ranks(model, bound)
    _train_in_float32(model)
    n_adapter, n_head = count_trainable(model, "lora_")
    return Adapted(model, bound, n_adapter, n_head)


ADAPTERS: Mapping[str, Adapter] = {"lora": adapt_lora}


def find_adapter(adapter: str) -> Adapter:
    """Return the adapter of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"`adapter` must be one of {list(ADAPTERS)}, got {adapter!r}{nearest(str(adapter), ADAPTERS)}")
    return ADAPTERS[adapter]


def check_ranks(model: "nn.Module", plan: RankPlan) -> None:
    """Raise RuntimeError unless exactly the planned modules are adapted, with their ranks and α / r."""
    from peft.tuners.lora import LoraLayer

    found = {
        name.removeprefix("base_model.model."): (module.r["default"], round(module.scaling["default"], 9))
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    planned = {module.name: (module.rank, round(module.alpha / module.rank, 9)) for module in plan.modules}
    if found != planned:
        name = min(set(found.items()) ^ set(planned.items()))[0]
        raise RuntimeError(
            f"the module {name!r} should have (rank, α/r) {planned.get(name)}, but the adapted model has "
            f"{found.get(name)}: the installed peft reads the plan otherwise; install the tested version"
        )


def count_trainable(model: "nn.Module", adapter_mark: str) -> tuple[int, int]:
    """Return the trainable parameters of the adapter, whose names hold ``adapter_mark``, and of all else."""
    adapter = head = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and adapter_mark in name:
            adapter += parameter.numel()
        elif parameter.requires_grad:
            head += parameter.numel()
    return adapter, head


def _train_in_float32(model: "nn.Module") -> None:
    # Half-precision parameters lose small updates, and gradient scaling refuses them.
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
