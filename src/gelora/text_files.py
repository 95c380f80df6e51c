"""Files of texts, read block by block: of a large file only the columns with the texts are ever in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.masking import masked
from gelora.messages import nearest
from gelora.text_values import BLOCK, join_columns

if TYPE_CHECKING:
    import pandas as pd

FILE_TYPES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
Columns = str | Sequence[str] | None
_PANDAS_BLOCK = 10 * BLOCK  # of a thousand rows each, what pandas does for a block takes longer than the rows


def read_table(path: Path) -> "pd.DataFrame":
    """Read a file with columns; in CSV and TSV every value stays the text it is.

    Raises
    ------
    ValueError
        If the file is of no known type or cannot be parsed.
    """
    import pandas as pd

    with _reading(path):
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        frame: pd.DataFrame = _reader(path)()
        return frame


def file_blocks(path: Path, text_column: Columns) -> Iterator[list[Any]]:
    """Yield the entries of a file, texts or pairs, block by block and not yet checked.

    Parameters
    ----------
    path : Path
        A text file, whose entries are its lines that are not blank, or a file with columns.
    text_column : str or two str, optional
        See `gelora.corpora.read_texts`.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the argument, what was found and the remedy.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(
            f"`data`: there is {found} at {masked(str(path))!r}; give a file of type {', '.join(FILE_TYPES)}"
        )
    match path.suffix.lower():
        case ".txt":
            if text_column is not None:
                raise ValueError(f"`text_column` must be left out for a text file, got {text_column!r}")
            yield from _lines(path)
        case ".parquet":
            yield from _parquet_blocks(path, text_column)
        case _:
            yield from _frame_blocks(path, text_column)


def choose_columns(text_column: Columns, available: Iterable[str], strings: list[str], source: str) -> list[str]:
    """Return the columns with the texts: as named, or else the only one of ``strings``.

    Raises
    ------
    ValueError
        If a name is that of no column, or none is given and it is not clear which is meant.
    """
    available = list(available)
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


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        # Lines end at line feeds alone: not at form feeds and Unicode separators within a text, as in splitlines.
        with path.open(encoding="utf-8-sig") as file:
            while lines := list(islice(file, BLOCK)):
                yield [line.removesuffix("\n") for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"`data`: {str(path)!r} is not UTF-8 text ({_wrong_line(path)}); convert it first") from error


def _wrong_line(path: Path) -> str:
    """Say which is the first line that is not UTF-8, and why: the decoder of a file counts from somewhere within."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: {error}"
    return "it has changed meanwhile"


def _frame_blocks(path: Path, text_column: Columns) -> Iterator[list[Any]]:
    """Yield the entries of a file that pandas reads."""
    columns = _frame_columns(path, text_column)
    for frame in _frames(path):
        held = [frame[name].tolist() if name in frame else [None] * len(frame) for name in columns]
        yield join_columns(held)


def _frame_columns(path: Path, text_column: Columns) -> list[str]:
    """Return the columns with the texts; reads as much of the file as it takes to know them."""
    asked = {text_column} if isinstance(text_column, str) else set(text_column or ())
    first_of: dict[str, bool] = {}  # whether the first value of a column, which may be missing in some, is a string
    names: dict[str, None] = {}
    n_rows = 0
    for frame in _frames(path):
        n_rows += len(frame)
        names |= dict.fromkeys(map(str, frame.columns))
        for name in frame.columns:
            filled = frame[name].dropna()
            if len(filled):
                first_of.setdefault(str(name), isinstance(filled.iloc[0], str))
        if (asked and asked <= set(names)) or (n_rows and path.suffix.lower() in (".csv", ".tsv")):
            break  # else, as in JSON lines, later rows may have other columns
    if not n_rows:
        return []
    return choose_columns(text_column, names, [name for name, string in first_of.items() if string], path.name)


def _frames(path: Path) -> "Iterator[pd.DataFrame]":
    with _reading(path):
        if path.suffix.lower() == ".json":  # one value, of which no part can be read alone
            yield _reader(path)()
            return
        n_rows = 0
        try:
            with _reader(path)(chunksize=_PANDAS_BLOCK) as frames:
                for frame in frames:
                    yield frame
                    n_rows += len(frame)
        except ValueError as error:
            if n_rows == 0 or path.suffix.lower() != ".jsonl":
                raise
            raise ValueError(f"{error}, counted from the end of row {n_rows - 1}") from error


def _reader(path: Path) -> Callable[..., Any]:
    """Return what reads a file by pandas."""
    import pandas as pd

    match path.suffix.lower():
        case ".csv":
            return partial(pd.read_csv, path, dtype=str, keep_default_na=False)
        case ".tsv":
            return partial(pd.read_csv, path, dtype=str, keep_default_na=False, sep="\t")
        case ".jsonl":
            return partial(pd.read_json, path, lines=True, dtype=False)
        case _:
            return partial(pd.read_json, path, dtype=False)


def _parquet_blocks(path: Path, text_column: Columns) -> Iterator[list[Any]]:
    import pyarrow.parquet as pq

    with _reading(path):
        file = pq.ParquetFile(path, buffer_size=2**20)  # without a buffer a row group is read at once
    with file:
        if not file.metadata.num_rows:
            return
        columns = _parquet_columns(file, text_column, path)
        for batch in _batches(file, columns, path):
            yield join_columns([batch.column(name).to_pylist() for name in columns])


def _batches(file: Any, columns: list[str], path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with _reading(path):
        yield from file.iter_batches(BLOCK, columns=columns, use_threads=False)
    pa.default_memory_pool().release_unused()


def _parquet_columns(file: Any, text_column: Columns, path: Path) -> list[str]:
    import pyarrow as pa

    schema = file.schema_arrow
    hidden = [one for one in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(one, str)]
    available = [name for name in schema.names if name not in hidden]  # pandas writes an index as a column
    strings: list[str] = []
    if text_column is None:
        for name in available:
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            if string and any(len(one) > one.column(0).null_count for one in _batches(file, [name], path)):
                strings.append(name)
    return choose_columns(text_column, available, strings, path.name)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pandas and pyarrow raise, their own errors being ValueErrors, into an error that names the file."""
    if path.suffix.lower() not in FILE_TYPES[1:]:
        raise ValueError(f"`data` must be a file of type {', '.join(FILE_TYPES)}, got {str(path)!r}")
    try:
        yield
    except (ValueError, OSError, UnicodeError) as error:
        raise ValueError(f"`data`: {str(path)!r} could not be read as {path.suffix} file: {error}") from error
