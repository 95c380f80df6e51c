"""Texts in: lists, Hugging Face datasets, streams and files become one sequence of texts or of pairs of texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora.messages import check_integer
from gelora.provenance import generator
from gelora.text_files import choose_columns, file_blocks
from gelora.text_values import (
    BLOCK,
    BlockTexts,
    DatasetTexts,
    Reservoir,
    Text,
    TextArrayBuilder,
    checked,
    fingerprint_texts,
    join_columns,
)

_STRINGS = ("string", "large_string", "string_view")


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, or pairs of texts that the tokenizer encodes together.

    Parameters
    ----------
    values : sequence of str, or sequence of (str, str)
        One entry a data row.
    source : str
        Where they come from, for the record.
    mark : str, optional
        Their fingerprint, where it is known.
    rows : ndarray of shape (n_values,), optional
        The data row of each, in ascending order, where they were drawn from a stream.
    n_passed : int, optional
        Rows of that stream.
    """

    values: Sequence[Text]
    source: str
    mark: str = ""
    rows: NDArray[np.int64] | None = None
    n_passed: int = 0

    @property
    def n_available(self) -> int:
        """Number of data rows, also of those that were not drawn from a stream."""
        return len(self.values) if self.rows is None else self.n_passed

    def take(self, rows: NDArray[np.int64]) -> list[Text]:
        """Return the texts of these data rows."""
        places = (rows if self.rows is None else np.searchsorted(self.rows, rows)).tolist()
        if isinstance(self.values, BlockTexts):
            return self.values.read(places)
        return [self.values[place] for place in places]

    def fingerprint(self) -> str:
        """Return the SHA-256 of all texts in order; pairs of texts differ from as many texts."""
        return self.mark or fingerprint_texts(self.values)


def is_texts(data: Any) -> bool:
    """Say whether ``data`` is something `read_texts` reads: not tensors, not batches."""
    if isinstance(data, str | Path) or hasattr(data, "column_names") or _is_column(data):
        return True
    if (
        str(getattr(data, "dtype", "")) in ("str", "string", "object")
        or getattr(getattr(data, "dtype", None), "kind", "") == "U"
    ):
        return True  # a pandas Series or a NumPy array of strings
    return isinstance(data, list | tuple) and (not data or isinstance(data[0], str | list | tuple))


def read_texts(
    data: Any, *, text_column: str | Sequence[str] | None = None, n_samples: Any = None, seed: int = 0
) -> Texts:
    """Read texts from ``data``, all of which are looked at once, for errors and their fingerprint.

    Those of a dataset stay where it has them, those of a file are held as their bytes.

    Parameters
    ----------
    data : list of str, list of pairs of str, datasets.Dataset, datasets.IterableDataset, or path
        A path leads to a text file (one text a line, blank lines skipped) or a CSV, TSV, JSON, JSON lines or
        Parquet file with columns.
    text_column : str or two str, optional
        The column with the texts, two columns for pairs. May be left out where there is one column of strings.
    n_samples : int, optional
        Rows drawn from a stream while it passes, None for all; for other data without effect, see `draw_rows`.
    seed : int
        Of that draw.

    Returns
    -------
    Texts

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        Naming the argument, what was found and the remedy.

    Examples
    --------
    >>> read_texts(["A text.", "Another."]).values
    ['A text.', 'Another.']
    """
    if _is_column(data):
        if text_column is not None:
            raise ValueError("`text_column` names a column of a file or dataset: leave it out for a column of one")
        data, text_column = data.source, data.column_name
    if isinstance(data, str | Path):
        builder = TextArrayBuilder()
        mark = _pass(file_blocks(Path(data), text_column), builder.add)
        texts = Texts(builder.finish(), Path(data).name, mark)
    elif hasattr(data, "column_names"):
        texts = _read_dataset(data, text_column, n_samples, seed)
    else:
        if text_column is not None:
            raise ValueError("`text_column` names a column of a file or dataset: leave it out for a list of texts")
        values: list[Text] = []
        mark = _pass([data.tolist() if hasattr(data, "tolist") else list(data)], values.extend)
        texts = Texts(values, "a list in memory", mark)
    if not len(texts.values):
        raise ValueError(f"`data` must hold at least one text, got none from {texts.source}")
    return texts


def draw_rows(n_available: int, n_samples: int | None, seed: int) -> NDArray[np.int64]:
    """Draw ``n_samples`` of ``n_available`` rows without replacement, by the seed alone, in ascending order.

    ``None``, or as many as there are, takes all.

    Examples
    --------
    >>> draw_rows(5, 3, seed=0).size
    3
    """
    if n_samples is not None:
        check_integer("n_samples", n_samples, 1, ", or None for all")
    if n_samples is None or n_samples >= n_available:
        return np.arange(n_available, dtype=np.int64)
    chosen = generator(seed, "rows").permutation(n_available)[:n_samples]
    return np.sort(chosen).astype(np.int64)


def _pass(blocks: Iterable[Sequence[Any]], keep: Callable[[list[Text]], None] | None = None) -> str:
    """Check all entries, hand them on block by block, and return their fingerprint: data may pass only once."""

    def texts() -> Iterator[Text]:
        for block in checked(blocks):
            if keep is not None:
                keep(block)
            yield from block

    return fingerprint_texts(texts())


def _is_column(data: Any) -> bool:
    """Say whether ``data`` is a column of a dataset, as in ``dataset["text"]``."""
    return hasattr(data, "column_name") and hasattr(getattr(data, "source", None), "column_names")


def _read_dataset(data: Any, text_column: str | Sequence[str] | None, n_samples: Any, seed: int) -> Texts:
    if isinstance(data.column_names, dict):
        splits = sorted(data.column_names)
        raise TypeError(f"`data` must be one split of a dataset, got all of {splits}: pass data[{splits[0]!r}]")
    name = str(getattr(data.info, "dataset_name", None) or "")
    if not hasattr(data, "__len__"):
        return _read_stream(data, text_column, name or "a streaming dataset", n_samples, seed)
    source = name or "a dataset in memory"
    columns = choose_columns(text_column, data.column_names, _string_columns(data.features), source)
    values = DatasetTexts(data, columns)
    return Texts(values, source, _pass(values.blocks()))


def _read_stream(data: Any, text_column: str | Sequence[str] | None, source: str, n_samples: Any, seed: int) -> Texts:
    if callable(n_samples):
        raise ValueError(
            "`n_samples` must be a number or None for a streaming dataset, whose rows pass once and cannot be drawn in "
            "rounds: give a number, or data=datasets.Dataset.from_list(list(data.take(n)))"
        )
    blocks = _stream_blocks(data, text_column, source)
    if n_samples is None:
        builder = TextArrayBuilder()
        mark = _pass(blocks, builder.add)
        return Texts(builder.finish(), source, mark)
    reservoir = Reservoir(check_integer("n_samples", n_samples, 1, ", or None for all"), seed)
    mark = _pass(blocks, reservoir.add)
    rows, texts = reservoir.finish()
    return Texts(texts, source, mark, rows, reservoir.n_passed)


def _stream_blocks(data: Any, text_column: str | Sequence[str] | None, source: str) -> Iterator[list[Any]]:
    data, columns = data.with_format(None), None
    if data.features is not None:
        columns = choose_columns(text_column, data.column_names, _string_columns(data.features), source)
        data = data.select_columns(columns)
    for batch in data.iter(batch_size=BLOCK):
        if columns is None:  # after a map nobody knows the columns before the first rows have passed
            strings = [name for name, values in batch.items() if isinstance(_first(values), str)]
            columns = choose_columns(text_column, batch, strings, source)
        yield join_columns([list(batch[name]) for name in columns])


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _string_columns(features: Any) -> list[str]:
    return [name for name, feature in features.items() if getattr(feature, "dtype", "") in _STRINGS]
