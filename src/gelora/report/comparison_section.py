"""What a report shows of a comparison: score against cost for each task, and the table with errors."""

import math
from typing import Any

import numpy as np
import xarray as xr

from gelora.palette import COLORS
from gelora.plots_comparison import COSTS, pareto_front
from gelora.report.charts import SYMBOLS, escaped, figure
from gelora.report.pieces import Cell, Chart, Table, number
from gelora.scores import AVERAGE, better_when_greater, compare_scores, mean_cost, summarise_scores

SIGNIFICANT = 0.05
_NO_COST = "nothing"


def comparison_chart(comparison: xr.Dataset) -> Chart:
    """Return score against cost, for every task and cost."""
    summary, greater = summarise_scores(comparison), better_when_greater(comparison).values
    tasks = shown_tasks(summary)
    figures = {}
    for task in tasks:
        place = [str(one) for one in summary["task"].values].index(task)
        figures[f"{task}|{_NO_COST}"] = _by_method(summary.sel(task=task), bool(greater[place]))
        for cost in COSTS:
            own = comparison if task == AVERAGE else comparison.sel(task=[task])
            mean = mean_cost(own, cost).values
            figures[f"{task}|{cost}"] = _pareto(summary.sel(task=task), mean, cost, bool(greater[place]))
    return Chart(
        name="pareto",
        title="Score of each method against its cost; the dotted line joins those that no other beats in both",
        figures=figures,
        choices={"Task": tasks, "Against": [*COSTS, _NO_COST]},
        errors=True,
        height=460,
        table=comparison_table(comparison),
    )


def shown_tasks(summary: xr.Dataset) -> list[str]:
    """Return the tasks of a summary, the average first where it says more than they do."""
    tasks = [str(task) for task in summary["task"].values if task != AVERAGE]
    averaged = len(tasks) > 1 and bool(summary["mean"].sel(task=AVERAGE).notnull().any())
    return [AVERAGE, *tasks] if averaged else tasks


def _pareto(summary: xr.Dataset, costs: Any, cost: str, greater: bool) -> dict[str, Any]:
    scores, errors = summary["mean"].values, np.nan_to_num(summary["standard_error"].values)
    traces: list[dict[str, Any]] = []
    front = pareto_front(costs, scores if greater else -scores)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "not beaten in both",
            "x": costs[front].tolist(),
            "y": scores[front].tolist(),
            "line": {"color": "#808080", "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        }
    )
    for place, method in enumerate(str(one) for one in summary["method"].values):
        if not (math.isfinite(costs[place]) and math.isfinite(scores[place])):
            continue
        color = COLORS[place % len(COLORS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escaped(method),
                "x": [float(costs[place])],
                "y": [float(scores[place])],
                "error_y": {"type": "data", "array": [float(errors[place])], "thickness": 1.2, "width": 4},
                "hovertemplate": f"%{{y:.3f}} ± {errors[place]:.3f}, %{{x:,.0f}} {cost}",
                "marker": {
                    "color": color,
                    "symbol": SYMBOLS[(place // len(COLORS) + place) % len(SYMBOLS)],
                    "size": 11,
                },
            }
        )
    layout = {
        "xaxis": {"title": {"text": COSTS[cost]}, **(_decades(costs) if cost == "parameters" else {})},
        "yaxis": {"title": {"text": "score" if greater else "score, less is better"}},
        "hovermode": "closest",
    }
    return figure(traces, layout)


def _decades(costs: Any) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at 1, 3, 10, 30 …"""
    known = costs[np.isfinite(costs) & (costs > 0)]
    if not known.size:
        return {"type": "log"}
    first, last = math.floor(math.log10(known.min())), math.ceil(math.log10(known.max()))
    ticks = [step * 10**power for power in range(first, last + 1) for step in (1, 3)]
    low, high = math.log10(known.min()), math.log10(known.max())
    margin = max(0.06 * (high - low), 0.1)
    return {"type": "log", "tickvals": ticks, "tickformat": "~s", "range": [low - margin, high + margin]}


def _by_method(summary: xr.Dataset, greater: bool) -> dict[str, Any]:
    """Return the scores alone, a row for each method, the best on top."""
    scores, errors = summary["mean"].values, np.nan_to_num(summary["standard_error"].values)
    methods = [escaped(str(one)) for one in summary["method"].values]
    known = [int(place) for place in np.argsort(scores if greater else -scores) if math.isfinite(scores[place])]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "score",
        "x": [float(scores[place]) for place in known],
        "y": [methods[place] for place in known],
        "error_x": {"type": "data", "array": [float(errors[place]) for place in known], "thickness": 1.2, "width": 4},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
        "marker": {"color": COLORS[0], "size": 10},
    }
    layout = {
        "xaxis": {"title": {"text": "score" if greater else "score, less is better"}},
        "yaxis": {"type": "category"},
        "showlegend": False,
        "hovermode": "closest",
    }
    return figure([trace], layout)


def comparison_table(comparison: xr.Dataset) -> Table:
    """Return mean ± standard error of each method and task, with parameters and seconds; best ones stand out."""
    summary, tests = summarise_scores(comparison), compare_scores(comparison, _reference(comparison))
    tasks = shown_tasks(summary)
    known = [str(task) for task in summary["task"].values]
    greater = better_when_greater(comparison).values
    parameters, seconds = mean_cost(comparison, "parameters").values, mean_cost(comparison, "seconds").values
    rows = []
    for place, method in enumerate(str(one) for one in comparison["method"].values):
        cells = [Cell(text=method), Cell(text=number(float(parameters[place]), 0))]
        for task in tasks:
            one, test = summary.sel(task=task), tests.sel(task=task)
            p_value = float(test["p_value"].values[place])
            differs = p_value < SIGNIFICANT
            cells.append(_score(one, place, differs, bool(greater[known.index(task)]), comparison.sizes["seed"]))
        rows.append([*cells, Cell(text=number(float(seconds[place])))])
    seeds = comparison.sizes["seed"]
    error = f"Mean ± standard error over {seeds} seeds" if seeds > 1 else "One seed"
    caption = (
        f"{error}, scores times 100, losses as they are; bold: best mean of a task; *: differs from "
        f"{tests.attrs['reference']} (paired t test over the seeds, p < {SIGNIFICANT:g}, not adjusted). Parameters "
        "without the head; seconds of estimation and training, means over tasks and seeds."
    )
    return Table(caption=caption, head=["method", "parameters", *tasks, "seconds"], rows=rows)


def _score(one: xr.Dataset, place: int, differs: bool, greater: bool, n_seeds: int) -> Cell:
    means = np.where(one["n"].values == n_seeds, one["mean"].values, np.nan)
    mean, error, count = (float(one[name].values[place]) for name in ("mean", "standard_error", "n"))
    if math.isnan(mean):
        return Cell(text="–")
    scale, digits = (100.0, 1) if greater else (1.0, 4)
    text = number(scale * mean, digits) + ("" if math.isnan(error) else f" ± {number(scale * error, digits)}")
    known = means[np.isfinite(means)]
    best = known.size > 0 and mean == (known.max() if greater else known.min()) and np.ptp(known) > 0
    short = "" if count == n_seeds else f" (n={count:.0f})"
    return Cell(text=f"{text}{'*' if differs else ''}{short}", strong=bool(best and count == n_seeds))


def _reference(comparison: xr.Dataset) -> str:
    """Return what methods are compared with: the study's reference, the first where it names none."""
    return str(comparison.attrs.get("reference") or comparison["method"].values[0])
