"""The Hugging Face Trainer, recording every step's loss and time without extra forward passes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState, PrinterCallback, TrainerState
from transformers.trainer_utils import rotate_checkpoints

from gelora.finetuning.adaptation import Adapted
from gelora.finetuning.callbacks import History, ProgressBar
from gelora.finetuning.checkpoints import STATE_FILE, read_state, seal_checkpoint
from gelora.finetuning.encoded import Inputs

TENSORS_FILE = "trained.safetensors"


class RecordingTrainer(Trainer):
    """A Trainer that hands each loss to a `History` and keeps what the last evaluation kept of the outputs.

    Parameters
    ----------
    adapted : Adapted
        What is trained.
    history : History
        Filled during training.
    inputs : Inputs
        What it is trained and evaluated on.
    progress : bool
        Show a bar.
    **options
        As Trainer's.
    """

    def __init__(
        self,
        *,
        adapted: Adapted,
        history: History,
        inputs: Inputs,
        progress: bool,
        **options: Any,
    ) -> None:
        self.adapted = adapted
        self.history = history
        self.logits: np.ndarray[Any, Any] = np.empty((0, 0), dtype=np.float32)
        self.labels: np.ndarray[Any, Any] = np.empty(0)
        self._evaluate_outputs = inputs.evaluate
        self.bar = ProgressBar() if progress else None
        shown = [self.bar] if self.bar is not None else []
        super().__init__(
            model=adapted.model,
            compute_metrics=self._metrics,
            preprocess_logits_for_metrics=inputs.reduce,
            data_collator=inputs.collate,
            train_dataset=inputs.train,
            eval_dataset=inputs.validation,
            processing_class=inputs.processor,
            callbacks=[*adapted.callbacks, history, *shown],  # ranks are noted after the adapter moved them
            **options,
        )
        self.remove_callback(PrinterCallback)
        # Models take any keyword, but many compute their own mean loss: without this, Trainer takes it for the sum
        # over all accumulated batches and gradients grow with `gradient_accumulation_steps`.
        self.model_accepts_loss_kwargs = False

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make one step and hand its loss on."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        # Of several processes each has seen a part of the rows; all stop together where the mean is not finite.
        alone = self.accelerator.num_processes == 1
        self.history.add(loss if alone else self.accelerator.reduce(loss.detach().clone(), reduction="mean"))
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the adapter's own optimizer where it has one, else as Trainer does."""
        if self.optimizer is None and self.adapted.make_optimizer is not None:
            self.optimizer = self.adapted.make_optimizer(self.args, self.get_decay_parameter_names(self.adapted.model))
        made: torch.optim.Optimizer = super().create_optimizer(model)
        return made

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        # What is trained, no more, in one form for every adapter.
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_tensors(self.adapted), folder / TENSORS_FILE)
        if self.adapted.extra is not None:
            self.adapted.extra.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        load_trained(self.adapted, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_trained(self.adapted, Path(str(self.state.best_model_checkpoint)))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # An older checkpoint goes only when this one is whole.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process writes the state of its generators
        if not self.args.should_save:
            return
        folder = Path(str(self.args.output_dir))
        seal_checkpoint(folder / f"checkpoint-{self.state.global_step}")
        best = self.state.best_model_checkpoint
        rotate_checkpoints(str(folder), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler[int]:
        # Rows of like length share a batch: less is spent on padding.
        return InOrder(order_by_length(eval_dataset))

    def _metrics(self, outputs: Any) -> dict[str, float]:
        # Whatever order they were evaluated in, predictions stay in that of the validation rows.
        back = np.argsort(order_by_length(self.eval_dataset))
        self.logits = np.asarray(outputs.predictions, dtype=np.float32)[back]
        labels = outputs.label_ids
        columns = np.stack(labels, axis=-1) if isinstance(labels, tuple) else np.asarray(labels)
        self.labels = columns[back]
        return self._evaluate_outputs(self.logits, self.labels)


class InOrder(torch.utils.data.Sampler[int]):
    """Rows in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[int]:
        """Yield the rows' numbers."""
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def order_by_length(rows: Any) -> list[int]:
    """Return the numbers of the rows, the longest first, so that memory runs out at once or never; images as they are.

    Examples
    --------
    >>> order_by_length([{"input_ids": [1]}, {"input_ids": [1, 2, 3]}, {"input_ids": [1, 2]}])
    [1, 2, 0]
    """
    if not isinstance(rows, list) or not rows or "input_ids" not in rows[0]:
        return list(range(len(rows)))
    lengths = [len(row["input_ids"]) for row in rows]
    return sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)


def make_trainer(adapted: Adapted, arguments: TrainingArguments, inputs: Inputs, **options: Any) -> RecordingTrainer:
    """Return a trainer of ``adapted`` on ``inputs``."""
    arguments.label_names = list(inputs.label_names)
    return RecordingTrainer(adapted=adapted, args=arguments, inputs=inputs, **options)


def trained_tensors(adapted: Adapted) -> dict[str, torch.Tensor]:
    """Return every tensor of the model that training changes, by name."""
    trained = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    state = adapted.model.state_dict()
    return {name: state[name].detach().contiguous() for name in sorted({*trained, *adapted.kept})}


def load_trained(adapted: Adapted, checkpoint: Path) -> None:
    """Give the model the tensors that a checkpoint holds.

    Raises
    ------
    ValueError
        If they are not those that training changes.
    """
    stored, known = load_file(checkpoint / TENSORS_FILE), trained_tensors(adapted)
    if {name: value.shape for name, value in stored.items()} != {name: value.shape for name, value in known.items()}:
        raise ValueError(
            f"the checkpoint {str(checkpoint)!r} holds other tensors than this adapter trains: it was written by "
            "another gelora; give a fresh `output_dir`"
        )
    adapted.model.load_state_dict(stored, strict=False)
    if adapted.extra is not None:
        adapted.extra.load(checkpoint)


def run_training(trainer: RecordingTrainer, checkpoint: Path | None, evaluate_again: bool) -> None:
    """Train from ``checkpoint``, or from the start, and see to it that the last evaluation is of the last weights."""
    try:
        if checkpoint is not None and _is_complete(checkpoint):
            _take_over(trainer, checkpoint)
        else:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        steps = trainer.state.global_step
        changed = trainer.adapted.finish is not None and trainer.adapted.finish()
        if changed:
            trainer.history.read_ranks(steps)
        done = len(trainer.labels) > 0 and trainer.history.evaluations[-1]["step"] == steps
        if evaluate_again or changed or not done:
            trainer.evaluate()
    finally:
        if trainer.bar is not None:
            trainer.bar.close()


def restore_callbacks(callbacks: Sequence[TrainerCallback], checkpoint: Path) -> None:
    """Give the callbacks that keep a state what a checkpoint holds of it: an early stopping its patience, say."""
    stored = read_state(checkpoint).get("stateful_callbacks", {})
    for callback in callbacks:
        kept = stored.get(type(callback).__name__)
        if isinstance(callback, ExportableState) and isinstance(kept, dict):
            for name, value in kept.get("attributes", {}).items():
                setattr(callback, name, value)


def _take_over(trainer: RecordingTrainer, checkpoint: Path) -> None:
    """Put the trainer where it was at the end of its training."""
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
        trainer._load_best_model()


def _is_complete(checkpoint: Path) -> bool:
    # Trainer would make one step too many from a checkpoint of the last step inside an epoch, and go on from one at
    # which a callback had stopped it.
    state = read_state(checkpoint)
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    stopped = bool(control.get("should_training_stop"))
    return stopped or int(state.get("global_step", 0)) >= int(state.get("max_steps", 1))
