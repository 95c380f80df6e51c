"""What a model is tuned for: the tasks of GLUE, SQuAD, instructions, and the user's own."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gelora.finetuning.metrics import directions_of
from gelora.messages import check_integer, check_number, nearest

PROBLEMS = ("classification", "regression", "question_answering", "language_modelling")
GLUE_REPOSITORY = "nyu-mll/glue"
PROMPT = "{prompt}"
_METRICS = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "question_answering": ("exact_match", "f1"),
    "language_modelling": ("loss", "perplexity"),
}
_SCORES = {"question_answering": ("f1",), "language_modelling": ("loss",)}
_LABELS = {"question_answering": "answers", "language_modelling": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How questions are answered by spans of a context.

    Parameters
    ----------
    stride : int
        Tokens that two windows of a long context share; at most half of what the question leaves of a window.
    n_best : int
        Starts, and ends, that are looked at in each window.
    max_answer_length : int
        Tokens of an answer at most.
    null_threshold : float
        A question counts as unanswerable where the score of no answer exceeds that of the best span by more.
    unanswerable : bool, optional
        Whether there may be questions without an answer, as in SQuAD v2.0; where left out, whether the data hold any.
    id_column : str
        The column that names the questions; they are numbered where the data have none.

    Raises
    ------
    ValueError
        If an option is out of range, naming it.
    """

    stride: int = 128
    n_best: int = 20
    max_answer_length: int = 30
    null_threshold: float = 0.0
    unanswerable: bool | None = None
    id_column: str = "id"

    def __post_init__(self) -> None:
        check_integer("stride", self.stride, 0)
        check_integer("n_best", self.n_best, 1)
        check_integer("max_answer_length", self.max_answer_length, 1)
        check_number("null_threshold", self.null_threshold, "a finite number", least=-math.inf)
        if self.unanswerable not in (None, True, False):
            raise ValueError(
                f"`unanswerable` must be True, False, or None for what the data hold, got {self.unanswerable!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a model is tuned for: classes, numbers, answers to questions, or responses to prompts.

    Parameters
    ----------
    name : str
        For the record.
    text : tuple of one or two str
        The column with the texts, two columns for pairs; of ``"question_answering"`` the question and the context, of
        ``"language_modelling"`` the prompt and the response.
    image : str
        In place of ``text``: the column with the images.
    label : str
        The column with the labels, ``"label"`` where left out; of ``"question_answering"`` the answers, mappings of
        ``text`` and ``answer_start`` to lists, ``"answers"`` where left out.
    problem : {"classification", "regression", "question_answering", "language_modelling"}
        What is learnt: a class, a number, a span of the context, or the tokens of the response.
    label_names : tuple of str, optional
        The classes in the order of their index; where left out they come from the data: the class names in a
        Parquet file's or a dataset's schema, else the labels that occur in the train split, sorted.
    metrics : tuple of str, optional
        Names in `gelora.finetuning.metrics.METRICS`; accuracy, or Pearson's and Spearman's correlation. Of questions
        ``exact_match`` and ``f1``, with unanswerable ones also those of
        `gelora.finetuning.metrics.ANSWERABILITY_METRICS`; of responses ``loss`` and ``perplexity``.
    score : tuple of str, optional
        The metrics whose mean is the score. Where left out: all of them, of questions ``f1``, of responses ``loss``.
    train, validation : optional
        The user's own data: a ``datasets.Dataset``, a ``pandas.DataFrame``, a list of dicts or the path of a
        Parquet, CSV, TSV, JSON or JSON lines file. Of images: a ``datasets.Dataset`` with an image column, or a list
        of dicts with PIL images, paths or ``uint8`` arrays of shape (height, width) or (height, width, channels).
    hub_splits : tuple of two str
        Names of the two splits of the set on the hub.
    hub_name : str
        Configuration of that set, where it has several.
    hub_repository : str
        The set on the hub, as ``"stanfordnlp/imdb"``, for tasks without data of their own; GLUE's where ``hub_name``
        alone is given.
    answering : Answering
        Options of question answering.
    template : str
        Of language modelling: the text that the response follows, with ``{prompt}`` in it. Where left out, the
        tokenizer's chat template, and without one the prompt and a line break.

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
    label: str = ""
    problem: str = "classification"
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    train: Any = field(default=None, repr=False, compare=False)
    validation: Any = field(default=None, repr=False, compare=False)
    hub_splits: tuple[str, str] = ("train", "validation")
    hub_name: str = ""
    hub_repository: str = ""
    answering: Answering = Answering()
    template: str = ""

    def __post_init__(self) -> None:
        for name in ("text", "label_names", "metrics", "score"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise TypeError(f"`{name}` must be a tuple of strings, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if self.problem not in PROBLEMS:
            raise ValueError(f"`problem` must be one of {', '.join(PROBLEMS)}, got {self.problem!r}")
        self._check_columns()
        self._check_options()
        usual = {
            "label": self.label or _LABELS.get(self.problem, "label"),
            "metrics": self.metrics or _METRICS[self.problem],
            "hub_repository": self.hub_repository or (GLUE_REPOSITORY if self.hub_name else ""),
        }
        usual["score"] = self.score or _SCORES.get(self.problem, usual["metrics"])
        for name, value in usual.items():
            object.__setattr__(self, name, value)
        self._check_metrics()

    @property
    def greater_is_better(self) -> bool:
        """Whether a larger score is a better one: not of a loss."""
        return bool(directions_of(self.problem)[self.score[0]])

    def better_when_greater(self, metric: str) -> bool | None:
        """Say which way a metric, or the ``"score"``, is better; None of what is no metric or has no direction."""
        return self.greater_is_better if metric == "score" else directions_of(self.problem).get(metric)

    def _check_columns(self) -> None:
        if bool(self.text) == bool(self.image):
            given = "both" if self.image else "neither"
            raise ValueError(f"`text` or `image` must be given, the columns of the one or the other, got {given}")
        if self.image and self.problem != "classification":
            raise ValueError(
                f"`problem` must be 'classification' for images, got {self.problem!r}: give `text` instead"
            )
        if len(self.text) not in (0, 1, 2):
            raise ValueError(f"`text` must be one column, or two for pairs, got {self.text!r}")
        if self.problem in _LABELS and len(self.text) != 2:
            what = "question and the context" if self.problem == "question_answering" else "prompt and the response"
            raise ValueError(f"`text` must be two columns, the {what}, for {self.problem!r}, got {self.text!r}")
        if self.problem == "language_modelling" and self.label:
            raise ValueError(
                f"`label` must be left out for 'language_modelling', got {self.label!r}: name the response in `text`"
            )

    def _check_options(self) -> None:
        if self.problem != "classification" and self.label_names:
            raise ValueError(f"`label_names` must be left out for a {self.problem}, got {self.label_names!r}")
        if len(set(self.label_names)) != len(self.label_names) or len(self.label_names) == 1:
            raise ValueError(f"`label_names` must be two or more different names, got {self.label_names!r}")
        if not isinstance(self.answering, Answering):
            raise TypeError(f"`answering` must be an Answering, got {type(self.answering).__name__}")
        if self.problem != "question_answering" and self.answering != Answering():
            raise ValueError(
                f"`answering` is of problem='question_answering', got problem={self.problem!r}: leave it out"
            )
        if self.template and self.problem != "language_modelling":
            raise ValueError(
                f"`template` is of problem='language_modelling', got problem={self.problem!r}: leave it out"
            )
        if self.template and self.template.count(PROMPT) != 1:
            raise ValueError(f"`template` must hold {PROMPT} once, got {self.template!r}; the response follows it")

    def _check_metrics(self) -> None:
        directions = directions_of(self.problem)
        fitting = list(directions)
        for name in self.metrics:
            if name not in fitting:
                raise ValueError(
                    f"`metrics`: {name!r} is no metric of a {self.problem}, choose of {fitting}{nearest(name, fitting)}"
                )
        if self.problem == "classification" and "f1" in self.metrics and len(self.label_names) > 2:
            raise ValueError(f"`metrics`: 'f1' is of two classes, got {len(self.label_names)}: use 'f1_macro' for more")
        for name in self.score:
            if name not in self.metrics:
                raise ValueError(f"`score` must be some of `metrics` {self.metrics!r}, got {name!r}")
        if len({directions[name] for name in self.score}) > 1 or directions[self.score[0]] is None:
            raise ValueError(
                f"`score` must be metrics that are all better larger, or all better smaller, got {self.score!r}"
            )


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


SQUAD_TASKS: Mapping[str, Task] = {
    name: Task(
        name=name,
        problem="question_answering",
        text=("question", "context"),
        answering=Answering(unanswerable=name == "squad_v2"),
        hub_repository=f"rajpurkar/{name}",
    )
    for name in ("squad", "squad_v2")
}

# Prompts and the responses that a model shall give to them.
INSTRUCTIONS = Task(name="instructions", problem="language_modelling", text=("prompt", "response"))

# Images in folders named by their class, below train/ and validation/ of a data folder.
IMAGES = Task(name="images", image="image")

TASKS: Mapping[str, Task] = {**GLUE_TASKS, **SQUAD_TASKS, INSTRUCTIONS.name: INSTRUCTIONS, IMAGES.name: IMAGES}


def find_task(task: str | Task) -> Task:
    """Return the task that ``task`` is or names; capitals and hyphens do not matter.

    ``"images"`` is a folder of images and ``"instructions"`` one of prompts and responses, see
    `gelora.finetuning.tasks.load_task`.

    Raises
    ------
    ValueError
        If no task has that name.
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
    name = task.lower().replace("-mm", "_mm").replace("-v2", "_v2").replace("-", "")
    if name not in TASKS:
        raise ValueError(
            f"`task`: there is no {task!r}, choose of {list(TASKS)} or pass a "
            f"gelora.finetuning.tasks.Task of your own{nearest(name, TASKS)}"
        )
    return TASKS[name]


def is_missing(value: Any) -> bool:
    """Say whether ``value`` stands for no label or text: None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
