"""What an adapter is given, and what it gives the trainer: the two types between the runner and every adapter."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gelora.finetuning.classifiers import Classifier
from gelora.plan import RankPlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainerCallback, TrainingArguments

# How a saved adapter is loaded again: told in its model card.
PEFT, WHOLE, OWN = "peft", "whole", "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an adapter is given.

    Parameters
    ----------
    classifier : Classifier
        Our own copy of the model, with its head: the adapter changes it.
    plan : RankPlan or None
        Bound to the model, every rank within its matrix; None for adapters that go without.
    dropout : float
        Of the inputs of the adapter's matrices.
    seed : int
        For what an adapter draws beside the global generators, which are seeded already.
    batches : callable
        Returns an iterator over batches of train rows, drawn by the seed, padded, with labels.
    """

    classifier: Classifier
    plan: RankPlan | None
    dropout: float
    seed: int
    batches: Callable[[], "Iterator[dict[str, torch.Tensor]]"]

    @property
    def ranks(self) -> RankPlan:
        """The plan, for adapters that cannot do without."""
        if self.plan is None:
            raise ValueError("`plan` must be given for this adapter")
        return self.plan


class ExtraState(Protocol):
    """What a checkpoint of an adapter keeps beside tensors of the model."""

    def save(self, folder: Path) -> None:
        """Write it into the checkpoint ``folder``."""

    def load(self, folder: Path) -> None:
        """Read it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What the trainer trains.

    Parameters
    ----------
    model : torch.nn.Module
        Only what is to be trained requires a gradient.
    save : callable
        Writes the trained adapter into an empty folder, in the form that `kind` says.
    kind : {"peft", "whole", "own"}
        ``"peft"``: ``PeftModel.from_pretrained`` loads the folder; ``"whole"``: it is a model of transformers;
        ``"own"``: `gelora.finetuning.loading.load_adapter` loads it, as it does the other two.
    count : callable
        Returns the adapter's parameters as they would be saved now, without the head.
    ranks : callable
        Returns the rank of each adapted module by its name in the unadapted model, as they are now; empty where an
        adapter has none. Must not cost a step anything to speak of.
    scales : callable, optional
        Returns the factor on each module's B A by name; where absent, the plan's scaling.
    moving_ranks : bool
        Whether `ranks` can change during training.
    kept : tuple of str
        Names in ``model.state_dict()`` of tensors that change without a gradient: checkpoints keep them too.
    extra : ExtraState, optional
        Whatever else a checkpoint must keep.
    make_optimizer : callable, optional
        From the TrainingArguments and the names of the parameters that Trainer would decay; where absent, it makes its
        own optimizer.
    finish : callable, optional
        Called when training is over, before the last evaluation: returns whether it changed the model.
    callbacks : tuple of transformers.TrainerCallback
        For adapters that act between the steps of the optimiser.
    preparation_seconds : float
        What it took to learn from train rows where to start; 0 where none were read.
    """

    model: "nn.Module"
    save: Callable[[Path], None]
    kind: str
    count: Callable[[], int]
    ranks: Callable[[], Mapping[str, int]]
    scales: Callable[[], Mapping[str, float]] | None = None
    moving_ranks: bool = False
    kept: tuple[str, ...] = ()
    extra: ExtraState | None = None
    make_optimizer: "Callable[[TrainingArguments, Collection[str]], torch.optim.Optimizer] | None" = None
    finish: Callable[[], bool] | None = None
    callbacks: tuple["TrainerCallback", ...] = ()
    preparation_seconds: float = 0.0


class Adapter(Protocol):
    """A frozen keyword-only dataclass of an adapter's options; calling it adapts a model.

    Attributes
    ----------
    name : str
        As in ``adapter="lora"``.
    plan_use : {"required", "optional", "none"}
        Whether it needs a rank plan, can use one, or cannot take any.
    """

    name: ClassVar[str]
    plan_use: ClassVar[str]

    def __call__(self, setting: Setting) -> Adapted:
        """Adapt ``setting.classifier.model``, in place or wrapped.

        Raises
        ------
        ValueError
            If the adapter cannot be had of this model or this plan, before anything is changed.
        """


def train_in_float32(model: "nn.Module") -> None:
    """Make every trainable parameter float32: half precision loses small updates, and gradient scaling refuses it."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def freeze_but_head(classifier: Classifier) -> None:
    """Let only the modules that are trained whole, the head and what the stored weights lack, require a gradient."""
    model: Any = classifier.model
    model.requires_grad_(False)
    for name in classifier.head:
        model.get_submodule(name).requires_grad_(True)


def count_trainable(model: "nn.Module") -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_head(classifier: Classifier) -> int:
    """Return the number of parameters of the modules that are trained whole."""
    named: Any = dict(classifier.model.named_modules())
    held = {id(parameter): parameter for name in classifier.head for parameter in named[name].parameters()}
    return sum(parameter.numel() for parameter in held.values())
