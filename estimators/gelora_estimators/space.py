"""A cloud on a device, and distances by subtracting its stored numbers in float64."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gelora_estimators.points import DistinctRows, IndexArray, StoredArray, centred_block
from gelora_estimators.protocol import FloatArray
from gelora_estimators.stored import rows_in_cache

_DIFFERENCE_ELEMENTS = {"cpu": 2**16, "cuda": 2**26}  # numbers in one block of differences
_EXTREME = 1e100  # scale beyond which squares of float64 coordinates could overflow or vanish


@dataclass(frozen=True, slots=True, eq=False)
class SearchSpace:
    """A cloud on a device, ready to be searched.

    Parameters
    ----------
    cloud : DistinctRows
        The distinct points.
    stored : torch.Tensor of shape (n, d)
        Their stored numbers on the device, in float32 or float64.
    unit : float
        Power of two by which ``stored`` has been multiplied.
    square : torch.Tensor of shape (n,)
        Squared norms of the centred points times ``cloud.scale``, in float64.
    """

    cloud: DistinctRows
    stored: torch.Tensor
    unit: float
    square: torch.Tensor


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


def search_space(cloud: DistinctRows, device: torch.device) -> SearchSpace:
    """Put distinct points on a device, with the squared norms of the centred ones."""
    extreme = cloud.stored.dtype == np.float64 and not 1.0 / _EXTREME < cloud.scale < _EXTREME
    unit = cloud.scale if extreme else 1.0
    stored: StoredArray = cloud.stored * unit if extreme else cloud.stored
    square = np.empty(len(stored))

    def work(part: slice) -> None:
        block = centred_block(cloud, part.start, part.stop)
        np.einsum("ij,ij->i", block, block, out=square[part])

    in_threads(work, len(stored), rows_in_cache(stored.shape[1]))
    # A read-only array is never written to here, but torch would warn about it.
    own = stored if stored.flags.writeable and stored.flags.c_contiguous else np.array(stored)
    return SearchSpace(
        cloud=cloud, stored=torch.from_numpy(own).to(device), unit=unit, square=torch.from_numpy(square).to(device)
    )


def squared_distances(space: SearchSpace, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the squared distances of pairs of points, by subtraction in float64, times the squared unit.

    On one device the order of summation is fixed by the width alone: equal differences give equal
    bits, so that ties stay ties and no number depends on how the work is cut.
    """
    step = max(1, _DIFFERENCE_ELEMENTS.get(left.device.type, 2**16) // space.stored.shape[1])
    if left.device.type == "cpu":
        return torch.from_numpy(_squared_on_cpu(space.stored.numpy(), left.numpy(), right.numpy(), step))
    result = torch.empty(len(left), dtype=torch.float64, device=left.device)
    for start in range(0, len(left), step):
        pair = slice(start, start + step)
        difference = space.stored[left[pair]].double() - space.stored[right[pair]].double()
        result[pair] = _sum_of_squares(difference)
    return result


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32: TF32 or bfloat16 would break the bounds."""
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if not all(hasattr(backend, "fp32_precision") for backend in backends):  # before torch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    found = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, found, strict=True):
            backend.fp32_precision = precision


def in_threads(work: Callable[[slice], None], n: int, step: int) -> None:
    """Do the work on slices of ``step`` of n rows, shared between as many threads as torch has."""
    n_threads = min(torch.get_num_threads(), max(1, n // (8 * step)))

    def share(first: int) -> None:
        for start in range(first * step, n, n_threads * step):
            work(slice(start, min(start + step, n)))

    if n_threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(share, range(n_threads)))


def _squared_on_cpu(stored: StoredArray, left: IndexArray, right: IndexArray, step: int) -> FloatArray:
    """Return squared distances, in blocks that stay in the cache."""
    result = np.empty(len(left))

    def work(pair: slice) -> None:
        difference = stored.take(left[pair], axis=0).astype(np.float64, copy=False)
        difference -= stored.take(right[pair], axis=0)
        np.einsum("ij,ij->i", difference, difference, out=result[pair])

    in_threads(work, len(left), step)
    return result


def _sum_of_squares(terms: torch.Tensor) -> torch.Tensor:
    """Return Σ terms² along the last axis by halves, a fixed order; ``terms`` is overwritten."""
    terms.square_()
    width = terms.shape[-1]
    while width > 1:
        half = 1 << ((width - 1).bit_length() - 1)
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0].clone()
