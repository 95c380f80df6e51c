"""SQuAD's metrics: cases by hand, a second implementation, and the rules for questions without an answer."""

import math
import random
import re
import string
from typing import Any

import numpy as np
import pytest

from gelora.finetuning.squad_metrics import (
    Scored,
    at_threshold,
    best_threshold,
    exact_match,
    f1,
    normalize_answer,
    score_answers,
    squad_scores,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Sun's end, a day.", "suns end day"),
        ("an apple\tA day", "apple day"),
        ("theory of another aardvark", "theory of another aardvark"),
        ("  ", ""),
        ("The a an", ""),
        ("10–12", "10–12"),  # an en dash is no ASCII punctuation
        ("U.S.A.", "usa"),
        ("«été»", "«été»"),
        ("the-the", "thethe"),  # punctuation goes first
    ],
)
def test_an_answer_is_normalised_as_by_hand(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("golds", "prediction", "exact", "overlap"),
    [
        (["Denver Broncos"], "the Denver Broncos!", 1, 1),
        (["Denver Broncos"], "Broncos", 0, 2 / 3),  # precision 1, recall 1/2
        (["Denver", "Denver Broncos"], "Denver Broncos", 1, 1),
        (["a b c", "a b c d"], "b d", 0, 4 / 5),  # of "b c d": precision 1, recall 2/3
        (["x x y"], "x z", 0, 2 / 5),  # one x in common, of 2 and of 3
        (["x"], "", 0, 0),
        ([], "", 1, 1),
        ([], "x", 0, 0),
        ([], "the.", 1, 1),
        (["the"], "", 1, 1),
        (["the", "x"], "", 0, 0),  # an answer of articles alone does not count beside another
        (["one two"], "three", 0, 0),
    ],
)
def test_exact_match_and_f1_have_the_values_computed_by_hand(
    golds: list[str], prediction: str, exact: float, overlap: float
) -> None:
    assert exact_match(golds, prediction) == exact
    assert f1(golds, prediction) == pytest.approx(overlap, abs=1e-12)


def words_of(text: str) -> list[str]:
    """Normalise word by word: another way than by one expression over the text."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return [word for word in re.split(r"\s+", plain) if word and word not in ("a", "an", "the")]


def slow_f1(gold: str, prediction: str) -> float:
    first, second = words_of(gold), words_of(prediction)
    if not first or not second:
        return float(first == second)
    left, common = list(first), 0
    for word in second:
        if word in left:
            left.remove(word)
            common += 1
    precision, recall = common / len(second), common / len(first)
    return 0.0 if not common else 2 * precision * recall / (precision + recall)


def test_random_answers_score_as_by_a_second_implementation() -> None:
    draw = random.Random(3)
    vocabulary = ["a", "The", "an", "Sun,", "sun", "moon's", "moons", "1950s", "x.", "-", "y"]
    for _ in range(2000):
        golds = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        prediction = " ".join(draw.choices(vocabulary, k=draw.randint(0, 4)))
        kept = [gold for gold in golds if words_of(gold)] or [""]
        assert exact_match(golds, prediction) == max(words_of(gold) == words_of(prediction) for gold in kept)
        assert f1(golds, prediction) == pytest.approx(max(slow_f1(gold, prediction) for gold in kept), abs=1e-12)


def make_scored(n: int, seed: int, *, ties: bool = False) -> Scored:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 4, n).astype(float) if ties else rng.normal(size=n)
    answerable, empty = rng.random(n) < 0.6, rng.random(n) < 0.1
    overlap = np.where(answerable & ~empty, rng.random(n), np.where(answerable, 0.0, empty.astype(float)))
    return Scored(np.floor(overlap * 1.3), overlap, differences, answerable, empty)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all_thresholds(seed: int, ties: bool) -> None:
    scored = make_scored(40, seed, ties=ties)
    best, threshold = best_threshold(scored, scored.f1)
    tried = [-math.inf, *scored.differences, math.inf]
    assert best == pytest.approx(max(at_threshold(scored, scored.f1, value).mean() for value in tried))
    assert at_threshold(scored, scored.f1, threshold).mean() == pytest.approx(best)


def test_a_difference_above_the_threshold_means_no_answer() -> None:
    scored = score_answers([["x"], ["x"], [], []], ["x", "x", "x", "x"], [0.5, 1.5, 1.0, 1.5])
    found = squad_scores(scored, 1.0, unanswerable=True)
    # the first is right, the second withheld, the third answered at the threshold itself, the fourth withheld rightly
    assert found == {
        "exact_match": 0.5,
        "f1": 0.5,
        "HasAns_exact": 0.5,
        "HasAns_f1": 0.5,
        "NoAns_exact": 0.5,
        "NoAns_f1": 0.5,
        "best_exact": 0.75,
        "best_exact_thresh": 0.5,
        "best_f1": 0.75,
        "best_f1_thresh": 0.5,
    }


def test_without_unanswerable_questions_the_threshold_does_not_matter() -> None:
    scored = score_answers([["x"], ["x y"]], ["x", "x"], [-math.inf, -math.inf])
    assert squad_scores(scored, 0.0, unanswerable=False) == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}


def test_where_no_question_is_of_a_kind_its_metrics_are_nan() -> None:
    found: dict[str, Any] = squad_scores(score_answers([["x"]], ["x"], [0.0]), 0.0, unanswerable=True)
    assert math.isnan(found["NoAns_exact"])
    assert found["HasAns_f1"] == found["f1"] == 1.0


def test_where_nothing_can_be_answered_the_best_is_to_answer_nothing() -> None:
    scored = score_answers([[], []], ["x", "y"], [2.0, -1.0])
    best, threshold = best_threshold(scored, scored.exact)
    assert best == 1.0
    assert threshold < -1.0
    assert at_threshold(scored, scored.exact, threshold).tolist() == [1.0, 1.0]
