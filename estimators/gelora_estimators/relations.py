"""What two spaces of the same points know of each other: ranks of nearest neighbours, neighbours in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gelora_estimators.neighbors import nearest_distances
from gelora_estimators.options import check_integer
from gelora_estimators.points import (
    DistinctRows,
    IndexArray,
    as_points,
    centred_block,
    distinct_rows,
    first_occurrences,
)
from gelora_estimators.protocol import DegenerateCloudError, FloatArray
from gelora_estimators.search import SearchSpace, full_precision, resolve_device, search_space, squared_distances

_BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}  # distances in one block
_FEWEST_ROWS = 64


@dataclass(frozen=True, slots=True)
class NeighborRelations:
    """Between every space of one list and every space of another.

    Parameters
    ----------
    forward : ndarray of shape (n_left, n_right)
        Information imbalance from left to right, Δ(A → B) = 2/n · mean rank in B of the nearest neighbour in A
        (Glielmo2022): 2/n where A tells the neighbours in B, near 1 where it tells nothing.
    backward : ndarray of shape (n_left, n_right)
        From right to left.
    overlap : ndarray of shape (n_left, n_right)
        Mean share of the k nearest neighbours that both have (Doimo2020): 1 for the same, near k/(n − 1) for
        independent spaces.
    """

    forward: FloatArray
    backward: FloatArray
    overlap: FloatArray


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


def neighbor_relations(
    left: Sequence[Any], right: Sequence[Any] | None = None, *, k: int = 30, device: str = "auto"
) -> NeighborRelations:
    """Compare the neighbourhoods of the same points in several spaces, exactly.

    Parameters
    ----------
    left : sequence of array_like of shape (n, d)
        Spaces, each of its own d; row i is the same thing in all of them. Rows must be distinct in each, see
        `joint_rows`.
    right : sequence of array_like, optional
        The other spaces; by default the same.
    k : int
        Neighbours of the overlap.
    device : str
        "auto" or a torch device name, as for `nearest_distances`.

    Returns
    -------
    NeighborRelations

    Raises
    ------
    DegenerateCloudError
        For fewer than k + 2 points, or where `nearest_distances` refuses a space.
    ValueError
        For spaces of unequal length, or rows that are not distinct.

    Notes
    -----
    Every space is searched once and its distances are gone through once: n² · Σ d operations, in memory linear in n.
    Ties in distance are broken by the number of the point, in the search as in the ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import neighbor_relations
    >>> plane = np.random.default_rng(0).random((400, 2))
    >>> found = neighbor_relations([plane, plane[:, :1]], k=10)
    >>> bool(found.forward[0, 1] < found.forward[1, 0])  # two coordinates tell one better than one tells two
    True
    """
    check_integer("k", k, minimum=1)
    lengths = {len(cloud) for cloud in (*left, *(right or ()))}
    if len(lengths) != 1:
        raise ValueError(f"`left` and `right` must hold spaces of one length, got {sorted(lengths)}: align their rows.")
    first = [_nearest(cloud, k, device) for cloud in left]
    second = first if right is None else [_nearest(cloud, k, device) for cloud in right]
    overlap = np.array([[_shared(one, other).mean() / k for other in second] for one in first])
    forward = np.array([_imbalances(cloud, first, device) for cloud in (left if right is None else right)]).T
    backward = forward.T if right is None else np.array([_imbalances(cloud, second, device) for cloud in left])
    return NeighborRelations(forward=forward, backward=backward, overlap=overlap)


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
    >>> from gelora_estimators import neighbor_ranks
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
        # Rounding of d products and sums, of the centring and of the norms, for the largest pair.
        self.error = 4.0 * (centred.shape[1] + 8) * float(np.finfo(np.float64).eps) * float(space.square.max())

    def place(self, start: int, stop: int, others: IndexArray) -> IndexArray:
        """Return the ranks of ``others`` (stop − start, m) around the points from ``start`` to ``stop``."""
        space, square = self.space, self.space.square
        squared = (self.centred[start:stop] @ self.centred.T).mul_(-2.0).add_(square).add_(square[start:stop, None])
        own = squared.new_tensor(np.arange(start, stop)).long()
        squared[own - start, own] = float("inf")
        ranks = np.empty(others.shape, dtype=np.int64)
        for column in range(others.shape[1]):
            other = own.new_tensor(others[:, column])
            limit = squared.gather(1, other[:, None])
            # Both the entry and the limit are off by no more than the error.
            surely = (squared < limit - 2.0 * self.error).sum(dim=1)
            possibly = (squared <= limit + 2.0 * self.error).sum(dim=1)
            ranks[:, column] = surely.cpu().numpy() + 1
            for place in (possibly - surely > 1).nonzero()[:, 0].tolist():
                ranks[place, column] += self._ties(start + place, int(other[place]), squared[place], limit[place])
        return ranks

    def _ties(self, row: int, other: int, squared: Any, limit: Any) -> int:
        """Return how many of the points whose distance the product cannot tell from that of ``other`` come before."""
        point = ((squared - limit).abs() <= 2.0 * self.error).nonzero()[:, 0]
        point = point[point != other]
        exact, target = (
            squared_distances(self.space, p.new_full(p.shape, row), p) for p in (point, point.new_tensor([other]))
        )
        return int(((exact < target) | ((exact == target) & (point < other))).sum())


def _nearest(cloud: Any, k: int, device: str) -> IndexArray:
    found = nearest_distances(cloud, k, minimum=k + 1, device=device)
    if found.n_copies:
        raise ValueError(f"`left` and `right` must hold distinct rows, got {found.n_copies} copies: see `joint_rows`.")
    return found.indices


def _imbalances(cloud: Any, nearest: Sequence[IndexArray], device: str) -> FloatArray:
    """Return the information imbalance to ``cloud`` from each space whose neighbours are given."""
    ranks = neighbor_ranks(cloud, np.stack([indices[:, 0] for indices in nearest], axis=1), device=device)
    return np.asarray(2.0 * ranks.mean(axis=0) / len(ranks))


def _shared(one: IndexArray, other: IndexArray) -> IndexArray:
    """Return how many entries of each row are in the same row of both."""
    both = np.sort(np.concatenate([one, other], axis=1), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1))


def _cuts(n: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, n)) for start in range(0, n, step)]
