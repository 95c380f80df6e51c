"""Tasks and their data: read from files, memory or the hub, labels normalised, everything checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gelora.corpora import draw_rows
from gelora.finetuning.glue import GLUE_TASKS as GLUE_TASKS
from gelora.finetuning.glue import Answering as Answering
from gelora.finetuning.glue import Task as Task
from gelora.finetuning.glue import find_task as find_task
from gelora.finetuning.images import find_class_names, images_of, labelled_images, read_image_splits
from gelora.finetuning.labels import check_labels_present, class_names, to_classes, to_numbers
from gelora.finetuning.question_data import question_rows, read_answers, settle_answering
from gelora.finetuning.tables import Table, read_splits
from gelora.messages import nearest
from gelora.provenance import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class TaskData:
    """Train and validation split of a task.

    Parameters
    ----------
    task : Task
        With ``label_names`` filled in.
    train, validation : datasets.Dataset
        The text columns and the label column alone, labels being class indices (``ClassLabel``) or floats; of an image
        task ``image``, decoded when asked for, and ``label``; of questions also ``id``, the label column holding
        mappings of ``text`` and ``answer_start`` to lists; of prompts and responses these two.
    source : str
        Where the data come from, for the record.
    """

    task: Task
    train: "Dataset"
    validation: "Dataset"
    source: str
    _marks: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def num_labels(self) -> int:
        """Outputs that the head of a model needs: the number of classes, 1 for a regression, start and end of a span.

        0 for responses, whose tokens the model knows how to score already.
        """
        outputs = {"regression": 1, "question_answering": 2, "language_modelling": 0}
        return outputs.get(self.task.problem, len(self.task.label_names))

    def splits(self) -> "dict[str, Dataset]":
        """Return both splits by their names."""
        return {"train": self.train, "validation": self.validation}

    def fingerprint(self) -> str:
        """Return the SHA-256 of all texts, or pixels, and labels in order."""
        if not self._marks:  # once: images are all decoded for it
            self._marks.append(self._hash_images() if self.task.image else self._hash_texts())
        return self._marks[0]

    def _hash_images(self) -> str:
        return fingerprint(
            part
            for split in (self.train, self.validation)
            for part in chain(_length_and_labels(split), images_of(split, self.source).parts())
        )

    def _hash_texts(self) -> str:
        columns = _columns(self.task)
        splits = (self.train, self.validation)
        return fingerprint(
            str(value).encode("utf-8", "surrogatepass")
            for split in splits
            for column in columns
            for value in (f"{column} {len(split)}", *split[column])
        )


def load_task(
    task: str | Task,
    data_dir: str | Path | None = None,
    *,
    n_train: int | None = None,
    n_validation: int | None = None,
    seed: int = 0,
) -> TaskData:
    """Read and check the data of a task.

    Parameters
    ----------
    task : str or Task
        The name of a task in `gelora.finetuning.glue.TASKS`, or a `Task` with or without its own data.
    data_dir : str or Path, optional
        Folder with ``train`` and ``validation`` as Parquet, CSV, TSV, JSON or JSON lines. Without it, a task with a
        ``hub_repository``, as those of GLUE and SQuAD, is fetched from the Hugging Face hub; the user's own data stand
        in the task. Of an image task: folders ``train``
        and ``validation`` (or ``val``, ``test``), in them one folder a class, in these the image files, which are
        decoded when they are asked for.
    n_train, n_validation : int, optional
        Take that many rows, drawn by the seed alone.
    seed : int
        Seed of the draw.

    Returns
    -------
    TaskData

    Raises
    ------
    FileNotFoundError
        If a folder or file is missing, or the hub cannot be reached.
    ValueError, TypeError
        If a column or a label is missing, a label fits no class, a text is no string, a split is empty, the train
        split has one class only, or an answer does not stand in its context; naming split, row and remedy.
    """
    found = find_task(task)
    if found.image:
        return _load_images(found, data_dir, {"n_train": n_train, "n_validation": n_validation}, seed)
    tables = read_splits(found, data_dir)
    for split, table in tables.items():
        _check_table(table, found, split)
    wanted = {"n_train": n_train, "n_validation": n_validation}
    rows = {split: _draw(len(table), f"n_{split}", wanted, seed) for split, table in tables.items()}
    if found.problem == "question_answering":
        return _load_questions(found, tables, rows)
    if found.problem == "language_modelling":
        texts = {split: _texts(table, found, rows[split]) for split, table in tables.items()}
        return TaskData(found, texts["train"], texts["validation"], tables["train"].source)
    stored = {split: table.class_names.get(found.label, ()) for split, table in tables.items()}
    if found.problem == "classification" and not found.label_names:
        names = stored["train"] or class_names(tables["train"].columns[found.label])
        _check_classes(names)
        found = replace(found, label_names=names)
    splits = {split: _dataset(table, found, split, stored[split], rows[split]) for split, table in tables.items()}
    if found.problem == "classification":
        present = sorted(set(splits["train"][found.label]))
        _check_classes([found.label_names[index] for index in present])
    return TaskData(found, splits["train"], splits["validation"], tables["train"].source)


def _load_questions(task: Task, tables: Mapping[str, Table], rows: Mapping[str, Sequence[int]]) -> TaskData:
    answers = {split: read_answers(table, task, split) for split, table in tables.items()}
    found = settle_answering(task, answers)
    train, validation = (question_rows(tables[split], answers[split], found, rows[split]) for split in tables)
    return TaskData(found, train, validation, tables["train"].source)


def _texts(table: Table, task: Task, rows: Sequence[int]) -> "Dataset":
    from datasets import Dataset, Features, Value

    columns = {name: [table.columns[name][row] for row in rows] for name in task.text}
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(task.text, Value("string"))))


def _columns(task: Task) -> tuple[str, ...]:
    return (*task.text, task.label) if task.label else task.text


def _length_and_labels(split: "Dataset") -> tuple[bytes, bytes]:
    return str(len(split)).encode(), str(list(split["label"])).encode()


def _load_images(task: Task, data_dir: str | Path | None, wanted: Mapping[str, int | None], seed: int) -> TaskData:
    tables = read_image_splits(task, data_dir)
    names = task.label_names or find_class_names(tables["train"])
    _check_classes(names)
    found = replace(task, label_names=names)
    splits = {}
    for split, table in tables.items():
        check_labels_present(table.labels, split, "classification")
        rows = _draw(len(table.labels), f"n_{split}", wanted, seed)
        splits[split] = labelled_images(table, found.label_names, split, rows)
    present = sorted(set(splits["train"]["label"]))
    _check_classes([found.label_names[index] for index in present])
    return TaskData(found, splits["train"], splits["validation"], tables["train"].source)


def _check_table(table: Table, task: Task, split: str) -> None:
    if not len(table):
        raise ValueError(f"the {split} split ({table.source}) must hold at least one row, got none")
    available = list(table.columns)
    for column in _columns(task):
        if column not in available:
            raise ValueError(
                f"the {split} split ({table.source}) has no column {column!r}, which the task {task.name!r} needs; "
                f"it has {available}{nearest(column, available)}"
            )
    for column in task.text:
        for row, text in enumerate(table.columns[column]):
            if not isinstance(text, str):
                raise TypeError(
                    f"the column {column!r} of the {split} split must hold strings, got {type(text).__name__} "
                    f"{text!r:.60} in row {row}: drop or fill such rows first"
                )
    if task.problem in ("classification", "regression"):
        check_labels_present(table.columns[task.label], split, task.problem)


def _check_classes(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError(
            f"the train split must have at least two classes, got only {list(names)}: take more rows, or use "
            "problem='regression' for numbers"
        )


def _draw(n_rows: int, name: str, wanted: Mapping[str, int | None], seed: int) -> list[int]:
    count = wanted[name]
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"`{name}` must be a positive integer or None for all rows, got {count!r}")
    return [int(row) for row in draw_rows(n_rows, count, seed)]


def _dataset(table: Table, task: Task, split: str, stored: Sequence[str], rows: Sequence[int]) -> "Dataset":
    from datasets import ClassLabel, Dataset, Features, Value

    raw = table.columns[task.label]
    classes = task.problem == "classification"
    labels = to_classes(raw, task.label_names, split, stored) if classes else to_numbers(raw, split)
    feature = ClassLabel(names=list(task.label_names)) if classes else Value("float32")
    columns = {name: [table.columns[name][row] for row in rows] for name in task.text}
    columns[task.label] = [labels[row] for row in rows]
    features = Features(dict.fromkeys(task.text, Value("string")) | {task.label: feature})
    return Dataset.from_dict(columns, features=features)
