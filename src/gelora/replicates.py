"""Estimates on random halves of the data rows, the same rows in every layer: what a spread over draws is made of."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora.catching import caught
from gelora.messages import check_replicates
from gelora.provenance import fingerprint, generator
from gelora_estimators.neighbors import Neighbors, neighbors_within
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, DimensionEstimator

IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Halves:
    """Random halves of the data rows.

    Parameters
    ----------
    members : ndarray of bool of shape (n_replicates, n_rows)
        Which of the distinct data rows, in ascending order, each half holds; halves 2s and 2s + 1 are those of
        split s and share none. One row of an odd number is in neither.
    places : mapping of str to ndarray of shape (n_points,)
        By stack: the position of each point's data row among the distinct ones.
    """

    members: Mask
    places: Mapping[str, IntArray]

    def __len__(self) -> int:
        """Return the number of replicates."""
        return len(self.members)

    @property
    def n_rows(self) -> int:
        """Distinct data rows."""
        return int(self.members.shape[1])

    def of(self, stack: str) -> "HalvesOfStack":
        """Return the halves as the points of one stack see them."""
        return HalvesOfStack(self.members, self.places.get(stack, np.empty(0, dtype=np.int64)))

    def points(self, replicate: int, stack: str) -> IntArray:
        """Return the numbers of the points of ``stack`` whose data row is in the half, ascending."""
        return self.of(stack).points(replicate)


@dataclass(frozen=True, slots=True)
class HalvesOfStack:
    """Random halves of the data rows, for the points of one stack; fields as of `Halves`."""

    members: Mask
    places: IntArray

    def __len__(self) -> int:
        """Return the number of replicates."""
        return len(self.members)

    @property
    def one_point_a_row(self) -> bool:
        """Whether no two points come from one data row."""
        return len(np.unique(self.places)) == len(self.places)

    def points(self, replicate: int) -> IntArray:
        """Return the numbers of the points whose data row is in the half, ascending."""
        return np.flatnonzero(self.members[replicate][self.places])


def draw_halves(rows: Mapping[str, IntArray], n_replicates: int, seed: int) -> Halves:
    """Split the data rows into random halves, by the seed and their number alone.

    Parameters
    ----------
    rows : mapping of str to ndarray of shape (n_points,)
        By stack: the data row of each point. Tokens of one text share its row, and stay together.
    n_replicates : int
        Halves: an even number, two for each split.
    seed : int
        Two sets of points with as many rows and the same seed are split alike.

    Raises
    ------
    ValueError
        For an odd or negative number, or fewer than four rows.

    Examples
    --------
    >>> halves = draw_halves({"encoder": np.arange(10)}, 2, seed=0)
    >>> sorted([*halves.points(0, "encoder"), *halves.points(1, "encoder")]) == list(range(10))
    True
    """
    check_replicates(n_replicates)
    distinct = np.unique(np.concatenate([*rows.values()])) if rows else np.empty(0, dtype=np.int64)
    n = len(distinct)
    if n_replicates and n < 4:
        raise ValueError(f"`n_replicates` needs at least 4 data rows to split, got {n}: give more data, or 0")
    members = np.zeros((n_replicates, n), dtype=np.bool_)
    for split in range(n_replicates // 2):
        order = generator(seed, "halves", split).permutation(n)
        members[2 * split, order[: n // 2]] = True
        members[2 * split + 1, order[n // 2 : 2 * (n // 2)]] = True
    return Halves(members, {stack: np.searchsorted(distinct, values) for stack, values in rows.items()})


def rows_fingerprints(rows: Mapping[str, IntArray]) -> dict[str, str]:
    """Return the SHA-256 of the data rows of each stack's points."""
    return {stack: fingerprint([np.ascontiguousarray(values, dtype="<i8").tobytes()]) for stack, values in rows.items()}


def half_estimates(
    points: NDArray[Any],
    estimator: DimensionEstimator,
    whole: DimensionEstimate | None,
    parts: Sequence[IntArray],
    found: Neighbors | None,
    rng_of: Callable[[int], np.random.Generator],
) -> list[DimensionEstimate | None]:
    """Estimate on each part of a cloud, without an error of its own.

    Parameters
    ----------
    points : ndarray of shape (n_points, width)
        One layer.
    estimator : callable
        Where it offers ``without_error()``, that version is called; where it offers ``half_dimensions``, halves that
        the estimate on the whole cloud contains are taken from it.
    whole : DimensionEstimate, optional
        Of the whole cloud. None where a data row has several points: halves of it would not be halves of the rows.
    parts : sequence of ndarray
        Numbers of the points of each part.
    found : Neighbors or None
        The neighbours in the whole cloud, if it was searched: those within a part are then looked up, not
        searched again.
    rng_of : callable
        From the number of a part to its generator.

    Returns
    -------
    list of DimensionEstimate or None
        None where the dimension of a part is undefined.
    """
    offered: Any = getattr(estimator, "half_dimensions", None)
    usable = offered is not None and whole is not None and math.isfinite(whole.dimension)
    known = offered(whole, len(parts)) if usable else None
    if known is not None:
        return [DimensionEstimate(float(value)) for value in known]
    bare = getattr(estimator, "without_error", None)
    cheap: Any = estimator if bare is None else bare()
    lookup = _lookup(points, cheap, found)
    estimates: list[DimensionEstimate | None] = []
    for number, part in enumerate(parts):
        with caught() as told:
            try:
                estimates.append(lookup(part, rng_of(number)))
            except DegenerateCloudError:
                estimates.append(None)
        for entry in told:
            if not issubclass(entry.category, UserWarning):  # what an estimator says was said of the whole cloud
                warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)
    return estimates


def _lookup(
    points: NDArray[Any], estimator: Any, found: Neighbors | None
) -> Callable[[IntArray, np.random.Generator], DimensionEstimate]:
    """Return the function from a part to its estimate: by the lists of the whole cloud where they serve."""

    def direct(part: IntArray, rng: np.random.Generator) -> DimensionEstimate:
        estimate: DimensionEstimate = estimator(points[part], rng=rng)
        return estimate

    if (
        found is None
        or found.n_copies
        or not hasattr(estimator, "from_distances")
        or getattr(estimator, "needs_indices", False)
    ):
        return direct  # of copies the list keeps one, which may lie outside the part
    k = int(estimator.k)
    within = neighbors_within(found.distances, found.indices, k=k, fraction=0.5)

    def looked_up(part: IntArray, rng: np.random.Generator) -> DimensionEstimate:
        distances = within(part) if len(part) > k else None
        if distances is None:
            return direct(part, rng)
        estimate: DimensionEstimate = estimator.from_distances(distances, len(part), rng)
        return estimate

    return looked_up
