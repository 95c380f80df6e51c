"""Runs of fine-tuning: cut short, compared, and their saved adapters asked again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from gelora.finetuning import runner
from gelora.finetuning.adaptation import Setting
from gelora.finetuning.callbacks import History
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.run import bind_plan
from gelora.finetuning.tasks import load_task

TIMED = ["step_seconds", "evaluation_seconds", "seconds", "seconds_per_step", "preparation_seconds", "peak_memory"]


class InterruptedRunError(BaseException):
    """Stands for a killed process."""


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Let the training in the block die after a step."""
    original = History.on_step_end

    def on_step_end(self: History, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise InterruptedRunError

    with mock.patch.object(History, "on_step_end", on_step_end), pytest.raises(InterruptedRunError):
        yield


@contextmanager
def dying_before_it_saves() -> Iterator[None]:
    """Let the run in the block die between its training and its adapter."""
    with (
        mock.patch.object(runner, "save_adapter", side_effect=InterruptedRunError),
        pytest.raises(InterruptedRunError),
    ):
        yield


def same(first: xr.Dataset, second: xr.Dataset) -> bool:
    """Say whether two records hold the same numbers, time and memory aside."""
    return bool(first.drop_vars(TIMED).equals(second.drop_vars(TIMED)))


def predictions(output: Path) -> np.ndarray[Any, Any]:
    """Return the logits that a run of two classes wrote."""
    found: np.ndarray[Any, Any] = pd.read_parquet(output / "predictions.parquet")[["logit_0", "logit_1"]].to_numpy()
    return found


def same_predictions(first: Path, second: Path) -> None:
    """Assert that two runs wrote the same predictions, to the bit."""
    frames = [pd.read_parquet(output / "predictions.parquet") for output in (first, second)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def predict(model: Any, tokenizer: Any, task: Any) -> np.ndarray[Any, Any]:
    """Return the logits of the validation rows in the batches that a run evaluates 16 at a time, the longest first."""
    texts = [row["sentence"] for row in task.validation]
    order = sorted(range(len(texts)), key=lambda row: len(tokenizer(texts[row])["input_ids"]), reverse=True)
    texts = [texts[row] for row in order]
    batches = [
        tokenizer(texts[i : i + 16], padding=True, return_tensors="pt", return_token_type_ids=False)
        for i in range(0, len(texts), 16)
    ]
    with torch.no_grad():
        logits = torch.cat([model(**batch).logits.float() for batch in batches]).numpy()
    found: np.ndarray[Any, Any] = logits[np.argsort(order)]
    return found


def make_setting(
    model: Any, task: Any, plan: Any = None, *, precision: str = "float32", dropout: float = 0.0
) -> Setting:
    """Return what an adapter is given for a model and a task, without batches."""
    torch.manual_seed(0)
    classifier = load_classifier(model, load_task(task), precision=precision)
    bound = None if plan is None else bind_plan(plan, classifier)
    return Setting(classifier=classifier, plan=bound, dropout=dropout, seed=0, batches=lambda: iter(()))


def adapt(adapter: Any, setting: Setting) -> tuple[Any, dict[str, Any]]:
    """Return what the adapter made, and the layers that peft put in by their names in the unadapted model."""
    adapted = adapter(setting)
    model: Any = adapted.model
    return adapted, {m.name: model.base_model.model.get_submodule(m.name) for m in setting.ranks.modules}
