"""Logits of windows → the best span of every question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora.finetuning.glue import Answering
from gelora.finetuning.questions import Window


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers to one question.

    Parameters
    ----------
    span : str
        The best span over all windows, empty where there is none.
    score : float
        Logit of its start and of its end together, −∞ where there is none.
    no_answer_score : float
        The smallest such sum over the windows at the place that stands for no answer.
    """

    span: str
    score: float
    no_answer_score: float


def find_answers(
    logits: NDArray[np.floating[Any]],
    windows: Sequence[Window],
    contexts: Sequence[str],
    answering: Answering,
    shift: Callable[[int], int],
) -> list[Answer]:
    """Return the answer to each question: the best of all spans in the context that are short enough.

    Parameters
    ----------
    logits : ndarray of shape (n_windows, n_tokens, 2)
        Of the start and of the end, at every token of each window.
    windows : sequence of Window
        As many, at least one for each context.
    contexts : sequence of str
        One a question.
    answering : Answering
        Gives ``n_best`` and ``max_answer_length``.
    shift : callable
        From the tokens of a window to the padding before it.
    """
    best: list[tuple[float, int, int]] = [(-np.inf, 0, 0)] * len(contexts)
    nulls = np.full(len(contexts), np.inf)
    for window, values in zip(windows, np.asarray(logits, dtype=np.float64), strict=True):
        moved = shift(window.n_tokens)
        nulls[window.question] = min(nulls[window.question], float(values[moved + window.null].sum()))
        first = moved + window.first
        found = _best_span(values[first : first + len(window.offsets)], answering)
        if found is not None and found[0] > best[window.question][0]:
            score, start, end = found
            best[window.question] = score, int(window.offsets[start, 0]), int(window.offsets[end, 1])
    return [
        Answer(context[start:stop], score, float(null))
        for context, (score, start, stop), null in zip(contexts, best, nulls, strict=True)
    ]


def _best_span(values: NDArray[np.float64], answering: Answering) -> tuple[float, int, int] | None:
    """Return score, first and last token of the best span among the ``n_best`` starts and ends of a window."""
    starts, ends = (np.argsort(-values[:, side], kind="stable")[: answering.n_best] for side in (0, 1))
    length = ends[None, :] - starts[:, None] + 1
    fits = (length >= 1) & (length <= answering.max_answer_length)
    if not fits.any():
        return None
    scores = np.where(fits, values[starts, 0][:, None] + values[ends, 1][None, :], -np.inf)
    start, end = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[start, end]), int(starts[start]), int(ends[end])
