"""The metrics of GLUE: labels and predictions in, numbers out; and which way every metric is better."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Parameters
    ----------
    function : callable
        ``function(labels, predictions) -> float``.
    problem : str
        ``"classification"``: both are class indices; ``"regression"``: both are numbers.
    """

    function: Callable[[NDArray[Any], NDArray[Any]], float]
    problem: str


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of predictions that equal their label.

    Examples
    --------
    >>> accuracy([0, 1, 1, 0], [0, 1, 0, 0])
    0.75
    """
    return float(np.mean(np.asarray(labels) == np.asarray(predictions)))


def f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the F1 of class 1, the positive class of MRPC and QQP; 0 where class 1 is never predicted.

    Examples
    --------
    >>> f1([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))


def f1_macro(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the mean F1 over the classes that occur, for any number of classes.

    Examples
    --------
    >>> round(f1_macro([0, 1, 2], [0, 1, 1]), 4)
    0.5556
    """
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def matthews_correlation(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return Matthews' correlation coefficient, from −1 to 1, for two or more classes.

    Constant predictions (or labels) carry no information and give 0, as scikit-learn has it.

    Examples
    --------
    >>> matthews_correlation([1, 1, 0, 0], [1, 1, 0, 0])
    1.0
    """
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "a single label was found": 0 is what we want then
        return float(matthews_corrcoef(labels, predictions))


def pearson(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return Pearson's correlation, NaN for constant predictions or labels.

    A correlation divides by the standard deviation of both: where one is 0 there is no number, and 0 would
    read as "uncorrelated".

    Examples
    --------
    >>> round(pearson([0.0, 1.0, 2.0], [0.0, 1.0, 3.0]), 4)
    0.982
    """
    from scipy.stats import pearsonr

    return _correlation(pearsonr, labels, predictions)


def spearman(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return Spearman's rank correlation, NaN for constant predictions or labels; see `pearson`.

    Examples
    --------
    >>> spearman([0.0, 1.0, 2.0], [0.0, 1.0, 30.0])
    1.0
    """
    from scipy.stats import spearmanr

    return _correlation(spearmanr, labels, predictions)


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(accuracy, "classification"),
    "f1": Metric(f1, "classification"),
    "f1_macro": Metric(f1_macro, "classification"),
    "matthews_correlation": Metric(matthews_correlation, "classification"),
    "pearson": Metric(pearson, "regression"),
    "spearman": Metric(spearman, "regression"),
}


# Of questions some of which have no answer, by the names of SQuAD's own script; a threshold is neither good nor bad.
ANSWERABILITY_METRICS: Mapping[str, bool | None] = {
    "HasAns_exact": True,
    "HasAns_f1": True,
    "NoAns_exact": True,
    "NoAns_f1": True,
    "best_exact": True,
    "best_exact_thresh": None,
    "best_f1": True,
    "best_f1_thresh": None,
}


def directions_of(problem: str) -> Mapping[str, bool | None]:
    """Return the metrics of a problem: True where a larger value is better, False where a smaller, None where neither.

    Examples
    --------
    >>> directions_of("language_modelling")
    {'loss': False, 'perplexity': False}
    """
    if problem == "question_answering":
        return {"exact_match": True, "f1": True, **ANSWERABILITY_METRICS}
    if problem == "language_modelling":
        return {"loss": False, "perplexity": False}
    return {name: True for name, metric in METRICS.items() if metric.problem == problem}


def evaluate_predictions(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    *,
    problem: str,
    metrics: Sequence[str],
    score: Sequence[str],
) -> dict[str, float]:
    """Return each metric and the ``score``, the mean of those that make it up.

    GLUE reports one number a task: Matthews' correlation for CoLA, the mean of accuracy and F1 for MRPC and QQP,
    the mean of Pearson's and Spearman's correlation for STS-B, accuracy elsewhere.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes), or (n,) or (n, 1) for regression
        What the model returns.
    labels : ndarray of shape (n,)
        Class indices or numbers.
    problem : {"classification", "regression"}
        Whether predictions are the largest logit's class or the logit itself.
    metrics, score : sequence of str
        Names in `METRICS`.

    Returns
    -------
    dict
        Fractions, not percent; NaN where undefined.

    Raises
    ------
    ValueError
        If a logit is not finite: the model diverged.
    """
    predictions = predict(logits, problem)
    values = {name: METRICS[name].function(np.asarray(labels), predictions) for name in metrics}
    return values | {"score": float(np.mean([values[name] for name in score]))}


def predict(logits: NDArray[np.floating[Any]], problem: str) -> NDArray[Any]:
    """Return the classes, or the numbers, that ``logits`` stand for."""
    check_outputs(logits)
    return np.asarray(logits, dtype=np.float64).reshape(-1) if problem == "regression" else logits.argmax(axis=-1)


def check_outputs(outputs: NDArray[np.floating[Any]]) -> None:
    """Raise ValueError if an output of the model is not finite: it diverged."""
    finite = np.isfinite(outputs)
    if not finite.all():
        raise ValueError(
            f"the model's outputs must be finite, {int((~finite).sum())} of {finite.size} are not: "
            "it diverged; lower `learning_rate`"
        )


def _correlation(function: Callable[..., Any], labels: ArrayLike, predictions: ArrayLike) -> float:
    first, second = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's near-constant input: the value says it
        return float(function(first, second).statistic)
