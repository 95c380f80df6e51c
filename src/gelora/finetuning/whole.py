"""Adapters without matrices of their own: full fine-tuning, and BitFit, which trains the biases."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.finetuning.adaptation import (
    OWN,
    WHOLE,
    Adapted,
    Setting,
    count_head,
    count_trainable,
    freeze_but_head,
    train_in_float32,
)
from gelora.finetuning.own_folder import load_own, save_own

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Full:
    """Full fine-tuning: every parameter is trained, and the whole model saved, in float32."""

    name: ClassVar[str] = "full"
    plan_use: ClassVar[str] = "none"

    def __call__(self, setting: Setting) -> Adapted:
        """Let every parameter require a gradient."""
        model: Any = setting.classifier.model
        n_head = count_head(setting.classifier)
        model.requires_grad_(True)
        train_in_float32(model)
        count = count_trainable(model) - n_head

        def save(folder: Path) -> None:
            model.save_pretrained(str(folder))

        return Adapted(model=model, save=save, kind=WHOLE, count=lambda: count, ranks=dict)


@dataclass(frozen=True, kw_only=True)
class BitFit:
    """BitFit: all biases of the transformer are trained, and the head, Ben Zaken et al. 2022 (arXiv 2106.10199).

    Those of the norms are among them. Models without biases, as LLaMA, are refused.
    """

    name: ClassVar[str] = "bitfit"
    plan_use: ClassVar[str] = "none"

    def __call__(self, setting: Setting) -> Adapted:
        """Let the biases and the head require a gradient.

        Raises
        ------
        ValueError
            If the transformer has no biases.
        """
        model: Any = setting.classifier.model
        head = {id(p) for name in setting.classifier.head for p in model.get_submodule(name).parameters()}
        biases = [p for name, p in model.named_parameters() if is_bias(name) and id(p) not in head]
        if not biases:
            raise ValueError(
                f"`adapter` 'bitfit' trains biases, but {type(model).__name__} has none outside its head: "
                "give another adapter, e.g. 'lora'"
            )
        freeze_but_head(setting.classifier)
        for parameter in biases:
            parameter.requires_grad_(True)
        train_in_float32(model)
        _keep_norms_in_one_type(model)
        count = sum(parameter.numel() for parameter in biases)

        def save(folder: Path) -> None:
            save_own(folder, model, {})

        return Adapted(model=model, save=save, kind=OWN, count=lambda: count, ranks=dict)

    @staticmethod
    def attach(model: "nn.Module", folder: Path, facts: dict[str, Any]) -> "nn.Module":  # noqa: ARG004
        """Put the trained biases and head that ``folder`` holds into ``model``, in the model's own type.

        Raises
        ------
        ValueError
            If the folder is damaged, or the model lacks one of them or has another size; it is left as it is then.
        """
        return load_own(model, folder)


def is_bias(name: str) -> bool:
    """Say whether a parameter of that name is a bias."""
    return name.rpartition(".")[2] in ("bias", "q_bias", "v_bias")  # DeBERTa keeps two outside its matrices


def _keep_norms_in_one_type(model: "nn.Module") -> None:
    """Give the frozen weight of a norm the type of its trained bias: on a CPU a norm takes no two types."""
    for module in model.modules():
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        if weight is not None and bias is not None and weight.ndim == 1 and bias.requires_grad:
            weight.data = weight.data.to(bias.dtype)
