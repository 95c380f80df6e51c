"""Texts in: lists, Hugging Face datasets and files become one list of texts or of pairs of texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora.masking import masked
from gelora.messages import check_integer, nearest
from gelora.provenance import fingerprint, generator

if TYPE_CHECKING:
    import pandas as pd

Text = str | tuple[str, str]
FILE_TYPES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, or pairs of texts that the tokenizer encodes together.

    Parameters
    ----------
    values : list of str, or list of (str, str)
        One entry a data row.
    source : str
        Where they come from, for the record.
    """

    values: list[Text]
    source: str

    def fingerprint(self) -> str:
        """Return the SHA-256 of all texts in order; pairs of texts differ from as many texts."""
        return fingerprint(
            part.encode("utf-8", "surrogatepass")
            for text in self.values
            for part in ((text,) if isinstance(text, str) else ("pair", *text))
        )


def is_texts(data: Any) -> bool:
    """Say whether ``data`` is something `read_texts` reads: not tensors, not batches."""
    if isinstance(data, str | Path) or hasattr(data, "column_names"):
        return True
    if (
        str(getattr(data, "dtype", "")) in ("str", "string", "object")
        or getattr(getattr(data, "dtype", None), "kind", "") == "U"
    ):
        return True  # a pandas Series or a NumPy array of strings
    return isinstance(data, list | tuple) and (not data or isinstance(data[0], str | list | tuple))


def read_texts(data: Any, *, text_column: str | Sequence[str] | None = None) -> Texts:
    """Read texts from ``data``.

    Parameters
    ----------
    data : list of str, list of pairs of str, datasets.Dataset, or path
        A path leads to a text file (one text a line, blank lines skipped) or a CSV, TSV, JSON, JSON lines or
        Parquet file with columns.
    text_column : str or two str, optional
        The column with the texts, two columns for pairs. May be left out where there is one column of strings.

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
    if isinstance(data, str | Path):
        texts = _read_file(Path(data), text_column)
    elif hasattr(data, "column_names"):
        texts = _read_dataset(data, text_column)
    else:
        if text_column is not None:
            raise ValueError("`text_column` names a column of a file or dataset: leave it out for a list of texts")
        texts = Texts(data.tolist() if hasattr(data, "tolist") else list(data), "a list in memory")
    if not texts.values:
        raise ValueError(f"`data` must hold at least one text, got none from {texts.source}")
    return Texts([_check_text(text, row) for row, text in enumerate(texts.values)], texts.source)


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


def read_table(path: Path) -> "pd.DataFrame":
    """Read a file with columns; in CSV and TSV every value stays the text it is.

    Raises
    ------
    ValueError
        If the file is of no known type or cannot be parsed.
    """
    import pandas as pd

    try:
        match path.suffix.lower():
            case ".csv":
                return pd.read_csv(path, dtype=str, keep_default_na=False)
            case ".tsv":
                return pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t")
            case ".jsonl":
                return pd.read_json(path, lines=True, dtype=False)
            case ".json":
                return pd.read_json(path, dtype=False)
            case ".parquet":
                return pd.read_parquet(path)
    except (ValueError, OSError, UnicodeError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise ValueError(f"`data`: {str(path)!r} could not be read as {path.suffix} file: {error}") from error
    raise ValueError(f"`data` must be a file of type {', '.join(FILE_TYPES)}, got {str(path)!r}")


def _read_file(path: Path, text_column: str | Sequence[str] | None) -> Texts:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(
            f"`data`: there is {found} at {masked(str(path))!r}; give a file of type {', '.join(FILE_TYPES)}"
        )
    if path.suffix.lower() == ".txt":
        if text_column is not None:
            raise ValueError(f"`text_column` must be left out for a text file, got {text_column!r}")
        try:
            # Not splitlines, which also splits at form feeds and Unicode separators within a text.
            lines = [line.rstrip("\r") for line in path.read_text(encoding="utf-8-sig").split("\n")]
        except UnicodeDecodeError as error:
            raise ValueError(f"`data`: {str(path)!r} is not UTF-8 text ({error}); convert it first") from error
        return Texts([line for line in lines if line.strip()], path.name)
    table = read_table(path)
    if not len(table):
        return Texts([], path.name)
    strings = [str(name) for name in table.columns if _holds_strings(table[name])]
    columns = _columns(text_column, [str(name) for name in table.columns], strings, path.name)
    return Texts(_rows([table[name].tolist() for name in columns]), path.name)


def _holds_strings(column: "pd.Series[Any]") -> bool:
    filled = column.dropna()
    return len(filled) > 0 and isinstance(filled.iloc[0], str)


def _read_dataset(data: Any, text_column: str | Sequence[str] | None) -> Texts:
    if isinstance(data.column_names, dict):
        raise TypeError(
            f"`data` must be one split of a dataset, got all of {sorted(data.column_names)}: pass data['train']"
        )
    if not hasattr(data, "__len__"):
        raise TypeError("`data` must be a dataset of known length, got a streaming one: pass list(data.take(n)) texts")
    source = str(getattr(data.info, "dataset_name", None) or "a dataset in memory")
    strings = [
        name for name, feature in data.features.items() if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    columns = _columns(text_column, list(data.column_names), strings, source)
    return Texts(_rows([list(data[name]) for name in columns]), source)


def _columns(
    text_column: str | Sequence[str] | None, available: list[str], strings: list[str], source: str
) -> list[str]:
    if text_column is None:
        if len(strings) == 1:
            return strings
        raise ValueError(f"`text_column` must say which column of {source} holds the texts: one or two of {available}")
    columns = [text_column] if isinstance(text_column, str) else list(text_column)
    if len(columns) not in (1, 2):
        raise ValueError(f"`text_column` must be one column, or two for pairs, got {columns}")
    for name in columns:
        if name not in available:
            hint = nearest(name, available)
            raise ValueError(f"`text_column`: no column {name!r} in {source}, it has {available}{hint}")
    return columns


def _rows(columns: list[list[Any]]) -> list[Any]:
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _check_text(text: Any, row: int) -> Text:
    if isinstance(text, str):
        return text
    if isinstance(text, Iterable):
        pair = tuple(text)
        if len(pair) == 2 and all(isinstance(part, str) for part in pair):
            return pair
    raise TypeError(
        f"`data` must hold strings or pairs of strings, got {type(text).__name__} {text!r:.60} in row {row}: "
        "drop or fill such rows first"
    )
