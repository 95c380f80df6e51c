"""What the files of a store hold: written by us, read from anybody."""

import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from gelora.catching import caught
from gelora.files import to_json
from gelora.provenance import fingerprint
from gelora.windows import MOST, Layer

SCHEMA = "gelora-activations"
SCHEMA_VERSION = 1
META_FILE = "gelora.json"
WINDOWS = "windows"
_STACKS = ("encoder", "decoder")
_DTYPES = ("float32", "float64")
# No hidden state is wider; of a file that says otherwise nothing is allocated.
_WIDEST = 2**20
# What is made before the metadata, and what a kill leaves of writing that; another call may be probing the folder.
_ARRAY = re.compile(rf"({'|'.join(_STACKS)})_(rows|\d+)")
_TEMPORARY = re.compile(rf"\.gelora-\w+|\.{re.escape(META_FILE)}\.\w+\.partial")


@dataclass(frozen=True, slots=True)
class Part:
    """Layers of one stack and one width: an array of the store.

    Parameters
    ----------
    stack : str
        ``"encoder"`` or ``"decoder"``.
    layers : tuple of int
        Along its first axis.
    width, dtype
        Of the hidden states.
    """

    stack: str
    layers: tuple[int, ...]
    width: int
    dtype: str

    @property
    def name(self) -> str:
        """Name of the array."""
        return f"{self.stack}_{self.width}"

    def shape(self, n_points: int) -> tuple[int, int, int]:
        """Return the shape of the array for so many points."""
        return len(self.layers), n_points, self.width


def parts_of(shapes: Mapping[Layer, tuple[int, str]]) -> list[Part]:
    """Group layers by stack, width and type.

    Examples
    --------
    >>> [part.layers for part in parts_of({("encoder", 0): (8, "float32"), ("encoder", 1): (8, "float32")})]
    [(0, 1)]
    """
    ordered = sorted(shapes.items(), key=lambda item: (item[0][0], *item[1], item[0][1]))
    return [
        Part(stack, tuple(layer for (_, layer), _ in members), width, dtype)
        for (stack, width, dtype), members in groupby(ordered, lambda item: (item[0][0], *item[1]))
    ]


def read_meta(text: str, what: str) -> dict[str, Any]:
    """Return what ``gelora.json`` holds, if it is sound; ``what`` names it in errors.

    Raises
    ------
    ValueError
        Saying what is wrong.
    """
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no readable JSON ({error}): remove the store, and it is made again") from error
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        raise ValueError(f"{what} is not that of a gelora store: give the folder of one")
    version = meta.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ValueError(
            f"{what} has schema version {version!r:.40}, this gelora reads up to {SCHEMA_VERSION}: install a newer one"
        )
    wrong = _unsound(meta)
    if not wrong and meta.get("digest") != digest_of(meta):
        wrong = "it does not have the digest that it was written with"
    if wrong:
        raise ValueError(f"{what} is damaged: {wrong}; remove the store, and it is made again")
    return meta


def digest_of(meta: Mapping[str, Any]) -> str:
    """Return the fingerprint of metadata, but for the digest that it holds."""
    rest = json.loads(to_json({key: value for key, value in meta.items() if key != "digest"}))  # as it is read
    return fingerprint([to_json(rest, sort_keys=True).encode()])


def _unsound(meta: Mapping[str, Any]) -> str:
    """Return what is wrong with the metadata, empty where nothing is."""
    if not isinstance(meta.get("identity"), dict):
        return "it does not say what the states are of"
    parts, windows, rows = (meta.get(name) for name in ("parts", "windows", "window_rows"))
    if not isinstance(parts, list) or not parts or not all(map(_is_part, parts)):
        return "its layers are not described"
    if not isinstance(rows, int) or not 1 <= rows <= MOST:
        return f"`window_rows` is {rows!r:.40}"
    if not _is_count(meta.get("batch_size")) or not meta["batch_size"]:
        return f"`batch_size` is {meta.get('batch_size')!r:.40}"
    if not isinstance(windows, list) or not windows or meta.get("n_windows") != len(windows):
        return "its windows are not described"
    if not all(isinstance(one, dict) and isinstance(one.get("stacks"), list) for one in windows):
        return "its windows are not described"
    for stack in {part["stack"] for part in parts}:
        end = 0
        for window in (one for one in windows if stack in one["stacks"]):
            if (
                window.get("first") != end
                or not _is_count(window.get("last"))
                or not end < window["last"] <= end + rows
            ):
                return f"the windows of the {stack} do not follow one another"
            if end % rows:
                return f"the windows of the {stack} have different sizes"
            end = window["last"]
        if not end:
            return f"there are no windows of the {stack}"
    return ""


def _is_part(given: Any) -> bool:
    return (
        isinstance(given, dict)
        and set(given) == {"stack", "layers", "width", "dtype"}
        and given["stack"] in _STACKS
        and isinstance(given["layers"], list)
        and bool(given["layers"])
        and all(_is_count(layer) for layer in given["layers"])
        and len(set(given["layers"])) == len(given["layers"])
        and _is_count(given["width"])
        and 1 <= given["width"] <= _WIDEST
        and given["dtype"] in _DTYPES
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say what two identities differ in; empty where they agree."""
    wanted = json.loads(to_json(dict(wanted)))
    return "; ".join(
        f"{key} was {stored.get(key)!r:.100}, is {wanted.get(key)!r:.100}"
        for key in sorted({*stored, *wanted})
        if stored.get(key) != wanted.get(key)
    )


def clear_unfinished(path: Path, own: Collection[str]) -> None:
    """Remove the arrays that a call has left which was cut off before its store was there.

    Parameters
    ----------
    path : Path
        A folder without metadata, or none.
    own : collection of str
        Names that may be in it.

    Raises
    ------
    ValueError
        If the folder holds something else, or the windows of a store that has lost its metadata.
    """
    if any((path / WINDOWS).glob("*.json")):
        raise ValueError(
            f"`store`: {str(path)!r} has lost {META_FILE!r}, which says what its windows are: put it back, or remove "
            "the store, and it is made again"
        )
    names = sorted(file.name for file in path.iterdir()) if path.exists() else []
    arrays = [name for name in names if _ARRAY.fullmatch(name)]
    foreign = [name for name in names if name not in (*own, *arrays) and not _TEMPORARY.fullmatch(name)]
    if foreign:
        raise ValueError(
            f"`store`: {str(path)!r} holds something else ({', '.join(foreign[:3])}): give a new or an empty folder"
        )
    for name in arrays:
        shutil.rmtree(path / name)


def load_zarr() -> Any:
    """Return the library.

    Raises
    ------
    ImportError
        Naming what to install.
    """
    try:
        with caught():  # one of its parts sets a filter of warnings, which would stay
            import zarr.codecs
    except ImportError as error:
        raise ImportError("`store` needs zarr, which is not installed: pip install 'gelora[scale]'") from error
    return zarr
