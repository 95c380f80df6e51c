"""Compare methods of fine-tuning: run what is missing of a study, put it together, draw it."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import xarray as xr

from gelora.figures import save_figure
from gelora.files import atomic_path, make_folder
from gelora.plots_comparison import COSTS, plot_comparison
from gelora.processes import Processes
from gelora.quiet import quiet_libraries
from gelora.scores import save_comparison
from gelora.study.counting import count_parameters
from gelora.study.planning import Planner
from gelora.study.reading import read_study
from gelora.study.results import collect
from gelora.study.running import run_missing
from gelora.study.specification import Study
from gelora.study.tables import to_latex, to_markdown
from gelora.study.units import list_units, read_outcome

COMPARISON_FILE = "comparison.nc"


def compare(
    study: "str | Path | Mapping[str, Any] | Study",
    *,
    model: str | None = None,
    data_dir: str | Path | None = None,
    output: str | Path | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Fine-tune by several methods on several tasks with several seeds, and compare them.

    Each training has a folder below ``output``. A training that was cut off goes on from its last checkpoint at the
    next call, one that has ended is not made again, and one that fails is recorded with its error while the others go
    on. Several calls at once, on one machine or on several that share the folder, divide the trainings among
    themselves; started by torchrun or ``accelerate launch``, the processes work on one training together.

    Parameters
    ----------
    study : str, Path or mapping
        The path of a YAML file, or what it holds: ``model``, ``tasks``, ``methods``, ``output``, and optionally
        ``seeds``, ``data_dir``, ``training``, ``estimation``, ``ranks``, ``search``, ``reference``,
        ``keep_adapters``, ``revision`` and ``trust_remote_code``; see the page on comparing methods of the
        documentation.
    model, data_dir, output : str or Path, optional
        In place of what the study says.
    retry_failed : bool
        Make the trainings that failed once more.
    progress : bool
        Show a bar over the trainings, with the time left.

    Returns
    -------
    xarray.Dataset
        By task, method and seed: ``score``, ``trainable_parameters`` and ``head_parameters``,
        ``estimation_seconds``, ``training_seconds``, ``evaluation_seconds``, ``step_seconds``, ``peak_memory`` in
        bytes, ``status`` (finished, failed or missing), ``error``, ``options`` (JSON), ``versions`` (JSON),
        ``device``, ``created``; ``validation`` also by metric, ``rank`` also by module, NaN where a method has none;
        with a search ``trial_score``, ``trial_seconds``, ``trial_options`` (task, method, trial); the study and its
        origin in the attributes. It is ``comparison.nc`` in the folder, beside ``comparison.md`` and
        ``comparison.tex``, ``pareto-parameters.png`` and ``pareto-seconds.png``; the adapters lie in
        ``runs/TASK/METHOD/seed-SEED/adapter``.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        Before any training, naming the line and the key: the study has an error, or the folder holds trainings made
        with other settings.

    Notes
    -----
    Methods that are given no rank or budget get the cost of the task's geometric plan, which rests on
    ``estimation: {estimator: …}`` (TwoNN by default), to less than one rank of one block. The search, where there is
    one, sees train rows alone, and as many trials for each method.
    """
    found = read_study(study, model=model, data_dir=data_dir, output=output)
    make_folder(found.output / "locks")
    processes = Processes(str(found.training.get("device", "auto")))
    run_missing(found, processes, retry_failed=retry_failed, progress=progress)
    return processes.agree(lambda: _collect_and_write(found))


def list_runs(study: "str | Path | Mapping[str, Any] | Study", **overrides: Any) -> pd.DataFrame:
    """Return what `compare` would train, without training anything or estimating dimensions.

    Parameters
    ----------
    study : str, Path or mapping
        As for `compare`.
    **overrides
        ``model``, ``data_dir``, ``output`` in place of what the study says.

    Returns
    -------
    pandas.DataFrame
        A row for each training, those of searches first: ``task``, ``method``, ``seed``, ``trial`` (missing for a
        run that is reported), ``status``, and the parameters that are trained, of the ``adapter`` and the ``head``:
        those of the adapter are missing where they follow from a profile that is not made yet.
    """
    found = read_study(study, **overrides)
    planner = Planner(found, write=False)
    with quiet_libraries():
        counted = {task.task.name: count_parameters(found, planner, task) for task in found.tasks}
    rows = []
    for unit in list_units(found):
        task, method = unit.task.task.name, unit.method.name
        status = read_outcome(found, unit).status
        rows.append((task, method, unit.seed, unit.trial, status, *counted[task][method]))
    table = pd.DataFrame(rows, columns=["task", "method", "seed", "trial", "status", "adapter", "head"])
    return table.astype({"trial": "Int64", "adapter": "Int64"})


def _collect_and_write(study: Study) -> xr.Dataset:
    """Put together what has ended and write it; calls that end at once do so one after the other."""
    with filelock.FileLock(study.output / "locks" / "comparison.lock"):
        comparison = collect(study)
        _write(comparison, study.output)
    return comparison


def _write(comparison: xr.Dataset, folder: Path) -> None:
    """Write the Dataset, its tables, and its plots where something has ended."""
    save_comparison(comparison, folder / COMPARISON_FILE)
    for name, text in (("comparison.md", to_markdown(comparison)), ("comparison.tex", to_latex(comparison))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if bool((comparison["status"] == "finished").any()):
        for cost in COSTS:
            save_figure(functools.partial(plot_comparison, comparison, cost=cost), folder / f"pareto-{cost}.png")
