"""Search for nearest points on the CPU or a GPU: proven bounds first, subtraction in float64 last.

One product of augmented vectors gives a proven lower bound on every squared distance. Whatever the bounds leave
possible is measured by subtracting the stored numbers in float64. Rows that float32 bounds cannot settle go through
float64 bounds, and the few that even these cannot are compared with every point.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gelora_estimators.points import DistinctRows, IndexArray, StoredArray, centred_block, rows_in_cache
from gelora_estimators.protocol import FloatArray

_MARGIN = 4  # candidates beyond the k asked for
_BLOCK_ELEMENTS = {"cpu": 2**23, "cuda": 2**28}  # numbers in one block of the product
_COLUMN_BYTES = {"cpu": 2**28, "cuda": 2**34}  # of the right factor: of larger clouds it is made part by part
_DIFFERENCE_ELEMENTS = {"cpu": 2**16, "cuda": 2**26}  # numbers in one block of differences
_FEWEST_ROWS = 256  # rows of a block, whatever its length: thinner products are slow
_LARGEST_STRIDE = 16  # columns that share one minimum in the first sieve
_HOPELESS = 0.5  # share of unsettled rows from which a precision is given up
_OPEN = 32  # pairs a row left open by float32 bounds from which counting goes on in float64
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


@dataclass(frozen=True, slots=True, eq=False)
class _Bounds:
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

    _in_threads(work, len(stored), rows_in_cache(stored.shape[1]))
    # A read-only array is never written to here, but torch would warn about it.
    own = stored if stored.flags.writeable and stored.flags.c_contiguous else np.array(stored)
    return SearchSpace(
        cloud=cloud, stored=torch.from_numpy(own).to(device), unit=unit, square=torch.from_numpy(square).to(device)
    )


def search(
    space: SearchSpace, rows: IndexArray, k: int, *, labels: IndexArray | None = None
) -> tuple[FloatArray, IndexArray]:
    """Return the k nearest of each row: squared distances times the squared unit, and point numbers.

    With ``labels`` (n,) only points of another label count; where fewer than k there are, the rest
    is infinite. A cloud that is larger than the right factor may be is searched part by part: its
    rows may lie in a memory map.
    """
    best = _Best(np.full((len(rows), k), np.inf), np.zeros((len(rows), k), dtype=np.int64))
    tags = None if labels is None else torch.from_numpy(labels).to(space.stored.device)
    with full_precision():
        for columns in _column_parts(space):
            places = np.arange(len(rows))
            for dtype in (torch.float32, torch.float64):
                if len(places):
                    places = _settle(space, _bounds(space, dtype, columns), rows, places, tags, best)
            for place in places:
                numbers = np.arange(columns.start, columns.stop)
                other = numbers != rows[place] if labels is None else labels[columns] != labels[rows[place]]
                possible = torch.from_numpy(numbers[other]).to(space.stored.device)
                own = torch.full_like(possible, int(rows[place]))
                every = squared_distances(space, own, possible).cpu().numpy()
                order = np.argsort(every, kind="stable")[:k]
                best.add(np.array([place]), every[order][None], numbers[other][order][None])
    return best.squared, best.indices


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The nearest found so far: squared distances, ascending, and numbers of points, both of shape (n_rows, k)."""

    squared: FloatArray
    indices: IndexArray

    def add(self, places: IndexArray, squared: FloatArray, indices: IndexArray) -> None:
        """Put what was found among further points, of higher numbers, in its place at ``places``."""
        width = self.squared.shape[1]
        if squared.shape[1] == width and bool(np.isinf(self.squared[places, 0]).all()):
            self.squared[places], self.indices[places] = squared, indices
            return
        both = np.concatenate([self.squared[places], squared], axis=1)
        order = np.argsort(both, axis=1, kind="stable")[:, :width]
        self.squared[places] = np.take_along_axis(both, order, axis=1)
        numbers = np.concatenate([self.indices[places], indices], axis=1)
        self.indices[places] = np.take_along_axis(numbers, order, axis=1)


def _column_parts(space: SearchSpace) -> list[slice]:
    """Return the points in parts whose right factors are of bounded size: all at once where they are few."""
    n, ambient = space.stored.shape
    rows = max(_LARGEST_STRIDE, _COLUMN_BYTES.get(space.stored.device.type, 2**28) // (4 * (ambient + 2)))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def count_pairs(space: SearchSpace, rows: IndexArray, limits: FloatArray) -> IndexArray:
    """Return how many other points lie within each limit (r,), in units of ``stored``, of each row.

    Pairs that the bounds put inside are counted, those that they leave open are measured.
    """
    counts = np.zeros((len(rows), len(limits)), dtype=np.int64)
    with full_precision():
        for columns in _column_parts(space):
            counts += _count_in(space, rows, limits, columns)
    return counts


def _count_in(space: SearchSpace, rows: IndexArray, limits: FloatArray, columns: slice) -> IndexArray:
    """Return how many points among ``columns`` lie within each limit of each row."""
    counts = np.zeros((len(rows), len(limits)), dtype=np.int64)
    blocks = _blocks(len(rows), columns.stop - columns.start, space.stored.device)
    bounds = _bounds(space, torch.float32, columns)
    buffer = _buffer(bounds, blocks)
    for start, stop in blocks:
        block = torch.from_numpy(rows[start:stop]).to(space.stored.device)
        lower = _lower_bounds(space, bounds, block, None, buffer)
        found = [_within(space, bounds, block, lower, float(limit)) for limit in limits]
        n_open = sum(int(undecided.sum()) for _, undecided in found)
        if bounds.right.dtype == torch.float32 and n_open > _OPEN * len(block):
            bounds = _bounds(space, torch.float64, columns)
            buffer = _buffer(bounds, blocks)
            lower = _lower_bounds(space, bounds, block, None, buffer)
            found = [_within(space, bounds, block, lower, float(limit)) for limit in limits]
        for column, (inside, undecided) in enumerate(found):
            pairs = undecided.nonzero()
            measured = squared_distances(space, block[pairs[:, 0]], pairs[:, 1] + bounds.first).cpu().numpy()
            # By the root, as every distance that is handed out: a point at the limit itself counts.
            hits = pairs[:, 0].cpu().numpy()[np.sqrt(measured) <= limits[column]]
            counts[start:stop, column] = inside.cpu().numpy() + np.bincount(hits, minlength=stop - start)
    return counts


def _within(
    space: SearchSpace, bounds: _Bounds, rows: torch.Tensor, lower: torch.Tensor, limit: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many points of each row are surely within the limit, and a mask of the undecided ones."""
    own = space.square[rows]
    largest = float(space.square.max())
    # No two points are further apart than twice the largest norm: a finite reach leaves out infinite entries.
    reach = min(limit * (space.cloud.scale / space.unit), 3.0 * largest**0.5 + 1e-6) ** 2 - own
    slack = 1e-12 * (own + reach.abs()) + 1e-30
    error = 2.0 * bounds.factor * (largest + 2.0 * (own * largest).sqrt())
    # Comparisons happen in the precision of the bounds: limits are rounded outwards by two steps.
    step = 4.0 * torch.finfo(lower.dtype).eps * (reach.abs() + error)
    possible = lower <= (reach + slack + step).to(lower.dtype)[:, None]
    sure = lower <= (reach - error - slack - step).to(lower.dtype)[:, None]
    return sure.sum(dim=1), possible & ~sure


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


def pair_distances(space: SearchSpace, left: IndexArray, right: IndexArray) -> FloatArray:
    """Return `squared_distances` of pairs whose numbers are NumPy arrays."""
    device = space.stored.device
    return np.asarray(
        squared_distances(space, torch.from_numpy(left).to(device), torch.from_numpy(right).to(device)).cpu()
    )


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


def _squared_on_cpu(stored: StoredArray, left: IndexArray, right: IndexArray, step: int) -> FloatArray:
    """Return squared distances, in blocks that stay in the cache."""
    result = np.empty(len(left))

    def work(pair: slice) -> None:
        difference = stored.take(left[pair], axis=0).astype(np.float64, copy=False)
        difference -= stored.take(right[pair], axis=0)
        np.einsum("ij,ij->i", difference, difference, out=result[pair])

    _in_threads(work, len(left), step)
    return result


def _in_threads(work: Callable[[slice], None], n: int, step: int) -> None:
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


def _sum_of_squares(terms: torch.Tensor) -> torch.Tensor:
    """Return Σ terms² along the last axis by halves, a fixed order; ``terms`` is overwritten."""
    terms.square_()
    width = terms.shape[-1]
    while width > 1:
        half = 1 << ((width - 1).bit_length() - 1)
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0].clone()


def _bounds(space: SearchSpace, dtype: torch.dtype, columns: slice) -> _Bounds:
    """Return the augmented right factor of some points, padded to a whole number of strides."""
    n, ambient = columns.stop - columns.start, space.stored.shape[1]
    # Rounding of the factors, d + 2 products in any order, and room for the terms of second order.
    factor = (ambient + 24) * float(torch.finfo(dtype).eps) / 2.0
    precision = np.float32 if dtype == torch.float32 else np.float64
    right = np.zeros((-(-n // _LARGEST_STRIDE) * _LARGEST_STRIDE, ambient + 2), dtype=precision)
    square = space.square[columns].cpu().numpy()

    def work(part: slice) -> None:
        block = centred_block(space.cloud, columns.start + part.start, columns.start + part.stop)
        # Rounded first: the factors of both sides hold the same numbers.
        np.multiply(block.astype(precision), -2.0, out=right[part, :ambient])

    _in_threads(work, n, rows_in_cache(ambient))
    right[:n, ambient], right[:n, ambient + 1] = (1.0 - factor) * square, -2.0 * factor * np.sqrt(square)
    right[n:, ambient] = np.inf
    return _Bounds(torch.from_numpy(right).to(space.stored.device), factor, columns.start, n)


def _left_factor(space: SearchSpace, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the augmented left factor of some points."""
    ambient, numbers = space.stored.shape[1], rows.cpu().numpy()
    left = np.empty((len(rows), ambient + 2), dtype=np.float32 if dtype == torch.float32 else np.float64)

    def work(part: slice) -> None:
        block = space.cloud.stored.take(numbers[part], axis=0).astype(np.float64)
        block -= space.cloud.centre
        block *= space.cloud.scale
        left[part, :ambient] = block

    _in_threads(work, len(rows), rows_in_cache(ambient))
    left[:, ambient], left[:, ambient + 1] = 1.0, np.sqrt(space.square[rows].cpu().numpy())
    return torch.from_numpy(left).to(rows.device)


def _blocks(n_rows: int, n: int, device: torch.device) -> list[tuple[int, int]]:
    """Return the bounds of blocks of rows that keep the block of the product small, the first the largest."""
    step = max(_FEWEST_ROWS, _BLOCK_ELEMENTS.get(device.type, 2**23) // n)
    return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _buffer(bounds: _Bounds, blocks: list[tuple[int, int]]) -> torch.Tensor:
    """Return room for one block of the product, used again for each: fresh memory costs more than it holds."""
    n_rows = blocks[0][1] if blocks else 0
    return torch.empty((n_rows, len(bounds.right)), dtype=bounds.right.dtype, device=bounds.right.device)


def _lower_bounds(
    space: SearchSpace, bounds: _Bounds, rows: torch.Tensor, tags: torch.Tensor | None, buffer: torch.Tensor
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


def _settle(
    space: SearchSpace,
    bounds: _Bounds,
    rows: IndexArray,
    places: IndexArray,
    tags: torch.Tensor | None,
    best: _Best,
) -> IndexArray:
    """Add the nearest of these bounds at ``places`` of ``rows``; return the places that they cannot settle."""
    unsettled = []
    blocks = _blocks(len(places), bounds.n, space.stored.device)
    buffer = _buffer(bounds, blocks)
    for start, stop in blocks:
        part = places[start:stop]
        block = torch.from_numpy(rows[part]).to(space.stored.device)
        lower = _lower_bounds(space, bounds, block, tags, buffer)
        farthest = torch.from_numpy(best.squared[part, -1]).to(block.device)
        found = _nearest_in_block(space, bounds, block, lower, best.squared.shape[1], farthest)
        proven = found[2].cpu().numpy()
        best.add(part[proven], found[0].cpu().numpy()[proven], found[1].cpu().numpy()[proven])
        unsettled.append(part[~proven])
        if sum(map(len, unsettled)) > _HOPELESS * stop and stop < len(places):
            unsettled.append(places[stop:])
            break
    return np.concatenate(unsettled)


def _nearest_in_block(
    space: SearchSpace, bounds: _Bounds, rows: torch.Tensor, lower: torch.Tensor, k: int, farthest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the k nearest of each row among some points, and whether the bounds prove it.

    Of no interest is what is further away than ``farthest``, the k-th of what is known of the row.
    """
    n_others = bounds.n - (bounds.n == len(space.stored))
    candidates, values = _sieve(lower, min(k + _MARGIN, n_others))
    candidates.clamp_(max=bounds.n - 1)  # columns of the padding, whose entries are infinite
    candidates += bounds.first
    k = min(k, values.shape[1])
    ratio = (space.cloud.scale / space.unit) ** 2
    own = space.square[rows, None]
    margin = space.square[candidates]
    margin = 2.0 * bounds.factor * (margin + 2.0 * (own * margin).sqrt())
    # What the first columns of the float64 arithmetic below can be off by, and float32 underflow.
    slack = 1e-12 * (own + values.abs().nan_to_num(posinf=0.0)) + 1e-30
    upper = torch.where(values.isinf(), torch.inf, values + margin + slack)
    possible = values <= torch.kthvalue(upper, k, dim=1, keepdim=True).values
    # Of equal distances the lower number counts, and those that are known have lower ones.
    possible &= values <= farthest[:, None] * ratio - own + slack
    possible &= ~values.isinf()
    place = possible.nonzero()
    measured = squared_distances(space, rows[place[:, 0]], candidates[place[:, 0], place[:, 1]])
    exact = torch.full_like(values, torch.inf)
    exact[place[:, 0], place[:, 1]] = measured
    order = torch.sort(exact, dim=1, stable=True)
    # `values` leave ‖x‖² out. A bound that a measured distance breaks says that the product was less precise.
    proven = (exact * ratio - own >= values - slack).all(dim=1)
    cutoff = values.amax(dim=1)
    kth = torch.minimum(order.values[:, k - 1], farthest) * ratio - own[:, 0] + slack.amax(dim=1)
    proven &= (kth < cutoff) | cutoff.isinf() | (values.shape[1] == n_others)
    return order.values[:, :k].contiguous(), candidates.gather(1, order.indices)[:, :k].contiguous(), proven


def _sieve(lower: torch.Tensor, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns of the smallest entries of each row, ascending, and the entries in float64.

    Columns are first reduced to the minimum of every stride-th one: the wanted smallest entries lie
    in the wanted smallest groups.
    """
    stride = _LARGEST_STRIDE
    while stride > 1 and lower.shape[1] < 8 * stride * wanted:
        stride //= 2
    if stride == 1:
        values, columns = torch.topk(lower, wanted, dim=1, largest=False, sorted=False)
    else:
        n_groups = lower.shape[1] // stride
        groups = torch.topk(lower.view(len(lower), stride, n_groups).amin(dim=1), wanted, dim=1, largest=False).indices
        members = torch.arange(stride, device=lower.device) * n_groups
        inside = (groups[:, :, None] + members).flatten(1)
        values, chosen = torch.topk(lower.gather(1, inside), wanted, dim=1, largest=False, sorted=False)
        columns = inside.gather(1, chosen)
    columns, order = columns.sort(dim=1)
    return columns, values.gather(1, order).double()
