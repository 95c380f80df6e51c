"""Question answering as the trainer takes it: windows, their collator, and what a model's answers are worth."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora.finetuning.answers import Answer, find_answers
from gelora.finetuning.metrics import check_outputs
from gelora.finetuning.questions import PadWindows, Window, cut_windows
from gelora.finetuning.squad_metrics import at_threshold, score_answers, squad_scores
from gelora.finetuning.tasks import TaskData

if TYPE_CHECKING:
    import torch


def stack_positions(logits: Any, labels: Any) -> "torch.Tensor":  # noqa: ARG001
    """Return the logits of starts and ends side by side, shape (n, n_tokens, 2)."""
    import torch

    return torch.stack([logits[0], logits[1]], dim=-1)


@dataclass(frozen=True, slots=True)
class AnswerEvaluation:
    """What the outputs for the validation windows say.

    Parameters
    ----------
    data : TaskData
        The validation questions.
    windows : list of Window
        Of all of them.
    pad : PadWindows
        As the windows were collated.
    """

    data: TaskData
    windows: list[Window]
    pad: PadWindows

    def metrics(self, outputs: NDArray[Any], labels: Any) -> dict[str, float]:  # noqa: ARG002
        """Return the task's metrics and the score."""
        task = self.data.task
        answers = self._answers(outputs)
        scored = score_answers(self._golds(), [answer.span for answer in answers], self._differences(answers))
        unanswerable = bool(task.answering.unanswerable)
        found = squad_scores(scored, task.answering.null_threshold, unanswerable=unanswerable)
        return {name: found[name] for name in task.metrics} | {
            "score": float(np.mean([found[name] for name in task.score]))
        }

    def table(self, outputs: NDArray[Any], labels: Any) -> Mapping[str, Any]:  # noqa: ARG002
        """Return a row a question: the prediction, the best span, their scores and their worth."""
        answering = self.data.task.answering
        answers = self._answers(outputs)
        spans = [answer.span for answer in answers]
        scored = score_answers(self._golds(), spans, self._differences(answers))
        refused = scored.differences > answering.null_threshold
        return {
            "id": list(self.data.validation["id"]),
            "prediction": ["" if no else span for no, span in zip(refused, spans, strict=True)],
            "span": spans,
            "score": [answer.score for answer in answers],
            "no_answer_score": [answer.no_answer_score for answer in answers],
            "exact_match": at_threshold(scored, scored.exact, answering.null_threshold),
            "f1": at_threshold(scored, scored.f1, answering.null_threshold),
        }

    def _golds(self) -> list[list[str]]:
        return [answers["text"] for answers in self.data.validation[self.data.task.label]]

    def _answers(self, outputs: NDArray[Any]) -> list[Answer]:
        check_outputs(outputs)
        contexts = list(self.data.validation[self.data.task.text[1]])
        return find_answers(outputs, self.windows, contexts, self.data.task.answering, self.pad.shift)

    def _differences(self, answers: list[Answer]) -> NDArray[np.float64]:
        if not self.data.task.answering.unanswerable:
            return np.full(len(answers), -np.inf)
        return np.array([answer.no_answer_score - answer.score for answer in answers])


def answer_parts(tokenizer: Any, data: TaskData, max_length: int) -> dict[str, Any]:
    """Return the fields of `gelora.finetuning.encoded.Inputs` for question answering."""
    task = data.task
    columns = (task.text[0], task.text[1], task.label)
    cut = functools.partial(
        cut_windows, columns=columns, tokenizer=tokenizer, max_length=max_length, answering=task.answering
    )
    train, validation = (cut(split, name=name) for name, split in data.splits().items())
    pad = PadWindows(tokenizer, max(window.n_tokens for window in (*train.windows, *validation.windows)))
    evaluation = AnswerEvaluation(data, validation.windows, pad)
    return {
        "train": train.rows,
        "validation": validation.rows,
        "collate": pad,
        "facts": {"max_length": max_length, **train.facts("train"), **validation.facts("validation")},
        "label_names": ("start_positions", "end_positions"),
        "reduce": stack_positions,
        "evaluate": evaluation.metrics,
        "tabulate": evaluation.table,
    }
