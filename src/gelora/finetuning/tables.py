"""The splits of a task as they are stored: in files, in memory or on the hub."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.finetuning.glue import Task
from gelora.masking import masked
from gelora.messages import nearest
from gelora.text_files import read_table

if TYPE_CHECKING:
    from datasets import Dataset

FILE_TYPES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
SPLITS = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Table:
    """One split: columns of values of one length.

    Parameters
    ----------
    columns : mapping of str to sequence
        Column name to its values.
    class_names : mapping of str to tuple of str
        For columns of class indices whose schema names the classes.
    source : str
        Where it comes from.
    """

    columns: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, tuple[str, ...]]
    source: str

    def __len__(self) -> int:
        return max((len(values) for values in self.columns.values()), default=0)


def read_splits(task: Task, data_dir: str | Path | None) -> dict[str, Table]:
    """Return the train and the validation split of ``task``.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the files is missing, or the hub cannot be reached.
    ValueError, TypeError
        If a file cannot be read, or the data are given twice or not at all.
    """
    own = {split: getattr(task, split) for split in SPLITS}
    given = [split for split, data in own.items() if data is not None]
    if data_dir is not None:
        if given:
            raise ValueError(f"`data_dir` and the task's own `{given[0]}` are both given: leave one out")
        return _read_folder(task, Path(data_dir))
    if len(given) == 1:
        missing = next(split for split in SPLITS if split not in given)
        raise ValueError(f"`task` {task.name!r} has `{given[0]}` but no `{missing}`: give both splits")
    if given:
        return {split: _read_own(data, split) for split, data in own.items()}
    if not task.hub_repository:
        raise ValueError(
            f"`data_dir` must be given for the task {task.name!r}, or `train` and `validation` in the Task, or its "
            "`hub_repository`"
        )
    sets, source = fetch_hub(task)
    return {split: _read_dataset(data, split, source) for split, data in sets.items()}


def _read_folder(task: Task, folder: Path) -> dict[str, Table]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`data_dir`: there is no folder {str(folder)!r}; give one with train and validation files "
            f"({', '.join(FILE_TYPES)})"
        )
    return {split: _read_file(_split_file(folder, names)) for split, names in _file_names(task).items()}


def _file_names(task: Task) -> dict[str, tuple[str, ...]]:
    # GLUE's own files call the validation split "dev"; MNLI has two of them.
    train, validation = task.hub_splits
    usual = ("validation", "dev") if validation == "validation" else (validation, "validation", "dev")
    return {"train": tuple(dict.fromkeys((train, "train"))), "validation": usual}


def _split_file(folder: Path, names: Sequence[str]) -> Path:
    candidates = [folder / f"{name}{suffix}" for name in names for suffix in FILE_TYPES]
    for file in candidates:
        if file.is_file():
            return file
    found = sorted(file.name for file in folder.iterdir())[:20]
    raise FileNotFoundError(
        f"`data_dir`: {str(folder)!r} has no file {names[0]}{{{','.join(FILE_TYPES)}}}; it holds {found}"
    )


def _read_file(file: Path) -> Table:
    frame = read_table(file)
    names = _parquet_class_names(file) if file.suffix.lower() == ".parquet" else {}
    return Table({str(name): frame[name].tolist() for name in frame.columns}, names, str(file))


def _parquet_class_names(file: Path) -> dict[str, tuple[str, ...]]:
    """Return the class names that Hugging Face datasets write into the schema of a Parquet file."""
    import pyarrow.parquet

    text = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json.loads(text).get("info", {}).get("features", {})
        return {
            str(name): tuple(map(str, feature["names"])) for name, feature in features.items() if "names" in feature
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"`data`: the class names in the schema of {str(file)!r} are damaged: {error}") from error


def _read_own(data: Any, split: str) -> Table:
    source = f"the task's own {split} data"
    if isinstance(data, str | Path):
        file = Path(data)
        if not file.is_file() or file.suffix.lower() not in FILE_TYPES:
            raise FileNotFoundError(
                f"`{split}`: there is no file of type {', '.join(FILE_TYPES)} at {str(data)!r}: correct the path"
            )
        return _read_file(file)
    if hasattr(data, "column_names"):
        return _read_dataset(data, split, source)
    if hasattr(data, "columns"):
        return Table({str(name): data[name].tolist() for name in data.columns}, {}, source)
    if isinstance(data, list | tuple) and all(isinstance(row, Mapping) for row in data):
        names = list(dict.fromkeys(str(name) for row in data for name in row))
        return Table({name: [row.get(name) for row in data] for name in names}, {}, source)
    raise TypeError(
        f"`{split}` must be a datasets.Dataset, a pandas.DataFrame, a list of dicts or the path of a file, "
        f"got {type(data).__name__}"
    )


def _read_dataset(data: Any, split: str, source: str) -> Table:
    if isinstance(data.column_names, dict) or not hasattr(data, "__len__"):
        raise TypeError(
            f"`{split}` must be one split of a dataset of known length, got {type(data).__name__}: "
            f"pass data[{split!r}], not streamed"
        )
    names = {name: tuple(feature.names) for name, feature in data.features.items() if getattr(feature, "names", None)}
    return Table({name: list(data[name]) for name in data.column_names}, names, source)


def fetch_hub(task: Task) -> "tuple[dict[str, Dataset], str]":
    """Return the train and the validation split of a task on the hub, and what to call them.

    Raises
    ------
    FileNotFoundError
        If the set cannot be fetched.
    ValueError
        If it has no split of that name.
    """
    from datasets import load_dataset

    names = (task.hub_repository, task.hub_name) if task.hub_name else (task.hub_repository,)
    source = " ".join(names)
    try:
        sets: Any = load_dataset(*names)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = f"`data_dir` was not given and {source!r} could not be fetched from the hub ({reason}): give a folder "
        raise FileNotFoundError(masked(text) + "with train and validation files") from error
    for name in task.hub_splits:
        if name not in sets:
            raise ValueError(
                f"`hub_splits`: {source!r} has no split {name!r}, it has {list(sets)}{nearest(name, sets)}"
            )
    return {split: sets[stored] for split, stored in zip(SPLITS, task.hub_splits, strict=True)}, source
