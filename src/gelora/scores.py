"""The comparison of methods, an xarray Dataset: schema, open, save, means with errors, and paired tests."""

import math
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.messages import check_choice
from gelora.netcdf import check_schema, json_attribute, read_dataset, write_dataset

SCHEMA = "gelora-comparison"
SCHEMA_VERSION = 1
DIMS = ("task", "method", "seed")
# Of each run, from its record: variable, unit and what it is.
NUMBERS: tuple[tuple[str, str, str], ...] = (
    ("score", "", "score on the validation rows, as the task reports it"),
    ("trainable_parameters", "", "trained parameters as saved, without the head"),
    ("head_parameters", "", "parameters of the modules that are trained whole"),
    (
        "estimation_seconds",
        "s",
        "what the ranks cost: extraction, estimator and neighbour search, or gradients; EVA's pass over train rows",
    ),
    ("training_seconds", "s", "training, without evaluations"),
    ("evaluation_seconds", "s", "all evaluations"),
    ("step_seconds", "s", "median over the steps"),
    ("peak_memory", "B", "on a GPU allocated by torch, on a CPU the resident set of the process"),
)
AVERAGE = "average"


def check_comparison(comparison: xr.Dataset) -> xr.Dataset:
    """Return ``comparison`` if it is one.

    Raises
    ------
    ValueError, TypeError
        If it is not, saying what is missing.
    """
    if not isinstance(comparison, xr.Dataset):
        raise TypeError(f"`comparison` must be an xarray Dataset, got {type(comparison).__name__}")
    check_schema(
        comparison,
        "`comparison`",
        schema=SCHEMA,
        version=SCHEMA_VERSION,
        kind="comparison",
        made_by="gelora compare",
    )
    for name in (*(name for name, _, _ in NUMBERS), "status"):
        if name not in comparison or comparison[name].dims != DIMS:
            raise ValueError(f"`comparison` has no variable {name!r} over {DIMS}: make it again with `gelora compare`")
    return comparison


def open_comparison(path: str | Path) -> xr.Dataset:
    """Read a comparison from a netCDF file into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind or newer than this gelora.
    """
    return check_comparison(read_dataset(path, made_by="gelora compare study.yaml"))


def save_comparison(comparison: xr.Dataset, path: str | Path) -> Path:
    """Write ``comparison`` to a netCDF file, whole or not at all."""
    return write_dataset(check_comparison(comparison), path)


def summarise_scores(comparison: xr.Dataset, variable: str = "score") -> xr.Dataset:
    r"""Return the mean over the seeds and its standard error, by task and for the average over the tasks.

    Parameters
    ----------
    comparison : xarray.Dataset
        As `gelora.compare` returns.
    variable : str
        What is summarised: ``"score"``, or another number of each run. Scores of which some are better when they are
        greater and some when they are less have no average.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``standard_error`` and ``n`` (task, method). The task ``"average"`` comes last: the mean over the
        tasks of each seed, then over the seeds that have all tasks. NaN where no seed ended; the error
        :math:`s/\sqrt{n}` is NaN for one seed.

    Notes
    -----
    The seeds change the head, the order of the rows and what an adapter draws. The validation rows are the same for
    all: how another draw of those would score is in no error here.
    """
    check_comparison(comparison)
    check_choice("variable", variable, [name for name, _, _ in NUMBERS])
    values = _with_average(comparison, variable)
    count = values.notnull().sum("seed")
    error = values.std("seed", ddof=1) / np.sqrt(count.where(count > 1))
    return xr.Dataset({"mean": values.mean("seed"), "standard_error": error, "n": count})


def compare_scores(comparison: xr.Dataset, reference: str | None = None) -> xr.Dataset:
    """Test each method against a reference, paired by seed.

    Parameters
    ----------
    comparison : xarray.Dataset
        As `gelora.compare` returns.
    reference : str, optional
        A method; the study's own where left out.

    Returns
    -------
    xarray.Dataset
        By task, ``"average"`` last, and method: ``difference`` of the scores, method less reference, its
        ``standard_error`` over the seeds, ``n`` seeds that have both, the ``p_value`` of a paired t test (two-sided),
        and ``q_value``, that of all tests of single tasks adjusted as Benjamini and Hochberg do; the averages are
        adjusted among themselves. 1 where all scores are equal; NaN where fewer than two seeds have both, or all
        differ by the same, which says nothing of the noise.

    Raises
    ------
    ValueError
        If there is no such method.

    Notes
    -----
    With n seeds the test has n − 1 degrees of freedom: with three it sees differences of about 2.5 standard
    deviations. As the validation rows are the same for all seeds, it speaks of training, not of other data.
    """
    check_comparison(comparison)
    name = str(comparison.attrs.get("reference", "")) if reference is None else reference
    check_choice("reference", name, [str(method) for method in comparison["method"].values])
    values = _with_average(comparison, "score")
    differences = (values - values.sel({"method": name}, drop=True)).transpose(*DIMS)
    count = differences.notnull().sum("seed")
    error = differences.std("seed", ddof=1) / np.sqrt(count.where(count > 1))
    found = xr.Dataset({"difference": differences.mean("seed"), "standard_error": error, "n": count})
    p = np.apply_along_axis(_paired_p, 2, differences.values)
    p[:, comparison["method"].values.tolist().index(name)] = math.nan  # nothing is tested against itself
    q = np.concatenate([_adjust(p[:-1]), _adjust(p[-1:])])
    dims = ("task", "method")
    return found.assign(p_value=(dims, p), q_value=(dims, q)).assign_attrs(reference=name)


def total_seconds(comparison: xr.Dataset) -> xr.DataArray:
    """Return the seconds of estimation and training of each run together."""
    check_comparison(comparison)
    return comparison["estimation_seconds"] + comparison["training_seconds"]


def mean_cost(comparison: xr.Dataset, cost: str = "parameters") -> xr.DataArray:
    """Return what each method costs, on the mean over the seeds of each task, then over the tasks.

    Parameters
    ----------
    comparison : xarray.Dataset
        As `gelora.compare` returns.
    cost : {"parameters", "seconds"}
        Trained parameters without the head, or seconds of estimation and training.

    Returns
    -------
    xarray.DataArray
        Along ``method``; NaN where no run of a task ended, as a mean over the others would be that of other tasks.
    """
    check_comparison(comparison)
    check_choice("cost", cost, ("parameters", "seconds"))
    paid = comparison["trainable_parameters"] if cost == "parameters" else total_seconds(comparison)
    return paid.mean("seed").mean("task", skipna=False)


def better_when_greater(comparison: xr.Dataset) -> xr.DataArray:
    """Say of each task, the average last, whether greater scores are better."""
    known = json_attribute(comparison, "greater_is_better", "`comparison`")
    if not isinstance(known, dict):
        raise ValueError(f"`comparison`: its attribute `greater_is_better` is damaged: {known!r:.80}")
    by_task = [bool(known.get(str(task), True)) for task in comparison["task"].values]
    return xr.DataArray([*by_task, all(by_task)], dims="task")


def _with_average(comparison: xr.Dataset, variable: str) -> xr.DataArray:
    """Return a variable with a last task that is the mean of all, where a seed has them all."""
    values = comparison[variable]
    directions = better_when_greater(comparison).values[:-1]
    if variable == "score" and directions.any() and not directions.all():
        values = values * math.nan
    mean = values.mean("task", skipna=False).expand_dims(task=np.array([AVERAGE], dtype=object))
    return xr.concat([comparison[variable], mean], dim="task")


def _paired_p(differences: NDArray[np.float64]) -> float:
    from scipy.stats import ttest_1samp

    known = differences[np.isfinite(differences)]
    if len(known) < 2:
        return math.nan
    if np.ptp(known) == 0:
        return 1.0 if known[0] == 0 else math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are all but equal: the value says it
        return float(ttest_1samp(known, 0.0).pvalue)


def _adjust(p: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import false_discovery_control

    found = p.copy()
    known = np.isfinite(p)
    if known.any():
        found[known] = false_discovery_control(p[known])
    return found
