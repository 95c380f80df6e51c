"""The rows of a study's task: the same for every method and seed."""

from dataclasses import replace
from typing import Any

from gelora.finetuning.tasks import Task, TaskData, load_task
from gelora.provenance import generator
from gelora.study.specification import DRAWS, Search, Study, StudyTask


def drawn(study: Study, task: StudyTask) -> dict[str, int | None]:
    """Return how many train and validation rows are taken; None for all."""
    given = {**study.training, **task.training}
    return {name: given.get(name) for name in DRAWS}


def load_rows(study: Study, task: StudyTask) -> TaskData:
    """Return the rows of a task; where a part is taken, it is the same for every method and seed."""
    return load_task(task.task, task.data_dir, **drawn(study, task), seed=0)


def task_of(data: TaskData, **splits: Any) -> Task:
    """Return a task that holds rows that were loaded, or ``splits`` in place of its own."""
    held: dict[str, Any] = {"train": data.train, "validation": data.validation} | splits
    renamed: dict[str, Any] = {}
    if data.task.image:  # the rows are as loading has left them, with names of its own
        renamed = {"image": "image", "label": "label"}
    elif data.task.problem == "question_answering":
        renamed = {"answering": replace(data.task.answering, id_column="id")}
    return replace(data.task, **held, **renamed)


def hold_out(study: Study, task: StudyTask, search: Search) -> Task:
    """Return the task with a part of its train rows in the place of its validation rows, which stay unseen.

    The part is drawn by the seed of the search alone: every method is scored on the same rows.

    Raises
    ------
    ValueError
        If there are too few rows for both parts.
    """
    data = load_rows(study, task)
    n_rows = len(data.train)
    n_held = round(search.holdout * n_rows)
    if not 0 < n_held < n_rows:
        raise ValueError(
            f"`search.holdout` of {search.holdout:g} leaves no rows to train or to score on, of {n_rows} train rows: "
            "give another share, or more rows"
        )
    order = generator(search.seed, "holdout", task.task.name).permutation(n_rows)
    held, kept = sorted(order[:n_held].tolist()), sorted(order[n_held:].tolist())
    return task_of(data, train=data.train.select(kept), validation=data.train.select(held))
