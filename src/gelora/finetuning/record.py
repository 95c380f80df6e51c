"""The training record: an xarray Dataset of a run's losses, metrics, ranks and costs. Make, save, open."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from gelora.netcdf import check_schema, plain_attributes, read_dataset, write_dataset
from gelora.plan import RankPlan

if TYPE_CHECKING:
    from gelora.finetuning.adaptation import Adapted
    from gelora.finetuning.callbacks import History

SCHEMA = "gelora-training-record"
SCHEMA_VERSION = 1


def make_record(
    history: "History",
    plan: RankPlan | None,
    adapted: "Adapted",
    *,
    metrics: Sequence[str],
    n_head: int,
    peak_memory: float,
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Put a finished run into a Dataset.

    Parameters
    ----------
    history : History
        Steps, evaluations and ranks.
    plan : RankPlan or None
        Bound to the model that was trained.
    adapted : Adapted
        At the end of its training.
    metrics : sequence of str
        The task's metrics.
    n_head : int
        Parameters of the modules trained whole.
    peak_memory : float
        Bytes, NaN where unknown.
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
    modules = () if plan is None else plan.modules
    ranks = adapted.ranks()
    last = np.array([ranks.get(module.name, 0) for module in modules], dtype=np.int64)
    scales = adapted.scales() if adapted.scales is not None else {}
    alphas = [rank * scales.get(m.name, m.alpha / m.rank) for m, rank in zip(modules, last, strict=True)]
    names_known = list(ranks)
    moved = [[row[names_known.index(m.name)] if m.name in ranks else 0 for m in modules] for row in history.rank_values]
    return xr.Dataset(
        {
            "loss": ("step", np.array(history.losses, dtype=np.float64)),
            "learning_rate": ("step", np.array(history.learning_rates, dtype=np.float64)),
            "step_seconds": ("step", seconds, {"units": "s"}),
            "validation": (("evaluation", "metric"), np.array(values, dtype=np.float64).reshape(-1, len(names))),
            "validation_loss": ("evaluation", _column(evaluations, "loss")),
            "evaluation_seconds": ("evaluation", _column(evaluations, "seconds"), {"units": "s"}),
            "score": ((), values[-1][-1]),
            "trainable_parameters": ("part", np.array([adapted.count(), n_head], dtype=np.int64)),
            "rank": ("module", last),
            "alpha": ("module", np.array(alphas, dtype=np.float64)),
            "rank_history": (
                ("change", "module"),
                np.array(moved, dtype=np.int64).reshape(len(history.rank_values), len(modules)),
            ),
            "preparation_seconds": (
                (),
                adapted.preparation_seconds,
                {"units": "s", "long_name": "start of the adapter learnt from train rows"},
            ),
            "seconds": ((), float(seconds.sum()), {"units": "s", "long_name": "training, without evaluations"}),
            "seconds_per_step": ((), float(np.median(seconds)) if len(seconds) else np.nan, {"units": "s"}),
            "peak_memory": ((), peak_memory, {"units": "B", "long_name": "peak memory"}),
        },
        coords={
            "step": np.arange(1, len(seconds) + 1),
            "evaluation_step": ("evaluation", _column(evaluations, "step").astype(np.int64)),
            "epoch": ("evaluation", _column(evaluations, "epoch")),
            "metric": np.array(names, dtype=object),
            "part": np.array(["adapter", "head"], dtype=object),
            "change_step": ("change", np.array(history.rank_steps, dtype=np.int64)),
            "module": np.array([module.name for module in modules], dtype=object),
            "block": ("module", np.array([module.block for module in modules], dtype=np.int64)),
            "role": ("module", np.array([module.role for module in modules], dtype=object)),
        },
        attrs={"schema": SCHEMA, "schema_version": SCHEMA_VERSION} | plain_attributes(attributes),
    )


# What drawings and reports show of a record, with its dimensions.
_SHOWN = {"loss": ("step",), "score": (), "seconds": (), "trainable_parameters": ("part",)}
_PARTS = ("adapter", "head")


def check_record(record: Any) -> xr.Dataset:
    """Return ``record`` if it has what a report shows of a training record.

    Raises
    ------
    TypeError, ValueError
        If it has not, saying what is missing, or is newer than this gelora.
    """
    if not isinstance(record, xr.Dataset):
        raise TypeError(f"`record` must be an xarray Dataset, got {type(record).__name__}")
    kind, maker = "training record", "gelora finetune"
    check_schema(record, "`record`", schema=SCHEMA, version=SCHEMA_VERSION, kind=kind, made_by=maker)
    for name, dims in _SHOWN.items():
        if name not in record.variables:
            raise ValueError(f"`record` is damaged, it has no {name!r}: make one with `{maker}`")
        if record[name].dims != dims or not set(dims) <= set(record.coords):
            raise ValueError(
                f"`record` is damaged: its {name!r} must have the dimensions {dims}, with coordinates, got "
                f"{record[name].dims}: make one with `{maker}`"
            )
    parts = [str(part) for part in record["part"].values]
    if sorted(parts) != sorted(_PARTS):
        raise ValueError(f"`record` is damaged: its 'part' must be {_PARTS}, got {parts}: make one with `{maker}`")
    return record


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
