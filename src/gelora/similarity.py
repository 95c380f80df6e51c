"""Similarity: what the layers of one or two models tell of each other, by the neighbourhoods of the same rows."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.clouds import Cloud, Representations, as_representations
from gelora.geometry import FloatArray, deviations
from gelora.messages import check_integer, check_replicates
from gelora.netcdf import plain_attributes
from gelora.provenance import package_versions, timestamp
from gelora.replicates import draw_halves
from gelora_estimators.neighbors import nearest_distances
from gelora_estimators.protocol import DegenerateCloudError
from gelora_estimators.relations import joint_rows, neighbor_ranks

IntArray = NDArray[np.int64]

RELATIONS: Mapping[str, str] = {
    "information_imbalance": "information imbalance from layer_a to layer_b: 2/n where the first tells the second",
    "information_imbalance_reverse": "information imbalance from layer_b to layer_a",
    "neighborhood_overlap": "mean share of the k nearest neighbours that both layers have",
}
_ORIGIN = ("model", "weights_fingerprint", "data", "data_fingerprint", "pooling")


def compare_representations(
    a: Any,
    b: Any = None,
    *,
    k: int = 30,
    n_replicates: int = 10,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    r"""Return what the layers of ``a`` tell of those of ``b``, by the neighbours that the same rows have in both.

    Parameters
    ----------
    a : Representations, sequence of arrays, or mapping from name to array
        Clouds of shape (n_points, width), as `gelora.estimate_representations` takes; rows belong together in all of
        them, widths may differ.
    b : the same, optional
        Other layers of the same rows: of a tuned model, or of another one. By default those of ``a``.
    k : int
        Neighbours of the overlap.
    n_replicates : int
        Random halves of the rows for the errors, an even number; 0 for none.
    seed : int
        Of the halves.
    device : str
        "auto" or a torch device name, where distances are computed.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    xarray.Dataset
        By ``layer_a`` and ``layer_b``: ``information_imbalance`` from the first to the second,
        ``information_imbalance_reverse``, ``neighborhood_overlap``, and each with ``_standard_error``; why a layer has
        none in ``undefined_a`` and ``undefined_b``; ``overlap_by_chance`` and the counts in the attributes.

    Raises
    ------
    TypeError, ValueError
        For something that holds no clouds, rows that do not belong together, or too few rows for ``k``.
    DegenerateCloudError
        If no pair of layers has distinct points.

    Warns
    -----
    UserWarning
        For a layer without a neighbourhood, with the reason, and where ``a`` and ``b`` are of unlike data.

    Notes
    -----
    :math:`\Delta(A \to B) = \frac{2}{n^2} \sum_i r^B_{i, \mathrm{nn}_A(i)}`: the rank in B of the nearest neighbour
    in A (Glielmo2022). 2/n says that A tells the nearest neighbours in B, 1 that it tells nothing; it is no distance,
    and not symmetric. The overlap is the mean share of common neighbours (Doimo2020), near k/(n − 1) by chance, so
    compare overlaps of equal k and n alone. Neighbours and ranks are exact. Rows that copy an earlier one in any
    layer are left out of all.

    Errors come from halves without a common row, as those of dimensions, with k/2 neighbours in a half, so that
    neighbourhoods keep their size; the tokens of one text stay together. In simulations they overstate the spread over
    draws, by up to a half, the more the smaller an imbalance is; errors by formula, which take points for independent,
    are too small.

    Examples
    --------
    >>> plane = np.random.default_rng(0).random((300, 2))
    >>> found = compare_representations({"plane": plane, "line": plane[:, :1]}, k=10, progress=False)
    >>> imbalance = found["information_imbalance"].values
    >>> bool(imbalance[0, 1] < imbalance[1, 0])  # the plane knows the line
    True
    """
    left = as_representations(a)
    right = left if b is None else as_representations(b)
    rows = _same_rows(left, right, known=isinstance(a, Representations) and isinstance(b, Representations))
    clouds = left.clouds if b is None else left.clouds + right.clouds
    joint = joint_rows(clouds)
    spaces = _Spaces(clouds, joint.reasons, len(left), check_integer("k", k, 1), device)
    spaces.refuse_all(joint.reasons)
    halves = draw_halves({"": rows[joint.rows]}, check_replicates(n_replicates), seed)
    parts = [joint.rows, *(joint.rows[halves.points(number, "")] for number in range(len(halves)))]
    _check_enough(spaces.k, [len(part) for part in parts])
    found = []
    for part in tqdm(parts, desc="relations", disable=not progress):
        found.append(spaces.relate(part, spaces.k if part is joint.rows else _in_half(spaces.k)))
    values, reasons = found[0]
    spaces.refuse_all(reasons)
    errors = _errors(np.array([replicate for replicate, _ in found[1:]]), halves.n_rows, values)
    return _assemble(left, right, spaces, found[0], errors).assign_attrs(
        plain_attributes(
            {
                "k": spaces.k,
                "n_points": len(joint.rows),
                "n_copies": len(rows) - len(joint.rows),
                "overlap_by_chance": spaces.k / (len(joint.rows) - 1),
                "n_replicates": len(halves),
                "seed": int(seed),
                **{f"{key}_a": left.attributes[key] for key in _ORIGIN if key in left.attributes},
                **{f"{key}_b": right.attributes[key] for key in _ORIGIN if key in right.attributes},
                "versions": package_versions(),
                "created": timestamp(),
            }
        )
    )


@dataclass(frozen=True, slots=True)
class _Spaces:
    """Clouds of the same rows: the first ``n_left`` are compared with the others, or all with all if there are none."""

    clouds: tuple[Cloud, ...]
    reasons: tuple[str, ...]  # why a cloud has no neighbourhood whatever the rows taken; empty where it has
    n_left: int
    k: int
    device: str

    @property
    def left(self) -> list[int]:
        return list(range(self.n_left))

    @property
    def right(self) -> list[int]:
        return list(range(self.n_left, len(self.clouds))) or self.left

    def relate(self, rows: IntArray, k: int) -> tuple[FloatArray, list[str]]:
        """Return the `RELATIONS` on these rows, (3, n_left, n_right), NaN where undefined, and why by cloud."""
        near, reasons = self._search(rows, k)
        known = {place for place, reason in enumerate(reasons) if not reason}
        imbalance = np.full((len(near), len(near)), np.nan)
        overlap = np.full((len(near), len(near)), np.nan)
        for place in sorted(known):
            facing = [other for other in (self.right if place in self.left else self.left) if other in known]
            if not facing:
                continue
            ranks = neighbor_ranks(
                self.clouds[place][rows],
                np.stack([near[other][:, 0] for other in facing], axis=1),
                device=self.device,
            )
            imbalance[facing, place] = 2.0 * ranks.mean(axis=0) / len(rows)
            overlap[facing, place] = [_shared_neighbors(near[other], near[place]) for other in facing]
        forward = np.ix_(self.left, self.right)
        reverse = imbalance[np.ix_(self.right, self.left)].T
        return np.array([imbalance[forward], reverse, overlap[forward]]), reasons

    def _search(self, rows: IntArray, k: int) -> tuple[list[IntArray], list[str]]:
        """Return the numbers of the k nearest within ``rows`` by cloud, and why there are none."""
        near, reasons = [], list(self.reasons)
        for place, cloud in enumerate(self.clouds):
            indices = np.empty((0, k), dtype=np.int64)
            if not reasons[place]:
                try:
                    indices = nearest_distances(cloud[rows], k, device=self.device).indices
                except DegenerateCloudError as problem:
                    reasons[place] = str(problem)
            near.append(indices)
        return near, reasons

    def refuse_all(self, reasons: Sequence[str]) -> None:
        """Raise if no pair of clouds is left to compare."""
        for side in (self.left, self.right):
            if all(reasons[place] for place in side):
                raise DegenerateCloudError(f"no layer has a neighbourhood to compare; {reasons[side[0]]}")


def _shared_neighbors(one: IntArray, other: IntArray) -> float:
    """Return the mean share of the entries of a row that both have."""
    both = np.sort(np.concatenate([one, other], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum(axis=1).mean() / one.shape[1])


def _same_rows(left: Representations, right: Representations, *, known: bool) -> IntArray:
    """Return the data row of every point, the same in all clouds; ``known`` says that both name their rows."""
    both = {"a": left, "b": right}
    for name, clouds in both.items():
        if len({len(cloud) for cloud in clouds.clouds}) > 1 or len({tuple(r) for r in clouds.rows.values()}) > 1:
            raise ValueError(
                f"`{name}` must hold clouds of the same rows, got {[len(cloud) for cloud in clouds.clouds]} points: "
                "compare the layers of one stack, as a list of its clouds"
            )
    lengths = [len(clouds.clouds[0]) for clouds in both.values()]
    first, second = (next(iter(clouds.rows.values())) for clouds in both.values())
    if lengths[0] != lengths[1] or (known and not np.array_equal(first, second)):
        raise ValueError(
            f"`a` and `b` must hold the same rows in the same order, got {lengths[0]} and {lengths[1]} points"
            f"{' of other data rows' if lengths[0] == lengths[1] else ''}: extract both from the same data with the "
            "same n_samples and seed"
        )
    data = [str(clouds.attributes.get("data_fingerprint", "")) for clouds in both.values()]
    if known and data[0] != data[1]:
        warnings.warn("`a` and `b` were extracted from unlike data: rows of one number are compared", stacklevel=3)
    return first


def _check_enough(k: int, sizes: Sequence[int]) -> None:
    if sizes[0] < k + 2 or min(sizes) < _in_half(k) + 2:
        raise ValueError(
            f"`k`={k} needs at least {k + 2} points that are distinct in every layer, and {_in_half(k) + 2} in a half, "
            f"got {sizes[0]} and {min(sizes)}: give more rows, a smaller k, or n_replicates=0"
        )


def _in_half(k: int) -> int:
    """Return the neighbours in half of the rows that reach as far as ``k`` in all: half as many."""
    return max(1, k // 2)


def _errors(replicates: FloatArray, n_rows: int, values: FloatArray) -> FloatArray:
    """Return the standard errors from halves, (n_relations, n_left, n_right); NaN where there are none."""
    errors = np.full(values.shape, np.nan)
    for place in np.ndindex(*values.shape) if len(replicates) else ():
        spread = deviations(replicates[(slice(None), *place)][:, None], n_rows, n_rows // 2)
        if len(spread) and np.isfinite(values[place]):
            errors[place] = np.sqrt(np.square(spread).mean())
    return errors


def _assemble(
    left: Representations,
    right: Representations,
    spaces: _Spaces,
    found: tuple[FloatArray, list[str]],
    errors: FloatArray,
) -> xr.Dataset:
    """Put relations and their errors into a Dataset, and warn of layers without any."""
    grid = ("layer_a", "layer_b")
    variables: dict[str, Any] = {}
    for place, (name, text) in enumerate(RELATIONS.items()):
        variables[name] = (grid, found[0][place], {"long_name": text})
        variables[f"{name}_standard_error"] = (grid, errors[place], {"long_name": f"standard error of {name}"})
    coordinates: dict[str, Any] = {}
    for side, clouds, places in (("a", left, spaces.left), ("b", right, spaces.right)):
        layer, why = f"layer_{side}", [found[1][place] for place in places]
        coordinates |= {
            layer: np.array(clouds.layers, dtype=np.int64),
            f"name_{side}": (layer, np.array(clouds.names, dtype=object)),
            f"stack_{side}": (layer, np.array(clouds.stacks, dtype=object)),
        }
        variables[f"undefined_{side}"] = (layer, np.array(why, dtype=object))
        for number, reason in zip(clouds.layers, why, strict=True):
            if reason and (side == "a" or right is not left):
                warnings.warn(f"nothing can be compared with layer {number} of `{side}`: {reason}", stacklevel=3)
    return xr.Dataset(variables, coords=coordinates)
