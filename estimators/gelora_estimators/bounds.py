"""Lower bounds on squared distances, by one product of augmented vectors."""

from dataclasses import dataclass

import numpy as np
import torch

from gelora_estimators.points import centred_block
from gelora_estimators.space import SearchSpace, in_threads
from gelora_estimators.stored import rows_in_cache

LARGEST_STRIDE = 16  # columns that share one minimum in the first sieve
_BLOCK_ELEMENTS = {"cpu": 2**23, "cuda": 2**28}  # numbers in one block of the product
_COLUMN_BYTES = {"cpu": 2**28, "cuda": 2**34}  # of the right factor: of larger clouds it is made part by part
_FEWEST_ROWS = 256  # rows of a block, whatever its length: thinner products are slow


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The right factor of a product that is ‖y‖² − 2x·y less a bound γ (‖y‖² + 2‖x‖‖y‖) on its rounding error.

    Adding ‖x‖² gives a lower bound on the squared distance; with twice the error bound on top, an
    upper one. The terms of the bound are two more columns of the factors, so they cost no pass.

    Parameters
    ----------
    right : torch.Tensor of shape (n_padded, d + 2)
        Of the points y, some or all of the cloud.
    factor : float
        γ.
    first, n : int
        Number of the first of these points, and how many they are.
    """

    right: torch.Tensor
    factor: float
    first: int
    n: int


def column_parts(space: SearchSpace) -> list[slice]:
    """Return the points in parts whose right factors are of bounded size: all at once where they are few."""
    n, ambient = space.stored.shape
    rows = max(LARGEST_STRIDE, _COLUMN_BYTES.get(space.stored.device.type, 2**28) // (4 * (ambient + 2)))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def make_bounds(space: SearchSpace, dtype: torch.dtype, columns: slice) -> Bounds:
    """Return the augmented right factor of some points, padded to a whole number of strides."""
    n, ambient = columns.stop - columns.start, space.stored.shape[1]
    # Rounding of the factors, d + 2 products in any order, and room for the terms of second order.
    factor = (ambient + 24) * float(torch.finfo(dtype).eps) / 2.0
    precision = np.float32 if dtype == torch.float32 else np.float64
    right = np.zeros((-(-n // LARGEST_STRIDE) * LARGEST_STRIDE, ambient + 2), dtype=precision)
    square = space.square[columns].cpu().numpy()

    def work(part: slice) -> None:
        block = centred_block(space.cloud, columns.start + part.start, columns.start + part.stop)
        # Rounded first: the factors of both sides hold the same numbers.
        np.multiply(block.astype(precision), -2.0, out=right[part, :ambient])

    in_threads(work, n, rows_in_cache(ambient))
    right[:n, ambient], right[:n, ambient + 1] = (1.0 - factor) * square, -2.0 * factor * np.sqrt(square)
    right[n:, ambient] = np.inf
    return Bounds(torch.from_numpy(right).to(space.stored.device), factor, columns.start, n)


def _left_factor(space: SearchSpace, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the augmented left factor of some points."""
    ambient, numbers = space.stored.shape[1], rows.cpu().numpy()
    left = np.empty((len(rows), ambient + 2), dtype=np.float32 if dtype == torch.float32 else np.float64)

    def work(part: slice) -> None:
        block = space.cloud.stored.take(numbers[part], axis=0).astype(np.float64)
        block -= space.cloud.centre
        block *= space.cloud.scale
        left[part, :ambient] = block

    in_threads(work, len(rows), rows_in_cache(ambient))
    left[:, ambient], left[:, ambient + 1] = 1.0, np.sqrt(space.square[rows].cpu().numpy())
    return torch.from_numpy(left).to(rows.device)


def row_blocks(n_rows: int, n: int, device: torch.device) -> list[tuple[int, int]]:
    """Return the bounds of blocks of rows that keep the block of the product small, the first the largest."""
    step = max(_FEWEST_ROWS, _BLOCK_ELEMENTS.get(device.type, 2**23) // n)
    return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def room_for(bounds: Bounds, blocks: list[tuple[int, int]]) -> torch.Tensor:
    """Return room for one block of the product, used again for each: fresh memory costs more than it holds."""
    n_rows = blocks[0][1] if blocks else 0
    return torch.empty((n_rows, len(bounds.right)), dtype=bounds.right.dtype, device=bounds.right.device)


def lower_bounds(
    space: SearchSpace, bounds: Bounds, rows: torch.Tensor, tags: torch.Tensor | None, buffer: torch.Tensor
) -> torch.Tensor:
    """Return lower bounds on squared distance − ‖x‖², infinite for what does not count, in the buffer."""
    lower = torch.mm(_left_factor(space, rows, bounds.right.dtype), bounds.right.T, out=buffer[: len(rows)])
    if tags is None:
        itself = ((rows >= bounds.first) & (rows < bounds.first + bounds.n)).nonzero()[:, 0]
        lower[itself, rows[itself] - bounds.first] = torch.inf
    else:
        others = tags[bounds.first : bounds.first + bounds.n]
        lower[:, : bounds.n].masked_fill_(tags[rows, None] == others[None, :], torch.inf)
    return lower
