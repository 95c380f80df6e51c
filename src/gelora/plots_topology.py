"""Draw the topology of a point cloud: persistence diagrams, barcodes and spanning trees."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.captions import height_of, model_name, set_label, set_title, width_of
from gelora.messages import check_choice
from gelora.palette import COLORS, MARKERS, new_axes, shades
from gelora.topology import check_persistence, check_spanning_tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

_LEAST_BAND = 0.22  # of a barcode, for a degree of few bars
_DIAGRAM_MARKERS = ("o", "^", "s", "D")


def plot_diagram(diagram: xr.Dataset, ax: "Axes | None" = None, *, kind: str = "diagram") -> "Axes":
    """Draw the bars of persistent homology: a point for each, or each as a bar.

    In a diagram a point far above the diagonal is a bar that lives long; what never dies lies on the dashed line at
    infinity. In a barcode the bars lie by degree and birth, and an arrow ends those that never die.

    Parameters
    ----------
    diagram : xarray.Dataset
        As `gelora.topology.persistence` returns.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.
    kind : {"diagram", "barcode"}
        Deaths against births, on equal axes; or the barcode.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``diagram`` is none, or ``kind`` is unknown.
    """
    check_persistence(diagram)
    check_choice("kind", kind, ("diagram", "barcode"))
    axes = new_axes(ax, (5.2, 4.8) if kind == "diagram" else (6.4, 4.4))
    if not diagram.sizes["bar"]:
        axes.text(0.5, 0.5, "no bars", transform=axes.transAxes, ha="center", va="center")
    elif kind == "diagram":
        _draw_points(axes, diagram)
    else:
        _draw_bars(axes, diagram)
    set_title(axes, _origin(diagram), _counts(diagram))
    return axes


def plot_spanning_tree(tree: xr.Dataset, ax: "Axes | None" = None, *, values: Any = None) -> "Axes":
    """Draw a minimum spanning tree on the first two principal components, edges darker the longer they are.

    The plane is a projection, and the labels say of how much of the variance: an edge may be far longer in the ambient
    space than it looks, which its colour tells.

    Parameters
    ----------
    tree : xarray.Dataset
        As `gelora.topology.spanning_tree` returns.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out. Colour bars take their room from these axes.
    values : array_like, optional
        A number or a name for each node, or for each row of the cloud it was made from: numbers colour the nodes by a
        second colour bar, which bears their ``name`` if they have one; names, at most seven, by colour and marker.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``tree`` is none, or ``values`` do not fit its nodes.
    """
    import networkx as nx

    check_spanning_tree(tree)
    shown = None if values is None else _node_values(tree, values)
    axes = new_axes(ax, (6.4, 5.2))
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(tree.sizes["node"]))
    ends = np.stack([tree["source"].values, tree["target"].values], axis=1)
    order = np.argsort(tree["length"].values, kind="stable")
    edges, lengths = ends[order].tolist(), tree["length"].values[order]
    positions = dict(enumerate(tree["position"].transpose("node", "axis").values))
    room = width_of(axes) * height_of(axes) / tree.sizes["node"]  # square points a node
    cool = shades(0.0, 0.85, reverse=True)
    drawn: Any = nx.draw_networkx_edges(
        graph,
        positions,
        edgelist=edges,
        ax=axes,
        edge_color=lengths,
        edge_cmap=cool,
        hide_ticks=False,
        width=float(np.clip(0.1 * np.sqrt(room), 0.3, 1.5)),
    )
    drawn.set_zorder(1)
    _color_bar(axes, lengths, cool, "edge length")
    _draw_nodes(
        axes,
        graph,
        positions,
        shown,
        str(getattr(values, "name", None) or "value of the node"),
        float(np.clip(0.05 * room, 1.0, 40.0)),
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(left=True, bottom=True, labelleft=True, labelbottom=True)
    first, second = (f"({100.0 * share:.0f} % of the variance)" for share in tree["variance_share"].values)
    set_label(axes, "x", "first principal component", first)
    set_label(axes, "y", "second principal component", second)
    both = f"{100.0 * float(tree['variance_share'].sum()):.0f} %"
    set_title(axes, _origin(tree), [_sample(tree)], ["distances seen are a projection", f"{both} of the variance"])
    return axes


def _draw_points(axes: "Axes", diagram: xr.Dataset) -> None:
    birth, death, degree = (diagram[name].values for name in ("birth", "death", "degree"))
    finite = np.isfinite(death)
    top = float(max(death[finite].max(initial=0.0), birth.max())) or 1.0
    infinity = 1.1 * top
    axes.plot([0.0, top], [0.0, top], color="0.6", linewidth=0.8, label="_diagonal", zorder=0)
    for place, one in enumerate(np.unique(degree)):
        own = degree == one
        axes.scatter(
            birth[own],
            np.where(finite[own], death[own], infinity),
            s=18,
            marker=_DIAGRAM_MARKERS[place % len(_DIAGRAM_MARKERS)],
            facecolor=COLORS[place % len(COLORS)],
            linewidth=0,
            alpha=0.6,
            label=f"degree {one}",
            clip_on=False,
            zorder=2,
        )
    if not finite.all():
        axes.axhline(infinity, color="0.3", linewidth=0.8, linestyle="--", label="_infinity", zorder=1)
        axes.annotate(
            "∞", (1.0, infinity), (4, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center"
        )
    axes.set_xlim(-0.04 * top, 1.05 * top)
    axes.set_ylim(-0.04 * top, 1.15 * top if not finite.all() else 1.05 * top)
    axes.set_aspect("equal")
    axes.set_xlabel("birth (distance)")
    axes.set_ylabel("death (distance)")
    axes.legend(frameon=False, loc="lower right")


def _draw_bars(axes: "Axes", diagram: xr.Dataset) -> None:
    """Draw each degree in a band of its own, of a height by its number of bars, but not too low to be seen."""
    birth, death, degree = (diagram[name].values for name in ("birth", "death", "degree"))
    finite = np.isfinite(death)
    end = 1.08 * (float(max(death[finite].max(initial=0.0), birth.max())) or 1.0)
    order = np.lexsort((death, birth, degree))
    degrees, counts = np.unique(degree, return_counts=True)
    shares = np.maximum(counts / counts.sum(), _LEAST_BAND)
    borders = np.append(0.0, np.cumsum(shares / shares.sum()))
    for place, (one, count) in enumerate(zip(degrees, counts, strict=True)):
        own, color = order[degree[order] == one], COLORS[place % len(COLORS)]
        low, high = borders[place : place + 2]
        rows = low + (high - low) * (np.arange(count) + 0.5) / count
        width = float(np.clip(0.6 * height_of(axes) * (high - low) / count, 0.2, 4.0))
        axes.hlines(rows, birth[own], np.where(finite[own], death[own], end), color=color, linewidth=width)
        immortal = rows[~finite[own]]
        if len(immortal):
            at_end = np.full(len(immortal), end)
            axes.plot(at_end, immortal, linestyle="none", marker=">", color=color, label="_never dies")
        if place:
            axes.axhline(low, color="0.6", linewidth=0.6, label="_border")
    names = [f"degree {one}\n{_bars(count)}" for one, count in zip(degrees, counts, strict=True)]
    axes.set_yticks((borders[:-1] + borders[1:]) / 2.0, names, rotation=90, va="center")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.01, 1.01)
    axes.set_xlim(0.0, end * 1.02)
    axes.set_xlabel("distance")


def _counts(diagram: xr.Dataset) -> list[str]:
    degree, death = diagram["degree"].values, diagram["death"].values
    return [_sample(diagram), *(_count(int(one), death[degree == one]) for one in np.unique(degree))]


def _count(degree: int, deaths: NDArray[np.float64]) -> str:
    never = int(np.isinf(deaths).sum())
    return f"degree {degree}: {_bars(len(deaths))}" + (f" ({never} without end)" if never else "")


def _bars(count: int) -> str:
    return f"{count:,} bar{'' if count == 1 else 's'}"


def _sample(dataset: xr.Dataset) -> str:
    """Return how many points were used, and of how many they were drawn."""
    used = dataset.attrs.get("n_used")
    if used is None:
        return ""
    if not dataset.attrs.get("subsampled"):
        return f"n = {int(used):,} points"
    return f"n = {int(used):,} points drawn of {int(dataset.attrs['n_points']):,}"


def _origin(dataset: xr.Dataset) -> list[str]:
    layer = f"layer {dataset.attrs['layer']}" if "layer" in dataset.attrs else ""
    return [part for part in (model_name(dataset.attrs), layer) if part]


def _node_values(tree: xr.Dataset, values: Any) -> NDArray[Any]:
    """Return a value for each node, of values by node or by row of the cloud."""
    array = np.asarray(values)
    n, rows = tree.sizes["node"], tree["row"].values
    if array.ndim == 1 and len(array) == n:
        return array
    if array.ndim == 1 and len(array) == tree.attrs.get("n_points") and int(rows.max()) < len(array):
        return np.asarray(array[rows])
    raise ValueError(
        f"`values` must hold one value for each of the {n} nodes or of the {tree.attrs.get('n_points', n)} rows of the "
        f"cloud, got shape {array.shape}"
    )


def _draw_nodes(axes: "Axes", graph: Any, positions: Any, values: NDArray[Any] | None, label: str, size: float) -> None:
    import networkx as nx

    options: dict[str, Any] = {"ax": axes, "node_size": size, "hide_ticks": False, "linewidths": 0}
    if values is None:
        nx.draw_networkx_nodes(graph, positions, node_color="0.25", **options).set_zorder(2)
    elif values.dtype.kind in "fiu":
        warm = shades(0.0, 0.85, name="inferno")
        known = np.isfinite(values)
        named, rest = np.flatnonzero(known).tolist(), np.flatnonzero(~known).tolist()
        nx.draw_networkx_nodes(graph, positions, rest, node_color="0.8", **options)
        nodes = nx.draw_networkx_nodes(graph, positions, named, node_color=values[known], cmap=warm, **options)
        nodes.set_zorder(2)
        _color_bar(axes, values[known], warm, label)
    else:
        names = list(dict.fromkeys(str(value) for value in values))
        if len(names) > len(COLORS):
            raise ValueError(f"`values` must have at most {len(COLORS)} different names, got {len(names)}: join some")
        for place, name in enumerate(names):
            own = [node for node, value in enumerate(values) if str(value) == name]
            marks: dict[str, Any] = {"node_shape": MARKERS[place], "node_color": COLORS[place], "label": name}
            nx.draw_networkx_nodes(graph, positions, nodelist=own, **marks, **options).set_zorder(2)
        axes.legend(frameon=False, markerscale=max(1.0, 6.0 / float(np.sqrt(size))))


def _color_bar(axes: "Axes", values: NDArray[Any], colors: "Colormap", label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure: Any = axes.figure
    if len(values):
        scale = Normalize(float(np.min(values)), float(np.max(values)))
        figure.colorbar(ScalarMappable(scale, colors), ax=axes, pad=0.02, fraction=0.05, label=label)
