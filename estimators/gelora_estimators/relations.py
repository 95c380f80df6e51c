"""What relates the spaces of the same points: rows distinct in all of them, and the places of given neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gelora_estimators.points import (
    DistinctRows,
    IndexArray,
    as_points,
    centred_block,
    distinct_rows,
    first_occurrences,
)
from gelora_estimators.protocol import DegenerateCloudError
from gelora_estimators.space import SearchSpace, full_precision, resolve_device, search_space, squared_distances

_BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}  # distances in one block
_FEWEST_ROWS = 64


@dataclass(frozen=True, slots=True)
class JointRows:
    """The rows that are distinct points in every space.

    Parameters
    ----------
    rows : ndarray of shape (n_distinct,)
        Ascending.
    reasons : tuple of str
        For each space why it has no neighbours, and was left out of account; empty where it has.
    """

    rows: IndexArray
    reasons: tuple[str, ...]


def joint_rows(clouds: Sequence[Any]) -> JointRows:
    """Return the rows that equal no earlier row in any of the clouds, whose rows are aligned.

    A cloud without a neighbourhood, such as one vector repeated, is left out of account.

    Raises
    ------
    ValueError, TypeError
        For a cloud that is no array of shape (n, d).

    Examples
    --------
    >>> from gelora_estimators.relations import joint_rows
    >>> joint_rows([[[0.0], [0.0], [1.0], [2.0]], [[5.0], [6.0], [7.0], [5.0]]]).rows.tolist()
    [0, 2]
    """
    reasons, kept = [], None
    for cloud in clouds:
        try:
            distinct_rows(cloud, minimum=2)
        except DegenerateCloudError as problem:
            reasons.append(str(problem))
            continue
        reasons.append("")
        first = first_occurrences(as_points(cloud))
        kept = first if kept is None else np.intersect1d(kept, first, assume_unique=True)
    return JointRows(np.empty(0, dtype=np.int64) if kept is None else kept, tuple(reasons))


def neighbor_ranks(points: Any, others: IndexArray, *, device: str = "auto") -> IndexArray:
    """Return the place of given points among all neighbours of each point, exactly: 1 for its nearest.

    Parameters
    ----------
    points : array_like of shape (n, d)
        Distinct points.
    others : ndarray of shape (n, m)
        Numbers of the points to be placed, in each row other ones than the row's own.
    device : str
        "auto" or a torch device name, as for `nearest_distances`.

    Returns
    -------
    ndarray of shape (n, m)
        From 1 to n − 1; of equally far points the one of smaller number comes first.

    Raises
    ------
    ValueError
        For ``others`` of another shape, of numbers outside the cloud or the row's own, or points that are not
        distinct.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.relations import neighbor_ranks
    >>> neighbor_ranks([[0.0], [1.0], [3.0]], np.array([[2], [2], [0]])).tolist()
    [[2], [2], [2]]
    """
    space = search_space(distinct_rows(points, minimum=2), resolve_device(points, device))
    n = len(space.cloud.rows)
    if space.cloud.n_copies:
        raise ValueError(
            f"`points` must be distinct, got {space.cloud.n_copies} copies: pass the rows that `joint_rows` keeps."
        )
    sound = others.ndim == 2 and len(others) == n and others.dtype.kind in "iu"
    if not sound or bool(((others < 0) | (others >= n) | (others == np.arange(n)[:, None])).any()):
        raise ValueError(
            f"`others` must hold numbers of other points, in {n} rows, got an array of {others.dtype} of shape "
            f"{others.shape}: pass columns of the indices of `nearest_distances`."
        )
    ranks = np.empty(others.shape, dtype=np.int64)
    block = _BLOCK_ELEMENTS.get(space.stored.device.type, 2**22)
    with full_precision():
        ranker = _Ranker(space)
        for start, stop in _cuts(n, max(_FEWEST_ROWS, block // n)):
            ranks[start:stop] = ranker.place(start, stop, others[start:stop])
    return ranks


class _Ranker:
    """Counts nearer points: by a product in float64 what is clear, by subtraction what is not."""

    def __init__(self, space: SearchSpace) -> None:
        cloud: DistinctRows = space.cloud
        self.space = space
        centred = space.stored.new_empty(space.stored.shape, dtype=space.square.dtype)
        for start, stop in _cuts(len(centred), 4096):
            centred[start:stop] = centred.new_tensor(centred_block(cloud, start, stop))
        self.centred = centred
        # Of the sum of both squared norms: rounding of d products and sums, of the centring and of the norms.
        self.error = 4.0 * (centred.shape[1] + 8) * float(np.finfo(np.float64).eps)

    def place(self, start: int, stop: int, others: IndexArray) -> IndexArray:
        """Return the ranks of ``others`` (stop − start, m) around the points from ``start`` to ``stop``."""
        sizes = self.space.square[start:stop, None] + self.space.square
        lower = (self.centred[start:stop] @ self.centred.T).mul_(-2.0).add_(sizes, alpha=1.0 - self.error)
        own = lower.new_tensor(np.arange(start, stop)).long()
        lower[own - start, own] = float("inf")
        upper = sizes.mul_(2.0 * self.error).add_(lower)
        ranks = np.empty(others.shape, dtype=np.int64)
        for column in range(others.shape[1]):
            other = own.new_tensor(others[:, column])
            low, high = (bound.gather(1, other[:, None]) for bound in (lower, upper))
            surely = (upper < low).sum(dim=1)
            possibly = (lower <= high).sum(dim=1)
            ranks[:, column] = surely.cpu().numpy() + 1
            for place in (possibly - surely > 1).nonzero()[:, 0].tolist():
                unclear = (lower[place] <= high[place]) & (upper[place] >= low[place])
                ranks[place, column] += self._count_before(start + place, int(other[place]), unclear.nonzero()[:, 0])
        return ranks

    def _count_before(self, row: int, other: int, unclear: Any) -> int:
        """Return how many of the ``unclear`` points come before ``other``, by exact distances from ``row``."""
        target = squared_distances(self.space, unclear.new_full((1,), row), unclear.new_full((1,), other))
        exact = squared_distances(self.space, unclear.new_full(unclear.shape, row), unclear)
        return int(((exact < target) | ((exact == target) & (unclear < other))).sum())


def _cuts(n: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, n)) for start in range(0, n, step)]
