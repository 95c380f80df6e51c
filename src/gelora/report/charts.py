"""Charts of a report, as plotly's figures: a profile, its covariates and scales, a plan's ranks."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gelora.palette import COLORS
from gelora.plan import RankPlan
from gelora.plan_uncertainty import Column, alike_modules, rank_shares
from gelora.profile import COVARIATES, drawn_interval

# The same shapes as gelora.palette.MARKERS, by plotly's names.
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_PATTERNS = ("", "/", ".", "x", "\\", "+", "-")
_DASHES = {"encoder": "solid", "decoder": "dash"}
# From the first layer to the last: the palette's orange and blue, which colour-blind readers tell apart.
_FIRST, _LAST = (230, 159, 0), (0, 114, 178)
_MOST_NAMED = 9  # layers in a legend
_MOST_BARS = 60
_MOST_MARKED = 13  # layers whose points are marked
_DEPTH = "relative depth (0: input of the first block, 1: output of the last)"
COVARIATE_NAMES = {
    "mean_norm": "mean norm",
    "mean_nearest_distance": "mean distance to the nearest point",
    "spectral_entropy": "spectral entropy, nats",
    "participation_ratio": "participation ratio",
    "anisotropy": "anisotropy",
}


def figure(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Return plotly's data and layout, checked by plotly, without its theme: the page gives the colours.

    Raises
    ------
    ImportError
        If plotly is not installed, naming the extra.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ImportError("a report needs plotly: pip install 'gelora[report]'") from error
    made = graph_objects.Figure(data=list(data), layout={"template": {}, "autosize": True, **layout})
    found: dict[str, Any] = json.loads(made.to_json())
    return {"data": found["data"], "layout": {**found["layout"], "template": {}}}


def profile_chart(profile: xr.Dataset) -> dict[str, Any]:
    """Return dimension against depth: a line for each estimator and stack, crosses where it is undefined."""
    traces: list[dict[str, Any]] = []
    stacks = list(dict.fromkeys(str(stack) for stack in profile["stack"].values))
    finite = profile["dimension"].values[np.isfinite(profile["dimension"].values)]
    foot = 0.03 * float(finite.max()) if finite.size else 0.0
    for index, label in enumerate(str(label) for label in profile["estimator"].values):
        for stack in stacks:
            line = profile.sel(estimator=label).isel(layer=np.flatnonzero(profile["stack"].values == stack))
            name = f"{label}, {stack}" if len(stacks) > 1 else label
            traces += _profile_traces(line, index, label, name, stack, foot * (1 + index))
    layout = {
        "xaxis": {"title": {"text": _DEPTH}, "range": [-0.04, 1.04]},
        "yaxis": {"title": {"text": "intrinsic dimension"}, "rangemode": "tozero"},
        "hovermode": "x unified",
    }
    return figure(traces, layout)


def _profile_traces(
    line: xr.Dataset, index: int, label: str, name: str, stack: str, foot: float
) -> list[dict[str, Any]]:
    dimension = line["dimension"].values
    low, high = drawn_interval(line)
    color = COLORS[index % len(COLORS)]
    depth = _numbers(line["depth"].values)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": escaped(name),
            "legendgroup": label,
            "x": depth,
            "y": _numbers(dimension),
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": _numbers(np.nan_to_num(high - dimension)),
                "arrayminus": _numbers(np.nan_to_num(dimension - low)),
                "thickness": 1.2,
                "width": 4,
            },
            "customdata": [int(n) for n in line["layer"].values],
            "hovertemplate": "%{y:.1f} (layer %{customdata})",
            "line": {"color": color, "dash": _DASHES.get(stack, "solid"), "width": 2},
            "marker": {"color": color, "symbol": SYMBOLS[(index // len(COLORS) + index) % len(SYMBOLS)], "size": 8},
        }
    ]
    missing = ~np.isfinite(dimension)
    if missing.any():
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escaped(f"{name}: undefined"),
                "legendgroup": label,
                "showlegend": False,
                "x": _numbers(line["depth"].values[missing]),
                "y": [foot] * int(missing.sum()),
                "hovertemplate": "undefined",
                "marker": {"color": color, "symbol": "x-thin", "size": 10, "line": {"color": color, "width": 2}},
            }
        )
    return traces


def covariate_charts(profile: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return a chart of each covariate against depth."""
    charts = {}
    for name in COVARIATES:
        traces = []
        for index, stack in enumerate(dict.fromkeys(str(stack) for stack in profile["stack"].values)):
            line = profile.isel(layer=np.flatnonzero(profile["stack"].values == stack))
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": stack,
                    "x": _numbers(line["depth"].values),
                    "y": _numbers(line[name].values),
                    "hovertemplate": "%{y:.3g}",
                    "line": {"color": COLORS[index], "dash": _DASHES.get(stack, "solid")},
                    "marker": {"color": COLORS[index], "symbol": SYMBOLS[index]},
                }
            )
        layout = {
            "title": {"text": COVARIATE_NAMES[name], "x": 0, "xref": "paper", "font": {"size": 14}},
            "xaxis": {"title": {"text": "relative depth"}},
            "yaxis": {"rangemode": "tozero"},
            "showlegend": False,
            "margin": {"t": 36, "l": 46, "r": 8, "b": 44},
        }
        charts[name] = figure(traces, layout)
    return charts


def scales_chart(profile: xr.Dataset, label: str) -> dict[str, Any] | None:
    """Return dimension against the scale of one estimator, a line for each layer; None where it has one scale."""
    if "dimension_scales" not in profile.variables:
        return None
    table = profile["dimension_scales"].sel(estimator=label).transpose("layer", "scale")
    kept = np.isfinite(table.values).any(axis=0)
    if kept.sum() < 2:
        return None
    scales, n_layers = profile["scale"].values[kept], profile.sizes["layer"]
    several = len(set(profile["stack"].values)) > 1
    colors = [_between(_FIRST, _LAST, place / max(n_layers - 1, 1)) for place in range(n_layers)]
    named = set(np.linspace(0, n_layers - 1, min(n_layers, _MOST_NAMED)).round().astype(int).tolist())
    traces = []
    for place in range(n_layers):
        stack, layer = str(profile["stack"].values[place]), int(profile["layer"].values[place])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if n_layers <= _MOST_MARKED else "lines",
                "name": f"{stack} {layer}" if several else f"layer {layer}",
                "x": _numbers(scales),
                "y": _numbers(table.values[place][kept]),
                "hovertemplate": "%{y:.1f}",
                "showlegend": place in named,
                "line": {"color": colors[place], "dash": _DASHES.get(stack, "solid")},
                "marker": {"color": colors[place], "symbol": SYMBOLS[place % len(SYMBOLS)]},
            }
        )
    ratio = float(scales.max() / scales.min()) if scales.min() > 0 else 1.0
    axis = {"type": "log", "dtick": math.log10(2)} if ratio > 4 else {"type": "linear"}
    layout = {
        "xaxis": {"title": {"text": "scale (of neighbours: the order k)"}, **axis},
        "yaxis": {"title": {"text": "intrinsic dimension"}},
        "hovermode": "x unified",
    }
    return figure(traces, layout)


def ranks_chart(plans: Mapping[str, RankPlan]) -> dict[str, Any]:
    """Return the rank of every block: bars of each plan side by side, lines where bars would be too thin."""
    blocks = list(dict.fromkeys(key for plan in plans.values() for key in plan.block_ranks))
    names, barred = block_names(blocks), len(blocks) * len(plans) <= _MOST_BARS
    traces = []
    for index, (name, plan) in enumerate(plans.items()):
        color = COLORS[index % len(COLORS)]
        bars = {"type": "bar", "marker": {"color": color, "pattern": {"shape": _PATTERNS[index % len(_PATTERNS)]}}}
        symbol = SYMBOLS[index % len(SYMBOLS)]
        lines = {"type": "scatter", "mode": "lines+markers", "marker": {"color": color, "symbol": symbol}}
        ranks = [plan.block_ranks.get(block, 0) for block in blocks]
        shown = {"name": escaped(name), "x": names, "y": ranks, "hovertemplate": "rank %{y}"}
        traces.append({**shown, **(bars if barred else lines)})
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "block"}, "type": "category"},
        "yaxis": {"title": {"text": "rank"}, "rangemode": "tozero", **_whole(plans)},
        "showlegend": len(plans) > 1,
        "hovermode": "x unified",
    }
    return figure(traces, layout)


def probabilities_chart(plan: RankPlan) -> dict[str, Any] | None:
    """Return the probability of each rank as stacked bars over the blocks; None where the plan has none."""
    if plan.uncertainty is None:
        return None
    columns = alike_modules(plan.modules, plan.uncertainty)
    shares = rank_shares(plan.modules, plan.uncertainty)
    escaped_columns = [(stack, block, tuple(map(escaped, roles))) for stack, block, roles in columns]
    names, firsts = column_names(escaped_columns, "<br>"), [members[0] for members in columns.values()]
    legible = len(names) <= _MOST_BARS // 2
    traces = []
    for place, (rank, by_module) in enumerate(shares.items()):
        chosen = [plan.modules[first].rank == rank for first in firsts]
        traces.append(
            {
                "type": "bar",
                "name": f"rank {rank}",
                "x": names,
                "y": [by_module[first] for first in firsts],
                "text": [f"{rank} ✓" if is_chosen else str(rank) for is_chosen in chosen],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "hovertemplate": "%{y:.2f}",
                "marker": {"color": _shade(place, len(shares)), "line": {"width": int(legible), "color": "#ffffff"}},
            }
        )
    ranks = [plan.modules[first].rank for first in firsts]
    never = [_above(name, rank) for name, rank, at in zip(names, ranks, firsts, strict=True) if shares[rank][at] == 0]
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "block"}, "type": "category", "showgrid": False},
        "yaxis": {"title": {"text": "probability"}, "range": [0, 1.12 if never else 1]},
        "uniformtext": {"minsize": 10, "mode": "hide"},
        "legend": {"traceorder": "normal"},
        "hovermode": "x unified",
        "annotations": never if legible else [],
    }
    return figure(traces, layout)


def _above(name: str, rank: int) -> dict[str, Any]:
    """Return the tick of a chosen rank whose bar has no height, above the bar of its block."""
    return {"x": name, "y": 1, "text": f"{rank} ✓", "showarrow": False, "yanchor": "bottom", "font": {"size": 11}}


def column_names(columns: Sequence[Column], separator: str = ", ") -> list[str]:
    """Return the name of each block, with its matrices where those of a block stand apart."""
    blocks = [(stack, block) for stack, block, _ in columns]
    counts = Counter(blocks)
    return [
        separator.join([name, *roles]) if counts[block] > 1 else name
        for name, block, (_, _, roles) in zip(block_names(blocks), blocks, columns, strict=True)
    ]


def block_names(blocks: Sequence[tuple[str, int]]) -> list[str]:
    """Return the number of each block, with three letters of its stack where there are two."""
    several = len({stack for stack, _ in blocks}) > 1
    return [f"{stack[:3]} {block}" if several else str(block) for stack, block in blocks]


def escaped(text: str) -> str:
    """Return ``text`` as plotly shows it letter by letter: it reads tags in names."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _whole(plans: Mapping[str, RankPlan]) -> dict[str, Any]:
    most = max(max(plan.block_ranks.values()) for plan in plans.values())
    return {"dtick": 1} if most <= 12 else {}


def _shade(place: int, count: int) -> str:
    """Return a blue between light and dark: ranks have an order."""
    return _between((198, 224, 245), (0, 74, 120), place / max(count - 1, 1))


def _between(first: tuple[int, int, int], last: tuple[int, int, int], share: float) -> str:
    mixed = [round(a + (b - a) * share) for a, b in zip(first, last, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _numbers(values: Any) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
