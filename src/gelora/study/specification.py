"""A study as it was read and checked: tasks × methods × seeds, and how each is trained."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from gelora.finetuning.glue import TASKS
from gelora.finetuning.tables import SPLITS
from gelora.finetuning.tasks import Task
from gelora.study.marks import mark_of
from gelora.study.methods import Method

# Parts of the rows: drawn once for a task, not by each run.
DRAWS = ("n_train", "n_validation")
ENGINES = ("grid", "optuna")


@dataclass(frozen=True, kw_only=True)
class StudyTask:
    """One column of the comparison.

    Parameters
    ----------
    task : Task
        What is learnt.
    data_dir : str, optional
        Folder with its files; without it the task has its own data, or the hub is asked.
    training : mapping
        Options of `gelora.finetune` for this task alone.
    """

    task: Task
    data_dir: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Return what tells this task from others, as JSON takes it: its data by what they are, not where they lie.

        How a model is trained on it stands in the options of each run.
        """
        task = self.task
        known: dict[str, Any] = {"name": task.name, "text": task.text, "image": task.image, "problem": task.problem}
        usual = TASKS.get(task.name) or Task(**known)
        given = {one.name: getattr(task, one.name) for one in fields(task) if one.name not in SPLITS}
        own = known | {name: _plain(value) for name, value in given.items() if value != getattr(usual, name)}
        data = {split: _described(getattr(task, split)) for split in SPLITS if getattr(task, split) is not None}
        place = None if self.data_dir is None else mark_of(self.data_dir)
        return own | data | {"data": place}


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that Optuna may try for an option.

    Parameters
    ----------
    low, high : float
        Bounds, included.
    log : bool
        Whether they are drawn evenly on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Search:
    """How options are chosen for each task and method, on a part of the train rows.

    Parameters
    ----------
    space : mapping of str to tuple or Range
        Values of each option to try: a tuple of numbers for a grid, a range for Optuna.
    engine : {"grid", "optuna"}
        A grid tries all combinations.
    n_trials : int
        The same for each method.
    holdout : float
        Share of the train rows that the trials are scored on; the others they are trained on.
    seed : int
        Of that draw, of the trials' training, and of Optuna's proposals.
    training : mapping
        Options of `gelora.finetune` for trials alone, fewer steps say.
    """

    space: Mapping[str, tuple[float, ...] | Range]
    engine: str = "grid"
    n_trials: int
    holdout: float = 0.2
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)

    def for_method(self, method: Method) -> "Search":
        """Return the search with the method's own values."""
        return replace(self, space={**self.space, **method.search}) if method.search else self


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared.

    Parameters
    ----------
    model : str
        Folder or hub name.
    tasks : tuple of StudyTask
    methods : tuple of Method
    seeds : tuple of int
    output : Path
        Folder for everything that is made.
    training : mapping
        Options of `gelora.finetune`: values, or mappings from a method's name, or ``"default"``, to values.
    estimation : mapping
        Options of `gelora.estimate` for the profiles.
    estimator : str
        The one that the geometric plan, and so everybody's budget, rests on.
    ranks : mapping
        Options of `gelora.plan_ranks` for all methods.
    search : Search, optional
        How options are chosen; without it all are as given.
    reference : str
        The method that the others are tested against.
    keep_adapters : bool
        Whether the trained adapters stay; the checkpoints never do.
    revision, trust_remote_code
        Of a model from the hub.
    """

    model: str
    tasks: tuple[StudyTask, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    output: Path
    training: Mapping[str, Any] = field(default_factory=dict)
    estimation: Mapping[str, Any] = field(default_factory=dict)
    estimator: str = "twonn"
    ranks: Mapping[str, Any] = field(default_factory=dict)
    search: Search | None = None
    reference: str = ""
    keep_adapters: bool = True
    revision: str | None = None
    trust_remote_code: bool = False

    def options(self, task: StudyTask, method: Method, *, trial: bool = False) -> dict[str, Any]:
        """Return the options of a run: the study's, overruled by the task's, the method's, for a trial the search's."""
        given = dict(self.training) | dict(task.training) | dict(method.training)
        found = {name: value for name, value in for_method(given, method).items() if name not in DRAWS}
        return found | for_method(self.search.training, method) if trial and self.search is not None else found

    def search_for(self, method: Method) -> Search | None:
        """Return how the options of a method are chosen."""
        return None if self.search is None else self.search.for_method(method)

    def identify(self) -> dict[str, Any]:
        """Return what tells the model from others: a folder by its configuration and weights, not by where it lies."""
        return {"model": mark_of(self.model), "revision": self.revision}

    def describe(self) -> dict[str, Any]:
        """Return the study as JSON takes it, for the results."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        tasks = [task.describe() | {"training": dict(task.training)} for task in self.tasks]
        own: dict[str, Any] = {"tasks": tasks, "output": str(self.output)}
        own["methods"] = [asdict(method) for method in self.methods]
        own["search"] = None if self.search is None else asdict(self.search)
        return plain | own


def for_method(options: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Return options as they are for a method, where some stand by method."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if not (isinstance(value, Mapping) and name in BY_METHOD):
            found[name] = value
        elif method.name in value or "default" in value:
            found[name] = value.get(method.name, value.get("default"))
    return found


# Options of a run that a study may give by method.
BY_METHOD = (
    "learning_rate",
    "weight_decay",
    "warmup_ratio",
    "schedule",
    "dropout",
    "epochs",
    "max_steps",
    "batch_size",
    "precision",
    "eval_steps",
)


def grid_size(space: Mapping[str, tuple[float, ...] | Range]) -> int:
    """Return how many combinations a grid has.

    Examples
    --------
    >>> grid_size({"learning_rate": (1e-3, 1e-2, 1e-1), "dropout": (0.0, 0.1)})
    6
    """
    return math.prod(len(values) for values in space.values() if isinstance(values, tuple))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _described(data: Any) -> str:
    """Return the mark of a file, and of data in memory what they are: they have no name."""
    return mark_of(str(data)) if isinstance(data, str | Path) else f"{type(data).__name__} of {len(data)} rows"
