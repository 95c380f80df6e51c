"""The trainings of a study: each has a folder, a state that survives a kill, and says what it was made with."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gelora.files import atomic_path, make_folder, read_json, to_json
from gelora.finetuning.checkpoints import ADAPTER_FOLDER, CHECKPOINT_FOLDER, PREDICTIONS_FILE
from gelora.provenance import timestamp
from gelora.study.methods import Method
from gelora.study.rows import drawn
from gelora.study.specification import Study, StudyTask

OUTCOME_FILE = "outcome.json"
FINISHED, FAILED, MISSING, BEGUN = "finished", "failed", "missing", "begun"


@dataclass(frozen=True)
class Unit:
    """One training.

    Parameters
    ----------
    task : StudyTask
    method : Method
    seed : int
        Of the training.
    trial : int, optional
        Number of the trial of a search, which is scored on held-out train rows; None for a run that is reported.
    """

    task: StudyTask
    method: Method
    seed: int
    trial: int | None = None

    @property
    def name(self) -> str:
        """As in ``cola/gelora/seed-0``."""
        last = f"seed-{self.seed}" if self.trial is None else f"trial-{self.trial}"
        return f"{self.task.task.name}/{self.method.name}/{last}"

    def folder(self, study: Study) -> Path:
        """Return where its files lie."""
        return study.output / ("runs" if self.trial is None else "trials") / self.name


def list_units(study: Study) -> list[Unit]:
    """Return all trainings in the order in which they are begun: the trials of a method stand before its runs."""
    units: list[Unit] = []
    for task in study.tasks:
        for method in study.methods:
            search = study.search_for(method)
            trials = range(search.n_trials) if search is not None else ()
            units += [Unit(task, method, search.seed, trial) for trial in trials if search is not None]
        units += [Unit(task, method, seed) for seed in study.seeds for method in study.methods]
    return units


def specify(study: Study, unit: Unit) -> dict[str, Any]:
    """Return all that a training depends on, as JSON takes it."""
    search = study.search_for(unit.method)
    options = study.options(unit.task, unit.method, trial=unit.trial is not None)
    found = {
        **study.identify(),
        "task": unit.task.describe(),
        "rows": drawn(study, unit.task),
        "method": unit.method.describe(),
        "options": {name: value for name, value in options.items() if name not in _WHERE},
        "estimator": study.estimator,
        "estimation": dict(study.estimation),
        "ranks": dict(study.ranks),
        "search": None if search is None else asdict(search),
        "seed": unit.seed,
    }
    plain: dict[str, Any] = json.loads(to_json(found))
    return plain


# Options that say where and how often, not what is made.
_WHERE = ("device", "save_steps", "eval_batch_size")


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Parameters
    ----------
    status : {"finished", "failed", "missing"}
    specification : mapping
        What it was made with.
    facts : mapping
        ``estimation_seconds``, ``options`` and the like; of a failed one ``error`` and ``traceback``.
    """

    status: str
    specification: Mapping[str, Any]
    facts: Mapping[str, Any]


def read_outcome(study: Study, unit: Unit) -> Outcome:
    """Return how a training ended, ``"missing"`` where it has not.

    Raises
    ------
    ValueError
        If it is finished and was made with something else than the study says now.
    """
    file = unit.folder(study) / OUTCOME_FILE
    wanted = specify(study, unit)
    try:
        stored = read_json(file)
        found = Outcome(str(stored["status"]), dict(stored["specification"]), dict(stored["facts"]))
    except FileNotFoundError:
        return Outcome(MISSING, wanted, {})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({error}): remove its folder, and the training is made again"
        ) from error
    if found.status == BEGUN:
        return Outcome(MISSING, wanted, {})
    if found.specification == wanted:
        return found
    if found.status == FAILED:
        return Outcome(MISSING, wanted, {})  # what was changed may be the remedy
    differences = [
        f"{key} was {found.specification.get(key)!r:.100}, is {wanted.get(key)!r:.100}"
        for key in sorted({*found.specification, *wanted})
        if found.specification.get(key) != wanted.get(key)
    ]
    raise ValueError(
        f"`output`: {unit.name} in {str(study.output)!r} was made with other settings ({'; '.join(differences)}): give "
        f"another output, or remove {str(file.parent)!r} to make it again"
    )


def write_outcome(study: Study, unit: Unit, status: str, facts: Mapping[str, Any]) -> None:
    """Write down how a training ended, or that it was begun, whole or not at all."""
    folder = make_folder(unit.folder(study))
    stored = {"status": status, "specification": specify(study, unit), "facts": {**facts, "written": timestamp()}}
    with atomic_path(folder / OUTCOME_FILE) as temporary:
        temporary.write_text(to_json(stored, indent=1) + "\n", encoding="utf-8")


def clear_leftovers(study: Study, unit: Unit) -> None:
    """Remove the checkpoints of a finished training, and the adapter of a trial: it is scored, no more."""
    folder = unit.folder(study)
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    if unit.trial is not None or not study.keep_adapters:
        shutil.rmtree(folder / ADAPTER_FOLDER, ignore_errors=True)
    if unit.trial is not None:
        (folder / PREDICTIONS_FILE).unlink(missing_ok=True)


def begin(study: Study, unit: Unit) -> None:
    """Make the folder ready: one that was cut off goes on, any other starts afresh; and note that it was begun."""
    folder = unit.folder(study)
    if not _was_cut_off(study, unit) and folder.exists():
        shutil.rmtree(folder)
    write_outcome(study, unit, BEGUN, {})


def _was_cut_off(study: Study, unit: Unit) -> bool:
    try:
        stored = read_json(unit.folder(study) / OUTCOME_FILE)
        return bool(stored["status"] == BEGUN and stored["specification"] == specify(study, unit))
    except (OSError, ValueError, KeyError, TypeError):
        return False
