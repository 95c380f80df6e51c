"""Exact Euclidean minimum spanning trees: the bars of persistent homology in degree 0."""

from typing import Any

import numpy as np
import torch

from gelora_estimators.neighbors import resolve_device
from gelora_estimators.points import IndexArray, distinct_points, power_of_two_scale
from gelora_estimators.protocol import FloatArray

_DENSE_LIMIT = 12_288  # points up to which the whole distance matrix is held (1.2 GB)
_BLOCK_ELEMENTS = 2**22
_ACCURACY = 1e-9  # relative accuracy of a distance that is left in product form


def spanning_tree_lengths(points: Any, *, device: str = "auto") -> FloatArray:
    """Return the edge lengths of the Euclidean minimum spanning tree, ascending.

    They equal the finite bars of persistent homology in degree 0 (Adams2020, Birdal2021).
    Prim's algorithm, O(n²) steps: on the whole distance matrix up to 12,288 points (1.2 GB), beyond that on
    one row of distances at a time in memory linear in n.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor; exact copies are removed first.
    device : str
        "auto" (where the tensor lives, the CPU for anything else) or a torch device name.

    Returns
    -------
    ndarray of shape (n_distinct − 1,)
        Lengths in the unit of the points, each exact to 1e-8 relative.

    Raises
    ------
    DegenerateCloudError
        For a cloud that `distinct_points` refuses, with the counts.

    Examples
    --------
    >>> from gelora_estimators import spanning_tree_lengths
    >>> spanning_tree_lengths([[0.0], [1.0], [3.0], [3.0]]).tolist()
    [1.0, 2.0]
    """
    cloud = distinct_points(points, minimum=2)
    scale = power_of_two_scale(cloud.points)
    scaled = torch.from_numpy(cloud.points * scale).to(resolve_device(points, device))
    if len(scaled) <= _DENSE_LIMIT:
        left, right = _prim(_dense_distances(scaled).cpu().numpy())
    else:
        left, right = _prim_by_rows(scaled)
    edges = squared_distances(scaled[torch.from_numpy(left)], scaled[torch.from_numpy(right)]).sqrt()
    return np.sort(edges.cpu().numpy()) / scale


def pairwise_distances(points: FloatArray, *, device: str = "cpu") -> FloatArray:
    """Return the (n, n) Euclidean distances of centred float64 points, exact to 1e-8 relative.

    A matrix product gives them; pairs so close, against their norms, that the product would lose
    digits are recomputed by subtraction.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import pairwise_distances
    >>> pairwise_distances(np.array([[-1.5, 0.0], [1.5, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    scale = power_of_two_scale(points)
    scaled = torch.from_numpy(points * scale).to(resolve_device(points, device))
    return np.asarray(_dense_distances(scaled).cpu().numpy() / scale)


def tree_lengths(distances: FloatArray) -> FloatArray:
    """Return the ascending edge lengths of the minimum spanning tree of a distance matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.spanning_tree import tree_lengths
    >>> tree_lengths(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])).tolist()
    [1.0, 2.0]
    """
    left, right = _prim(distances)
    return np.sort(distances[left, right])


def _dense_distances(points: torch.Tensor) -> torch.Tensor:
    """Return all distances of the points, block by block of rows."""
    n = len(points)
    square = points.square().sum(dim=1)
    result = points.new_empty((n, n))
    step = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        block = _distances_from(points[start:stop], square[start:stop], points[start:], square[start:])
        # The product is symmetric only up to rounding; an exact mirror keeps the tree unambiguous.
        corner = block[:, : stop - start]
        block[:, : stop - start] = torch.maximum(corner, corner.T).fill_diagonal_(0.0)
        result[start:stop, start:] = block
        result[start:, start:stop] = block.T
    return result


def _distances_from(
    left: torch.Tensor, left_square: torch.Tensor, right: torch.Tensor, right_square: torch.Tensor
) -> torch.Tensor:
    """Return the distances from every left to every right point, given their squared norms."""
    norms = (left_square.sqrt()[:, None] + right_square.sqrt()[None, :]).square_()
    squared = torch.addmm(right_square[None, :], left, right.T, alpha=-2.0).add_(left_square[:, None])
    close = (squared < norms.mul_(rounding_factor(left.shape[1]) / (2.0 * _ACCURACY))).nonzero()
    step = max(1, _BLOCK_ELEMENTS // left.shape[1])
    for start in range(0, len(close), step):
        pairs = close[start : start + step]
        squared[pairs[:, 0], pairs[:, 1]] = squared_distances(left[pairs[:, 0]], right[pairs[:, 1]])
    return squared.sqrt_()


def _prim(distances: FloatArray) -> tuple[IndexArray, IndexArray]:
    """Return the two ends of the edges of a minimum spanning tree of a distance matrix."""
    n = len(distances)
    nearest = distances[0].copy()
    parent = np.zeros(n, dtype=np.int64)
    outside = np.ones(n, dtype=np.bool_)
    nearest[0], outside[0] = np.inf, False
    added = np.empty(n - 1, dtype=np.int64)
    for step in range(n - 1):
        new = int(nearest.argmin())
        added[step] = new
        nearest[new], outside[new] = np.inf, False
        row = distances[new]
        closer = row < nearest
        closer &= outside
        np.copyto(nearest, row, where=closer)
        parent[closer] = new
    return parent[added], added


def _prim_by_rows(points: torch.Tensor) -> tuple[IndexArray, IndexArray]:
    """Return the same as `_prim` in memory linear in n, one row of distances a step."""
    n = len(points)
    square = points.square().sum(dim=1)
    nearest = points.new_full((n,), torch.inf)
    parent = torch.zeros(n, dtype=torch.int64, device=points.device)
    outside = torch.ones(n, dtype=torch.bool, device=points.device)
    added = np.empty(n, dtype=np.int64)
    new = 0
    for step in range(n):
        added[step] = new
        nearest[new], outside[new] = torch.inf, False
        row = _distances_from(points[new : new + 1], square[new : new + 1], points, square)[0]
        closer = (row < nearest) & outside
        nearest = torch.where(closer, row, nearest)
        parent = torch.where(closer, new, parent)
        new = int(nearest.argmin())
    joined = added[1:]
    return parent.cpu().numpy()[joined], joined


# temporary
def rounding_factor(ambient: int) -> float:
    return (ambient + 16) * float(np.finfo(np.float64).eps)


def squared_distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left - right).square().sum(-1)
