"""GeoLoRA as an adapter: ranks that move while it is trained, saved as plain LoRA."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.finetuning.adaptation import PEFT, Adapted, Setting, train_in_float32
from gelora.finetuning.geolora_options import check_geolora_options
from gelora.finetuning.lora_folder import save_lora

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from gelora.finetuning.geolora.optimizer import GeoLoRAOptimizer


@dataclass(frozen=True, kw_only=True)
class GeoLoRA:
    """GeoLoRA: W + s · U S Vᵀ by dynamical low-rank training, Schotthöfer et al. 2025 (arXiv 2410.18720).

    Not GeLoRA, which is a geometric plan on LoRA; but a geometric plan can be where GeoLoRA starts, or its ceiling.

    Parameters
    ----------
    tolerance : float
        τ: truncation error allowed relative to the norm of a matrix's singular values.
    budget : int, optional
        In place of ``tolerance``: how many singular values all matrices keep together.
    plan_as : {"start", "ceiling"}
        Whether the plan's ranks are those to start with or the largest ones.
    max_rank, min_rank : int
        Bounds of every rank; ``max_rank`` where the plan is the start.
    interval : int
        Steps of the coefficients from one move of the bases to the next.
    truncation : {"on_trial", "at_once"}
        When new directions are judged: at the next move of the bases, or, as the paper has it, in the same step.
    settle : float
        Share of the run, at its end, in which the bases stay and the ranks are final.
    method : {"adamw", "sgd"}
        What moves the coefficients. See `gelora.finetuning.geolora.GeoLoRAOptimizer` for all of these.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    tolerance: float = 0.1
    budget: int | None = None
    plan_as: str = "start"
    max_rank: int = 32
    min_rank: int = 2
    interval: int = 10
    truncation: str = "on_trial"
    settle: float = 0.1
    method: str = "adamw"

    name: ClassVar[str] = "geolora"
    plan_use: ClassVar[str] = "required"

    def __post_init__(self) -> None:
        check_geolora_options(**asdict(self))

    def __call__(self, setting: Setting) -> Adapted:
        """Put a GeoLoRA layer in the place of each planned matrix."""
        from gelora.finetuning.geolora import add_geolora, lora_factors, ranks_of
        from gelora.finetuning.geolora.settling import Settling

        model: Any = setting.classifier.model
        layers = add_geolora(
            model,
            setting.ranks,
            plan_as=self.plan_as,
            max_rank=self.max_rank,
            min_rank=self.min_rank,
            dropout=setting.dropout,
            seed=setting.seed,
        )
        for name in setting.classifier.head:
            model.get_submodule(name).requires_grad_(True)
        train_in_float32(model)
        self._optimizer(model, 1.0)  # refuses a budget that is too small, before anything is trained

        def save(folder: Path) -> None:
            save_lora(folder, lora_factors(model), setting.ranks.scaling, setting.classifier)

        def count() -> int:
            return sum(layer.rank * (layer.in_features + layer.out_features) for layer in layers.values())

        def finish() -> bool:
            """Judge what is still on trial where the run was stopped before it settled."""
            if all(layer.rank == layer.kept_rank for layer in layers.values()):
                return False
            self._optimizer(model, 1.0).settle()
            return True

        def make_optimizer(arguments: "TrainingArguments", decayed: Collection[str]) -> "GeoLoRAOptimizer":
            return self._optimizer(
                model,
                arguments.learning_rate,
                betas=(arguments.adam_beta1, arguments.adam_beta2),
                eps=arguments.adam_epsilon,
                weight_decay=arguments.weight_decay,
                no_decay={name for name, _ in model.named_parameters()} - set(decayed),
            )

        tensors = ("geolora_U", "geolora_V", "geolora_ranks")
        return Adapted(
            model=model,
            save=save,
            kind=PEFT,
            count=count,
            ranks=lambda: ranks_of(model),
            moving_ranks=True,
            kept=tuple(f"{name}.{tensor}" for name in layers for tensor in tensors),
            make_optimizer=make_optimizer,
            finish=finish,
            callbacks=(Settling(self.settle),),
        )

    def _optimizer(self, model: "nn.Module", rate: float, **options: Any) -> "GeoLoRAOptimizer":
        from gelora.finetuning.geolora import GeoLoRAOptimizer

        own: dict[str, Any] = {"tolerance": self.tolerance, "budget": self.budget, "min_rank": self.min_rank}
        own |= {"interval": self.interval, "truncation": self.truncation, "method": self.method}
        return GeoLoRAOptimizer(model, rate, **own, **options)
