"""The Hugging Face Trainer, recording every step's loss and time without extra forward passes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerState

from gelora.finetuning.callbacks import History, ProgressBar
from gelora.finetuning.checkpoints import STATE_FILE, read_state


class RecordingTrainer(Trainer):
    """A Trainer that hands each loss to a `History` and keeps the outputs of the last evaluation.

    Parameters
    ----------
    history : History
        Filled during training.
    evaluate_outputs : callable
        ``(logits, labels) -> dict`` of metrics.
    callbacks : sequence of TrainerCallback
        The adapter's own.
    progress : bool
        Show a bar.
    **options
        As Trainer's.
    """

    def __init__(
        self,
        *,
        history: History,
        evaluate_outputs: Callable[[Any, Any], dict[str, float]],
        callbacks: Sequence[TrainerCallback],
        progress: bool,
        **options: Any,
    ) -> None:
        self.history = history
        self.logits: np.ndarray[Any, Any] = np.empty((0, 0), dtype=np.float32)
        self.labels: np.ndarray[Any, Any] = np.empty(0)
        self._evaluate_outputs = evaluate_outputs
        self.bar = ProgressBar() if progress else None
        shown = [self.bar] if self.bar is not None else []
        super().__init__(
            compute_metrics=self._metrics,
            preprocess_logits_for_metrics=first_output,
            callbacks=[history, *callbacks, *shown],
            **options,
        )
        self.remove_callback(PrinterCallback)
        # Models take any keyword, but many compute their own mean loss: without this, Trainer takes it for the sum
        # over all accumulated batches and gradients grow with `gradient_accumulation_steps`.
        self.model_accepts_loss_kwargs = False

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make one step and hand its loss on."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.history.add(loss)
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        # What is trained, no more: as it is, peft asks the hub for the base model's configuration each time.
        model: Any = self.model
        model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler[int]:
        # Whatever order the train rows take, predictions stay in that of the validation rows.
        return torch.utils.data.SequentialSampler(eval_dataset)

    def _metrics(self, outputs: Any) -> dict[str, float]:
        self.logits = np.asarray(outputs.predictions, dtype=np.float32)
        self.labels = np.asarray(outputs.label_ids)
        return self._evaluate_outputs(self.logits, self.labels)


def first_output(logits: Any, labels: Any) -> torch.Tensor:  # noqa: ARG001
    """Return the logits alone: some models also return caches and hidden states."""
    found: torch.Tensor = logits[0] if isinstance(logits, tuple | list) else logits
    return found


def make_trainer(
    model: torch.nn.Module,
    arguments: TrainingArguments,
    tokenizer: Any,
    train: Sequence[Any],
    validation: Sequence[Any],
    **options: Any,
) -> RecordingTrainer:
    """Return a trainer that pads each batch to its longest text."""
    return RecordingTrainer(
        model=model,
        args=arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        **options,
    )


def run_training(trainer: RecordingTrainer, checkpoint: Path | None, evaluate_again: bool) -> None:
    """Train from ``checkpoint``, or from the start, and see to it that the last evaluation is of the last step."""
    try:
        if checkpoint is not None and _is_complete(checkpoint):
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        else:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        steps = trainer.state.global_step
        done = len(trainer.labels) > 0 and trainer.history.evaluations[-1]["step"] == steps
        if evaluate_again or not done:
            trainer.evaluate()
    finally:
        if trainer.bar is not None:
            trainer.bar.close()


def _is_complete(checkpoint: Path) -> bool:
    # Trainer would make one step too many from a checkpoint of the last step inside an epoch.
    state = read_state(checkpoint) or {}
    return int(state.get("global_step", 0)) >= int(state.get("max_steps", 1))
