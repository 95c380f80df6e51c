"""Draw the dimension of every layer against the scale it was read at."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.captions import legend_in_headroom, model_name, sample_parts, set_title
from gelora.geometry import deviations
from gelora.messages import nearest
from gelora.palette import MARKERS, STACK_LINES, new_axes, shades
from gelora.profile import attribute, check_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 4  # layers that a legend names; more are told by a colour bar
# What an estimator calls its scale, by the end of its class's name; a plug-in's is called a scale.
_SCALES = {
    "Gride": "order of the outer neighbour",
    "MLE": "number of neighbours",
    "TwoNN": "points in a part of the cloud",
    "MiniBatch": "points in a part of a batch",
    "CorrelationIntegral": "order of the outer neighbour",
    "PersistentHomology": "power of the lengths α",
}


def plot_scales(
    profile: xr.Dataset,
    ax: "Axes | None" = None,
    *,
    estimator: str | None = None,
    layers: Iterable[int] | None = None,
    errors: bool = True,
) -> "Axes":
    """Draw intrinsic dimension against scale, one line a layer, from dark (first) to light (last layer).

    Where lines are flat the dimension does not depend on the scale; where they cross, the order of the layers does.

    Parameters
    ----------
    profile : xarray.Dataset
        As `gelora.estimate` returns, of an estimator that reads several scales.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out. A colour bar takes its room from these axes.
    estimator : str, optional
        Which of the profile's estimators; may be left out where one of them has scales.
    layers : iterable of int, optional
        Numbers of the layers to draw, in every stack; all where left out.
    errors : bool
        Draw bands of ± one standard error, from the estimates on halves of the data rows, if the profile has them.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``profile`` is no profile or has no scales, or ``estimator`` or ``layers`` name what it lacks.
    """
    check_profile(profile)
    name = _estimator_with_scales(profile, estimator)
    table = _table(profile.sel(estimator=name), layers)
    axes = new_axes(ax, (6.4, 4.0))
    colors = shades()
    has_bands, faint = False, min(0.2, 2.0 / table.sizes["layer"])
    for place in range(table.sizes["layer"]):
        line = table.isel(layer=place)
        color = colors(float(line["depth"]))
        # Of many layers the colour tells, of few also the marker and the legend.
        few = table.sizes["layer"] <= _FEW
        axes.plot(
            line["scale"],
            line["dimension_scales"],
            color=color,
            linestyle=STACK_LINES.get(str(line["stack"].values), ":"),
            marker=MARKERS[place] if few else ".",
            label=_layer_name(table, place),
        )
        if errors:
            error = _standard_errors(line)
            has_bands |= bool(np.isfinite(error).any())
            middle = line["dimension_scales"].values
            axes.fill_between(line["scale"], middle - error, middle + error, color=color, alpha=faint, linewidth=0)
    _finish(axes, profile.sel(estimator=[name]), table, has_bands)
    _explain_colors(axes, table, colors)
    return axes


def _estimator_with_scales(profile: xr.Dataset, estimator: str | None) -> str:
    known = [str(name) for name in profile["estimator"].values]
    having: list[str] = []
    if "dimension_scales" in profile.variables:
        scales = profile["dimension_scales"]
        having = [name for name in known if bool(np.isfinite(scales.sel(estimator=name).values).any())]
    if not having:
        raise ValueError(
            "`profile` has no dimensions by scale: estimate it with one that reads several, such as "
            "'gride(scan_to=64)' or 'mle'"
        )
    if estimator is None and len(having) == 1:
        return having[0]
    if estimator not in having:
        which = ", ".join(having)
        hint = nearest(str(estimator), having)
        raise ValueError(f"`estimator` must be one of those with scales, {which}; got {estimator!r}{hint}")
    return estimator


def _table(row: xr.Dataset, layers: Iterable[int] | None) -> xr.Dataset:
    """Return the layers to draw, at the scales that one of them has."""
    known = row["layer"].values.tolist()
    if layers is not None:
        wanted = list(layers)
        for layer in wanted:
            if layer not in known:
                raise ValueError(f"`layers` must be among those of the profile, {sorted(set(known))}, got {layer!r}")
        if not wanted:
            raise ValueError(f"`layers` must name at least one of {sorted(set(known))}, got none")
        row = row.isel(layer=[place for place, layer in enumerate(known) if layer in wanted])
    row = row.sortby("scale")
    having = np.isfinite(row["dimension_scales"].transpose("layer", "scale").values).any(axis=0)
    if not having.any():
        raise ValueError(
            f"`layers` must hold one whose dimension is defined at some scale, got {row['layer'].values.tolist()}: "
            "give others; the profile's `undefined` says why"
        )
    return row.isel(scale=having)


def _standard_errors(line: xr.Dataset) -> NDArray[np.float64]:
    """Return the standard error of one layer at each scale, (n_scales,); NaN where there are no replicates."""
    errors = np.full(line.sizes["scale"], np.nan)
    if "dimension_scale_replicates" in line.variables:
        values = line["dimension_scale_replicates"].transpose("replicate", "scale").values
        for place in range(len(errors)):
            spread = deviations(
                values[:, place : place + 1], int(line.attrs["n_rows"]), int(line.attrs["replicate_rows"])
            )
            if len(spread):
                errors[place] = np.sqrt(np.square(spread).mean())
    return errors


def _layer_name(table: xr.Dataset, place: int) -> str:
    stack = f"{table['stack'].values[place]} " if len(set(table["stack"].values.tolist())) > 1 else ""
    return f"{stack}layer {int(table['layer'].values[place])}"


def _explain_colors(axes: "Axes", table: xr.Dataset, colors: Any) -> None:
    """Say which colour is which layer: by a legend of few, by a colour bar along depth of many."""
    if table.sizes["layer"] <= _FEW:
        legend_in_headroom(axes)
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    stacks = list(dict.fromkeys(table["stack"].values.tolist()))
    layers, depths = table["layer"].values, table["depth"].values
    figure: Any = axes.figure
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), colors), ax=axes, pad=0.02, fraction=0.06)
    if len(stacks) == 1:
        shown = slice(None, None, max(1, len(layers) // 8))
        bar.set_ticks(depths[shown], labels=[str(layer) for layer in layers[shown]])
        bar.set_label("layer")
    else:
        bar.set_label("relative depth")
        styles: dict[str, Any] = {stack: STACK_LINES.get(stack, ":") for stack in stacks}
        lines = [Line2D([], [], color="0.3", linestyle=style, label=stack) for stack, style in styles.items()]
        axes.legend(handles=lines, frameon=False, loc="lower right")


def _finish(axes: "Axes", profile: xr.Dataset, table: xr.Dataset, has_bands: bool) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    scales = table["scale"].values
    axes.set_xscale("log", base=2)
    shown = _ticks(scales)
    axes.xaxis.set_major_locator(FixedLocator(shown.tolist()))
    axes.xaxis.set_minor_locator(FixedLocator(scales.tolist()) if len(shown) < len(scales) else NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel(_scale_name(profile))
    axes.set_ylabel("intrinsic dimension")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    label = str(profile["estimator"].values[0])
    undefined = [
        _layer_name(table, place)
        for place in range(table.sizes["layer"])
        if not np.isfinite(table["dimension_scales"].isel(layer=place).values).any()
    ]
    set_title(
        axes,
        [part for part in (model_name(profile.attrs), label) if part],
        [*sample_parts(profile), "bands: ± standard error" if has_bands else ""],
        [f"undefined: {', '.join(undefined)}" if undefined else ""],
    )


def _ticks(scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scales that are written below the axis: those at least a tenth of its length apart."""
    logs = np.log(scales)
    apart = (logs[-1] - logs[0]) / 10.0
    shown = [0]
    for place in range(1, len(scales)):
        if logs[place] - logs[shown[-1]] >= apart:
            shown.append(place)
    return scales[shown]


def _scale_name(profile: xr.Dataset) -> str:
    (label,) = (str(name) for name in profile["estimator"].values)
    found = attribute(profile, "estimators").get(label)
    kind = str(found.get("class", "")).rpartition(".")[2] if isinstance(found, dict) else ""
    return _SCALES.get(kind, f"scale of {label}") + " (logarithmic)"
