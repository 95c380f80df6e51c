"""The metrics against cases computed by hand."""

import math
import warnings

import numpy as np
import pytest

from gelora.finetuning.glue import find_task
from gelora.finetuning.metrics import METRICS, evaluate_predictions, matthews_correlation

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
LABELS = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 7 / 10),
        ("f1", 2 * 3 / (2 * 3 + 1 + 2)),
        ("f1_macro", (6 / 9 + 8 / 11) / 2),
        ("matthews_correlation", (3 * 4 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))),
    ],
)
def test_a_metric_of_classes_has_the_value_computed_by_hand(name: str, expected: float) -> None:
    assert METRICS[name].function(np.array(LABELS), np.array(PREDICTIONS)) == pytest.approx(expected, abs=1e-12)


def test_correlations_have_the_values_computed_by_hand() -> None:
    labels, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 10.0])
    # Σ(x−x̄)(y−ȳ) = 13, Σ(x−x̄)² = 5, Σ(y−ȳ)² = 50; the ranks 1 3 2 4 differ by 0 1 1 0
    assert METRICS["pearson"].function(labels, predictions) == pytest.approx(13 / math.sqrt(5 * 50), abs=1e-12)
    assert METRICS["spearman"].function(labels, predictions) == pytest.approx(1 - 6 * 2 / (4 * 15), abs=1e-12)


def test_constant_predictions_give_zero_for_classes_and_nan_for_correlations_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert matthews_correlation([0, 1, 1, 0], [1, 1, 1, 1]) == 0.0
        assert matthews_correlation([1, 1], [1, 1]) == 0.0
        assert METRICS["f1"].function(np.array([0, 1]), np.array([0, 0])) == 0.0
        for name in ("pearson", "spearman"):
            assert math.isnan(METRICS[name].function(np.array([0.0, 1.0, 2.0]), np.array([3.0, 3.0, 3.0])))
            assert math.isnan(METRICS[name].function(np.array([1.0]), np.array([2.0])))


def test_matthews_correlation_is_minus_one_for_swapped_classes_and_knows_three_classes() -> None:
    assert matthews_correlation([0, 1, 0, 1], [1, 0, 1, 0]) == -1.0
    # Gorodkin's R_K: (c·s − Σ t_k p_k) / sqrt((s² − Σ p_k²)(s² − Σ t_k²)) with s = 4, c = 3
    assert matthews_correlation([0, 1, 2, 2], [0, 1, 2, 1]) == pytest.approx((3 * 4 - 5) / math.sqrt(10 * 10))


def test_the_score_is_the_mean_of_the_metrics_that_make_it_up() -> None:
    logits = np.eye(2, dtype=np.float32)[PREDICTIONS]
    values = evaluate_predictions(
        logits,
        np.array(LABELS),
        problem="classification",
        metrics=("accuracy", "f1"),
        score=("accuracy", "f1"),
    )
    assert values["score"] == pytest.approx((0.7 + 2 / 3) / 2)
    values = evaluate_predictions(
        logits, np.array(LABELS), problem="classification", metrics=("accuracy", "f1"), score=("f1",)
    )
    assert values["score"] == values["f1"]


def test_a_regression_is_scored_on_its_single_output() -> None:
    labels = np.array([0.0, 1.0, 2.0])
    values = evaluate_predictions(
        labels[:, None] * 2, labels, problem="regression", metrics=("pearson", "spearman"), score=("pearson",)
    )
    assert values == pytest.approx({"pearson": 1.0, "spearman": 1.0, "score": 1.0})


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outputs must be finite, 1 of 4 are not.*lower `learning_rate`"):
        evaluate_predictions(
            np.array([[0.0, np.nan], [1.0, 0.0]]),
            np.array([0, 1]),
            problem="classification",
            metrics=("accuracy",),
            score=("accuracy",),
        )


# Counted by hand: 2 true positives, 1 false positive, 1 false negative, 2 true negatives
OFFICIAL = {
    "cola": (2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3),
    "sst2": 4 / 6,
    "mrpc": (4 / 6 + 2 * 2 / (2 * 2 + 1 + 1)) / 2,
    "qqp": (4 / 6 + 2 * 2 / (2 * 2 + 1 + 1)) / 2,
    "mnli": 4 / 6,
    "qnli": 4 / 6,
    "rte": 4 / 6,
    "wnli": 4 / 6,
    "stsb": (13 / math.sqrt(5 * 50) + 1 - 6 * 2 / (4 * 15)) / 2,
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_glue_task_is_scored_as_the_benchmark_has_it(name: str) -> None:
    task = find_task(name)
    if task.problem == "regression":
        outputs, labels = np.array([[1.0], [3.0], [2.0], [10.0]]), np.array([1.0, 2.0, 3.0, 4.0])
    else:
        n_classes = len(task.label_names)
        outputs, labels = np.eye(n_classes)[[1, 1, 0, 1, 0, 0]], np.array([1, 1, 1, 0, 0, 0])
    found = evaluate_predictions(outputs, labels, problem=task.problem, metrics=task.metrics, score=task.score)
    assert found["score"] == pytest.approx(OFFICIAL[name], abs=1e-12)
