"""Exact match and F1 of SQuAD v1.1 and v2.0: answers and predictions in, numbers out."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
Floats = NDArray[np.float64]


def normalize_answer(text: str) -> str:
    """Return ``text`` in lower case, without ASCII punctuation and articles, words parted by single spaces.

    Examples
    --------
    >>> normalize_answer("The  Sun's end, a day.")
    'suns end day'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(golds: Sequence[str], prediction: str) -> float:
    """Return 1 if the prediction is one of the answers after normalisation, else 0.

    Where there is no answer, or all are nothing but articles and punctuation, the empty prediction is right.

    Examples
    --------
    >>> exact_match(["the Sun"], "sun.")
    1.0
    """
    found = normalize_answer(prediction)
    return float(any(found == gold for gold in _normal(golds)))


def f1(golds: Sequence[str], prediction: str) -> float:
    """Return the largest F1 of the words of the prediction and of an answer, after normalisation.

    Where one of the two has no words: 1 if neither has, else 0, as SQuAD v2.0's script has it.

    Examples
    --------
    >>> f1(["the blue sky"], "sky")
    0.6666666666666666
    """
    words = normalize_answer(prediction).split()
    return max(_f1(gold.split(), words) for gold in _normal(golds))


def _normal(golds: Sequence[str]) -> list[str]:
    return [gold for gold in map(normalize_answer, golds) if gold] or [""]


def _f1(gold: list[str], words: list[str]) -> float:
    if not gold or not words:
        return float(gold == words)
    common = (Counter(gold) & Counter(words)).total()
    return 2.0 * common / (len(gold) + len(words))


@dataclass(frozen=True, slots=True)
class Scored:
    """Questions with their predictions and what these are worth, of one length n.

    Parameters
    ----------
    exact, f1 : ndarray of shape (n,)
        Of the best span, whether or not it is put forward.
    differences : ndarray of shape (n,)
        Score of no answer less that of the best span; −∞ where there always is an answer.
    answerable : ndarray of shape (n,), bool
        Whether the question has an answer.
    empty : ndarray of shape (n,), bool
        Whether no span was found at all.
    """

    exact: Floats
    f1: Floats
    differences: Floats
    answerable: NDArray[np.bool_]
    empty: NDArray[np.bool_]


def at_threshold(scored: Scored, values: Floats, threshold: float) -> Floats:
    """Return ``values`` of the questions where no answer is predicted for differences above ``threshold``."""
    return np.where(scored.differences > threshold, np.where(scored.answerable, 0.0, 1.0), values)


def best_threshold(scored: Scored, values: Floats) -> tuple[float, float]:
    """Return the largest mean of ``values`` that a threshold can give, and the smallest threshold that gives it.

    Examples
    --------
    >>> two = np.array([1.0, 0.0])
    >>> best_threshold(Scored(two, two, np.array([-1.0, 3.0]), np.array([True, False]), two > 2), two)
    (1.0, -1.0)
    """
    order = np.argsort(scored.differences, kind="stable")
    differences = scored.differences[order]
    # Putting a span forward gains its worth, or loses what no answer to an unanswerable question is worth.
    gains = np.where(scored.answerable, values, np.where(scored.empty, 0.0, -1.0))[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)]) + np.sum(~scored.answerable)
    # Questions of equal difference go together.
    reachable = np.concatenate([[True], differences[1:] != differences[:-1], [True]])
    best = int(np.argmax(np.where(reachable, totals, -math.inf)))
    below_all = float(np.nextafter(differences[0], -math.inf))
    return float(totals[best] / len(order)), below_all if best == 0 else float(differences[best - 1])


def squad_scores(scored: Scored, threshold: float, *, unanswerable: bool) -> dict[str, float]:
    """Return SQuAD's metrics, fractions and not percent.

    Parameters
    ----------
    scored : Scored
        At least one question.
    threshold : float
        Of the differences.
    unanswerable : bool
        Add the metrics of SQuAD v2.0; NaN where there is no question of the kind.
    """
    worth = {"exact": scored.exact, "f1": scored.f1}
    if not unanswerable:
        return {"exact_match": float(scored.exact.mean()), "f1": float(scored.f1.mean())}
    decided = {name: at_threshold(scored, values, threshold) for name, values in worth.items()}
    found = {"exact_match": float(decided["exact"].mean()), "f1": float(decided["f1"].mean())}
    for kind, chosen in (("HasAns", scored.answerable), ("NoAns", ~scored.answerable)):
        for name, values in decided.items():
            found[f"{kind}_{name}"] = float(values[chosen].mean()) if chosen.any() else math.nan
    for name, values in worth.items():
        found[f"best_{name}"], found[f"best_{name}_thresh"] = best_threshold(scored, values)
    return found


def score_answers(golds: Sequence[Sequence[str]], spans: Sequence[str], differences: Any) -> Scored:
    """Return what the best spans of some questions are worth.

    Parameters
    ----------
    golds : sequence of sequence of str
        The answers to each question, none to an unanswerable one.
    spans : sequence of str
        The best span for each, empty where there is none.
    differences : array-like of shape (n,)
        As `Scored` has them.
    """
    pairs = list(zip(golds, spans, strict=True))
    return Scored(
        np.array([exact_match(gold, span) for gold, span in pairs]),
        np.array([f1(gold, span) for gold, span in pairs]),
        np.asarray(differences, dtype=np.float64),
        np.array([len(gold) > 0 for gold in golds]),
        np.array([not span for span in spans]),
    )
