"""What a model is tuned for: the tasks of GLUE, and the user's own."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gelora.finetuning.metrics import METRICS
from gelora.messages import nearest

PROBLEMS = ("classification", "regression")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A classification or regression of texts or pairs of texts, or a classification of images.

    Parameters
    ----------
    name : str
        For the record.
    text : tuple of one or two str
        The column with the texts, two columns for pairs.
    image : str
        In place of ``text``: the column with the images.
    label : str
        The column with the labels.
    problem : {"classification", "regression"}
        What the label is.
    label_names : tuple of str, optional
        The classes in the order of their index; where left out they come from the data: the class names in a
        Parquet file's or a dataset's schema, else the labels that occur in the train split, sorted.
    metrics : tuple of str, optional
        Names in `gelora.finetuning.metrics.METRICS`; accuracy, or Pearson's and Spearman's correlation.
    score : tuple of str, optional
        The metrics whose mean is the score; all of them where left out.
    train, validation : optional
        The user's own data: a ``datasets.Dataset``, a ``pandas.DataFrame``, a list of dicts or the path of a
        Parquet, CSV, TSV, JSON or JSON lines file. Of images: a ``datasets.Dataset`` with an image column, or a list
        of dicts with PIL images, paths or ``uint8`` arrays of shape (height, width) or (height, width, channels).
    hub_splits : tuple of two str
        Names of the two splits of the GLUE set on the hub.
    hub_name : str
        Name of that GLUE set, empty for a user's own task.

    Raises
    ------
    ValueError, TypeError
        If the fields contradict each other, naming the field.

    Examples
    --------
    >>> rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
    >>> Task(name="mine", text=("text",), train=rows, validation=rows).metrics
    ('accuracy',)
    """

    name: str
    text: tuple[str, ...] = ()
    image: str = ""
    label: str = "label"
    problem: str = "classification"
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    train: Any = field(default=None, repr=False, compare=False)
    validation: Any = field(default=None, repr=False, compare=False)
    hub_splits: tuple[str, str] = ("train", "validation")
    hub_name: str = ""

    def __post_init__(self) -> None:
        for name in ("text", "label_names", "metrics", "score"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise TypeError(f"`{name}` must be a tuple of strings, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if self.problem not in PROBLEMS:
            raise ValueError(f"`problem` must be one of {', '.join(PROBLEMS)}, got {self.problem!r}")
        if bool(self.text) == bool(self.image):
            given = "both" if self.image else "neither"
            raise ValueError(f"`text` or `image` must be given, the columns of the one or the other, got {given}")
        if self.image and self.problem != "classification":
            raise ValueError("`problem` must be 'classification' for images, got 'regression': give `text` instead")
        if len(self.text) not in (0, 1, 2):
            raise ValueError(f"`text` must be one column, or two for pairs, got {self.text!r}")
        if self.problem == "regression" and self.label_names:
            raise ValueError(f"`label_names` must be left out for a regression, got {self.label_names!r}")
        if len(set(self.label_names)) != len(self.label_names) or len(self.label_names) == 1:
            raise ValueError(f"`label_names` must be two or more different names, got {self.label_names!r}")
        if not self.metrics:
            usual = ("accuracy",) if self.problem == "classification" else ("pearson", "spearman")
            object.__setattr__(self, "metrics", usual)
        if not self.score:
            object.__setattr__(self, "score", self.metrics)
        self._check_metrics()

    def _check_metrics(self) -> None:
        for name in self.metrics:
            fitting = [key for key, metric in METRICS.items() if metric.problem == self.problem]
            if name not in fitting:
                raise ValueError(
                    f"`metrics`: {name!r} is no metric of a {self.problem}, choose of {fitting}{nearest(name, fitting)}"
                )
        if "f1" in self.metrics and len(self.label_names) > 2:
            raise ValueError(f"`metrics`: 'f1' is of two classes, got {len(self.label_names)}: use 'f1_macro' for more")
        for name in self.score:
            if name not in self.metrics:
                raise ValueError(f"`score` must be some of `metrics` {self.metrics!r}, got {name!r}")


def _glue(name: str, texts: tuple[str, ...], labels: tuple[str, ...], metrics: tuple[str, ...], **more: Any) -> Task:
    problem = "classification" if labels else "regression"
    return Task(
        name=name,
        text=texts,
        problem=problem,
        label_names=labels,
        metrics=metrics,
        **({"hub_name": name} | more),
    )


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")

GLUE_TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
        _glue("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        _glue("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        _glue("stsb", _PAIR, (), ("pearson", "spearman")),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        _glue("mnli", ("premise", "hypothesis"), _MNLI, ("accuracy",), hub_splits=("train", "validation_matched")),
        _glue(
            "mnli_mm",
            ("premise", "hypothesis"),
            _MNLI,
            ("accuracy",),
            hub_splits=("train", "validation_mismatched"),
            hub_name="mnli",
        ),
        _glue("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",)),
        _glue("rte", _PAIR, _ENTAILMENT, ("accuracy",)),
        _glue("wnli", _PAIR, ("not_entailment", "entailment"), ("accuracy",)),
    )
}


# Images in folders named by their class, below train/ and validation/ of a data folder.
IMAGES = Task(name="images", image="image")


def find_task(task: str | Task) -> Task:
    """Return the task that ``task`` is or names; capitals and hyphens do not matter.

    ``"images"`` is a folder of images, see `gelora.finetuning.tasks.load_task`.

    Raises
    ------
    ValueError
        If no GLUE task has that name.
    TypeError
        If it is neither a name nor a `Task`.

    Examples
    --------
    >>> find_task("SST-2").label_names
    ('negative', 'positive')
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise TypeError(f"`task` must be the name of a GLUE task or a Task, got {type(task).__name__}")
    name = task.lower().replace("-mm", "_mm").replace("-", "")
    if name == IMAGES.name:
        return IMAGES
    if name not in GLUE_TASKS:
        raise ValueError(
            f"`task`: there is no {task!r}, choose of {list(GLUE_TASKS)} or pass a "
            f"gelora.finetuning.tasks.Task of your own{nearest(name, GLUE_TASKS)}"
        )
    return GLUE_TASKS[name]


def is_missing(value: Any) -> bool:
    """Say whether ``value`` stands for no label or text: None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
