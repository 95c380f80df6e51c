"""Make the trainings of a study that are missing, one after the other; a failing one is recorded, no more."""

import logging
import math
import platform
import traceback
from typing import Any

from tqdm.auto import tqdm

from gelora.files import make_folder
from gelora.finetuning.checkpoints import RECORD_FILE
from gelora.finetuning.record import open_record
from gelora.finetuning.runner import finetune
from gelora.finetuning.tasks import Task
from gelora.masking import masked
from gelora.plan import RankPlan
from gelora.processes import Processes
from gelora.study.planning import Planner
from gelora.study.rows import drawn, hold_out, load_rows, task_of
from gelora.study.searching import Trial, choose, propose
from gelora.study.specification import Study
from gelora.study.units import (
    FAILED,
    FINISHED,
    MISSING,
    Unit,
    begin,
    clear_leftovers,
    list_units,
    read_outcome,
    write_outcome,
)

_log = logging.getLogger("gelora")


def run_missing(study: Study, processes: Processes, *, retry_failed: bool = False, progress: bool = True) -> None:
    """Make every training that is missing, unless another process is at it.

    Parameters
    ----------
    study : Study
        What is compared.
    processes : Processes
        Of this job.
    retry_failed : bool
        Make those that failed once more.
    progress : bool
        Show a bar over the trainings, with the time left.
    """
    units = list_units(study)
    ended = processes.agree(lambda: [_ended(study, unit) for unit in units])  # refuses other settings
    open_ = [
        unit
        for unit, (status, _) in zip(units, ended, strict=True)
        if status == MISSING or (retry_failed and status == FAILED)
    ]
    # Of those that failed: when. Where another call has made one again meanwhile, it is not made a third time.
    retried = {unit.name: written for unit, (status, written) in zip(units, ended, strict=True) if status == FAILED}
    planner = Planner(study)
    shown = progress and processes.first
    with tqdm(
        total=len(units), initial=len(units) - len(open_), desc="comparing", unit="run", disable=not shown
    ) as bar:
        while open_:
            left = []
            for unit in open_:
                bar.set_postfix_str(unit.name)
                if _take(study, unit, planner, processes, retried.get(unit.name)):
                    bar.update()
                else:
                    left.append(unit)
            if len(left) == len(open_):
                _log.info("%d trainings are left to other processes", len(left))
                break
            open_ = left


def _ended(study: Study, unit: Unit) -> tuple[str, str]:
    """Return how a training ended, and when."""
    outcome = read_outcome(study, unit)
    return outcome.status, str(outcome.facts.get("written", ""))


def _take(study: Study, unit: Unit, planner: Planner, processes: Processes, failed: str | None) -> bool:
    """Make a training if it can be made now; say whether it has ended.

    One that failed is made again where that was at the time ``failed``.
    """
    import filelock

    folder = make_folder(study.output / "locks")
    lock = filelock.FileLock(folder / f"{unit.name.replace('/', '--')}.lock", blocking=False)

    def decide() -> str:
        if any(read_outcome(study, other).status == MISSING for other in _before(study, unit)):
            return "wait"
        try:
            lock.acquire()
        except filelock.Timeout:
            return "wait"
        status, written = _ended(study, unit)
        if status == FINISHED or (status == FAILED and written != failed):
            return "ended"
        begin(study, unit)
        return "make"

    try:
        decision = processes.agree(decide)
        if decision == "make":
            _make(study, unit, planner, processes)
    finally:
        lock.release()
    return decision != "wait"


def _before(study: Study, unit: Unit) -> list[Unit]:
    """Return the trials that must have ended first: all for a run, for a trial by Optuna those before it."""
    search = study.search_for(unit.method)
    if search is None:
        return []
    before = search.n_trials if unit.trial is None else unit.trial * (search.engine == "optuna")
    return [Unit(unit.task, unit.method, search.seed, number) for number in range(before)]


def _make(study: Study, unit: Unit, planner: Planner, processes: Processes) -> None:
    """Train, and write down how it ended."""
    facts: dict[str, Any] = {"host": platform.node(), "processes": processes.count}
    try:
        _train(study, unit, planner, processes, facts)
        status = FINISHED
    except Exception as error:  # whatever goes wrong in one training: it is recorded, and the others go on
        _log.warning("%s failed: %s: %s", unit.name, type(error).__name__, masked(str(error)))
        status = FAILED
        text = processes.first_error(unit.name, f"{type(error).__name__}: {error}")
        facts |= {"error": text, "traceback": traceback.format_exc()}
        if not processes.all_failed(unit.name):
            # The others wait for this process inside the training and always would: end the job, which can go on later.
            write_outcome(study, unit, FAILED, facts)
            raise
    if processes.first:
        if status == FINISHED:
            clear_leftovers(study, unit)  # before it counts as finished: nobody would come back for them
        write_outcome(study, unit, status, facts)
    processes.wait()


def _train(study: Study, unit: Unit, planner: Planner, processes: Processes, facts: dict[str, Any]) -> None:
    """Train, and add to ``facts`` what the record does not hold."""
    search = study.search_for(unit.method)
    options = study.options(unit.task, unit.method, trial=unit.trial is not None)
    facts["chosen"] = {}
    if search is not None:
        done = processes.agree(lambda: finished_trials(study, unit))
        better = unit.task.task.greater_is_better
        if unit.trial is None:
            facts["chosen"] = choose(done, better)
        else:
            number, before = unit.trial, [trial for trial in done if trial.number < unit.trial]
            facts["chosen"] = processes.agree(lambda: propose(search, number, before, better))
    options |= facts["chosen"]
    facts["options"] = options
    plan: RankPlan | None = processes.agree(lambda: planner.plan(unit.task, unit.method, unit.seed))
    facts["estimation_seconds"] = processes.agree(lambda: planner.estimation_seconds(unit.task, unit.method, plan))
    task, data_dir = _task(study, unit)
    finetune(
        study.model,
        task,
        plan,
        unit.method.adapter,
        output_dir=unit.folder(study),
        data_dir=data_dir,
        seed=unit.seed,
        progress=False,
        revision=study.revision,
        trust_remote_code=study.trust_remote_code,
        **options,
    )


def finished_trials(study: Study, unit: Unit) -> list[Trial]:
    """Return the trials of a unit's task and method that have ended, with their scores; NaN for those that failed."""
    search = study.search_for(unit.method)
    found: list[Trial] = []
    for number in range(0 if search is None else search.n_trials):
        trial = Unit(unit.task, unit.method, unit.seed if search is None else search.seed, number)
        outcome = read_outcome(study, trial)
        if outcome.status == FINISHED:
            record = open_record(trial.folder(study) / RECORD_FILE)
            loss = float(record["validation_loss"][-1])
            found.append(Trial(number, outcome.facts["chosen"], float(record["score"]), loss))
        elif outcome.status == FAILED:
            found.append(Trial(number, outcome.facts.get("chosen", {}), math.nan))
    return found


def _task(study: Study, unit: Unit) -> tuple[Task, str | None]:
    """Return what is learnt, and the folder of its data where they are not drawn from it."""
    search = study.search_for(unit.method)
    if search is not None and unit.trial is not None:
        return hold_out(study, unit.task, search), None
    if any(drawn(study, unit.task).values()):
        return task_of(load_rows(study, unit.task)), None
    return unit.task.task, unit.task.data_dir
