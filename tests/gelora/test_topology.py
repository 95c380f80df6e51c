"""Bars and spanning trees as Datasets: against other implementations, subsampled by the seed, written and read."""

import json
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import cdist

from gelora.clouds import Representations
from gelora.topology import (
    check_persistence,
    check_spanning_tree,
    open_persistence,
    open_spanning_tree,
    persistence,
    save_persistence,
    save_spanning_tree,
    spanning_tree,
)
from gelora_estimators import DegenerateCloudError


@pytest.fixture
def circle(rng: np.random.Generator) -> np.ndarray:
    angle = np.sort(rng.random(60)) * 2 * np.pi
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(60)], axis=1) + rng.normal(0, 0.02, (60, 3))


@pytest.fixture
def layers(rng: np.random.Generator) -> Representations:
    clouds = tuple(rng.normal(size=(30, 4 + place)) for place in range(4))
    return Representations(
        clouds=clouds,
        stacks=("encoder", "encoder", "decoder", "decoder"),
        layers=(0, 1, 0, 2),
        names=("a", "b", "c", "d"),
        rows={"encoder": np.arange(30), "decoder": np.arange(30)},
        attributes={"model": "some/model", "data_fingerprint": "abc", "pooling": "mean", "unrelated": 1},
    )


@pytest.mark.smoke
def test_a_circle_has_one_component_that_never_dies_and_one_long_loop(circle: np.ndarray) -> None:
    bars = persistence(circle)
    components = bars.isel(bar=bars["degree"].values == 0)
    loops = bars.isel(bar=bars["degree"].values == 1)
    assert components.sizes["bar"] == 60
    assert int(np.isinf(components["death"]).sum()) == 1
    assert (components["birth"] == 0).all()
    lifetimes = np.sort((loops["death"] - loops["birth"]).values)
    assert lifetimes[-1] > 0.8
    assert (lifetimes[:-1] < 0.2).all()


def test_bars_of_degree_zero_end_at_the_edges_of_the_spanning_tree_whatever_the_backend(circle: np.ndarray) -> None:
    lengths = spanning_tree(circle)["length"].values
    for backend in ("torch", "ripser"):
        bars = persistence(circle, degrees=[0], backend=backend)
        np.testing.assert_allclose(np.sort(bars["death"].values)[:-1], lengths, rtol=1e-5)
        assert json.loads(bars.attrs["backends"]) == {"0": backend}


def test_the_tree_is_that_of_networkx(rng: np.random.Generator) -> None:
    points = rng.normal(size=(40, 5))
    tree = spanning_tree(points)
    expected = nx.minimum_spanning_tree(nx.from_numpy_array(cdist(points, points)))
    found = {tuple(sorted(edge)) for edge in zip(tree["source"].values, tree["target"].values, strict=True)}
    assert found == {tuple(sorted(edge)) for edge in expected.edges}
    assert (np.diff(tree["length"].values) >= 0).all()
    ends = points[tree["row"].values[tree["source"].values]] - points[tree["row"].values[tree["target"].values]]
    np.testing.assert_allclose(tree["length"], np.linalg.norm(ends, axis=1))


@pytest.mark.parametrize("shape", [(50, 6), (6, 50)])
@pytest.mark.parametrize("scale", [1.0, 1e200, 1e-200])
def test_positions_are_on_the_principal_components_and_the_shares_those_of_their_variance(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> None:
    points = rng.normal(size=shape) * np.linspace(3, 1, shape[1])
    tree = spanning_tree(points * scale)
    centred = points - points.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(tree["position"].values / scale), np.abs(left[:, :2] * singular[:2]), atol=1e-7)
    np.testing.assert_allclose(tree["variance_share"], np.square(singular[:2]) / np.square(singular).sum())


def test_points_on_a_line_have_no_second_component() -> None:
    tree = spanning_tree(np.outer(np.array([0.0, 1.0, 5.0]), [3.0, 4.0]))
    np.testing.assert_allclose(tree["variance_share"], [1, 0], atol=1e-12)
    np.testing.assert_allclose(np.sort(tree["position"][:, 0]), [-10, -5, 15])
    assert (tree["position"][:, 1] == 0).all()
    assert spanning_tree([[0.0], [1.0]])["position"].shape == (2, 2)


@pytest.mark.parametrize("compute", [persistence, spanning_tree])
def test_a_larger_cloud_is_drawn_from_by_the_seed_and_says_so(compute: Any, rng: np.random.Generator) -> None:
    points = np.concatenate([rng.normal(size=(80, 3)), np.zeros((20, 3))])
    first, again, other = (compute(points, max_points=25, seed=seed) for seed in (1, 1, 2))
    told = {key: first.attrs[key] for key in ("n_points", "n_copies", "n_used", "subsampled", "seed", "ambient")}
    assert told == {"n_points": 100, "n_copies": 19, "n_used": 25, "subsampled": 1, "seed": 1, "ambient": 3}
    xr.testing.assert_equal(first, again)
    assert first.attrs["points_fingerprint"] == again.attrs["points_fingerprint"] != other.attrs["points_fingerprint"]
    whole = compute(points, max_points=81)
    assert (whole.attrs["n_used"], whole.attrs["subsampled"]) == (81, 0)
    assert "gelora" in json.loads(first.attrs["versions"])


def test_rows_of_a_tree_are_those_of_the_input(rng: np.random.Generator) -> None:
    points = rng.normal(size=(50, 3))
    points[7] = points[3]
    rows = spanning_tree(points, max_points=20)["row"].values
    assert len(rows) == 20
    assert 7 not in rows
    assert (np.diff(rows) > 0).all()
    assert 7 not in spanning_tree(points)["row"].values


def test_by_default_as_many_points_are_used_as_the_highest_degree_bears(rng: np.random.Generator) -> None:
    points = rng.normal(size=(1100, 2))
    used = [persistence(points, degrees=degrees).attrs["n_used"] for degrees in ([0], [0, 1])]
    assert used == [1100, 1000]


def test_a_layer_is_taken_by_number_or_with_its_stack_and_keeps_its_origin(layers: Representations) -> None:
    tree = spanning_tree(layers, layer=1)
    xr.testing.assert_equal(tree, spanning_tree(layers[1]))
    told = {key: tree.attrs[key] for key in ("model", "data_fingerprint", "pooling", "layer", "stack", "name")}
    origin = {"model": "some/model", "data_fingerprint": "abc", "pooling": "mean"}
    assert told == origin | {"layer": 1, "stack": "encoder", "name": "b"}
    assert "unrelated" not in tree.attrs
    xr.testing.assert_equal(spanning_tree(layers, layer=("decoder", 0)), spanning_tree(layers[2]))


@pytest.mark.parametrize("layer", [None, 0, 7, ("decoder", 1)])
def test_a_layer_that_is_not_one_is_refused_with_the_list(layers: Representations, layer: Any) -> None:
    listed = "('encoder', 0), ('encoder', 1), ('decoder', 0), ('decoder', 2)"
    with pytest.raises(ValueError, match=re.escape(f"must name one of the layers {listed} of `points`, got {layer!r}")):
        persistence(layers, layer=layer)


def test_clouds_in_a_store_are_read_as_arrays(rng: np.random.Generator) -> None:
    class Stored:
        """Reads its points when NumPy asks for them, as a layer in a store does."""

        def __init__(self, points: np.ndarray) -> None:
            self._points = points
            self.shape, self.dtype, self.ndim = points.shape, points.dtype, 2

        def __len__(self) -> int:
            return len(self._points)

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return np.asarray(self._points, dtype)

    points = rng.normal(size=(30, 3)).astype(np.float32)
    xr.testing.assert_identical(spanning_tree(Stored(points)).drop_attrs(), spanning_tree(points).drop_attrs())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 3}, "`layer` goes with `Representations`: `points` is one cloud, leave it out, got 3"),
        ({"degrees": ()}, "`degrees` must be a sequence of at least one degree, such as (0, 1), got ()"),
        ({"degrees": (0, -1)}, "`degrees` must be an integer of at least 0, got -1"),
        ({"backend": "gudhi"}, "`backend` must be one of auto, torch, giotto, ripser, got 'gudhi'"),
        ({"backend": "torch"}, "`backend` must be 'giotto' or 'ripser' for bars of degree 1 and above"),
        ({"max_points": 1}, "`max_points` must be an integer of at least 2, got 1"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str, circle: np.ndarray) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        persistence(circle, **arguments)


def test_a_cloud_of_equal_points_has_no_topology() -> None:
    for compute in (persistence, spanning_tree):
        with pytest.raises(DegenerateCloudError, match="all 5 points are equal"):
            compute(np.ones((5, 2)))  # type: ignore[operator]


def test_bars_and_trees_are_read_as_they_were_written_infinity_included(circle: np.ndarray, tmp_path: Path) -> None:
    bars, tree = persistence(circle), spanning_tree(circle)
    save_persistence(bars, tmp_path / "bars.nc")
    save_spanning_tree(tree, tmp_path / "tree.nc")
    xr.testing.assert_identical(open_persistence(tmp_path / "bars.nc"), bars)
    xr.testing.assert_identical(open_spanning_tree(tmp_path / "tree.nc"), tree)
    assert np.isinf(open_persistence(tmp_path / "bars.nc")["death"].values).sum() == 1


def test_what_is_neither_bars_nor_a_tree_is_refused(circle: np.ndarray, tmp_path: Path) -> None:
    bars, tree = persistence(circle), spanning_tree(circle)
    with pytest.raises(ValueError, match="`diagram` is not a gelora persistence: its attribute `schema` is 'gelora-sp"):
        check_persistence(tree)
    with pytest.raises(ValueError, match="`tree` is not a gelora spanning tree"):
        check_spanning_tree(bars)
    with pytest.raises(TypeError, match=r"`tree` must be an xarray\.Dataset as `gelora\.topology\.spanning_tree` ret"):
        check_spanning_tree(circle)
    with pytest.raises(ValueError, match="`diagram` has no variable 'degree'"):
        check_persistence(bars.drop_vars("degree"))
    with pytest.raises(ValueError, match="`diagram` must hold finite births and deaths that are not before them"):
        check_persistence(bars.assign(birth=bars["birth"] + 5))
    with pytest.raises(ValueError, match="`tree` must have two axes and edges between its 60 nodes"):
        check_spanning_tree(tree.assign(source=tree["source"] + 60))
    with pytest.raises(ValueError, match="has schema version 2, this gelora reads up to 1"):
        check_persistence(bars.assign_attrs(schema_version=2))
    with pytest.raises(FileNotFoundError, match=r"make one with `gelora\.topology\.save_spanning_tree`"):
        open_spanning_tree(tmp_path / "absent.nc")
