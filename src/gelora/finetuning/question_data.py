"""Questions, contexts and answers as people store them → checked rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gelora.finetuning.glue import Task, is_missing
from gelora.finetuning.metrics import ANSWERABILITY_METRICS
from gelora.finetuning.tables import Table

if TYPE_CHECKING:
    from datasets import Dataset

Answers = dict[str, list[Any]]


def read_answers(table: Table, task: Task, split: str) -> list[Answers]:
    """Return the answers to each question as lists ``text`` and ``answer_start`` of one length.

    Raises
    ------
    TypeError
        If answers are no mapping of such lists.
    ValueError
        If an answer of the train split does not stand where it is said to, or is empty.
    """
    contexts = table.columns[task.text[1]]
    found = [_read(value, row, split, task.label) for row, value in enumerate(table.columns[task.label])]
    if split == "train":
        for row, answers in enumerate(found):
            for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                stands = contexts[row][start : start + len(text)] if start >= 0 else ""
                if not text or stands != text:
                    raise ValueError(
                        f"the answer {text!r:.60} in row {row} of the train split must stand in its context at the "
                        f"character {start}, there stands {stands!r:.60}: correct `answer_start`, or drop that row"
                    )
    return found


def settle_answering(task: Task, answers: Mapping[str, Sequence[Answers]]) -> Task:
    """Return ``task`` knowing whether questions may be unanswerable, with the metrics for it.

    Raises
    ------
    ValueError
        If there are questions without answers, but the task says there are none.
    """
    bare = [(split, row) for split, rows in answers.items() for row, found in enumerate(rows) if not found["text"]]
    said = task.answering.unanswerable
    if bare and said is False:
        split, row = bare[0]
        raise ValueError(
            f"the question in row {row} of the {split} split has no answer, but the task {task.name!r} is of questions "
            "that have one: drop such rows, take 'squad_v2', or give Answering(unanswerable=True)"
        )
    unanswerable = bool(bare) if said is None else said
    own = replace(task.answering, unanswerable=unanswerable)
    if not unanswerable:
        return replace(task, answering=own)
    more = tuple(name for name in ANSWERABILITY_METRICS if name not in task.metrics)
    return replace(task, answering=own, metrics=(*task.metrics, *more))


def question_rows(table: Table, answers: Sequence[Answers], task: Task, rows: Sequence[int]) -> "Dataset":
    """Return the chosen rows with the columns ``id``, the question, the context and the answers."""
    from datasets import Dataset, Features, List, Value

    name = task.answering.id_column
    names = (
        [str(value) for value in table.columns[name]] if name in table.columns else list(map(str, range(len(table))))
    )
    columns: dict[str, list[Any]] = {"id": [names[row] for row in rows]}
    columns |= {column: [table.columns[column][row] for row in rows] for column in task.text}
    columns[task.label] = [answers[row] for row in rows]
    kinds: dict[str, Any] = dict.fromkeys(("id", *task.text), Value("string"))
    kinds[task.label] = {"text": List(Value("string")), "answer_start": List(Value("int64"))}
    return Dataset.from_dict(columns, features=Features(kinds))


def _read(value: Any, row: int, split: str, column: str) -> Answers:
    if isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value):  # as SQuAD's own files
        value = {key: [one.get(key) for one in value] for key in ("text", "answer_start")}
    try:
        if is_missing(value):
            raise TypeError
        texts, starts = list(value["text"]), [int(start) for start in value["answer_start"]]
    except (TypeError, KeyError, ValueError, IndexError):
        texts, starts = [None], []
    if len(texts) != len(starts) or not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"the column {column!r} of the {split} split must hold mappings of `text` and `answer_start` to lists of "
            f"one length, empty where there is no answer, got {type(value).__name__} {value!r:.60} in row {row}"
        )
    return {"text": texts, "answer_start": starts}
