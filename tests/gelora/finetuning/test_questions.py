"""Windows over contexts: nothing is lost, the answer is where it is said to be, and what cannot be read is refused."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gelora.finetuning.answer_inputs import AnswerEvaluation, answer_parts
from gelora.finetuning.answers import find_answers
from gelora.finetuning.questions import PadWindows, Window, Windows, cut_windows
from gelora.finetuning.tasks import Answering, Task, TaskData, load_task

CONTEXT = "the film was very good the play was bad the song is long"
COLUMNS = ("question", "context", "answers")


def row(answer: str = "good", start: int = 18, **more: Any) -> dict[str, Any]:
    answers = {"text": [answer], "answer_start": [start]} if answer else {"text": [], "answer_start": []}
    return {"question": "is film", "context": CONTEXT, "answers": answers} | more


def make_task(rows: Any, **changes: Any) -> Task:
    fields = {"name": "mine", "problem": "question_answering", "text": ("question", "context")}
    return Task(**fields | {"train": rows, "validation": rows} | changes)


def cut(data: TaskData, tokenizer: Any, max_length: int, stride: int = 4) -> Windows:
    return cut_windows(data.validation, COLUMNS, tokenizer, max_length, Answering(stride=stride), "validation")


def oracle(windows: Windows, pad: PadWindows, golds: list[dict[str, Any]]) -> Any:
    """Return logits that point at the first answer in every window that holds it, faintly at no answer elsewhere."""
    logits = np.zeros((len(windows.rows), pad.width, 2))
    for place, (one, window) in enumerate(zip(windows.rows, windows.windows, strict=True)):
        positions = (one["start_positions"], one["end_positions"])
        held = positions[0] != window.null or not golds[window.question]["text"]
        for side, position in enumerate(positions):
            logits[place, pad.shift(window.n_tokens) + position, side] = 10.0 if held else 1.0
    return logits


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stride", [0, 3, 50])
def test_every_token_of_a_context_lies_in_a_window_and_neighbours_share_the_stride(
    stride: int, side: str, tiny_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    made = cut(load_task(make_task([row()])), tokenizer, 12, stride)
    spans = [list(map(tuple, window.offsets.tolist())) for window in made.windows]
    words = [match.span() for match in re.finditer(r"\w+", CONTEXT)]
    assert sorted({span for window in spans for span in window}) == words
    shared = min(stride, (12 - 3 - 2) // 2)
    for first, second in itertools.pairwise(spans):
        assert len(set(first) & set(second)) == shared
    assert all(len(one["input_ids"]) <= 12 for one in made.rows)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_places_of_an_answer_are_those_of_its_tokens_in_the_padded_batch(
    side: str, tiny_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    data = load_task(make_task([row(), row("long", 52), row("very good", 13), row("")]))
    made = cut(data, tokenizer, 13)
    pad = PadWindows(tokenizer, max(window.n_tokens for window in made.windows))
    batch = pad(made.rows)
    words = {0: "good", 1: "long", 2: "very good"}
    found = set()
    for place, window in enumerate(made.windows):
        start, end = int(batch["start_positions"][place]), int(batch["end_positions"][place])
        text = tokenizer.decode(batch["input_ids"][place, start : end + 1])
        if text == "[CLS]":
            held = [CONTEXT[a:b] for a, b in window.offsets]
            assert not set(words.get(window.question, "none").split()) <= set(held)
        else:
            assert text == words[window.question]
            found.add(window.question)
    assert found == {0, 1, 2}
    assert int(batch["attention_mask"][0, 0 if side == "right" else -1]) == 1


def test_the_question_comes_first_and_is_stripped(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer()
    made = cut(load_task(make_task([row(question="  is film ")])), tokenizer, 40)
    assert tokenizer.decode(made.rows[0]["input_ids"]) == f"[CLS] is film [SEP] {CONTEXT} [SEP]"
    assert (made.windows[0].first, made.windows[0].null) == (4, 0)


def test_without_a_cls_token_no_answer_is_the_bos_token_or_the_first(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    assert cut(load_task(make_task([row("")])), tokenizer, 40).windows[0].null == 0
    tokenizer.bos_token = "film"
    assert cut(load_task(make_task([row("")])), tokenizer, 40).windows[0].null == 1


@pytest.mark.parametrize("name", ["squad", "squad_v2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pointing_at_the_answers_of_real_questions_is_an_exact_match(
    name: str, side: str, data_dir: Path, minilm: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm, padding_side=side)
    frame = pd.read_parquet(data_dir / name / "validation.parquet").sample(300, random_state=0)
    task = Task(
        name=name,
        problem="question_answering",
        text=("question", "context"),
        answering=Answering(stride=32, max_answer_length=64),
        train=frame,
        validation=frame,
    )
    data = load_task(task)
    assert data.task.answering.unanswerable == (name == "squad_v2")
    parts = answer_parts(tokenizer, data, 128)
    made = cut_windows(data.validation, COLUMNS, tokenizer, 128, task.answering, "validation")
    assert parts["facts"]["n_validation_windows"] == len(made.rows) > 300
    golds = list(data.validation["answers"])
    held = {w.question for r, w in zip(made.rows, made.windows, strict=True) if r["start_positions"] != w.null}
    assert held == {row for row, gold in enumerate(golds) if gold["text"]}  # every answer lies in some window
    logits = oracle(made, parts["collate"], golds)
    table = pd.DataFrame(parts["tabulate"](logits, None))
    assert table["id"].tolist() == frame["id"].tolist()
    # A token is the least that can be pointed at: "1950" in "1950s" cannot.
    torn = []
    for place, (gold, context) in enumerate(zip(golds, data.validation["context"], strict=True)):
        if gold["text"]:
            start, stop = gold["answer_start"][0], gold["answer_start"][0] + len(gold["text"][0])
            around = context[max(0, start - 1) : start] + context[stop : stop + 1]
            torn += [place] if any(letter.isalnum() for letter in around) else []
    whole = table.drop(index=torn)
    assert len(torn) < 6
    assert (whole["exact_match"] == 1).all()
    assert (whole["f1"] == 1).all()
    metrics = parts["evaluate"](logits, None)
    assert metrics["exact_match"] == table["exact_match"].mean()
    assert metrics["score"] == metrics["f1"] > 0.98


def evaluation(windows: list[Window], n: int, answering: Answering) -> list[Any]:
    return [windows, ["abcdefgh"] * n, answering, lambda n_tokens: 0]


def test_the_best_span_is_the_best_of_all_windows_that_is_short_enough() -> None:
    letters = np.array([[i, i + 1] for i in range(8)])
    windows = [Window(0, 2, letters[:5], 0, 8), Window(0, 2, letters[3:], 0, 8)]
    logits = np.zeros((2, 8, 2))
    logits[0, 2, 0], logits[0, 6, 1] = 5, 5  # "abcde", too long
    logits[0, 4, 1] = 0.5  # "abc"
    logits[1, 3, 0], logits[1, 4, 1] = 2, 2  # "ef"
    logits[0, 0], logits[1, 0] = (1, 1), (3, -2)
    logits[0, 7] = 99  # outside the context
    found = find_answers(logits, *evaluation(windows, 1, Answering(max_answer_length=3)))[0]
    assert (found.span, found.score, found.no_answer_score) == ("abc", 5.5, 1.0)
    longer = find_answers(logits, *evaluation(windows, 1, Answering(max_answer_length=5)))[0]
    assert (longer.span, longer.score) == ("abcde", 10.0)
    greedy = find_answers(logits, *evaluation(windows, 1, Answering(max_answer_length=3, n_best=1)))[0]
    assert (greedy.span, greedy.score) == ("ef", 4.0)


def test_random_logits_give_the_span_that_an_exhaustive_search_finds(rng: np.random.Generator) -> None:
    letters = np.array([[i, i + 1] for i in range(8)])
    logits = rng.normal(size=(20, 8, 2))
    windows = [Window(i, 0, letters, 0, 8) for i in range(20)]
    for found, values in zip(
        find_answers(logits, *evaluation(windows, 20, Answering(max_answer_length=3))), logits, strict=True
    ):
        spans = {
            (values[i, 0] + values[j, 1]): "abcdefgh"[i : j + 1] for i in range(8) for j in range(i, min(8, i + 3))
        }
        assert found.score == max(spans)
        assert found.span == spans[max(spans)]


def test_an_empty_context_has_no_span_and_its_question_no_answer(tiny_tokenizer: Callable[..., Any]) -> None:
    data = load_task(make_task([row(), row("", context="")]))
    parts = answer_parts(tiny_tokenizer(), data, 40)
    table = parts["tabulate"](np.zeros((2, 40, 2)), None)
    assert table["span"][1] == table["prediction"][1] == ""
    assert table["exact_match"][1] == 1.0


def test_outputs_that_are_not_finite_are_refused(tiny_tokenizer: Callable[..., Any]) -> None:
    parts = answer_parts(tiny_tokenizer(), load_task(make_task([row()])), 40)
    with pytest.raises(ValueError, match=r"outputs must be finite, 80 of 80 are not"):
        parts["evaluate"](np.full((1, 40, 2), np.nan), None)


def test_a_threshold_trades_answers_for_refusals(tiny_tokenizer: Callable[..., Any]) -> None:
    rows = [row(), row("")]
    for threshold, expected in ((0.0, ["", ""]), (1e9, ["good", "good"])):
        data = load_task(make_task(rows, answering=Answering(null_threshold=threshold)))
        made = cut(data, tiny_tokenizer(), 40)
        logits = np.zeros((2, 40, 2))
        logits[:, made.rows[0]["start_positions"]], logits[:, 0] = 5.0, 6.0
        pad = PadWindows(tiny_tokenizer(), 40)
        found = AnswerEvaluation(data, made.windows, pad).table(logits, None)
        assert found["prediction"] == expected
        assert found["span"] == ["good", "good"]
        assert found["no_answer_score"] == [12.0, 12.0]
        assert found["score"] == [10.0, 10.0]
        assert found["exact_match"].tolist() == ([0.0, 1.0] if threshold == 0 else [1.0, 0.0])


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow: Any = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match=r"`tokenizer` must tell where its tokens stand .*give a fast one"):
        cut(load_task(make_task([row()])), slow, 20)


def test_a_question_that_leaves_no_room_is_named(tiny_tokenizer: Callable[..., Any]) -> None:
    data = load_task(make_task([row(), row(question="is film " * 5)]))
    with pytest.raises(
        ValueError, match=r"`max_length`: the question in row 1 of the validation split takes 10 tokens, .* none of 13"
    ):
        cut(data, tiny_tokenizer(), 13)


@pytest.mark.parametrize(
    ("rows", "changes", "error", "message"),
    [
        (
            [row(start=17)],
            {},
            ValueError,
            r"the answer 'good' in row 0 of the train split must stand .* there stands ' goo'",
        ),
        ([row(), row(start=-40)], {}, ValueError, r"in row 1 of the train split must stand in its context at the char"),
        (
            [row(answers="good")],
            {},
            TypeError,
            r"the column 'answers' of the train split must hold mappings .* got str",
        ),
        ([row(answers=None)], {}, TypeError, r"to lists of one length, empty where .* got NoneType None in row 0"),
        ([row(answers={"text": ["a"], "answer_start": []})], {}, TypeError, r"to lists of one length"),
        ([row(answers={"text": [3], "answer_start": [3]})], {}, TypeError, r"to lists of one length"),
        (
            [row(), row("")],
            {"answering": Answering(unanswerable=False)},
            ValueError,
            r"the question in row 1 of the train split has no answer, but .* take 'squad_v2', or give Answering\(",
        ),
        ([row(context=3)], {}, TypeError, r"the column 'context' of the train split must hold strings, got int"),
        (
            [row()],
            {"label": "gold"},
            ValueError,
            r"the train split .* has no column 'gold', which the task 'mine' needs",
        ),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(
    rows: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_task(make_task(rows, **changes))


def test_validation_answers_need_not_stand_where_they_are_said_to() -> None:
    data = load_task(make_task([row()], validation=[row(start=3)]))
    assert data.validation[0]["answers"] == {"text": ["good"], "answer_start": [3]}


def test_rows_are_read_from_files_memory_and_sets_alike(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [row(id="x"), row("", id="y")]
    as_list = [r | {"answers": [{"text": t, "answer_start": 18} for t in r["answers"]["text"]]} for r in rows]
    own = [load_task(make_task(form)) for form in (rows, as_list, pd.DataFrame(rows), Dataset.from_list(rows))]
    for suffix in ("parquet", "jsonl"):
        folder = tmp_path / suffix
        folder.mkdir()
        for split in ("train", "validation"):
            frame = pd.DataFrame(rows)
            if suffix == "jsonl":
                frame.to_json(folder / f"{split}.jsonl", orient="records", lines=True)
            else:
                frame.to_parquet(folder / f"{split}.parquet")
        own.append(load_task("squad_v2", folder))
    assert len({data.fingerprint() for data in own}) == 1
    assert all(list(data.train["id"]) == ["x", "y"] for data in own)
    assert list(load_task(make_task([row(), row()])).train["id"]) == ["0", "1"]


def test_columns_may_have_names_of_their_own(tiny_tokenizer: Callable[..., Any]) -> None:
    names = {"question": "q", "context": "passage", "answers": "gold"}
    rows = [{names[key]: value for key, value in row().items()} | {"number": 7}]
    task = make_task(rows, text=("q", "passage"), label="gold", answering=Answering(id_column="number"))
    parts = answer_parts(tiny_tokenizer(), load_task(task), 40)
    assert parts["tabulate"](np.zeros((1, 40, 2)), None)["id"] == ["7"]


def test_unanswerable_questions_bring_their_metrics_and_the_built_in_tasks_know_of_them() -> None:
    assert load_task(make_task([row()])).task.metrics == ("exact_match", "f1")
    found = load_task(make_task([row(), row("")])).task
    assert found.metrics[:4] == ("exact_match", "f1", "HasAns_exact", "HasAns_f1")
    assert found.metrics[-1] == "best_f1_thresh"
    assert found.score == ("f1",)


@pytest.mark.parametrize("name", ["squad", "squad_v2", "SQuAD-v2"])
def test_squad_comes_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(*names: str) -> Any:
        asked.append(names)
        rows = datasets.Dataset.from_list([row(id="a", title="t")])
        return {"train": rows, "validation": rows}

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = load_task(name)
    assert asked == [("rajpurkar/squad",) if name == "squad" else ("rajpurkar/squad_v2",)]
    assert data.train.column_names == ["id", "question", "context", "answers"]
    assert bool(data.task.answering.unanswerable) == (name != "squad")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": -1}, r"`stride` must be an integer of at least 0, got -1"),
        ({"n_best": 0}, r"`n_best` must be an integer of at least 1, got 0"),
        ({"max_answer_length": 0}, r"`max_answer_length` must be an integer of at least 1, got 0"),
        ({"null_threshold": "0"}, r"`null_threshold` must be a finite number, got '0'"),
        ({"unanswerable": 3}, r"`unanswerable` must be True, False, or None for what the data hold, got 3"),
    ],
)
def test_an_option_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Answering(**changes)
