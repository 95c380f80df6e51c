"""What the trainer tells about: a history of every step and evaluation, and a progress bar."""

# ruff: noqa: ARG002, D102 (the signatures of the events are those of transformers)

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

# A loss on a GPU is read back this seldom: reading waits for the device.
READ_EVERY = 16
SECONDS_KEYS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class History(TrainerCallback, ExportableState):
    """Loss, learning rate and seconds of every step, every evaluation and change of ranks; kept in the checkpoints.

    Raises FloatingPointError, naming the step, before a checkpoint is written with weights from a loss that is
    not finite.

    Parameters
    ----------
    ranks : callable, optional
        Returns the ranks as they are now, by module.
    moving : bool
        Whether they can change.
    """

    def __init__(self, ranks: Callable[[], Mapping[str, int]] = dict, moving: bool = False) -> None:
        self._ranks, self._moving = ranks, moving
        self.losses: list[float] = []
        self.learning_rates: list[float] = []
        self.seconds: list[float] = []
        self.evaluations: list[dict[str, float]] = []
        self.rank_steps: list[int] = []
        self.rank_values: list[list[int]] = []
        self._pending: list[torch.Tensor] = []
        self._step: torch.Tensor | None = None
        self._rate = math.nan
        self._mark = time.perf_counter()

    def add(self, loss: torch.Tensor) -> None:
        """Add the loss of one batch to that of the step it belongs to."""
        self._step = loss if self._step is None else self._step + loss

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        self.read()
        names = ("losses", "learning_rates", "seconds", "evaluations", "rank_steps", "rank_values")
        return {"args": {}, "attributes": {name: list(getattr(self, name)) for name in names}}

    def read(self) -> None:
        """Read the losses back from the device and check them."""
        if not self._pending:
            return
        first = len(self.losses) + 1
        self.losses += torch.stack(self._pending).double().tolist()
        self._pending = []
        for step, loss in enumerate(self.losses[first - 1 :], start=first):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the training loss became {loss} at step {step}: the run stops, the last checkpoint is kept; "
                    "lower `learning_rate`, raise `warmup_ratio`, or use another `precision`"
                )

    def read_ranks(self, step: int) -> None:
        """Note the ranks after ``step`` if they are not those noted last."""
        now = list(self._ranks().values())
        if not self.rank_values or now != self.rank_values[-1]:
            self.rank_steps.append(step)
            self.rank_values.append(now)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.read_ranks(state.global_step)
        self._mark = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The rate this step was made with: the schedule moves on right after.
        self._rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._step is not None:
            self._pending.append(self._step.detach().reshape(()))
            self._step = None
        self.learning_rates.append(self._rate)
        often = self._pending[-1].device.type == "cpu" if self._pending else True
        if often or control.should_save or control.should_evaluate or state.global_step % READ_EVERY == 0:
            self.read()
        if self._moving:
            self.read_ranks(state.global_step)
        now = time.perf_counter()
        self.seconds.append(now - self._mark)
        self._mark = now

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.read()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
        known = {name: float(value) for name, value in metrics.items() if name not in ("epoch", *SECONDS_KEYS)}
        if self.evaluations and self.evaluations[-1]["step"] == state.global_step:
            self.evaluations.pop()  # evaluated again, after a resume or with the best weights: the last one counts
        self.evaluations.append(
            {
                "step": state.global_step,
                "epoch": float(state.epoch or 0.0),
                "seconds": float(metrics["runtime"]),
                **known,
            }
        )
        self._mark = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()


class ProgressBar(TrainerCallback):
    """One bar over all steps on the standard error, with the latest score."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="fine-tuning", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.set_postfix(score=f"{kwargs['metrics'].get('eval_score', math.nan):.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it should be, also after an error."""
        if self._bar is not None:
            self._bar.close()
