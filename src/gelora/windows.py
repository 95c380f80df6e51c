"""What is run together: windows of points, each the unit that is stored and made again, and batches within them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Layer = tuple[str, int]  # stack, and number within it
# Bytes of a window in one layer: chunks of a store are of this size.
WINDOW_BYTES = 2 * 2**20
FEWEST, MOST = 64, 4096


@dataclass(frozen=True, slots=True)
class Window:
    """Points that belong together in every layer of its stacks.

    Parameters
    ----------
    number : int
        From 0.
    stacks : tuple of str
        What it is of.
    first, last : int
        Its points are those from ``first`` up to but without ``last``.
    examples : ndarray
        Positions of the examples that have points in it, ascending.
    """

    number: int
    stacks: tuple[str, ...]
    first: int
    last: int
    examples: IntArray

    def __len__(self) -> int:
        """Return the number of points."""
        return self.last - self.first


def window_rows(width: int) -> int:
    """Return how many points of so many float32 coordinates make a window: a power of two.

    Examples
    --------
    >>> window_rows(384), window_rows(4096)
    (1024, 128)
    """
    rows = 2 ** int(np.log2(max(WINDOW_BYTES / (4 * width), 1)))
    return int(np.clip(rows, FEWEST, MOST))


def plan_windows(offsets: "dict[str, IntArray]", rows: int) -> list[Window]:
    """Cut the points of all stacks into windows.

    Parameters
    ----------
    offsets : dict of str to ndarray of shape (n_examples + 1,)
        By stack: where the points of each example begin, with their number at the end. Stacks with the same offsets
        share their windows.
    rows : int
        Points of a window; the last of a stack may have fewer.

    Returns
    -------
    list of Window
        An example whose points lie in two windows is run for both. So which examples a window needs, and what comes
        of them, depends on no other window.
    """
    together: dict[bytes, list[str]] = {}
    for stack, ends in offsets.items():
        together.setdefault(ends.tobytes(), []).append(stack)
    windows: list[Window] = []
    for stacks in together.values():
        ends = offsets[stacks[0]]
        total = int(ends[-1])
        for first in range(0, total, rows):
            last = min(first + rows, total)
            # Those that begin before the end of the window and end after its start.
            low = int(np.searchsorted(ends[1:], first, side="right"))
            high = int(np.searchsorted(ends[:-1], last, side="left"))
            inside = np.arange(low, high, dtype=np.int64)
            windows.append(Window(len(windows), tuple(stacks), first, last, inside[np.diff(ends)[inside] > 0]))
    return windows


def first_points(offsets: "dict[str, IntArray]") -> list[Window]:
    """Return a window of one point for each stack: what it takes to know what the hidden states are like."""
    windows = []
    for number, (stack, ends) in enumerate(offsets.items()):
        example = np.flatnonzero(np.diff(ends))[:1]
        windows.append(Window(number, (stack,), 0, 1, example))
    return windows


def batches_of(window: Window, sizes: IntArray, batch_size: int) -> Sequence[IntArray]:
    """Return the examples of a window in batches of similar size, the largest first: what fails, fails at once."""
    order = window.examples[np.argsort(-sizes[window.examples], kind="stable")]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
