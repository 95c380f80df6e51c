"""The options of a run: checked here, handed to Hugging Face's TrainingArguments."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.messages import check_choice, check_integer, check_number, nearest
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import TrainingArguments

PRECISIONS = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
# Names of TrainingArguments that are set here from options of ours, or belong to the runner.
RENAMED = {
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "warmup_steps": "warmup_ratio",
    "lr_scheduler_type": "schedule",
    "disable_tqdm": "progress",
    "use_cpu": "device",
    "bf16": "precision",
    "fp16": "precision",
    "eval_strategy": "eval_steps",
    "save_strategy": "save_steps",
    "resume_from_checkpoint": "resume",
    "data_seed": "seed",
}
RESERVED = (
    "do_train",
    "do_eval",
    "do_predict",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "logging_nan_inf_filter",
    "report_to",
    "push_to_hub",
    "hub_token",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_private_repo",
    "hub_revision",
    "label_names",
    "remove_unused_columns",
    "eval_do_concat_batches",
    "prediction_loss_only",
    "batch_eval_metrics",
    "include_for_metrics",
    "restore_callback_states_from_checkpoint",
    "save_only_model",
    "log_level",
    "eval_on_start",
    "eval_delay",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `gelora.finetuning.runner.finetune`, described there.

    Raises
    ------
    ValueError
        If one is out of range, naming it.
    """

    epochs: float
    max_steps: int
    batch_size: int
    eval_batch_size: int | None
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    schedule: str
    dropout: float
    max_length: int
    seed: int
    eval_steps: int | None
    save_steps: int | None
    device: str
    precision: str
    training_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "eval_steps", "save_steps"):
            value = getattr(self, name)
            if not (value is None and name != "batch_size"):
                check_integer(name, value, 1)
        check_integer("max_length", self.max_length, 3)
        check_integer("seed", self.seed, 0)
        if self.max_steps != -1:
            check_integer("max_steps", self.max_steps, 1, ", or -1 for all epochs")
        check_number("epochs", self.epochs, "a positive number", least_excluded=True)
        check_number("learning_rate", self.learning_rate, "a positive number", least_excluded=True)
        check_number("weight_decay", self.weight_decay, "a number of at least 0")
        check_number("warmup_ratio", self.warmup_ratio, "a share of all steps, at least 0 and below 1", below=1)
        check_number("dropout", self.dropout, "a probability, at least 0 and below 1", below=1)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("device", self.device, DEVICES)

    def identity(self) -> dict[str, Any]:
        """Return the options that two calls must share to be the same run; where it runs does not matter."""
        return {key: value for key, value in asdict(self).items() if key not in ("device", "save_steps")}


def count_processes(batch_size: int) -> int:
    """Return how many processes train together, as torchrun or ``accelerate launch`` started them; 1 for a plain call.

    Raises
    ------
    ValueError
        If they cannot share the rows of a batch evenly.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise ValueError(
            f"`batch_size` must be a multiple of the {processes} processes that share each batch, got {batch_size}"
        )
    return processes


def check_device(device: str) -> None:
    """Raise ValueError if there is no such device on this machine."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is 'cuda', but torch finds no CUDA device: give device='auto' or 'cpu'")


def check_training_arguments(passed: Mapping[str, Any]) -> None:
    """Raise ValueError for names that TrainingArguments does not know or that an option of ours sets."""
    with quiet_libraries():  # it imports whatever trains with it
        from transformers import TrainingArguments

    for name in passed:
        if name in RENAMED:
            raise ValueError(f"`{name}` is set by `{RENAMED[name]}`: give that instead")
        if name in RESERVED:
            raise ValueError(f"`{name}` belongs to the runner and cannot be set: leave it out")
        known = [known for known in TrainingArguments.__dataclass_fields__ if known not in RESERVED]
        if name not in known:
            own = list(Options.__dataclass_fields__)
            raise ValueError(
                f"`{name}` is neither an option of finetune nor of transformers.TrainingArguments"
                f"{nearest(name, [*own, *known])}"
            )


def to_training_arguments(options: Options, folder: Path) -> "TrainingArguments":
    """Return the TrainingArguments of a run that checkpoints into ``folder``.

    Raises
    ------
    ValueError
        If TrainingArguments refuses a value.
    """
    import torch
    from transformers import TrainingArguments

    processes = count_processes(options.batch_size)
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    use_cpu = options.device == "cpu" or not accelerated  # said outright, or half precision is refused on a CPU
    try:
        arguments = TrainingArguments(
            **{"save_total_limit": 2} | dict(options.training_arguments),
            output_dir=str(folder),
            num_train_epochs=options.epochs,
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size // processes,
            per_device_eval_batch_size=max(1, (options.eval_batch_size or options.batch_size) // processes),
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            warmup_steps=options.warmup_ratio,
            lr_scheduler_type=options.schedule,
            eval_strategy="epoch" if options.eval_steps is None else "steps",
            eval_steps=options.eval_steps,
            save_strategy="epoch" if options.save_steps is None else "steps",
            save_steps=options.save_steps or 500,
            bf16=options.precision == "bfloat16",
            fp16=options.precision == "float16",
            seed=int(options.seed),
            data_seed=int(options.seed),
            use_cpu=use_cpu,
            dataloader_pin_memory=torch.cuda.is_available() and not use_cpu,
            logging_strategy="no",
            logging_nan_inf_filter=False,  # it hides a loss that is not finite, and waits for the GPU at every step
            report_to="none",
            disable_tqdm=True,
            label_names=["labels"],
            log_level="error",
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"transformers.TrainingArguments refuses these options: {error}") from error
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several visible GPUs would be used by DataParallel, with other numbers
    return arguments
