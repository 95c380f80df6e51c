"""SoRA as an adapter: LoRA under gates that a proximal step sets to zero, saved as the plain LoRA that is left."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.finetuning.adaptation import PEFT, Adapted, Setting, train_in_float32
from gelora.finetuning.lora import check_ranks, lora_config
from gelora.finetuning.lora_folder import save_lora
from gelora.messages import check_number

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments


@dataclass(frozen=True, kw_only=True)
class SoRA:
    r"""SoRA: :math:`W + (α/r) B \mathrm{diag}(g) A` with sparse gates g, Ding et al. 2023 (arXiv 2311.11696).

    The ranks of the plan are the largest ones. The gates start as draws of the standard normal distribution, as in
    the authors' code. A, B and g are trained alike, g without weight decay; after each step of the optimiser, made
    at the rate η, the proximal step of λ‖g‖₁ moves every gate by ηλ towards 0 and stops there. A gate at 0 still
    has a gradient: it comes back when a step of the optimiser moves it by more than ηλ.

    Parameters
    ----------
    sparsity : float
        λ. The default is the authors' threshold of 3e-4 at their rate of 8e-4. They leave that threshold as it is
        when their rate falls; here it falls with the rate, as the proximal step of the paper has it.

    Raises
    ------
    ValueError
        If ``sparsity`` is not a number of at least 0.
    """

    sparsity: float = 0.375

    name: ClassVar[str] = "sora"
    plan_use: ClassVar[str] = "required"

    def __post_init__(self) -> None:
        check_number("sparsity", self.sparsity, "a number of at least 0, which leaves all gates open")

    def __call__(self, setting: Setting) -> Adapted:
        """Put a gated LoRA matrix of the planned rank beside each planned matrix."""
        import peft

        from gelora.finetuning.sora_layers import Shrinkage, add_gates, count_open

        model: Any = peft.get_peft_model(setting.classifier.model, lora_config(setting))
        scaling = setting.ranks.scaling
        check_ranks(model, setting.ranks, scaling)
        layers: dict[str, Any] = {m.name: model.base_model.model.get_submodule(m.name) for m in setting.ranks.modules}
        gates = add_gates(layers)
        train_in_float32(model)
        sides = {module.name: module.in_features + module.out_features for module in setting.ranks.modules}

        def ranks() -> dict[str, int]:
            return count_open(gates)

        def save(folder: Path) -> None:
            save_lora(folder, open_factors(layers), scaling, setting.classifier)

        def make_optimizer(arguments: "TrainingArguments", decayed: Collection[str]) -> "torch.optim.Optimizer":
            from gelora.finetuning.sora_layers import make_optimizer

            return make_optimizer(model, gates.values(), arguments, decayed)

        return Adapted(
            model=model,
            save=save,
            kind=PEFT,
            count=lambda: sum(rank * sides[name] for name, rank in ranks().items()),
            ranks=ranks,
            moving_ranks=True,
            make_optimizer=make_optimizer,
            callbacks=(Shrinkage(tuple(gates.values()), self.sparsity),),
        )


def open_factors(layers: dict[str, Any]) -> "dict[str, tuple[torch.Tensor, torch.Tensor]]":
    """Return A and B of the directions whose gate is not zero, the gate taken into B."""
    factors = {}
    for name, layer in layers.items():
        first, b = layer.lora_A["default"], layer.lora_B["default"].weight.detach()
        gate = first.gate.detach()
        left = gate != 0
        factors[name] = (first.weight.detach()[left], b[:, left] * gate[left])
    return factors
