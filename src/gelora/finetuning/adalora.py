"""AdaLoRA as an adapter: peft's, from the ranks of a plan, saved as the plain LoRA that is left at the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.finetuning.adaptation import PEFT, Adapted, Setting, train_in_float32
from gelora.finetuning.lora import lora_config
from gelora.finetuning.lora_folder import save_lora
from gelora.messages import check_integer, check_number

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class AdaLoRA:
    r"""AdaLoRA: :math:`W + (α/r) B \mathrm{diag}(E) A`, its weakest directions given up, Zhang et al. 2023.

    (arXiv 2303.10512.) The ranks of the plan are those it starts with. After a warm-up, the directions of all
    matrices compete for a budget that falls cubically to ``target`` of the planned total; their importance is the
    smoothed sensitivity of their entries times its smoothed uncertainty, as peft reckons it. Then what is left is
    tuned on.

    Parameters
    ----------
    target : float
        Share of the plan's total rank that is left at the end.
    warmup, final : float
        Shares of the run: before the budget falls, and after.
    interval : int, optional
        Steps from one allocation to the next; by default a hundredth of the run.
    beta1, beta2 : float
        Smoothing of sensitivity and uncertainty.
    orthogonality : float
        Weight of the penalty that keeps the rows of A and the columns of B orthonormal. It is part of the training
        loss, not of the validation loss.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    target: float = 2 / 3
    warmup: float = 0.12
    final: float = 0.5
    interval: int | None = None
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    name: ClassVar[str] = "adalora"
    plan_use: ClassVar[str] = "required"

    def __post_init__(self) -> None:
        for name in ("target", "beta1", "beta2"):
            check_number(name, getattr(self, name), "a number above 0 and below 1", least_excluded=True, below=1)
        for name in ("warmup", "final"):
            check_number(name, getattr(self, name), "a share of the run, at least 0 and below 1", below=1)
        if self.warmup + self.final >= 1:
            raise ValueError(
                f"`warmup` and `final` must leave a part of the run between them, got {self.warmup} and {self.final}: "
                "give shares that sum to less than 1"
            )
        if self.interval is not None:
            check_integer("interval", self.interval, 1, ", or None for a hundredth of the run")
        check_number("orthogonality", self.orthogonality, "a number of at least 0")

    def __call__(self, setting: Setting) -> Adapted:
        """Put an AdaLoRA layer of the planned rank beside each planned matrix."""
        from gelora.finetuning.adalora_allocation import Allocation

        total = sum(module.rank for module in setting.ranks.modules)
        if total < 2:
            raise ValueError(
                f"`plan` must have ranks to give up for adapter='adalora', got a total of {total}: plan a total of at "
                "least 2"
            )
        model = self._wrap(setting)
        layers: dict[str, Any] = {m.name: model.base_model.model.get_submodule(m.name) for m in setting.ranks.modules}
        target = min(max(1, round(self.target * total)), total - 1)
        allocation = Allocation(model.base_model, layers, target, self.warmup, self.final, self.interval)
        _penalise_in_training_only(model.base_model)
        train_in_float32(model)
        scaling = setting.ranks.scaling

        def save(folder: Path) -> None:
            save_lora(folder, left_factors(layers, scaling), scaling, setting.classifier)

        def count() -> int:
            return sum(a.numel() + b.numel() for a, b in left_factors(layers, scaling).values())

        return Adapted(
            model=model,
            save=save,
            kind=PEFT,
            count=count,
            ranks=lambda: allocation.ranks,
            moving_ranks=True,
            extra=allocation,
            callbacks=(allocation,),
        )

    def _wrap(self, setting: Setting) -> Any:
        """Wrap the model by peft, each layer with a rank and α of its own: peft gives all of them the same."""
        import peft

        plain: Any = lora_config(setting)
        shared = ("task_type", "target_modules", "modules_to_save", "lora_dropout", "lora_alpha", "fan_in_fan_out")
        config = peft.AdaLoraConfig(
            **{name: getattr(plain, name) for name in shared},
            init_r=plain.r,
            total_step=1,  # until the length of the run is known
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.orthogonality,
        )
        model: Any = peft.get_peft_model(setting.classifier.model, config)
        for module in setting.ranks.modules:
            layer = model.base_model.model.get_submodule(module.name)
            layer.update_layer("default", module.rank, module.alpha, config=config)
        return model


def left_factors(layers: dict[str, Any], scaling: float) -> "dict[str, tuple[torch.Tensor, torch.Tensor]]":
    """Return the directions whose E is not zero, as A and B of a LoRA that is scaled by ``scaling``."""
    factors = {}
    for name, layer in layers.items():
        a, b, e = (getattr(layer, f"lora_{part}")["default"].detach() for part in "ABE")
        left = e.reshape(-1) != 0
        scale = layer.scaling["default"] / (layer.ranknum["default"].detach() + 1e-5) / scaling  # as its forward pass
        factors[name] = (a[left] * e[left] * scale, b[:, left])
    return factors


def _penalise_in_training_only(tuner: "nn.Module") -> None:
    """Leave the penalty out of the loss of evaluations: peft adds it to every loss."""
    own: Any = tuner
    config = own.peft_config["default"]
    weight = config.orth_reg_weight

    def choose(module: "nn.Module", _inputs: Any) -> None:
        config.orth_reg_weight = weight if module.training else 0.0

    own.register_forward_pre_hook(choose)
