"""Search for nearest points on the CPU or a GPU: proven bounds first, subtraction in float64 last.

One product of augmented vectors gives a proven lower bound on every squared distance. Whatever the bounds leave
possible is measured by subtracting the stored numbers in float64. Rows that float32 bounds cannot settle go through
float64 bounds, and the few that even these cannot are compared with every point.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gelora_estimators.bounds import (
    LARGEST_STRIDE,
    Bounds,
    column_parts,
    lower_bounds,
    make_bounds,
    room_for,
    row_blocks,
)
from gelora_estimators.points import IndexArray
from gelora_estimators.protocol import FloatArray
from gelora_estimators.space import SearchSpace, full_precision, squared_distances

_MARGIN = 4  # candidates beyond the k asked for
_HOPELESS = 0.5  # share of unsettled rows from which a precision is given up
_OPEN = 32  # pairs a row left open by float32 bounds from which counting goes on in float64


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
        for columns in column_parts(space):
            places = np.arange(len(rows))
            for dtype in (torch.float32, torch.float64):
                if len(places):
                    places = _settle(space, make_bounds(space, dtype, columns), rows, places, tags, best)
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


def count_pairs(space: SearchSpace, rows: IndexArray, limits: FloatArray) -> IndexArray:
    """Return how many other points lie within each limit (r,), in units of ``stored``, of each row.

    Pairs that the bounds put inside are counted, those that they leave open are measured.
    """
    counts = np.zeros((len(rows), len(limits)), dtype=np.int64)
    with full_precision():
        for columns in column_parts(space):
            counts += _count_in(space, rows, limits, columns)
    return counts


def _count_in(space: SearchSpace, rows: IndexArray, limits: FloatArray, columns: slice) -> IndexArray:
    """Return how many points among ``columns`` lie within each limit of each row."""
    counts = np.zeros((len(rows), len(limits)), dtype=np.int64)
    blocks = row_blocks(len(rows), columns.stop - columns.start, space.stored.device)
    bounds = make_bounds(space, torch.float32, columns)
    buffer = room_for(bounds, blocks)
    for start, stop in blocks:
        block = torch.from_numpy(rows[start:stop]).to(space.stored.device)
        lower = lower_bounds(space, bounds, block, None, buffer)
        found = [_within(space, bounds, block, lower, float(limit)) for limit in limits]
        n_open = sum(int(undecided.sum()) for _, undecided in found)
        if bounds.right.dtype == torch.float32 and n_open > _OPEN * len(block):
            bounds = make_bounds(space, torch.float64, columns)
            buffer = room_for(bounds, blocks)
            lower = lower_bounds(space, bounds, block, None, buffer)
            found = [_within(space, bounds, block, lower, float(limit)) for limit in limits]
        for column, (inside, undecided) in enumerate(found):
            pairs = undecided.nonzero()
            measured = squared_distances(space, block[pairs[:, 0]], pairs[:, 1] + bounds.first).cpu().numpy()
            # By the root, as every distance that is handed out: a point at the limit itself counts.
            hits = pairs[:, 0].cpu().numpy()[np.sqrt(measured) <= limits[column]]
            counts[start:stop, column] = inside.cpu().numpy() + np.bincount(hits, minlength=stop - start)
    return counts


def _within(
    space: SearchSpace, bounds: Bounds, rows: torch.Tensor, lower: torch.Tensor, limit: float
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


def _settle(
    space: SearchSpace,
    bounds: Bounds,
    rows: IndexArray,
    places: IndexArray,
    tags: torch.Tensor | None,
    best: _Best,
) -> IndexArray:
    """Add the nearest of these bounds at ``places`` of ``rows``; return the places that they cannot settle."""
    unsettled = []
    blocks = row_blocks(len(places), bounds.n, space.stored.device)
    buffer = room_for(bounds, blocks)
    for start, stop in blocks:
        part = places[start:stop]
        block = torch.from_numpy(rows[part]).to(space.stored.device)
        lower = lower_bounds(space, bounds, block, tags, buffer)
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
    space: SearchSpace, bounds: Bounds, rows: torch.Tensor, lower: torch.Tensor, k: int, farthest: torch.Tensor
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
    stride = LARGEST_STRIDE
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
