"""Topology of a point cloud: bars of persistent homology, and the minimum spanning tree laid out for a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.clouds import Representations
from gelora.messages import check_choice, check_integer
from gelora.netcdf import check_schema, plain_attributes, read_dataset, write_dataset
from gelora.provenance import fingerprint, generator, package_versions, timestamp

PERSISTENCE_SCHEMA = "gelora-persistence"
TREE_SCHEMA = "gelora-spanning-tree"
SCHEMA_VERSION = 1

_ROWS = 4096  # of a fingerprint at a time
_BARS = ("birth", "death", "degree")
_EDGES = ("source", "target", "length")
_PACKAGES = ("gelora", "torch", "numpy", "scipy", "ripser", "giotto-ph", "xarray")
_KEPT = ("model", "weights_fingerprint", "data", "data_fingerprint", "pooling", "n_texts")


def persistence(
    points: Any,
    *,
    layer: int | tuple[str, int] | None = None,
    degrees: Sequence[int] = (0, 1),
    max_points: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    device: str = "auto",
) -> xr.Dataset:
    """Return the bars of the Vietoris–Rips filtration of a point cloud.

    A simplex enters at its longest edge, so that births and deaths are distances. The finite bars of degree 0 are the
    edges of the minimum spanning tree (Adams2020, Birdal2021); those of degree 1 are loops.

    Parameters
    ----------
    points : array_like of shape (n, d), StoredCloud or Representations
        One cloud, or the layers of a model, of which ``layer`` says which.
    layer : int or (str, int), optional
        The number of the layer of `Representations`, 0 for the input of the first block; with its stack,
        ``("decoder", 3)``, where a model has two.
    degrees : sequence of int
        0 for components, 1 for loops, 2 for voids.
    max_points : int, optional
        Distinct points that are used; of a larger cloud as many are drawn by the seed. By default what the highest
        degree bears: all in degree 0, 1,000 in degree 1, 200 above.
    seed : int
        Of that draw.
    backend : {"auto", "torch", "giotto", "ripser"}
        See `gelora_estimators.persistence_diagram`; "torch" computes degree 0 alone.
    device : str
        "auto" or a torch device name, where distances are computed.

    Returns
    -------
    xarray.Dataset
        Along ``bar``, by degree, birth and death: ``birth`` and ``death`` in the unit of the points, infinite where a
        bar never dies, and ``degree``. Attributes: ``n_points`` given, ``n_copies`` removed, ``n_used``, ``subsampled``
        (1 if drawn), ``seed``, ``degrees``, ``backends`` by degree, versions and origin.

    Raises
    ------
    DegenerateCloudError
        For a cloud of fewer than two distinct points, or the like, with the counts.
    TypeError, ValueError
        For what is no cloud, a layer that is not there, or an unknown degree or backend.
    ImportError
        For a backend that is not installed, naming what to install.

    Notes
    -----
    The bars of a subsample are those of a sparser cloud: in degree 0 they are longer, in degree 1 fewer. Compare
    diagrams of equal ``n_used`` alone.

    Examples
    --------
    >>> found = persistence([[0.0], [1.0], [3.0], [3.0]], degrees=[0])
    >>> found["death"].values.tolist(), found.attrs["n_copies"]
    ([1.0, 2.0, inf], 1)
    """
    from gelora_estimators.homology import BACKENDS, check_backend, installed_backend, most_points, persistence_diagram

    wanted = _check_degrees(degrees)
    check_choice("backend", backend, ("auto", *BACKENDS))
    used = {degree: installed_backend(degree) if backend == "auto" else backend for degree in wanted}
    for degree in wanted:
        check_backend(used[degree], degree)
    limits = [limit for limit in map(most_points, wanted) if limit is not None]
    most = min(limits, default=None) if max_points is None else check_integer("max_points", max_points, 2)
    cloud = _take(points, layer, most, seed)
    found = [
        persistence_diagram(
            cloud.points, degree=degree, backend=used[degree], max_points=len(cloud.points), device=device
        )
        for degree in wanted
    ]
    bars = np.concatenate(found)
    length = {"units": "unit of the points"}
    return xr.Dataset(
        {
            "birth": ("bar", bars[:, 0], {"long_name": "distance at which the bar begins", **length}),
            "death": ("bar", bars[:, 1], {"long_name": "distance at which it ends, infinite if never", **length}),
            "degree": ("bar", np.repeat(np.array(wanted, dtype=np.int64), [len(one) for one in found])),
        },
        attrs={"schema": PERSISTENCE_SCHEMA, "schema_version": SCHEMA_VERSION}
        | plain_attributes({**cloud.record, "degrees": wanted, "backends": used, **_origin()}),
    )


def spanning_tree(
    points: Any,
    *,
    layer: int | tuple[str, int] | None = None,
    max_points: int | None = 2000,
    seed: int = 0,
    device: str = "auto",
) -> xr.Dataset:
    """Return the Euclidean minimum spanning tree of a point cloud, its nodes on two principal components.

    Parameters
    ----------
    points, layer, seed, device
        As in `persistence`.
    max_points : int, optional
        Distinct points that are used; of a larger cloud as many are drawn by the seed. None takes all: the tree of
        10,000 points takes seconds, but a picture of them shows nothing.

    Returns
    -------
    xarray.Dataset
        Along ``edge``, by length: ``source`` and ``target``, numbers of nodes, and ``length`` in the unit of the
        points. Along ``node``: ``row`` of the input, and ``position`` (node, axis) on the first two principal
        components of the points that were used, with ``variance_share`` (axis) of each. Attributes as of `persistence`.

    Raises
    ------
    DegenerateCloudError
        For a cloud of fewer than two distinct points, or the like, with the counts.
    TypeError, ValueError
        For what is no cloud, or a layer that is not there.

    Notes
    -----
    Lengths are those in the ambient space, positions are a projection: two nodes that lie together in the plane may
    be far apart.

    Examples
    --------
    >>> tree = spanning_tree([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    >>> tree["length"].values.tolist(), tree["source"].values.tolist(), tree["target"].values.tolist()
    ([1.0, 5.0], [1, 0], [2, 1])
    """
    from gelora_estimators.spanning_tree import minimum_spanning_tree

    most = None if max_points is None else check_integer("max_points", max_points, 2)
    cloud = _take(points, layer, most, seed)
    tree = minimum_spanning_tree(cloud.points, device=device)
    positions, shares = _principal_plane(cloud.points)
    unit = {"units": "unit of the points"}
    return xr.Dataset(
        {
            "source": ("edge", tree.edges[:, 0]),
            "target": ("edge", tree.edges[:, 1]),
            "length": ("edge", tree.lengths, {"long_name": "Euclidean length", **unit}),
            "row": ("node", cloud.rows, {"long_name": "row of the input"}),
            "position": (("node", "axis"), positions, {"long_name": "on the first principal components", **unit}),
            "variance_share": ("axis", shares, {"long_name": "share of the variance on each component"}),
        },
        coords={"axis": np.array([1, 2])},
        attrs={"schema": TREE_SCHEMA, "schema_version": SCHEMA_VERSION}
        | plain_attributes({**cloud.record, **_origin()}),
    )


def check_persistence(diagram: Any) -> xr.Dataset:
    """Return ``diagram`` if it is what `persistence` makes.

    Raises
    ------
    TypeError
        If it is no Dataset.
    ValueError
        If it is of another kind, newer than this gelora, or lacks something; saying what.
    """
    found = _check(diagram, "`diagram`", PERSISTENCE_SCHEMA, "persistence", dict.fromkeys(_BARS, ("bar",)))
    birth, death = found["birth"].values, found["death"].values
    if not (np.isfinite(birth).all() and (death >= birth).all()):  # NaN fails too
        raise ValueError("`diagram` must hold finite births and deaths that are not before them: make it again")
    return found


def check_spanning_tree(tree: Any) -> xr.Dataset:
    """Return ``tree`` if it is what `spanning_tree` makes.

    Raises
    ------
    TypeError
        If it is no Dataset.
    ValueError
        If it is of another kind, newer than this gelora, or lacks something; saying what.
    """
    needed: dict[str, tuple[str, ...]] = dict.fromkeys(_EDGES, ("edge",))
    needed |= {"row": ("node",), "position": ("node", "axis"), "variance_share": ("axis",)}
    found = _check(tree, "`tree`", TREE_SCHEMA, "spanning tree", needed)
    n, ends = found.sizes["node"], np.concatenate([found["source"].values, found["target"].values])
    if found.sizes["axis"] != 2 or (len(ends) and not (ends.min() >= 0 and ends.max() < n)):
        raise ValueError(f"`tree` must have two axes and edges between its {n} nodes: make it again")
    return found


def save_persistence(diagram: xr.Dataset, path: str | Path) -> Path:
    """Write what `persistence` made to a netCDF file, whole or not at all."""
    return write_dataset(check_persistence(diagram), path)


def save_spanning_tree(tree: xr.Dataset, path: str | Path) -> Path:
    """Write what `spanning_tree` made to a netCDF file, whole or not at all."""
    return write_dataset(check_spanning_tree(tree), path)


def open_persistence(path: str | Path) -> xr.Dataset:
    """Read bars from a netCDF file into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind or newer than this gelora.
    """
    return check_persistence(read_dataset(path, made_by="gelora.topology.save_persistence"))


def open_spanning_tree(path: str | Path) -> xr.Dataset:
    """Read a spanning tree from a netCDF file into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind or newer than this gelora.
    """
    return check_spanning_tree(read_dataset(path, made_by="gelora.topology.save_spanning_tree"))


@dataclass(frozen=True, slots=True)
class _Cloud:
    """Distinct points that are used, their rows in the input, and what is told of them."""

    points: NDArray[Any]
    rows: NDArray[np.int64]
    record: dict[str, Any]


def _take(points: Any, layer: int | tuple[str, int] | None, most: int | None, seed: int) -> _Cloud:
    """Return the distinct points of a cloud, or as many of them as there may be, in the order of the input."""
    from gelora_estimators.points import distinct_rows

    cloud, origin = _choose_layer(points, layer)
    distinct = distinct_rows(cloud, minimum=2)
    n_distinct = len(distinct.rows)
    places = np.arange(n_distinct)
    if most is not None and n_distinct > most:
        places = np.sort(generator(seed, "topology").choice(n_distinct, most, replace=False))
    # All points stay where they are, which may be on disk.
    kept = distinct.stored if len(places) == n_distinct else np.asarray(distinct.stored)[places]
    return _Cloud(
        points=kept,
        rows=distinct.rows[places],
        record={
            "n_points": n_distinct + distinct.n_copies,
            "n_copies": distinct.n_copies,
            "n_used": len(places),
            "subsampled": int(len(places) < n_distinct),
            "seed": check_integer("seed", seed, 0),
            "ambient": kept.shape[1],
            "points_fingerprint": fingerprint(
                kept[start : start + _ROWS].tobytes() for start in range(0, len(kept), _ROWS)
            ),
            **origin,
        },
    )


def _choose_layer(points: Any, layer: int | tuple[str, int] | None) -> tuple[Any, dict[str, Any]]:
    """Return the cloud that was meant, and where it comes from."""
    if not isinstance(points, Representations):
        if layer is not None:
            raise ValueError(f"`layer` goes with `Representations`: `points` is one cloud, leave it out, got {layer!r}")
        return points, {}
    known = list(zip(points.stacks, points.layers, strict=True))
    if layer is None:
        found = list(range(len(known)))
    else:
        found = [place for place, (stack, number) in enumerate(known) if layer in (number, (stack, number))]
    if len(found) != 1:
        listed = ", ".join(f"({stack!r}, {number})" for stack, number in known)
        raise ValueError(f"`layer` must name one of the layers {listed} of `points`, got {layer!r}")
    (place,) = found
    stack, number = known[place]
    origin: dict[str, Any] = {"layer": number, "stack": stack, "name": points.names[place]}
    return points.clouds[place], origin | {key: points.attributes[key] for key in _KEPT if key in points.attributes}


def _check_degrees(degrees: Any) -> list[int]:
    if not isinstance(degrees, Sequence) or isinstance(degrees, str) or not degrees:
        raise ValueError(f"`degrees` must be a sequence of at least one degree, such as (0, 1), got {degrees!r}")
    return sorted({check_integer("degrees", degree, 0) for degree in degrees})


def _principal_plane(points: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coordinates (n, 2) on the first two principal components, and the share of the variance of each.

    The sign of a component is that of its largest loading. Points on a line have no second one: it is 0.
    """
    centred = points.astype(np.float64)
    scale = float(np.abs(centred).max()) or 1.0  # squares neither overflow nor vanish
    centred = centred / scale
    centred -= centred.mean(axis=0)
    # The smaller of the two square matrices, of points or of coordinates, has the same eigenvalues.
    wide = centred.shape[1] > centred.shape[0]
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    positions, shares = np.zeros((len(centred), 2)), np.zeros(2)
    for axis, place in enumerate(range(len(values) - 1, max(len(values) - 3, -1), -1)):
        if values[place] > 1e-14 * values[-1]:
            loading = centred.T @ vectors[:, place] if wide else vectors[:, place]
            loading = loading / np.linalg.norm(loading)
            positions[:, axis] = centred @ loading * np.sign(loading[np.abs(loading).argmax()]) * scale
            shares[axis] = values[place] / values.clip(min=0.0).sum()
    return positions, shares


def _check(dataset: Any, what: str, schema: str, kind: str, needed: dict[str, tuple[str, ...]]) -> xr.Dataset:
    made_by = f"gelora.topology.{kind.replace(' ', '_')}"
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"{what} must be an xarray.Dataset as `{made_by}` returns, got {type(dataset).__name__}")
    check_schema(dataset, what, schema=schema, version=SCHEMA_VERSION, kind=kind, made_by=made_by)
    for name, dims in needed.items():
        if name not in dataset.variables or dataset[name].dims != dims:
            raise ValueError(f"{what} has no variable {name!r} over {dims}: make it again with `{made_by}`")
    return dataset


def _origin() -> dict[str, Any]:
    return {"versions": package_versions(_PACKAGES), "created": timestamp()}
