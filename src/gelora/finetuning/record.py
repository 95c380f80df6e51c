"""The training record: an xarray Dataset of a run's losses, metrics, ranks and costs. Make, save, open."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from gelora.netcdf import check_schema, plain_attributes, read_dataset, write_dataset
from gelora.plan import RankPlan

if TYPE_CHECKING:
    from gelora.finetuning.callbacks import History

SCHEMA = "gelora-training-record"
SCHEMA_VERSION = 1


def make_record(
    history: "History",
    plan: RankPlan,
    *,
    metrics: Sequence[str],
    n_adapter: int,
    n_head: int,
    peak_memory: float,
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Put a finished run into a Dataset.

    Parameters
    ----------
    history : History
        Steps and evaluations.
    plan : RankPlan
        Bound to the model that was trained.
    metrics : sequence of str
        The task's metrics.
    n_adapter, n_head : int
        Trainable parameters.
    peak_memory : float
        Bytes on the GPU, NaN without one.
    attributes : mapping
        Provenance; what is no number or text is stored as JSON.

    Returns
    -------
    xarray.Dataset
        See `gelora.finetuning.runner.finetune`.
    """
    evaluations = history.evaluations
    names = (*metrics, "score")
    values = [[entry.get(name, np.nan) for name in names] for entry in evaluations]
    seconds = np.array(history.seconds, dtype=np.float64)
    return xr.Dataset(
        {
            "loss": ("step", np.array(history.losses, dtype=np.float64)),
            "learning_rate": ("step", np.array(history.learning_rates, dtype=np.float64)),
            "step_seconds": ("step", seconds, {"units": "s"}),
            "validation": (("evaluation", "metric"), np.array(values, dtype=np.float64).reshape(-1, len(names))),
            "validation_loss": ("evaluation", _column(evaluations, "loss")),
            "evaluation_seconds": ("evaluation", _column(evaluations, "seconds"), {"units": "s"}),
            "score": ((), values[-1][-1]),
            "trainable_parameters": ("part", np.array([n_adapter, n_head], dtype=np.int64)),
            "rank": ("module", np.array([module.rank for module in plan.modules], dtype=np.int64)),
            "alpha": ("module", np.array([module.alpha for module in plan.modules], dtype=np.float64)),
            "seconds": ((), float(seconds.sum()), {"units": "s", "long_name": "training, without evaluations"}),
            "seconds_per_step": ((), float(np.median(seconds)) if len(seconds) else np.nan, {"units": "s"}),
            "peak_memory": ((), peak_memory, {"units": "B", "long_name": "peak allocated GPU memory"}),
        },
        coords={
            "step": np.arange(1, len(seconds) + 1),
            "evaluation_step": ("evaluation", _column(evaluations, "step").astype(np.int64)),
            "epoch": ("evaluation", _column(evaluations, "epoch")),
            "metric": np.array(names, dtype=object),
            "part": np.array(["adapter", "head"], dtype=object),
            "module": np.array([module.name for module in plan.modules], dtype=object),
            "block": ("module", np.array([module.block for module in plan.modules], dtype=np.int64)),
            "role": ("module", np.array([module.role for module in plan.modules], dtype=object)),
        },
        attrs={"schema": SCHEMA, "schema_version": SCHEMA_VERSION} | plain_attributes(attributes),
    )


def save_record(record: xr.Dataset, path: str | Path) -> Path:
    """Write ``record`` to a netCDF file, whole or not at all."""
    return write_dataset(record, path)


def open_record(path: str | Path) -> xr.Dataset:
    """Read a training record from a netCDF file into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind or newer than this gelora.
    """
    record = read_dataset(path, made_by="gelora finetune --output")
    check_schema(
        record,
        f"`path`: {str(path)!r}",
        schema=SCHEMA,
        version=SCHEMA_VERSION,
        kind="training record",
        made_by="gelora finetune",
    )
    return record


def _column(evaluations: Sequence[Mapping[str, float]], name: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([entry.get(name, np.nan) for entry in evaluations], dtype=np.float64)
