"""Draw training records: losses, scores, learning rates and ranks over the steps."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.captions import legend_above
from gelora.messages import check_choice
from gelora.naming import Records, named_records
from gelora.palette import COLORS, DASHES, MARKERS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = "step of the optimiser"
_WINDOWS, _LEAST_WINDOW = 20, 11  # the running median takes one of so many parts of a run, and so many steps at least


def plot_training(record: Records, ax: "Axes | None" = None, *, show: str = "loss") -> "Axes":
    """Draw how one or several runs of fine-tuning went, over the steps of the optimiser.

    The loss of every step is a faint line and its running median, over a window of 1/20 of the steps and at least
    eleven, a strong one; what was measured on the validation rows are points at the steps of the evaluations.

    Parameters
    ----------
    record : xarray.Dataset, or sequence or mapping of these
        Training records as `gelora.finetune` returns; several are told apart by their keys, or the adapter's name.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.
    show : {"loss", "score", "learning_rate", "rank"}
        Training and validation loss; the score on the validation rows; the learning rate; or the ranks, as
        `plot_rank_history` draws them.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If a record is none, lacks what is to be drawn, or there is none.
    """
    check_choice("show", show, (*_DRAWN, "rank"))
    if show == "rank":
        return plot_rank_history(record, ax)
    named = _shown_records(record)
    draw, needed, label, quantity = _DRAWN[show]
    for name, one in named.items():
        if any(variable not in one.variables for variable in needed) or not one.sizes.get(one[needed[0]].dims[0]):
            raise ValueError(f"`record` {name!r} has no {quantity}: give training records as `gelora.finetune` returns")
    axes = new_axes(ax, (6.4, 3.6))
    for index, (name, one) in enumerate(named.items()):
        draw(axes, one, index, name)
    if show == "loss" and any(named):
        _explain_loss(axes, named)
    axes.set_xlabel(_STEPS)
    axes.set_ylabel(label(named))
    axes.set_xlim(left=0)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        legend_above(axes)
    return axes


def plot_rank_history(record: Records, ax: "Axes | None" = None) -> "Axes":
    """Draw how the ranks of an adapter moved while it was trained, one line a run.

    The line is the mean over the adapted matrices, the band holds the middle half of them.

    Parameters
    ----------
    record : xarray.Dataset, or sequence or mapping of these
        Training records as `gelora.finetune` returns; several are told apart by their keys, or the adapter's name.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If a record is none, has no ranks, or there is none.
    """
    named = _shown_records(record)
    for label, one in named.items():
        if "rank_history" not in one or not one.sizes.get("module") or not one.sizes.get("change"):
            raise ValueError(f"`record` {label!r} has no ranks: give records of an adapter with ranks")
    axes = new_axes(ax, (6.4, 3.6))
    for index, (label, one) in enumerate(named.items()):
        steps = np.append(one["change_step"].values, one.sizes["step"])
        ranks = one["rank_history"].values.astype(np.float64)
        ranks = np.vstack([ranks, ranks[-1:]])
        color = COLORS[index % len(COLORS)]
        low, high = np.quantile(ranks, [0.25, 0.75], axis=1)
        axes.fill_between(steps, low, high, step="post", color=color, alpha=0.15, linewidth=0)
        style = DASHES[index % len(DASHES)]
        axes.plot(steps, ranks.mean(axis=1), drawstyle="steps-post", color=color, linestyle=style, label=label or None)
    axes.set_xlabel(_STEPS)
    axes.set_ylabel("rank, mean over the matrices")
    axes.set_ylim(bottom=0)
    if any(named):
        legend_above(axes)
    return axes


def _shown_records(record: Any) -> dict[str, xr.Dataset]:
    """Return records by their names; a single one needs none in a legend."""
    named = named_records(record)
    alone = len(named) == 1 and (isinstance(record, xr.Dataset) or not isinstance(record, Mapping))
    return dict(zip([""], named.values(), strict=True)) if alone else named


def _draw_loss(axes: "Axes", record: xr.Dataset, index: int, name: str) -> None:
    steps, loss = record["step"].values, record["loss"].values
    color = COLORS[index % len(COLORS)]
    axes.plot(steps, loss, color=color, alpha=0.3, linewidth=0.7, label="_every step")
    axes.plot(
        steps,
        _running_median(loss, _window(record)),
        color=color,
        linestyle=DASHES[index % len(DASHES)],
        label=name or _median_label([record]),
    )
    if "validation_loss" in record.variables:
        _draw_points(
            axes,
            record,
            record["validation_loss"].values,
            index,
            "_validation" if name else "validation",
            linestyle="none",
        )


def _window(record: xr.Dataset) -> int:
    return int(max(_LEAST_WINDOW, record.sizes["step"] // _WINDOWS) | 1)


def _median_label(records: Iterable[xr.Dataset]) -> str:
    windows = {_window(record) for record in records}
    return f"training, median of {windows.pop()} steps" if len(windows) == 1 else "training, running median"


def _explain_loss(axes: "Axes", named: Mapping[str, xr.Dataset]) -> None:
    """Say once for several runs what their lines and points are."""
    axes.plot([], [], color="0.4", label=_median_label(named.values()))
    if any("validation_loss" in one.variables for one in named.values()):
        axes.plot([], [], color="0.4", marker="o", linestyle="none", label="validation")


def _draw_score(axes: "Axes", record: xr.Dataset, index: int, name: str) -> None:
    if "score" not in record["metric"].values:
        raise ValueError(f"`record` {name!r} has no metric 'score': give a record of `gelora.finetune`, or show='loss'")
    values = record["validation"].sel(metric="score").values
    _draw_points(axes, record, values, index, name, linestyle=DASHES[index % len(DASHES)])


def _draw_rate(axes: "Axes", record: xr.Dataset, index: int, name: str) -> None:
    axes.plot(
        record["step"],
        record["learning_rate"],
        color=COLORS[index % len(COLORS)],
        linestyle=DASHES[index % len(DASHES)],
        label=name or None,
    )
    axes.set_ylim(bottom=0)


def _draw_points(
    axes: "Axes", record: xr.Dataset, values: NDArray[np.float64], index: int, label: str, **options: Any
) -> None:
    if np.isfinite(values).any():
        axes.plot(
            record["evaluation_step"],
            values,
            color=COLORS[index % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=label or None,
            zorder=3,
            **options,
        )


def _running_median(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the median of the finite values among ``window`` around each, fewer at the ends.

    Examples
    --------
    >>> _running_median(np.array([1.0, 9.0, 2.0, 3.0]), 3).tolist()
    [5.0, 2.0, 3.0, 2.5]
    """
    import pandas as pd

    finite = pd.Series(np.where(np.isfinite(values), values, np.nan))
    return np.asarray(finite.rolling(window, center=True, min_periods=1).median(), dtype=np.float64)


def _score_label(named: Mapping[str, xr.Dataset]) -> str:
    """Return the axis' label, with the way that is better and, where all runs agree, the task."""
    tasks = {str(one.attrs.get("task", "")) for one in named.values()}
    less = any(str(one.attrs.get("greater_is_better", "true")) == "false" for one in named.values())
    task = f" on {tasks.pop()}" if len(tasks) == 1 and "" not in tasks else ""
    return f"validation score{task}{' (less is better)' if less else ''}"


# What is drawn: by what, from which variables, the label of the axis, and its name in a message.
_DRAWN: Mapping[
    str,
    tuple[
        Callable[["Axes", xr.Dataset, int, str], None],
        tuple[str, ...],
        Callable[[Mapping[str, xr.Dataset]], str],
        str,
    ],
] = {
    "loss": (_draw_loss, ("loss", "step"), lambda _: "loss", "loss by step"),
    "score": (_draw_score, ("validation", "evaluation_step"), _score_label, "score on validation rows"),
    "learning_rate": (_draw_rate, ("learning_rate", "step"), lambda _: "learning rate", "learning rate by step"),
}
