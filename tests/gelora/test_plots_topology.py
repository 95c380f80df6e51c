import re
from typing import Any

import matplotlib as mpl
import networkx as nx
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gelora.palette import shades
from gelora.plots import COLORS, plot_diagram, plot_spanning_tree
from gelora.topology import persistence, spanning_tree


def new_axes() -> Axes:
    return Figure().add_subplot()


def points_of(axes: Axes) -> list[PathCollection]:
    return [artist for artist in axes.collections if isinstance(artist, PathCollection)]


def lines_of(axes: Axes) -> list[LineCollection]:
    return [artist for artist in axes.collections if isinstance(artist, LineCollection)]


@pytest.fixture
def square() -> xr.Dataset:
    """Four components, of which one never dies, and a loop from 1 to √2."""
    return persistence([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], backend="ripser")


@pytest.fixture
def tree(rng: np.random.Generator) -> xr.Dataset:
    points = rng.normal(size=(30, 4)) * [4, 2, 1, 1]
    return spanning_tree(np.concatenate([points, points[:3]]), max_points=20)


@pytest.mark.smoke
def test_births_and_deaths_are_points_and_what_never_dies_lies_on_the_line_at_infinity(square: xr.Dataset) -> None:
    axes = plot_diagram(square, new_axes())
    components, loops = points_of(axes)
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    infinity = float(lines["_infinity"][0])
    np.testing.assert_allclose(components.get_offsets(), [[0, 1], [0, 1], [0, 1], [0, infinity]], atol=1e-6)
    np.testing.assert_allclose(loops.get_offsets(), [[1, np.sqrt(2)]], atol=1e-6)
    assert infinity > np.sqrt(2)  # above every bar that dies
    assert [text.get_text() for text in axes.texts] == ["∞"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), axes.lines[0].get_ydata())  # the diagonal
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("birth (distance)", "death (distance)")
    assert axes.get_aspect() == 1.0


def test_without_a_bar_that_never_dies_there_is_no_line_at_infinity(square: xr.Dataset) -> None:
    axes = plot_diagram(square.isel(bar=square["degree"].values == 1), new_axes())
    assert [line.get_label() for line in axes.lines] == ["_diagonal"]
    assert list(axes.texts) == []


def test_degrees_differ_in_colour_and_in_marker(square: xr.Dataset) -> None:
    axes = plot_diagram(square, new_axes())
    components, loops = points_of(axes)
    assert tuple(components.get_facecolor()[0][:3]) == pytest.approx(to_rgb(COLORS[0]))
    assert tuple(loops.get_facecolor()[0][:3]) == pytest.approx(to_rgb(COLORS[1]))
    assert components.get_paths()[0].vertices.shape != loops.get_paths()[0].vertices.shape
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["degree 0", "degree 1"]


def test_the_title_counts_points_and_bars_and_tells_of_a_subsample(
    square: xr.Dataset, rng: np.random.Generator
) -> None:
    title = plot_diagram(square, new_axes()).get_title(loc="left").replace("\n", " ")
    assert title == "n = 4 points, degree 0: 4 bars (1 without end), degree 1: 1 bar"
    drawn = persistence(rng.normal(size=(1500, 2)), degrees=[0], max_points=100)
    labelled = drawn.assign_attrs(model="/home/some/model", layer=3)
    assert (
        plot_diagram(labelled, new_axes())
        .get_title(loc="left")
        .startswith("some/model, layer 3\nn = 100 points drawn of 1,500, degree 0: 100 bars")
    )


def test_a_barcode_has_a_line_from_birth_to_death_for_each_bar_and_an_arrow_where_one_never_dies(
    square: xr.Dataset,
) -> None:
    axes = plot_diagram(square, new_axes(), kind="barcode")
    components, loops = ([segment.tolist() for segment in lines.get_segments()] for lines in lines_of(axes))
    end = axes.lines[0].get_xdata()[0]
    assert axes.lines[0].get_marker() == ">"
    assert [(round(one[0][0], 6), round(one[1][0], 6)) for one in components[:3]] == [(0, 1)] * 3
    assert [point[0] for point in components[3]] == [0, end]
    np.testing.assert_allclose([[point[0] for point in loop] for loop in loops], [[1, np.sqrt(2)]], atol=1e-6)
    heights = [segment[0][1] for segment in components + loops]
    assert heights == sorted(set(heights))  # one above the other, degree by degree
    assert len(loops) / len(heights) < 1 - axes.lines[1].get_ydata()[0]  # few bars have a band to be seen
    assert [label.get_text() for label in axes.get_yticklabels()] == ["degree 0\n4 bars", "degree 1\n1 bar"]


def test_a_diagram_without_bars_says_so(square: xr.Dataset) -> None:
    for kind in ("diagram", "barcode"):
        axes = plot_diagram(square.isel(bar=slice(0)), new_axes(), kind=kind)
        assert [text.get_text() for text in axes.texts] == ["no bars"]


def test_edges_join_the_positions_of_their_nodes_and_darken_with_their_length(tree: xr.Dataset) -> None:
    axes = plot_spanning_tree(tree, new_axes())
    (edges,) = lines_of(axes)
    position = tree["position"].values
    expected = np.stack([position[tree["source"].values], position[tree["target"].values]], axis=1)
    np.testing.assert_allclose(edges.get_segments(), expected)
    share = (tree["length"] - tree["length"].min()) / (tree["length"].max() - tree["length"].min())
    np.testing.assert_allclose(edges.get_colors(), shades(0.0, 0.85, reverse=True)(share.values))
    brightness = np.asarray(edges.get_colors())[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) <= 1e-3).all()
    assert brightness[0] - brightness[-1] > 0.4
    (nodes,) = points_of(axes)
    np.testing.assert_allclose(nodes.get_offsets(), position)


def test_axes_say_that_distances_are_a_projection_and_of_what_share(tree: xr.Dataset) -> None:
    axes = plot_spanning_tree(tree, new_axes())
    first, second = (f"{100 * share:.0f} % of the variance" for share in tree["variance_share"].values)
    assert axes.get_xlabel().replace("\n", " ") == f"first principal component ({first})"
    assert axes.get_ylabel().replace("\n", " ") == f"second principal component ({second})"
    title = axes.get_title(loc="left").replace("\n", " ")
    both = f"{100 * float(tree['variance_share'].sum()):.0f} % of the variance"
    assert title == f"n = 20 points drawn of 33 distances seen are a projection, {both}"
    assert axes.get_aspect() == 1.0
    assert axes.figure.axes[1].get_ylabel() == "edge length"


def test_numbers_colour_the_nodes_by_node_or_by_row_of_the_cloud(tree: xr.Dataset) -> None:
    by_node, by_row = np.arange(20.0), np.arange(33.0)
    one = plot_spanning_tree(tree, new_axes(), values=by_node)
    np.testing.assert_array_equal(points_of(one)[0].get_array(), by_node)
    other = plot_spanning_tree(tree, new_axes(), values=xr.DataArray(by_row, dims="row", name="length in tokens"))
    np.testing.assert_array_equal(points_of(other)[0].get_array(), tree["row"])
    assert [bar.get_ylabel() for bar in other.figure.axes[1:]] == ["edge length", "length in tokens"]


def test_names_colour_the_nodes_by_colour_and_marker(tree: xr.Dataset) -> None:
    names = np.array(["question", "answer"])[np.arange(33) % 2]
    axes = plot_spanning_tree(tree, new_axes(), values=names)
    groups = points_of(axes)
    assert {str(group.get_label()) for group in groups} == {"question", "answer"}
    for group in groups:
        own = names[tree["row"].values] == group.get_label()
        np.testing.assert_allclose(group.get_offsets(), tree["position"].values[own])
    assert groups[0].get_paths()[0].vertices.shape != groups[1].get_paths()[0].vertices.shape


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.arange(5),
            "`values` must hold one value for each of the 20 nodes or of the 33 rows of the cloud, got shape",
        ),
        (np.arange(20).astype(str), "`values` must have at most 7 different names, got 20: join some"),
    ],
)
def test_values_that_do_not_fit_are_refused(tree: xr.Dataset, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_spanning_tree(tree, new_axes(), values=values)


def test_what_is_neither_bars_nor_a_tree_is_refused(square: xr.Dataset, tree: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="`diagram` is not a gelora persistence"):
        plot_diagram(tree, new_axes())
    with pytest.raises(ValueError, match="`tree` is not a gelora spanning tree"):
        plot_spanning_tree(square, new_axes())
    with pytest.raises(ValueError, match="`kind` must be one of diagram, barcode, got 'bars'"):
        plot_diagram(square, new_axes(), kind="bars")


def test_drawing_topology_returns_the_given_axes_and_touches_neither_pyplot_nor_the_settings(
    square: xr.Dataset, tree: xr.Dataset
) -> None:
    import matplotlib.pyplot as plt

    plt.close("all")
    settings, before = dict(mpl.rcParams), tree.copy(deep=True)
    for axes in [new_axes() for _ in range(2)]:
        assert plot_diagram(square, axes) is axes
    axes = new_axes()
    assert plot_spanning_tree(tree, axes, values=np.arange(20.0)) is axes
    xr.testing.assert_identical(tree, before)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_the_drawn_tree_is_a_tree(tree: xr.Dataset) -> None:
    graph = nx.Graph(zip(tree["source"].values.tolist(), tree["target"].values.tolist(), strict=True))
    assert nx.is_tree(graph)
    assert len(graph) == tree.sizes["node"]


def test_a_node_without_a_value_is_grey_and_leaves_the_colours_to_the_others(tree: xr.Dataset) -> None:
    values = np.arange(20.0)
    values[3] = np.nan
    axes = plot_spanning_tree(tree, new_axes(), values=values)
    colour_bar = axes.figure.axes[-1]
    assert colour_bar.get_ylim() == (0.0, 19.0)
    grey = [group for group in points_of(axes) if to_rgb(group.get_facecolor()[0]) == to_rgb("0.8")]
    assert [len(group.get_offsets()) for group in grey] == [1]
