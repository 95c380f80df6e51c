"""Exact nearest-neighbour distances: candidates by matrix product, distances by subtraction."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gelora_estimators.options import check_integer
from gelora_estimators.points import (
    IndexArray,
    StoredArray,
    distinct_and_stored,
    power_of_two_scale,
    refuse_repeated_vectors,
)
from gelora_estimators.protocol import FloatArray

_MARGIN = 8  # candidates beyond the k asked for
_BLOCK_ELEMENTS = 2**23  # numbers in one block of the distance matrix (64 MiB)
_DIFFERENCE_ELEMENTS = {"cpu": 2**17, "cuda": 2**26}  # numbers in one block of differences


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Distances from each distinct point to its nearest other distinct points.

    Parameters
    ----------
    distances : ndarray of shape (n_distinct, k)
        Euclidean distances in the unit of the points, ascending along each row.
    indices : ndarray of shape (n_distinct, k)
        The neighbours, as numbers of distinct points; ties are in ascending order.
    rows : ndarray of shape (n_distinct,)
        Row of the input that each distinct point comes from.
    n_copies : int
        Exact copies removed before the search.
    n_near_copies : int
        Points whose nearest neighbour is no further away than the rounding of the stored numbers.
    """

    distances: FloatArray
    indices: IndexArray
    rows: IndexArray
    n_copies: int
    n_near_copies: int


def nearest_distances(points: Any, k: int, *, minimum: int | None = None, device: str = "auto") -> Neighbors:
    """Find the ``k`` nearest other distinct points of every distinct point, exactly.

    Squared distances from a blocked float64 matrix product of the centred points select
    candidates. Their distances are then taken by subtracting the stored numbers in float64. Each
    row carries a certificate: the product less its rounding bound, γ (‖x‖ + ‖y‖)², shows that no
    other point can be nearer than the k-th; a row without one is searched among all points that
    the bound cannot exclude. The first columns are the same bits whatever ``k`` is asked for.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array or torch tensor.
    k : int
        Neighbours wanted; a cloud of fewer than k + 1 distinct points gives as many as it has.
    minimum : int, optional
        Fewest neighbours that are of use; ``k`` by default, so that nothing is cut silently.
    device : str
        "auto" (where the tensor lives, the CPU for anything else) or a torch device name.

    Returns
    -------
    Neighbors
        Distances, indices and the counts of copies.

    Raises
    ------
    DegenerateCloudError
        With the counts, for a cloud that `distinct_points` refuses, with fewer than
        ``minimum`` + 1 distinct points, or in which more than half of the points have their
        nearest neighbour within rounding distance.
    ValueError
        For ``k`` or ``minimum`` below 1.

    Examples
    --------
    >>> from gelora_estimators import nearest_distances
    >>> nearest_distances([[0.0], [1.0], [3.0]], 2).distances.tolist()
    [[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]]
    """
    check_integer("k", k, minimum=1)
    fewest = k if minimum is None else minimum
    check_integer("minimum", fewest, minimum=1)
    cloud, kept = distinct_and_stored(points, minimum=fewest + 1)
    scale = power_of_two_scale(cloud.points)
    target = resolve_device(points, device)
    columns = min(k, len(cloud.rows) - 1)
    squared, indices = _search(cloud.points, kept, columns, scale, target)
    distances = np.sqrt(squared) / scale
    near = refuse_repeated_vectors(distances[:, 0], cloud)
    return Neighbors(distances=distances, indices=indices, rows=cloud.rows, n_copies=cloud.n_copies, n_near_copies=near)


def resolve_device(points: Any, device: str) -> torch.device:
    """Return the torch device that ``device`` means for these points.

    Raises
    ------
    ValueError
        For a name torch does not know, or a CUDA device where there is none.
    """
    if device == "auto":
        return points.device if isinstance(points, torch.Tensor) else torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"`device` must be 'auto' or a torch device such as 'cpu' or 'cuda:0', got {device!r}: {error}"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` must be available, got {device!r} without a CUDA device: pass device='cpu'.")
    return resolved


def squared_distances(left: torch.Tensor, right: torch.Tensor, *, block_elements: int | None = None) -> torch.Tensor:
    """Return Σ (left − right)² along the last axis, (m, d) against (m, d), in float64."""
    step = max(1, (block_elements or _difference_elements(left.device)) // left.shape[-1])
    parts = [
        sum_of_squares(left[start : start + step] - right[start : start + step]) for start in range(0, len(left), step)
    ]
    return torch.cat(parts) if parts else left.new_zeros(0)


def sum_of_squares(terms: torch.Tensor) -> torch.Tensor:
    """Return Σ terms² along the last axis; ``terms`` is overwritten.

    On one device the order of summation is fixed by the length of the axis: equal vectors give equal bits wherever
    they stand, so that ties stay ties and no number depends on how the work is cut into blocks.
    """
    if terms.device.type == "cpu":
        # One pass and no splitting of an axis between threads, which torch's own sum does for few rows.
        numbers = terms.numpy()
        return torch.from_numpy(np.asarray(np.einsum("...i,...i->...", numbers, numbers)))
    terms.square_()
    width = terms.shape[-1]
    while width > 1:
        half = 1 << ((width - 1).bit_length() - 1)
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0].clone()


def rounding_factor(ambient: int) -> float:
    """Return γ: the error of a product-form squared distance is below γ (‖x‖ + ‖y‖)²."""
    return (ambient + 16) * float(np.finfo(np.float64).eps)


def _difference_elements(device: torch.device) -> int:
    return _DIFFERENCE_ELEMENTS.get(device.type, _DIFFERENCE_ELEMENTS["cpu"])


def _search(
    centred: FloatArray, stored: StoredArray, k: int, scale: float, device: torch.device
) -> tuple[FloatArray, IndexArray]:
    """Return the k smallest squared distances, times the squared scale, and their indices."""
    n = len(centred)
    product = torch.from_numpy(centred * scale).to(device)
    # Distances are exact on the stored numbers: centring them would round once more.
    exact = torch.from_numpy(stored.astype(np.float64) * scale).to(device)
    square = product.square().sum(dim=1)
    norm = square.sqrt()
    squared = np.empty((n, k))
    indices = np.empty((n, k), dtype=np.int64)
    step = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, n, step):
        rows = torch.arange(start, min(start + step, n), device=device)
        lower = torch.addmm(square[None, :], product[rows], product.T, alpha=-2.0).add_(square[rows, None])
        lower -= rounding_factor(centred.shape[1]) * (norm[rows, None] + norm[None, :]).square()
        lower[torch.arange(len(rows), device=device), rows] = torch.inf
        block = _nearest_in_block(exact, rows, lower, k)
        squared[start : start + len(rows)] = block[0].cpu().numpy()
        indices[start : start + len(rows)] = block[1].cpu().numpy()
    return squared, indices


def _nearest_in_block(
    exact: torch.Tensor, rows: torch.Tensor, lower: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k nearest of each row, given a lower bound on every squared distance."""
    n = lower.shape[1]
    n_candidates = min(k + _MARGIN, n - 1)
    cutoff, candidates = torch.topk(lower, n_candidates, dim=1, largest=False)
    squared, indices = _exact_order(exact, rows, candidates, k)
    if n_candidates == n - 1:
        return squared, indices
    # Whatever is no candidate is at least `cutoff` away, so the row is settled below it.
    unsettled = (squared[:, -1] >= cutoff.amax(dim=1)).nonzero()[:, 0]
    for row in unsettled.tolist():
        possible = (lower[row] <= squared[row, -1]).nonzero()[:, 0]
        again = _exact_order(exact, rows[row : row + 1], possible[None, :], k)
        squared[row], indices[row] = again[0][0], again[1][0]
    return squared, indices


def _exact_order(
    exact: torch.Tensor, rows: torch.Tensor, candidates: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k nearest of the candidates by exact distance, ties by index."""
    candidates = candidates.sort(dim=1).values
    step = max(1, _difference_elements(exact.device) // (candidates.shape[1] * exact.shape[1]))
    parts = []
    for start in range(0, len(rows), step):
        difference = exact[candidates[start : start + step]]
        difference -= exact[rows[start : start + step], None, :]
        parts.append(sum_of_squares(difference))
    order = torch.sort(torch.cat(parts), dim=1, stable=True)
    return order.values[:, :k].contiguous(), candidates.gather(1, order.indices)[:, :k].contiguous()
