"""Titles and labels of drawings: what was measured, broken into lines that fit the axes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EM = 0.5  # mean width of a character of DejaVu Sans, in units of its size


def width_of(axes: "Axes") -> float:
    """Return the width of the axes in points; that before the layout, where there is one."""
    figure: Any = axes.get_figure(root=True)
    return float(axes.bbox.width / figure.dpi * 72.0)


def height_of(axes: "Axes") -> float:
    """Return the height of the axes in points; that before the layout, where there is one."""
    figure: Any = axes.get_figure(root=True)
    return float(axes.bbox.height / figure.dpi * 72.0)


def size_of(size: str | float) -> float:
    """Return a font size, which may be relative, in points."""
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size=size).get_size_in_points())


def fit(parts: Iterable[str], width: float, size: float, separator: str = ", ") -> str:
    r"""Join parts into lines of at most ``width`` points, as far as whole parts allow.

    Examples
    --------
    >>> fit(["pooling: mean", "2,000 texts"], 300.0, 10.0)
    'pooling: mean, 2,000 texts'
    >>> fit(["pooling: mean", "2,000 texts"], 100.0, 10.0)
    'pooling: mean,\n2,000 texts'
    """
    most = width / (size * _EM)
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(separator) + len(part) <= most:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return (separator.rstrip() + "\n").join(lines)


def set_title(axes: "Axes", *lines: Sequence[str], size: str | float = "medium") -> None:
    """Write lines of parts above the axes, at the left; empty parts and lines are left out."""
    width, points = width_of(axes), size_of(size)
    texts = [fit([part for part in line if part], width, points) for line in lines]
    axes.set_title("\n".join(text for text in texts if text), loc="left", fontsize=size)


def set_label(axes: "Axes", axis: str, *parts: str) -> None:
    """Label the x or the y axis by parts, on as many lines as they need."""
    import matplotlib as mpl

    if axis == "x":
        axes.set_xlabel(fit(filter(None, parts), width_of(axes), size_of(mpl.rcParams["axes.labelsize"]), " "))
        return
    axes.set_ylabel(fit(parts, height_of(axes), size_of(mpl.rcParams["axes.labelsize"]), " "))


def legend_above(axes: "Axes", **options: Any) -> None:
    """Put the legend above the axes, in as many columns as fit beside each other; it takes the place of a title."""
    import matplotlib as mpl

    handles, labels = axes.get_legend_handles_labels()
    size = size_of(mpl.rcParams["legend.fontsize"])
    n_columns = _columns(axes, labels, size)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "frameon": False}
    axes.legend(handles, labels, ncols=n_columns, **(place | options))


def legend_above_figure(axes: "Axes") -> None:
    """Put a legend of many short entries above the axes, as wide as the figure."""
    figure: Any = axes.get_figure(root=True)
    handles, labels = axes.get_legend_handles_labels()
    column = (max(map(len, labels), default=1) * _EM + 2.6) * size_of("small")
    n_columns = max(1, min(len(labels), int(0.95 * figure.get_figwidth() * 72.0 / column)))
    axes.legend(
        handles,
        labels,
        ncols=n_columns,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize="small",
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def legend_in_headroom(axes: "Axes") -> None:
    """Put the legend inside at the top, and raise the upper limit of y so that nothing drawn lies below it."""
    import matplotlib as mpl

    handles, labels = axes.get_legend_handles_labels()
    size = size_of(mpl.rcParams["legend.fontsize"])
    n_columns = _columns(axes, labels, size)
    # A layout makes room for title and labels: of the height known here some three quarters will be left.
    share = min(0.5, (1.5 * -(-len(labels) // n_columns) + 1.2) * size / (0.75 * height_of(axes)))
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, bottom + (top - bottom) / (1.0 - share))
    axes.legend(handles, labels, ncols=n_columns, loc="upper left", frameon=False)


def _columns(axes: "Axes", labels: Sequence[str], size: float) -> int:
    """Return how many columns of a legend fit beside each other."""
    column = (max(map(len, labels), default=1) * _EM + 5.0) * size
    return max(1, min(len(labels), int(width_of(axes) * 1.08 / column)))


def model_name(attributes: Mapping[str, Any]) -> str:
    """Return the last two parts of a model's path: an organisation and a model, or a folder named for what it holds."""
    return "/".join(str(attributes.get("model", "")).strip("/").split("/")[-2:])


def sample_parts(profile: xr.Dataset) -> list[str]:
    """Return pooling, texts and points of a profile."""
    counts = profile["n_points"].values[np.isfinite(profile["dimension"].values)]
    parts = []
    if profile.attrs.get("pooling"):
        parts.append(f"pooling: {profile.attrs['pooling']}")
    if profile.attrs.get("n_texts"):
        parts.append(f"{int(profile.attrs['n_texts']):,} texts")
    if counts.size:
        low, high = int(counts.min()), int(counts.max())
        parts.append(f"n = {low:,} points" if low == high else f"n = {low:,} to {high:,} points")
    return parts
