"""The comparison: an xarray Dataset over task, method and seed, put together from the trainings' files."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from gelora.finetuning.checkpoints import RECORD_FILE
from gelora.finetuning.record import open_record
from gelora.netcdf import plain_attributes
from gelora.provenance import package_versions, timestamp
from gelora.scores import DIMS, NUMBERS, SCHEMA, SCHEMA_VERSION
from gelora.study.specification import Study
from gelora.study.units import FAILED, FINISHED, Outcome, Unit, read_outcome


def collect(study: Study) -> xr.Dataset:
    """Put together what has ended so far; what has not is NaN, with the status ``"missing"``.

    Returns
    -------
    xarray.Dataset
        As `gelora.compare` describes it.
    """
    units = [Unit(task, method, seed) for task in study.tasks for method in study.methods for seed in study.seeds]
    outcomes = [read_outcome(study, unit) for unit in units]
    records = [
        open_record(unit.folder(study) / RECORD_FILE) if outcome.status == FINISHED else None
        for unit, outcome in zip(units, outcomes, strict=True)
    ]
    shape = (len(study.tasks), len(study.methods), len(study.seeds))
    numbers = [_numbers(record, outcome) for record, outcome in zip(records, outcomes, strict=True)]
    variables: dict[str, Any] = {
        name: (DIMS, np.array([one[name] for one in numbers]).reshape(shape), {"units": unit, "long_name": what})
        for name, unit, what in NUMBERS
    }
    variables |= _texts(records, outcomes, shape)
    metrics, values = _metrics(records)
    modules, ranks = _ranks(records)
    variables["validation"] = ((*DIMS, "metric"), values.reshape(*shape, len(metrics)))
    variables["rank"] = ((*DIMS, "module"), ranks.reshape(*shape, len(modules)), {"long_name": "rank, NaN for none"})
    coordinates = {
        "task": _objects(task.task.name for task in study.tasks),
        "method": _objects(method.name for method in study.methods),
        "seed": np.array(study.seeds, dtype=np.int64),
        "metric": _objects(metrics),
        "module": _objects(modules),
    }
    trials, tried = _trials(study)
    return xr.Dataset(variables | trials, coords=coordinates | tried, attrs=_attributes(study, records))


def _numbers(record: xr.Dataset | None, outcome: Outcome) -> dict[str, float]:
    if record is None:
        return {name: math.nan for name, _, _ in NUMBERS}
    adapter, head = record["trainable_parameters"].values.tolist()
    prepared = float(record["preparation_seconds"]) if "preparation_seconds" in record else 0.0  # older ones lack it
    return {
        "score": float(record["score"]),
        "trainable_parameters": float(adapter),
        "head_parameters": float(head),
        "estimation_seconds": float(outcome.facts["estimation_seconds"]) + prepared,
        "training_seconds": float(record["seconds"]),
        "evaluation_seconds": float(record["evaluation_seconds"].sum()),
        "step_seconds": float(record["seconds_per_step"]),
        "peak_memory": float(record["peak_memory"]),
    }


def _texts(
    records: Sequence[xr.Dataset | None], outcomes: Sequence[Outcome], shape: tuple[int, int, int]
) -> dict[str, Any]:
    columns = {
        "status": [outcome.status for outcome in outcomes],
        "error": [str(outcome.facts.get("error", "")) if outcome.status == FAILED else "" for outcome in outcomes],
        "options": [json.dumps(outcome.facts.get("options", {})) for outcome in outcomes],
        "versions": ["" if record is None else str(record.attrs["versions"]) for record in records],
        "device": ["" if record is None else str(record.attrs["device"]) for record in records],
        "created": ["" if record is None else str(record.attrs["created"]) for record in records],
    }
    return {name: (DIMS, _objects(values).reshape(shape)) for name, values in columns.items()}


def _metrics(records: Sequence[xr.Dataset | None]) -> tuple[list[str], "np.ndarray[Any, Any]"]:
    """Return the names of all metrics, and the last value of each by run."""
    last = [
        {}
        if record is None
        else dict(zip(record["metric"].values.tolist(), record["validation"][-1].values, strict=True))
        for record in records
    ]
    names = list(dict.fromkeys(name for one in last for name in one if name != "score"))
    return names, np.array([[one.get(name, math.nan) for name in names] for one in last])


def _ranks(records: Sequence[xr.Dataset | None]) -> tuple[list[str], "np.ndarray[Any, Any]"]:
    """Return the names of all adapted modules, and the rank of each at the end of a run."""
    last = [
        {} if record is None else dict(zip(record["module"].values.tolist(), record["rank"].values, strict=True))
        for record in records
    ]
    names = list(dict.fromkeys(name for one in last for name in one))
    return names, np.array([[one.get(name, math.nan) for name in names] for one in last], dtype=np.float64)


def _trials(study: Study) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores and options of all trials, and their numbers; nothing without a search."""
    if study.search is None:
        return {}, {}
    n_trials, dims = study.search.n_trials, ("task", "method", "trial")
    shape = (len(study.tasks), len(study.methods), n_trials)
    scores, seconds, options = np.full(shape, math.nan), np.full(shape, math.nan), np.full(shape, "{}", dtype=object)
    for row, task in enumerate(study.tasks):
        for column, method in enumerate(study.methods):
            for number in range(n_trials):
                unit = Unit(task, method, study.search.seed, number)
                outcome = read_outcome(study, unit)
                options[row, column, number] = json.dumps(outcome.facts.get("chosen", {}))
                if outcome.status == FINISHED:
                    record = open_record(unit.folder(study) / RECORD_FILE)
                    scores[row, column, number] = float(record["score"])
                    seconds[row, column, number] = float(record["seconds"])
    variables = {
        "trial_score": (dims, scores, {"long_name": "score of a trial on held-out train rows"}),
        "trial_seconds": (dims, seconds, {"units": "s", "long_name": "training of a trial, without evaluations"}),
        "trial_options": (dims, options),
    }
    return variables, {"trial": np.arange(n_trials)}


def _attributes(study: Study, records: Sequence[xr.Dataset | None]) -> dict[str, Any]:
    made = [record for record in records if record is not None]
    by_task: dict[str, set[str]] = {}
    for record in made:
        by_task.setdefault(str(record.attrs["task"]), set()).add(str(record.attrs["data_fingerprint"]))
    attributes = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "study": study.describe(),
        "model": study.model,
        "weights_fingerprint": str(made[0].attrs["weights_fingerprint"]) if made else "",
        "reference": study.reference,
        "data_fingerprints": {name: sorted(found) for name, found in by_task.items()},
        "greater_is_better": {task.task.name: task.task.greater_is_better for task in study.tasks},
        "versions": package_versions(),
        "created": timestamp(),
    }
    return plain_attributes(attributes)


def _objects(values: Any) -> "np.ndarray[Any, Any]":
    return np.array(list(values), dtype=object)
