"""A comparison as tables: Markdown and LaTeX as in papers, and one for the terminal."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gelora.scores import (
    AVERAGE,
    better_when_greater,
    check_comparison,
    compare_scores,
    mean_cost,
    summarise_scores,
)

if TYPE_CHECKING:
    from rich.table import Table

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Cell:
    """One score of a table.

    Parameters
    ----------
    mean, error : float
        Times 100 where scores are fractions.
    best : bool
        Whether no method of the task has a better mean, of those of which all runs ended.
    differs : bool
        Whether it differs from the reference by more than its noise.
    n_seeds : int
        How many runs it is the mean of.
    all_seeds : bool
        Whether that is all of them.
    decimals : int
        To print it with: losses are small numbers.
    """

    mean: float
    error: float
    best: bool
    differs: bool
    n_seeds: int
    all_seeds: bool
    decimals: int


@dataclass(frozen=True, slots=True)
class Row:
    """One method of a table.

    Parameters
    ----------
    method : str
    parameters : float
        Trained ones without the head, mean over tasks and seeds.
    seconds : float
        Of estimation and training, likewise.
    cells : tuple of Cell
        By task, the average last.
    """

    method: str
    parameters: float
    seconds: float
    cells: tuple[Cell, ...]


def to_markdown(comparison: xr.Dataset) -> str:
    """Return the comparison as a table in Markdown, with a line below that says how to read it.

    Parameters
    ----------
    comparison : xarray.Dataset
        As `gelora.compare` returns.
    """
    head, lines = _texts(comparison, lambda cell: _cell(cell, "**{}**".format, "±", "*"))
    rule = ["---", *["---:"] * (len(head) - 1)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
    return f"{body}\n\n{_legend(comparison)}\n"


def to_latex(comparison: xr.Dataset) -> str:
    r"""Return the comparison as a ``tabular`` for LaTeX's booktabs.

    Parameters
    ----------
    comparison : xarray.Dataset
        As `gelora.compare` returns.
    """

    def write(cell: Cell) -> str:
        text = _cell(cell, r"\mathbf{{{}}}".format, r"\pm", "^{*}")
        return "--" if text == "–" else f"${text}$"

    head, lines = _texts(comparison, write)
    body = [" & ".join((_latex(line[0]), *line[1:])) + r" \\" for line in lines]
    inner = "\n".join([" & ".join(map(_latex, head)) + r" \\", r"\midrule", *body])
    columns = "l" + "r" * (len(head) - 1)
    note = _latex(_legend(comparison).replace("±", "plus or minus").replace("**", ""))
    return f"% {note}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{inner}\n\\bottomrule\n\\end{{tabular}}\n"


def comparison_table(comparison: xr.Dataset, title: str | None = None) -> "Table":
    """Return the comparison as a table for the terminal."""
    from rich.table import Table

    head, lines = _texts(comparison, lambda cell: _cell(cell, "[bold]{}[/bold]".format, "±", "*"))
    table = Table(title=title, title_justify="left", title_style="bold", caption=_legend(comparison).replace("**", ""))
    table.caption_justify = "left"
    table.add_column(head[0])
    for heading in head[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def runs_table(runs: pd.DataFrame) -> "Table":
    """Return a table of what `gelora.study.list_runs` lists, a row for the trials and seeds of a method."""
    from rich.table import Table

    table = Table(caption="adapter: – follows from a profile, or gradients, that are not there yet")
    table.caption_justify = "left"
    for heading in ("task", "method"):
        table.add_column(heading)
    for heading in ("trials", "seeds", "finished", "failed", "adapter", "head"):
        table.add_column(heading, justify="right")
    for (task, method), rows in runs.groupby(["task", "method"], sort=False):
        adapter, status = rows["adapter"].iloc[0], rows["status"]
        counts = [rows["trial"].notna().sum(), rows["trial"].isna().sum()]
        counts += [(status == "finished").sum(), (status == "failed").sum()]
        known = "–" if adapter is pd.NA else f"{adapter:,}"
        table.add_row(str(task), str(method), *(str(count) for count in counts), known, f"{rows['head'].iloc[0]:,}")
    table.title = f"{len(runs)} trainings, {int((runs['status'] == 'missing').sum())} missing"
    return table


def table_rows(comparison: xr.Dataset) -> tuple[list[str], list[Row]]:
    """Return the columns of scores, the average last where there are several tasks, and a row for each method."""
    check_comparison(comparison)
    summary, tests = summarise_scores(comparison), compare_scores(comparison)
    greater = better_when_greater(comparison)
    complete = summary["mean"].where(summary["n"] == comparison.sizes["seed"])
    best = complete.max("method").where(greater, complete.min("method"))
    # Where all are equal none is the best.
    told_apart = (complete.max("method") > complete.min("method")) | (complete.count("method") == 1)
    tasks = [str(task) for task in summary["task"].values]
    if len(tasks) == 2 or bool(summary["mean"].sel(task=AVERAGE).isnull().all()):
        tasks = [task for task in tasks if task != AVERAGE]
    parameters, seconds = mean_cost(comparison, "parameters"), mean_cost(comparison, "seconds")
    rows = []
    for method in comparison["method"].values:
        cells = []
        for place, task in enumerate(tasks):
            here = {"task": task, "method": method}  # as keywords, xarray takes `method` for its own
            one, test = summary.sel(here), tests.sel(here)
            scale = 100.0 if bool(greater[place]) else 1.0
            mean = float(one["mean"])
            cells.append(
                Cell(
                    scale * mean,
                    scale * float(one["standard_error"]),
                    best=bool(told_apart[place]) and bool(complete.sel(here) == best[place]),
                    differs=float(test["p_value"]) < SIGNIFICANT,
                    n_seeds=int(one["n"]),
                    all_seeds=int(one["n"]) == comparison.sizes["seed"],
                    decimals=1 if bool(greater[place]) else 4,
                )
            )
        own = {"method": method}
        rows.append(Row(str(method), float(parameters.sel(own)), float(seconds.sel(own)), tuple(cells)))
    return tasks, rows


def _texts(comparison: xr.Dataset, write: Callable[[Cell], str]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the lines of a table whose scores ``write`` writes."""
    tasks, rows = table_rows(comparison)
    lines = [
        [row.method, _count(row.parameters), *(write(cell) for cell in row.cells), _seconds(row.seconds)]
        for row in rows
    ]
    return ["method", "parameters", *tasks, "seconds"], lines


def _cell(cell: Cell, bold: Callable[[str], str], plus_minus: str, star: str) -> str:
    if math.isnan(cell.mean):
        return "–"
    text = f"{cell.mean:.{cell.decimals}f}"
    text = bold(text) if cell.best else text
    error = "" if math.isnan(cell.error) else f" {plus_minus} {cell.error:.{cell.decimals}f}"
    short = "" if cell.all_seeds else f" (n={cell.n_seeds})"
    return f"{text}{error}{star if cell.differs else ''}{short}"


def _count(parameters: float) -> str:
    return "–" if math.isnan(parameters) else f"{parameters:,.0f}"


def _seconds(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds:,.1f}"


def _legend(comparison: xr.Dataset) -> str:
    seeds = comparison.sizes["seed"]
    reference = str(comparison.attrs.get("reference", ""))
    error = f"mean ± standard error over {seeds} seeds" if seeds > 1 else "one seed"
    star = f"; * differs from {reference} (paired t test over the seeds, p < {SIGNIFICANT:g}, not adjusted)"
    failed = not bool(comparison["score"].notnull().all())
    missing = " Where runs failed, (n=…) tells how many are left; none of those is marked as best." if failed else ""
    return (
        f"Scores times 100, losses as they are: {error}; **best** of each task{star if seeds > 1 else ''}.{missing} "
        "Parameters without the head and seconds of estimation and training: means over the tasks and seeds that ended."
    )


def _latex(text: str) -> str:
    for character in "\\&%$#_{}":
        text = text.replace(character, f"\\{character}" if character != "\\" else r"\textbackslash ")
    return text
