"""Sequences of texts that hold no Python object for each: bytes in flat arrays, or rows of a dataset on disk."""

import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from gelora.provenance import fingerprint, generator

if TYPE_CHECKING:
    import pyarrow as pa

Text = str | tuple[str, str]
# What is read at once: much larger costs memory with long texts, much smaller time with short ones.
BLOCK = 1000


class BlockTexts(Sequence[Text]):
    """Texts that are made when they are asked for, many at a time."""

    @abstractmethod
    def read(self, rows: Any) -> list[Any]:
        """Return the entries of a slice, or of a list of rows, as they are."""

    @overload
    def __getitem__(self, place: int) -> Text: ...
    @overload
    def __getitem__(self, place: slice) -> list[Text]: ...
    def __getitem__(self, place: Any) -> Any:
        """Return one text, or a list of several."""
        if isinstance(place, slice):
            return self.read(place)
        row = operator.index(place)
        row += len(self) if row < 0 else 0
        if not 0 <= row < len(self):
            raise IndexError(f"there are {len(self)} texts, none at {place}")
        return self.read([row])[0]

    def __iter__(self) -> Iterator[Text]:
        """Yield each text; a block of them is in memory at a time."""
        for block in self.blocks():
            yield from block

    def blocks(self, size: int = BLOCK) -> Iterator[list[Any]]:
        """Yield all entries in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.read(slice(start, start + size))


class DatasetTexts(BlockTexts):
    """Texts of a ``datasets.Dataset``, which stay where it has them: in files that are mapped into memory.

    Parameters
    ----------
    data : datasets.Dataset
        Any format; what a transform of the user's makes of its rows is what is read.
    columns : list of str
        One column, or two for pairs.
    """

    def __init__(self, data: Any, columns: list[str]) -> None:
        self._columns = columns
        # A transform may need columns beside that of texts; without one no other column is to be decoded.
        self._data = data if data.format["type"] == "custom" else data.with_format(None).select_columns(columns)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, rows: Any) -> list[Any]:
        """Return the entries of these rows, in one query."""
        batch = self._data[rows]
        entries = join_columns([list(batch[name]) for name in self._columns])
        # A column may hold pairs, as lists, which a tokenizer would take for words.
        return [tuple(one) if isinstance(one, list | np.ndarray) else one for one in entries]


class TextArray(BlockTexts):
    """Texts in memory as their bytes and eight bytes more each.

    Parameters
    ----------
    columns : sequence of pyarrow.ChunkedArray
        Of type large_binary: UTF-8, with lone surrogates as they come. One column, or two for pairs.
    """

    def __init__(self, columns: "Sequence[pa.ChunkedArray]") -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def read(self, rows: Any) -> list[Text]:
        """Return the texts of these rows."""
        found = [
            column[rows].to_pylist() if isinstance(rows, slice) else [column[row].as_py() for row in rows]
            for column in self._columns
        ]
        return join_columns([[part.decode("utf-8", "surrogatepass") for part in column] for column in found])


class TextArrayBuilder:
    """Takes texts block by block, and gives one `TextArray`.

    Examples
    --------
    >>> builder = TextArrayBuilder()
    >>> builder.add(["one", "two"])
    >>> builder.finish()[1]
    'two'
    """

    def __init__(self) -> None:
        self._chunks: list[list[pa.Array]] = []

    def add(self, texts: Sequence[Text]) -> None:
        """Add texts, or pairs of texts.

        Raises
        ------
        TypeError
            If there are both.
        """
        import pyarrow as pa

        if not len(texts):
            return
        pairs = {isinstance(text, tuple) for text in texts}
        width = 2 if pairs == {True} else 1
        self._chunks = self._chunks or [[] for _ in range(width)]
        if len(pairs) > 1 or width != len(self._chunks):
            raise TypeError("`data` must hold texts or pairs of texts, got both")
        parts = zip(*texts, strict=True) if width == 2 else [texts]
        # Arrow's own pool keeps up to half as much again for itself.
        own: dict[str, Any] = {"type": pa.large_binary(), "memory_pool": pa.system_memory_pool()}
        for chunks, column in zip(self._chunks, parts, strict=True):
            chunks.append(pa.array([encoded(part) for part in column], **own))

    def finish(self) -> TextArray:
        """Return all texts."""
        import pyarrow as pa

        return TextArray([pa.chunked_array(chunks, pa.large_binary()) for chunks in self._chunks or [[]]])


class Reservoir:
    """A random sample, without replacement, of texts that pass once and whose number nobody knows beforehand.

    Algorithm R: Vitter, J. S. (1985), Random sampling with a reservoir. ACM Transactions on Mathematical Software
    11(1), 37–57. How the texts are cut into blocks does not matter.

    Parameters
    ----------
    size : int
        Texts drawn; all where fewer pass.
    seed : int
        Of the draw.

    Examples
    --------
    >>> reservoir = Reservoir(3, seed=0)
    >>> reservoir.add(["a", "b", "c", "d", "e"])
    >>> len(reservoir.finish()[1])
    3
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._random = generator(seed, "streamed rows")
        self._kept: list[tuple[int, Text]] = []
        self.n_passed = 0

    def add(self, texts: Sequence[Text]) -> None:
        """Let texts pass."""
        numbered = list(enumerate(texts, self.n_passed))
        self.n_passed += len(texts)
        n_first = min(self.size - len(self._kept), len(numbered))
        self._kept += numbered[:n_first]
        later = numbered[n_first:]
        # Row i, counted from 0, takes a place among i + 1, and is kept if that is one of the reservoir's.
        places = self._random.integers(0, np.array([row + 1 for row, _ in later], dtype=np.int64))
        for number in np.flatnonzero(places < self.size):
            self._kept[places[number]] = later[number]

    def finish(self) -> tuple[NDArray[np.int64], list[Text]]:
        """Return the rows that were drawn, in ascending order, and their texts."""
        kept = sorted(self._kept, key=operator.itemgetter(0))
        return np.array([row for row, _ in kept], dtype=np.int64), [text for _, text in kept]


def join_columns(columns: list[list[Any]]) -> list[Any]:
    """Return the entries of one column, or the pairs of two."""
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def encoded(text: str) -> bytes:
    """Return the bytes of a text, also of one with lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


def fingerprint_texts(texts: Iterable[Text]) -> str:
    """Return the SHA-256 of all texts in order; pairs of texts differ from as many texts."""
    return fingerprint(
        encoded(part) for text in texts for part in ((text,) if isinstance(text, str) else ("pair", *text))
    )


def checked(blocks: Iterable[Sequence[Any]]) -> Iterator[list[Text]]:
    """Yield the blocks, with every entry a string or a pair of strings.

    Raises
    ------
    TypeError
        If one is neither, with its row.
    """
    first = 0
    for block in blocks:
        yield [check_text(text, row) for row, text in enumerate(block, first)]
        first += len(block)


def check_text(text: Any, row: int) -> Text:
    """Return ``text`` if it is a string, or a pair of strings as a tuple.

    Raises
    ------
    TypeError
        If it is neither, naming the row.
    """
    if isinstance(text, str):
        return text
    if isinstance(text, list | tuple | np.ndarray):
        pair = tuple(text)
        if len(pair) == 2 and all(isinstance(part, str) for part in pair):
            return pair
    raise TypeError(
        f"`data` must hold strings or pairs of strings, got {type(text).__name__} {text!r:.60} in row {row}: "
        "drop or fill such rows first"
    )
