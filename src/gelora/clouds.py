"""The point clouds of the layers of a model, made by an extraction, joined, or given by the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora.provenance import fingerprint

Cloud = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Representations:
    """Point clouds of the layers of a model, rows aligned between the layers of a stack.

    Parameters
    ----------
    clouds : tuple of ndarray of shape (n_points, width)
        One a layer; of a store what NumPy reads as such an array, when it is needed.
    stacks, layers, names : tuple
        Of each cloud: ``"encoder"`` or ``"decoder"``, position from 0 (the input of the first block), and the
        path of the module it was read from.
    rows : mapping of str to ndarray of shape (n_points,)
        By stack: the data row that each point comes from.
    attributes : mapping
        Provenance: model, data, pooling, counts.
    """

    clouds: tuple[Any, ...]
    stacks: tuple[str, ...]
    layers: tuple[int, ...]
    names: tuple[str, ...]
    rows: Mapping[str, NDArray[np.int64]]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.clouds)

    def __getitem__(self, index: int) -> Cloud:
        """Return the cloud at position ``index``."""
        cloud: Cloud = np.asarray(self.clouds[index])
        return cloud


def join_clouds(parts: Sequence[Representations]) -> Representations:
    """Return the points of several extractions from one model in one, in the order of their data rows.

    The attributes are those of the first part.
    """
    first = parts[0]
    order = {
        stack: np.argsort(np.concatenate([part.rows[stack] for part in parts]), kind="stable") for stack in first.rows
    }
    return replace(
        first,
        clouds=tuple(
            np.concatenate([part.clouds[column] for part in parts])[order[stack]]
            for column, stack in enumerate(first.stacks)
        ),
        rows={stack: np.concatenate([part.rows[stack] for part in parts])[order[stack]] for stack in first.rows},
    )


def as_representations(given: Any) -> Representations:
    """Return what `extract_representations` made as it is, and arrays of the caller as clouds of one stack.

    Parameters
    ----------
    given : Representations, sequence of arrays, or mapping from name to array
        Clouds of shape (n_points, width), NumPy or torch, in order of depth. Clouds of one length are taken to
        have aligned rows.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or holds no cloud.
    """
    if isinstance(given, Representations):
        return given
    named = dict(given) if isinstance(given, Mapping) else None
    if named is None and (not isinstance(given, Sequence) or isinstance(given, str)):
        raise TypeError(
            "`representations` must be the result of `extract_representations`, a list of arrays of shape "
            f"(n_points, width), or a mapping to such arrays, got {type(given).__name__}"
        )
    arrays = [_as_array(cloud) for cloud in (named.values() if named is not None else given)]
    if not arrays:
        raise ValueError("`representations` must hold at least one cloud, got none")
    names = tuple(str(name) for name in named) if named is not None else tuple(f"cloud {i}" for i in range(len(arrays)))
    return Representations(
        clouds=tuple(arrays),
        stacks=("encoder",) * len(arrays),
        layers=tuple(range(len(arrays))),
        names=names,
        rows={"encoder": np.arange(len(arrays[0]))} if len({len(cloud) for cloud in arrays}) == 1 else {},
        attributes={
            "data": "point clouds in memory",
            "data_fingerprint": fingerprint(np.ascontiguousarray(cloud).tobytes() for cloud in arrays),
            "n_texts": max(len(cloud) for cloud in arrays),
            "pooling": "",
            "model": "",
        },
    )


def _as_array(cloud: Any) -> NDArray[Any]:
    if hasattr(cloud, "detach"):
        tensor = cloud.detach().cpu()
        # NumPy does not know bfloat16; float16 is kept, so that its coarse rounding is known.
        cloud = tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()
    array = np.asarray(cloud)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            "`representations`: a cloud must be a numeric array of shape (n_points, width), "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array
