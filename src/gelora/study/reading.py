"""A YAML file or a mapping → a study, every value checked where it stands."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from gelora.finetuning.glue import TASKS, Answering, Task, find_task
from gelora.finetuning.options import Options, check_training_arguments
from gelora.finetuning.runner import finetune
from gelora.finetuning.tables import SPLITS
from gelora.messages import check_choice, nearest
from gelora.quantization import QUANTIZATIONS
from gelora.registry import resolve_estimators
from gelora.scores import AVERAGE
from gelora.study.entries import Entry, read_yaml
from gelora.study.methods import RANK_OPTIONS, SAME_BUDGET, Method, make_method
from gelora.study.specification import BY_METHOD, DRAWS, ENGINES, Range, Search, Study, StudyTask, grid_size

Made = TypeVar("Made")
_KEYS = (
    "model",
    "tasks",
    "methods",
    "seeds",
    "output",
    "data_dir",
    "training",
    "estimation",
    "ranks",
    "search",
    "reference",
    "keep_adapters",
    "revision",
    "trust_remote_code",
)
_METHOD_KEYS = ("name", "adapter", "policy", "rank", "budget", *RANK_OPTIONS, "training", "search")
_TASK_KEYS = (*Task.__dataclass_fields__, "metric", "data_dir", *DRAWS, "training")
_ESTIMATION = ("estimator", "pooling", "n_samples", "n_replicates", "max_length", "n_tokens", "batch_size", "seed")
# What would choose by the rows that scores are reported on.
_SELECTING = ("load_best_model_at_end", "metric_for_best_model")
# What a study sets by other keys, or by itself.
# Of what becomes a folder, and of any path: what file systems take.
_LONGEST_NAME, _LONGEST_PATH = 100, 4000
_ELSEWHERE = {"seed": "seeds", "output_dir": "output", "model": "model", "task": "tasks", "data_dir": "tasks"}
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(finetune).parameters.items()
    if name in Options.__dataclass_fields__ and name != "training_arguments"
}


def read_study(study: "str | Path | Mapping[str, Any] | Study", **overrides: Any) -> Study:
    """Return a study, checked.

    Parameters
    ----------
    study : str, Path, mapping or Study
        The path of a YAML file, or what such a file holds. Paths in a file are relative to its folder.
    **overrides
        Values that take the place of keys at the top: ``model``, ``data_dir``, ``output``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        Naming the line and the key: a key that is not known or missing, a value out of range, a method that
        contradicts itself.
    TypeError
        If ``study`` is none of these.

    Examples
    --------
    >>> study = read_study({"model": "m", "tasks": ["cola"], "methods": ["lora", "gelora"], "output": "out"})
    >>> [method.policy for method in study.methods]
    ['uniform', 'geometric']
    """
    if isinstance(study, Study):
        if any(value is not None for value in overrides.values()):
            raise ValueError(f"`study` is read already: give {', '.join(overrides)} when it is read, or a mapping")
        return study
    if isinstance(study, str | Path):
        entry, folder = read_yaml(study), Path(study).parent
    elif isinstance(study, Mapping):
        entry, folder = Entry(dict(study)), Path()
    else:
        raise TypeError(f"`study` must be the path of a YAML file, or a mapping, got {type(study).__name__}")
    given = {name: str(value) for name, value in overrides.items() if value is not None}
    entry.mapping(*_KEYS)
    full = replace(entry, value={**entry.value, **given})
    full.mapping(*_KEYS, needed=("model", "tasks", "methods", "output"))
    places = _Places(folder, frozenset(given))
    return _study(full, places)


def read_task(path: str | Path) -> StudyTask:
    """Read a task from a YAML file of its own, which holds what stands under ``tasks`` in a study.

    Paths in the file are relative to its folder.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        Naming the line and the key; also for options of training, which are given to `gelora.finetune`.
    """
    entry = read_yaml(path, "task")
    entry.mapping(*(name for name in _TASK_KEYS if name not in ("training", *DRAWS)), needed=("name",))
    return _task(entry, _Places(Path(path).parent, frozenset()), None, [])


class _Places:
    """Make paths of what a study says: relative to its file, but to the working directory where overruled."""

    def __init__(self, folder: Path, overruled: frozenset[str]) -> None:
        self._folder, self._overruled = folder, overruled

    def path(self, entry: Entry) -> Path:
        text = entry.text("a path")
        if "\0" in text or len(text) > _LONGEST_PATH:
            entry.fail(f"must be a path, got {text!r:.80}")
        try:
            place = Path(text).expanduser()
        except RuntimeError:  # of a user that there is not
            entry.fail(f"must be a path of this machine, got {text!r:.80}")
        return place if entry.key in self._overruled else self._folder / place

    def model(self, entry: Entry) -> str:
        """Return a folder's path where there is one, else the name as it stands: a name on the hub."""
        name = entry.text("a folder or the name of a model")
        found = self.path(entry)
        if not found.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            entry.fail(f"must be a folder that is there, or a name on the hub, got {name!r}")
        return str(found) if found.exists() else name


def _study(entry: Entry, places: _Places) -> Study:
    methods = _unique(entry["methods"], _method)
    names = [method.name for method in methods]
    root = places.path(entry["data_dir"]) if "data_dir" in entry else None
    tasks = _unique(entry["tasks"], lambda one: _task(one, places, root, names))
    seeds = [seed.integer(0) for seed in entry["seeds"].list()] if "seeds" in entry else [0]
    if len(set(seeds)) < len(seeds):
        entry["seeds"].fail(f"must be different, got {seeds}")
    estimation = _estimation(entry["estimation"]) if "estimation" in entry else {}
    ranks = (
        entry["ranks"].mapping(*[name for name in RANK_OPTIONS if name != "estimator"]) if "ranks" in entry else None
    )
    reference = entry["reference"].text() if "reference" in entry else names[0]
    if reference not in names:
        entry["reference"].fail(f"must be one of the methods, got {reference!r}{nearest(reference, names)}")
    search = _search(entry["search"], names) if "search" in entry and entry["search"].value is not None else None
    _check_own_searches(entry["methods"], methods, search)
    return Study(
        model=places.model(entry["model"]),
        tasks=tasks,
        methods=methods,
        seeds=tuple(seeds),
        output=places.path(entry["output"]),
        training=_training(entry["training"], names) if "training" in entry else {},
        estimator=str(estimation.pop("estimator", "twonn")),
        estimation=estimation,
        ranks={} if ranks is None else dict(ranks.value),
        search=search,
        reference=reference,
        keep_adapters=entry["keep_adapters"].flag() if "keep_adapters" in entry else True,
        revision=entry["revision"].text() if "revision" in entry else None,
        trust_remote_code=entry["trust_remote_code"].flag() if "trust_remote_code" in entry else False,
    )


def _unique(entry: Entry, make: Callable[[Entry], Any]) -> tuple[Any, ...]:
    found: dict[str, Any] = {}
    for one in entry.list():
        made = make(one)
        name = made.name if isinstance(made, Method) else made.task.name
        if name in found:
            one.fail(f"must have a name of its own, {name!r} stands there twice")
        if name == AVERAGE:
            one.fail(f"must have another name than {AVERAGE!r}, which is that of the mean over the tasks")
        if not _names_folder(name):
            one.fail(
                f"must have a name of at most {_LONGEST_NAME} letters, digits, '-', '_' and '.', got {name!r:.120}: "
                "a folder is named by it"
            )
        found[name] = made
    return tuple(found.values())


def _names_folder(name: str) -> bool:
    """Say whether a name is that of a folder beside its like, on every system."""
    plain = name.replace("-", "").replace("_", "").replace(".", "").isalnum() and len(name) <= _LONGEST_NAME
    return plain and not name.startswith(".") and not name.endswith(".") and not PureWindowsPath(name).is_reserved()


def _method(entry: Entry) -> Method:
    if isinstance(entry.value, str):
        return _checked(entry, lambda: make_method(entry.value, {}))
    entry.mapping(*_METHOD_KEYS, needed=("name",))
    name = entry["name"].text()
    given: dict[str, Any] = {key: entry[key].text() for key in ("adapter", "policy") if key in entry}
    if "rank" in entry:
        given["rank"] = entry["rank"].integer(1)
    if "budget" in entry:
        budget = entry["budget"]
        given["budget"] = budget.value if budget.value == SAME_BUDGET else budget.integer(1)
    given["ranks"] = {key: entry[key].value for key in RANK_OPTIONS if key in entry}
    if "estimator" in given["ranks"]:
        _checked(entry["estimator"], lambda: resolve_estimators(entry["estimator"].text()))
    if "training" in entry:
        given["training"] = _training(entry["training"], ())
    if "search" in entry:
        given["search"] = {key: _values(one) for key, one in entry["search"].mapping(*BY_METHOD).items()}
    return _checked(entry, lambda: make_method(name, given))


def _task(entry: Entry, places: _Places, root: Path | None, methods: list[str]) -> StudyTask:
    if isinstance(entry.value, str):
        return _with_data(entry, StudyTask(task=_checked(entry, lambda: find_task(entry.value))), places, root)
    entry.mapping(*_TASK_KEYS, needed=("name",))
    name = entry["name"].text("a name")
    _check_texts(entry)
    given = {key: entry[key].value for key in _TASK_KEYS if key in entry and key in Task.__dataclass_fields__}
    if "metric" in entry:
        given["metrics"] = entry["metric"].value
    if "metrics" in given:
        given.setdefault("score", given["metrics"])
    for key in ("text", "metrics", "score", "label_names", "hub_splits"):
        if key in given:
            given[key] = (given[key],) if isinstance(given[key], str) else tuple(given[key])
    if "answering" in given:
        answering = entry["answering"].mapping(*Answering.__dataclass_fields__)
        given["answering"] = _checked(answering, lambda: Answering(**answering.value))
    for split in SPLITS:
        if isinstance(given.get(split), str | Path):
            given[split] = str(places.path(entry[split]))
    if ("train" in given) != ("validation" in given):
        entry.fail("must have `train` and `validation`, or neither, got one of them")
    own = {"text", "image", "problem"} & given.keys()
    if own and name not in TASKS:
        task = _checked(entry, lambda: Task(**given))
    else:
        task = _checked(entry["name"], lambda: find_task(name))
        task = _checked(entry, lambda: replace(task, **(given | {"name": task.name})))
    training = _training(entry["training"], methods) if "training" in entry else {}
    training |= {key: entry[key].integer(1) for key in DRAWS if key in entry}
    return _with_data(entry, StudyTask(task=task, training=training), places, root)


def _check_texts(entry: Entry) -> None:
    """Check the fields of a task that are a text, or a list of them."""
    for key in ("text", "metric", "metrics", "score", "label_names", "hub_splits"):
        if key in entry and not isinstance(entry[key].value, str):
            for one in entry[key].list():
                one.text("a text, in quotation marks where YAML reads it otherwise")
    if "hub_splits" in entry and (isinstance(entry["hub_splits"].value, str) or len(entry["hub_splits"].value) != 2):
        entry["hub_splits"].fail(
            f"must be two names, that of train and that of validation, got {entry['hub_splits'].value}"
        )


def _with_data(entry: Entry, task: StudyTask, places: _Places, root: Path | None) -> StudyTask:
    if not isinstance(entry.value, str) and "data_dir" in entry:
        folder = places.path(entry["data_dir"])
        if not folder.is_dir():
            entry["data_dir"].fail(f"must be a folder, there is none at {str(folder)!r}")
        return replace(task, data_dir=str(folder))
    from_hub = not isinstance(entry.value, str) and "hub_repository" in entry
    if root is None or task.task.train is not None or from_hub:
        return task
    if not (root / task.task.name).is_dir():
        entry.fail(f"must have its data in `data_dir`, there is no folder {str(root / task.task.name)!r}")
    return replace(task, data_dir=str(root / task.task.name))


def _training(entry: Entry, methods: "list[str] | tuple[str, ...]") -> dict[str, Any]:
    """Check the options of `finetune`, by method where they stand so."""
    for name, one in entry.mapping().items():
        if name in _ELSEWHERE:
            one.fail(f"is set by `{_ELSEWHERE[name]}`: give that instead")
        by_method = isinstance(one.value, Mapping) and name in BY_METHOD
        if by_method:
            one.mapping("default", *methods)
        for value in (inner for _, inner in one.items()) if by_method else (one,):
            _checked(value, functools.partial(check_option, name, value.value))
    return dict(entry.value)


def check_option(name: str, value: Any) -> None:
    """Raise ValueError if `finetune` would refuse the option.

    Raises
    ------
    ValueError
        Saying why.
    """
    if name in _SELECTING and value:
        raise ValueError("must be left out: it chooses among weights by the validation rows that are reported")
    if name == "quantization":
        check_choice(name, value, QUANTIZATIONS)
    elif name in DRAWS:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"must be an integer of at least 1, got {value!r}")
    elif name in _DEFAULTS:
        Options(**(_DEFAULTS | {name: value}))
    else:
        check_training_arguments({name: value})


def _estimation(entry: Entry) -> dict[str, Any]:
    entry.mapping(*_ESTIMATION)
    if "estimator" in entry:
        _checked(entry["estimator"], lambda: resolve_estimators(entry["estimator"].text("the name of an estimator")))
    return dict(entry.value)


def _search(entry: Entry, methods: list[str]) -> Search:
    entry.mapping("space", "engine", "n_trials", "holdout", "seed", "training", needed=("space",))
    space = {name: _values(one) for name, one in entry["space"].mapping(*BY_METHOD).items()}
    if not space:
        entry["space"].fail("must have an option to search over, as in learning_rate: [1.0e-4, 1.0e-3, 1.0e-2]")
    ranges = [name for name, values in space.items() if isinstance(values, Range)]
    engine = entry["engine"].choice(*ENGINES) if "engine" in entry else ENGINES[bool(ranges)]
    for name, values in space.items():
        if isinstance(values, Range) != (engine == "optuna"):
            wanted = (
                "a range, as in {low: 1.0e-4, high: 1.0e-2, log: true}" if engine == "optuna" else "a list of numbers"
            )
            entry["space"][name].fail(f"must be {wanted}, as the engine is {engine}")
    if engine == "grid" and "n_trials" in entry:
        entry["n_trials"].fail(f"goes with engine: optuna, a grid tries all its {grid_size(space)} combinations")
    n_trials = entry["n_trials"].integer(1) if "n_trials" in entry else 10
    return Search(
        space=space,
        engine=engine,
        n_trials=grid_size(space) if engine == "grid" else n_trials,
        holdout=entry["holdout"].number("a share above 0 and below 1", above=0, below=1) if "holdout" in entry else 0.2,
        seed=entry["seed"].integer(0) if "seed" in entry else 0,
        training=_training(entry["training"], methods) if "training" in entry else {},
    )


def _values(entry: Entry) -> "tuple[float, ...] | Range":
    """Return a list of numbers, or a range of them."""
    name = entry.key.rpartition(".")[2]
    if isinstance(entry.value, Mapping):
        entry.mapping("low", "high", "log", needed=("low", "high"))
        low, high = (entry[bound].number("a number") for bound in ("low", "high"))
        log = entry["log"].flag() if "log" in entry else False
        if not low < high or (log and low <= 0):
            entry.fail(f"must have low < high, and low > 0 for log, got low {low:g} and high {high:g}")
        found: tuple[float, ...] | Range = Range(low=low, high=high, log=log)
        tried = (low, high)
    else:
        tried = tuple(one.value for one in entry.list())
        found = tried
    for value in tried:
        _checked(entry, functools.partial(check_option, name, value))
    return found


def _check_own_searches(entry: Entry, methods: tuple[Method, ...], search: Search | None) -> None:
    """See to it that every method gets the same number of trials."""
    for one, method in zip(entry.list(), methods, strict=True):
        if not method.search:
            continue
        if search is None:
            one["search"].fail("must stand beside a `search` of the study, which says how")
        for name, values in method.search.items():
            if name not in search.space:
                one["search"][name].fail(f"must be among the study's options, {', '.join(search.space)}")
            if isinstance(values, Range) != (search.engine == "optuna"):
                one["search"][name].fail(f"must be of the kind that the study's `search` has, {search.engine}")
        size = grid_size({**search.space, **method.search})
        if search.engine == "grid" and size != search.n_trials:
            one["search"].fail(f"must make as many trials as for the other methods, {search.n_trials}, not {size}")


def _checked(entry: Entry, make: Callable[[], Made]) -> Made:
    """Return what ``make`` returns; its errors get the line and the key."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        text = str(error)
        entry.fail(text if text.startswith(("must ", "is ")) else f"is refused: {text}")
