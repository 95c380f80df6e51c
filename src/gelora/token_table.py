"""Token ids of many texts in flat arrays: a few bytes a token, and on disk where they would fill memory."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.files import naming_full_disk

IntArray = NDArray[np.int64]
_DTYPES = {"token_type_ids": np.dtype(np.int8)}
_TOKENS = np.dtype(np.int32)


class _Column:
    """One kind of ids, text after text."""

    def __init__(self, dtype: "np.dtype[Any]", folder: Path | None) -> None:
        self.dtype, self.folder = dtype, folder
        # Without a name: it vanishes with the process, whatever ends it.
        self.file: IO[bytes] | None = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.parts: list[NDArray[Any]] = []
        self.counts: list[NDArray[np.int32]] = []

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        self.counts.append(np.array([len(row) for row in rows], dtype=np.int32))
        flat = np.fromiter((value for row in rows for value in row), self.dtype, count=int(self.counts[-1].sum()))
        if self.file is None or self.folder is None:
            self.parts.append(flat)
            return
        with naming_full_disk(self.folder):
            self.file.write(flat.tobytes())

    def finish(self) -> tuple[NDArray[Any], IntArray]:
        """Return all ids, and where each text begins, with the end of the last."""
        ends: IntArray = np.concatenate([np.zeros(1, dtype=np.int64), *self.counts])
        np.cumsum(ends, out=ends)
        if self.file is None or self.folder is None:
            return np.concatenate([np.empty(0, self.dtype), *self.parts]), ends
        with naming_full_disk(self.folder), self.file as file:  # the map holds on to it
            file.flush()
            ids = np.memmap(file, dtype=self.dtype, mode="r") if ends[-1] else np.empty(0, self.dtype)
        return ids, ends


class TokenTable(Sequence[Mapping[str, torch.Tensor]]):
    """The features of texts, of which each is made when it is asked for.

    Parameters
    ----------
    columns : mapping of str to (ndarray, ndarray)
        By name, as in ``input_ids``: the ids of all texts one after the other, and where each text begins.
    chosen : ndarray of shape (n_texts,)
        Which texts, in which order.
    """

    def __init__(self, columns: Mapping[str, tuple[NDArray[Any], IntArray]], chosen: IntArray) -> None:
        self._columns = columns
        self._chosen = chosen

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._chosen)

    def __getitem__(self, place: Any) -> Any:
        """Return the features of one text, or the table of several."""
        if isinstance(place, slice | np.ndarray):
            return TokenTable(self._columns, self._chosen[place])
        row = self._chosen[place]
        return {
            # A copy as int64: what models take, and nothing that lives on disk.
            name: torch.from_numpy(ids[ends[row] : ends[row + 1]].astype(np.int64))
            for name, (ids, ends) in self._columns.items()
        }

    def lengths(self, name: str) -> IntArray:
        """Return how many ids each text has in a column; 0 where there is none of that name."""
        if name not in self._columns:
            return np.zeros(len(self), dtype=np.int64)
        _, ends = self._columns[name]
        return ends[self._chosen + 1] - ends[self._chosen]

    def largest(self, name: str) -> int:
        """Return the largest id of a column, -1 where there is none."""
        ids = self._columns[name][0] if name in self._columns else np.empty(0, dtype=_TOKENS)
        # In pieces: what is on disk is not to be read into memory at once.
        return max((int(ids[start : start + 2**20].max()) for start in range(0, len(ids), 2**20)), default=-1)


class TableBuilder:
    """Takes tokenized texts piece by piece, and gives a table of them all.

    Parameters
    ----------
    folder : Path, optional
        Where the ids are kept on disk; in memory without.

    Examples
    --------
    >>> builder = TableBuilder()
    >>> builder.add({"input_ids": [[5, 6], [7]]})
    >>> builder.finish()[1]
    {'input_ids': tensor([7])}
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._columns: dict[str, _Column] = {}
        self._n = 0

    def add(self, encoded: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Add texts: for each name a list of ids a text, the same names in every piece."""
        for name, rows in encoded.items():
            if name not in self._columns:
                self._columns[name] = _Column(_DTYPES.get(name, _TOKENS), self._folder)
            self._columns[name].add(rows)
        self._n += len(next(iter(encoded.values())))

    def finish(self) -> TokenTable:
        """Return the table."""
        return TokenTable({name: one.finish() for name, one in self._columns.items()}, np.arange(self._n))


def pieces(rows: IntArray, size: int = 2000) -> Iterable[IntArray]:
    """Yield ``rows`` in pieces: what is made of them at once takes bounded memory."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def first_of_equal(marks: NDArray[Any]) -> IntArray:
    """Return the place of the first of each value, in ascending order.

    As ``np.unique`` does, which copies the marks twice: there may be many millions.

    Examples
    --------
    >>> first_of_equal(np.array(["b", "a", "b"])).tolist()
    [0, 1]
    """
    order = np.argsort(marks, kind="stable")
    another = np.ones(len(order), dtype=bool)
    for start in range(1, len(order), 2**16):
        stop = min(start + 2**16, len(order))
        another[start:stop] = marks[order[start:stop]] != marks[order[start - 1 : stop - 1]]
    found: IntArray = order[another]
    del order
    found.sort()
    return found
