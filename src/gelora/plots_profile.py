"""Draw a profile: intrinsic dimension against depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from gelora.captions import legend_in_headroom, model_name, sample_parts, set_label, set_title
from gelora.messages import check_choice
from gelora.palette import COLORS, MARKERS, STACK_LINES, new_axes
from gelora.profile import check_profile, drawn_interval, has_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_profile(
    profile: xr.Dataset,
    ax: "Axes | None" = None,
    *,
    estimator: str | Sequence[str] | None = None,
    x: str = "depth",
    errors: bool = True,
) -> "Axes":
    """Draw intrinsic dimension against depth, one line for each estimator and stack.

    Bars are the confidence intervals, or ± one standard error where an estimator gives no interval. A layer
    whose dimension is undefined is a gap in the line and a cross at the foot of the axes, never a number.

    Parameters
    ----------
    profile : xarray.Dataset
        As `gelora.estimate` returns.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.
    estimator : str or sequence of str, optional
        Which of the profile's estimators to draw; all where left out.
    x : {"depth", "layer"}
        Relative depth, from 0 (input of the first block) to 1 (output of the last), or the number of the layer.
    errors : bool
        Draw the bars.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``profile`` is no profile, or ``estimator`` or ``x`` names something it lacks.
    """
    check_profile(profile)
    names = _chosen(profile, estimator)
    check_choice("x", x, ("depth", "layer"))
    axes = new_axes(ax, (6.4, 4.0))
    stacks = list(dict.fromkeys(profile["stack"].values.tolist()))
    missing = False
    for index, name in enumerate(names):
        for stack in stacks:
            label = name if len(stacks) == 1 else f"{name}, {stack}"
            line = profile.sel(estimator=name).isel(layer=profile["stack"].values == stack)
            missing |= _draw_line(axes, line, x, index, STACK_LINES.get(stack, ":"), label, errors)
    if missing:
        axes.plot([], [], marker="x", color="0.3", linestyle="none", label="undefined")
    _finish_profile(axes, profile.sel(estimator=names), x, errors)
    return axes


def _chosen(profile: xr.Dataset, estimator: str | Sequence[str] | None) -> list[str]:
    known = [str(name) for name in profile["estimator"].values]
    if estimator is None:
        return known
    names = [estimator] if isinstance(estimator, str) else list(estimator)
    for name in names:
        if name not in known:
            raise ValueError(f"`estimator` must be among those of the profile, {', '.join(known)}; got {name!r}")
    if not names:
        raise ValueError(f"`estimator` must name at least one of {', '.join(known)}, got an empty sequence")
    return names


def _draw_line(axes: "Axes", line: xr.Dataset, x: str, index: int, dashes: str, label: str, errors: bool) -> bool:
    """Draw one estimator on one stack; return whether a layer of it is undefined."""
    place, dimension = line[x].values, line["dimension"].values
    color = COLORS[index % len(COLORS)]
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(place, dimension, color=color, marker=marker, linestyle=dashes, label=label)
    if errors:
        low, high = drawn_interval(line)
        if np.isfinite(low).any():
            # Drawn around their own middle: an interval need not be centred on the estimate.
            axes.errorbar(
                place, (low + high) / 2, yerr=(high - low) / 2, fmt="none", ecolor=color, elinewidth=1.0, capsize=2
            )
    undefined = ~np.isfinite(dimension)
    if undefined.any():
        height = np.full(int(undefined.sum()), 0.03 + 0.045 * index)
        axes.plot(
            place[undefined],
            height,
            transform=axes.get_xaxis_transform(),
            color=color,
            marker="x",
            markeredgewidth=1.8,
            linestyle="none",
            label="_undefined",
        )
    return bool(undefined.any())


def _finish_profile(axes: "Axes", profile: xr.Dataset, x: str, errors: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if x == "layer":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        set_label(axes, "x", "layer", "(0: input of the first block)")
    else:
        set_label(axes, "x", "relative depth", "(0: input of the first block, 1: output of the last)")
    axes.set_ylabel("intrinsic dimension")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    legend_in_headroom(axes)
    bars = _bars_part(profile) if errors else ""
    set_title(axes, [model_name(profile.attrs)], [*sample_parts(profile), bars])


def _bars_part(profile: xr.Dataset) -> str:
    given = has_interval(profile)
    intervals, others = given.any(), (~given & np.isfinite(profile["standard_error"].values)).any()
    bars = ["confidence interval"] * bool(intervals) + ["± standard error"] * bool(others)
    return f"bars: {' or '.join(bars)}" if bars else ""
