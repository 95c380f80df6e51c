"""Draw a comparison of methods: score against what it costs."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.captions import legend_above_figure, set_label, width_of
from gelora.messages import check_choice
from gelora.palette import COLORS, MARKERS, new_axes
from gelora.scores import AVERAGE, better_when_greater, check_comparison, mean_cost, summarise_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 300.0  # points from which on the legend stands beside the axes
_ALIKE = 1.1  # ratio of costs up to which methods stand side by side
COSTS = {
    "parameters": "trained parameters without the head",
    "seconds": "seconds of estimation and training",
}


def plot_comparison(
    comparison: xr.Dataset, ax: "Axes | None" = None, *, cost: str = "parameters", task: str | None = None
) -> "Axes":
    """Draw score against cost: a point for each method, and the line of those that none beats in both.

    Bars are ± one standard error over the seeds. Methods with all but the same parameters stand side by side, and
    arrows at the axis mark their true numbers.

    Parameters
    ----------
    comparison : xarray.Dataset
        As `gelora.compare` returns.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.
    cost : {"parameters", "seconds"}
        Trained parameters without the head, or seconds of estimation and training.
    task : str, optional
        Of one task alone; where left out, and there are several, ``"average"``: the mean over all.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``comparison`` is none, or ``cost`` or ``task`` names something it lacks.
    """
    check_comparison(comparison)
    check_choice("cost", cost, COSTS)
    axes = new_axes(ax, (7.0, 4.5))
    names = [str(one) for one in comparison["task"].values]
    wanted = (AVERAGE if len(names) > 1 else names[0]) if task is None else task
    check_choice("task", wanted, [*names, AVERAGE])
    summary = summarise_scores(comparison).sel(task=wanted)
    directions = better_when_greater(comparison).values[:-1]
    if wanted == AVERAGE and directions.any() and not directions.all():
        raise ValueError(
            f"`task` must be one of {', '.join(names)}, got {AVERAGE!r}: scores of which some are better when they are "
            "less have no average"
        )
    own = comparison if wanted == AVERAGE else comparison.sel(task=[wanted])
    x, y = mean_cost(own, cost).values, summary["mean"].values
    error = np.nan_to_num(summary["standard_error"].values)
    shown = _side_by_side(axes, x) if cost == "parameters" else x
    for place, method in enumerate(comparison["method"].values):
        if np.isfinite(x[place]) and np.isfinite(y[place]):
            axes.errorbar(
                shown[place],
                y[place],
                yerr=error[place],
                color=COLORS[place % len(COLORS)],
                marker=MARKERS[(place // len(COLORS) + place) % len(MARKERS)],
                # Of more methods than markers the others are hollow: told apart in grey.
                markerfacecolor="white" if (place // len(MARKERS)) % 2 else None,
                capsize=2,
                linestyle="none",
                label=str(method),
            )
    greater = bool(better_when_greater(comparison)[[*names, AVERAGE].index(wanted)])
    front = pareto_front(x, y if greater else -y)
    axes.plot(shown[front], y[front], color="0.6", linewidth=1, linestyle=":", zorder=0, label="_front")
    if cost == "parameters":
        axes.set_xscale("log")
    moved = np.isfinite(x) & (shown != x)
    if moved.any():
        marks: dict[str, Any] = {"marker": "^", "color": "0.5", "markersize": 5, "linestyle": "none", "clip_on": False}
        axes.plot(
            np.unique(x[moved]), np.zeros(len(np.unique(x[moved]))), transform=axes.get_xaxis_transform(), **marks
        )
    set_label(axes, "x", COSTS[cost], "(▲: of those side by side)" if moved.any() else "")
    what = "score, mean over tasks" if wanted == AVERAGE else f"score on {wanted}"
    axes.set_ylabel(what if greater else f"{what}, less is better")
    if width_of(axes) > _WIDE:
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small", frameon=False)
    else:
        legend_above_figure(axes)
    return axes


def _side_by_side(axes: "Axes", costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return places on a logarithmic axis at which methods of like cost do not hide each other."""
    places = costs.copy()
    groups: list[list[int]] = []
    for method in np.argsort(costs, kind="stable"):
        if np.isfinite(costs[method]):
            if groups and costs[method] <= _ALIKE * costs[groups[-1][0]]:
                groups[-1].append(int(method))
            else:
                groups.append([int(method)])
    if len(groups) < 2:
        return places
    width = 0.7 * width_of(axes)  # what a layout, margins and a legend beside the axes leave
    decades = np.log10(costs[groups[-1][0]] / costs[groups[0][0]])
    for group in groups:
        apart = min(5.0, 0.25 * width / len(group)) / width * decades
        places[group] = costs[group[0]] * 10.0 ** ((np.arange(len(group)) - (len(group) - 1) / 2) * apart)
    return places


def pareto_front(costs: NDArray[np.float64], scores: NDArray[np.float64]) -> "NDArray[np.int64]":
    """Return the places of the methods that no other beats in cost and score at once, by rising cost.

    Parameters
    ----------
    costs, scores : ndarray of shape (n,)
        Smaller costs and greater scores are better; entries that are not finite are left out.

    Examples
    --------
    >>> pareto_front(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.4, 0.6])).tolist()
    [0, 2]
    """
    known: Any = np.isfinite(costs) & np.isfinite(scores)
    order = [int(place) for place in np.lexsort((-scores, costs)) if known[place]]
    front: list[int] = []
    for place in order:
        if not front or scores[place] > scores[front[-1]]:
            front.append(place)
    return np.array(front, dtype=np.int64)
