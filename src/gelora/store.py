"""Activations on disk: a zarr store that is filled window by window, and goes on where a kill has left it."""

import importlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora.files import atomic_path, make_folder, naming_full_disk, read_json, to_json
from gelora.provenance import timestamp
from gelora.readings import READINGS, KeptReadings
from gelora.store_format import META_FILE as META_FILE
from gelora.store_format import (
    SCHEMA,
    SCHEMA_VERSION,
    WINDOWS,
    Part,
    clear_unfinished,
    digest_of,
    load_zarr,
    parts_of,
    read_meta,
)
from gelora.windows import IntArray, Layer, Window

Cloud = NDArray[np.float32] | NDArray[np.float64]
# Share of the free memory that one layer may take before it is mapped from disk.
MOST_OF_MEMORY = 0.25
_OWN = ("zarr.json", "lock", WINDOWS, READINGS, META_FILE)
_log = logging.getLogger("gelora")


class DamagedStoreError(ValueError):
    """Windows of a store are missing or do not have the checksums that they were written with."""


class ActivationStore:
    """Hidden states of one extraction: arrays layer × example × width, written window by window.

    An array is cut into shards of all its layers for the points of one window, one file each, which hold a compressed
    chunk with a CRC-32C checksum for every layer. A window counts once its mark is there, which is written last.

    Parameters
    ----------
    path : Path
        Its folder.
    meta : mapping
        What ``gelora.json`` holds.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.parts = [Part(one["stack"], tuple(one["layers"]), one["width"], one["dtype"]) for one in meta["parts"]]
        group = load_zarr().open_group(str(path), mode="r+", zarr_format=3)
        self._arrays = {part.name: self._array(group, part) for part in self.parts}
        self.rows: dict[str, IntArray] = {stack: self._rows(group, stack) for stack in {p.stack: 0 for p in self.parts}}

    def _array(self, group: Any, part: Part) -> Any:
        """Return the array of a part, if it is what we would have made: nothing else is read or unpacked."""
        array, rows = group[part.name], int(self.meta["window_rows"])
        wanted = (
            part.shape(self._n_points(part.stack)),
            part.dtype,
            (1, rows, part.width),
            (len(part.layers), rows, part.width),
        )
        found = (array.shape, str(array.dtype), array.chunks, array.shards)
        if found != wanted or not _is_ours(array):
            raise ValueError(f"the array {part.name} is {found}, not {wanted}, or packed otherwise")
        return array

    def _rows(self, group: Any, stack: str) -> IntArray:
        array = group[f"{stack}_rows"]
        if (array.shape, str(array.dtype)) != ((self._n_points(stack),), "int64"):
            raise ValueError(f"the rows of the {stack} are {array.dtype} of shape {array.shape}")
        rows: IntArray = array[:]
        if (rows < 0).any():
            raise ValueError(f"a part of the rows of the {stack} is missing")
        return rows

    def _n_points(self, stack: str) -> int:
        return max(int(window["last"]) for window in self.meta["windows"] if stack in window["stacks"])

    def __reduce__(self) -> Any:
        """Travel to another process as the path: what is there reads the same files."""
        return open_store, (str(self.path.absolute()),)

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return int(self.meta["n_windows"])

    def done(self) -> dict[int, dict[str, Any]]:
        """Return the marks of the windows that are there, by number."""
        found = {}
        for file in sorted((self.path / WINDOWS).glob("*.json")):
            try:
                found[int(file.stem)] = dict(read_json(file))
            except (ValueError, TypeError):
                continue  # a mark that cannot be read marks nothing
        return {number: mark for number, mark in found.items() if self._has_files(number)}

    def count_nonfinite(self) -> dict[Layer, int]:
        """Return how many points of each layer have non-finite coordinates."""
        counts: dict[Layer, int] = {}
        for mark in self.done().values():
            for name, count in mark.get("n_nonfinite", {}).items():
                stack, layer = name.split(".")
                counts[stack, int(layer)] = counts.get((stack, int(layer)), 0) + int(count)
        return counts

    def _has_files(self, number: int) -> bool:
        return all(file.is_file() for file in self.files_of(number))

    def files_of(self, number: int) -> list[Path]:
        """Return the files that hold a window's states."""
        window = self.meta["windows"][number]
        place = window["first"] // int(self.meta["window_rows"])
        return [self.path / p.name / "c" / "0" / str(place) / "0" for p in self.parts if p.stack in window["stacks"]]

    def write(self, window: Window, clouds: dict[Layer, Cloud], mark: Mapping[str, Any]) -> None:
        """Write what came of a window, then its mark; ``clouds`` are taken out of their mapping.

        Raises
        ------
        OSError
            If it cannot be written; what was written before stays.
        """
        try:
            for file in self.files_of(window.number):
                file.unlink(missing_ok=True)  # zarr reads a shard before it writes it, and this one may be damaged
            for part in self.parts:
                if part.stack in window.stacks:
                    states = np.empty((len(part.layers), len(window), part.width), part.dtype)
                    for number, layer in enumerate(part.layers):
                        states[number] = clouds.pop((part.stack, layer))  # so that they are not held twice
                    self._arrays[part.name][:, window.first : window.last, :] = states
            with atomic_path(self.path / WINDOWS / f"{window.number:07d}.json") as temporary:
                temporary.write_text(to_json(dict(mark)) + "\n", encoding="utf-8")
        except OSError as error:
            raise OSError(
                error.errno,
                f"`store`: window {window.number} of {self.n_windows} cannot be written to {str(self.path)!r} "
                f"({error.strerror}): the windows before are kept; make room, or give the folder back its rights, and "
                "call again",
            ) from error

    def forget(self, numbers: Sequence[int]) -> None:
        """Take back the marks of windows, so that they are made again."""
        for number in numbers:
            (self.path / WINDOWS / f"{number:07d}.json").unlink(missing_ok=True)

    def read(self, stack: str, layer: int) -> Cloud:
        """Return all points of a layer; in a memory map where they would fill a quarter of the free memory.

        Raises
        ------
        DamagedStoreError
            If a part of it is missing or damaged, naming the windows.
        """
        part = self.part_of(stack, layer)
        cloud: Cloud = self._room(part.shape(len(self.rows[stack]))[1:], np.dtype(part.dtype))
        damaged = []
        for number in self.windows_of(stack):
            window, states = self.meta["windows"][number], self._read(part, layer, number)
            if states is None:
                damaged.append(number)
            else:
                cloud[window["first"] : window["last"]] = states
        if damaged:
            raise DamagedStoreError(
                f"`store`: layer {layer} of the {stack} in {str(self.path)!r} is missing or damaged in "
                f"{len(damaged)} of {self.n_windows} windows, the first being {damaged[0]}: extract again into this "
                "store, which makes these windows alone"
            )
        return cloud

    def _room(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Cloud:
        """Return an array to fill: in memory, or in a file without a name beside the store."""
        psutil: Any = importlib.import_module("psutil")
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        if n_bytes <= psutil.virtual_memory().available * MOST_OF_MEMORY:
            return np.empty(shape, dtype)
        with tempfile.TemporaryFile(dir=self.path) as file:  # the map holds on to it
            with naming_full_disk(self.path):
                # Taken at once: on a full disk a write to the map would kill the process.
                os.posix_fallocate(file.fileno(), 0, n_bytes) if hasattr(os, "posix_fallocate") else file.truncate(
                    n_bytes
                )
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)

    def part_of(self, stack: str, layer: int) -> Part:
        """Return the array that a layer stands in."""
        for part in self.parts:
            if part.stack == stack and layer in part.layers:
                return part
        kept = ", ".join(f"({part.stack!r}, {number})" for part in self.parts for number in part.layers)
        raise ValueError(f"`stack`, `layer` must be one of {kept}, which {str(self.path)!r} has; got {(stack, layer)}")

    def windows_of(self, stack: str) -> list[int]:
        """Return the numbers of the windows that hold points of a stack."""
        return [number for number, window in enumerate(self.meta["windows"]) if stack in window["stacks"]]

    def _read(self, part: Part, layer: int, number: int) -> Cloud | None:
        """Return the states of a window in one layer, None where they are missing or damaged."""
        window = self.meta["windows"][number]
        if not self._has_files(number):
            return None  # zarr would take it for a chunk of fill values
        try:
            states: Cloud = self._arrays[part.name][part.layers.index(layer), window["first"] : window["last"], :]
        except Exception as error:  # noqa: BLE001 checksum, codec and shard index each have errors of their own
            _log.debug("window %d of %s: %s", number, self.path, error)
            return None
        return states

    def damaged(self, advance: Callable[[], object] = lambda: None) -> list[int]:
        """Return the windows that have a mark but not what it stands for: every checksum is computed."""
        found = []
        for number in self.done():
            stacks = self.meta["windows"][number]["stacks"]
            parts = [part for part in self.parts if part.stack in stacks]
            if any(self._read(part, layer, number) is None for part in parts for layer in part.layers):
                found.append(number)
            advance()
        return found


class StoredCloud:
    """The points of one layer in a store, read when they are asked for and held by whoever asked.

    Parameters
    ----------
    store : ActivationStore
    stack : str
    layer : int
    """

    def __init__(self, store: ActivationStore, stack: str, layer: int) -> None:
        part = store.part_of(stack, layer)
        self._store, self._stack, self._layer = store, stack, layer
        self.shape = (len(store.rows[stack]), part.width)
        self.dtype = np.dtype(part.dtype)
        self.ndim = 2

    def __len__(self) -> int:
        """Return the number of points."""
        return self.shape[0]

    def readings(self, n_replicates: int, seed: int) -> KeptReadings:
        """Return the files of what is read from the store with such halves and draws."""
        return KeptReadings.beside(self._store.path, self._store.meta["identity"], n_replicates, seed)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all points, read from the store."""
        return np.asarray(self._store.read(self._stack, self._layer), dtype)

    def __getitem__(self, key: Any) -> Any:
        """Return a part of the points; the whole layer is read for it."""
        return np.asarray(self)[key]


def _is_ours(array: Any) -> bool:
    """Say whether an array is packed as we do it: shards of compressed chunks with checksums, and no other codec."""
    packed = array.metadata.to_dict()["codecs"]
    if [codec["name"] for codec in packed] != ["sharding_indexed"]:
        return False
    inner = packed[0]["configuration"]["codecs"]
    return [codec["name"] for codec in inner] == ["bytes", "blosc", "crc32c"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the store alone: whoever comes second waits."""
    import filelock

    lock = filelock.FileLock(make_folder(path) / "lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        _log.warning("`store`: another process writes to %r: waiting for it to end", str(path))
        lock.acquire(blocking=True)
    try:
        yield
    finally:
        lock.release()


def create(
    path: Path,
    identity: Mapping[str, Any],
    shapes: Mapping[Layer, tuple[int, str]],
    rows: Mapping[str, IntArray],
    windows: Sequence[Window],
    window_rows: int,
    batch_size: int,
) -> ActivationStore:
    """Make an empty store.

    Parameters
    ----------
    path : Path
        Its folder, which holds nothing but what a call that was cut off has left.
    identity : mapping
        What the states depend on.
    shapes : mapping of (str, int) to (int, str)
        Width and type of each layer.
    rows : mapping of str to ndarray
        By stack: the data row of each point.
    windows : sequence of Window
        How the points are cut.
    window_rows : int
        Points of a window.
    batch_size : int
        Examples run together, unless memory runs out.
    """
    clear_unfinished(path, _OWN)
    parts = parts_of(shapes)
    meta = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "identity": dict(identity),
        "parts": [asdict(part) for part in parts],
        "n_windows": len(windows),
        "window_rows": window_rows,
        "batch_size": batch_size,
        "windows": [{"stacks": list(w.stacks), "first": w.first, "last": w.last} for w in windows],
        "created": timestamp(),
    }
    meta["digest"] = digest_of(meta)
    with naming_full_disk(path):
        _make_arrays(path, parts, rows, window_rows)
        make_folder(path / WINDOWS)
        with atomic_path(path / META_FILE) as temporary:  # last: it says that the store is there
            temporary.write_text(to_json(meta, indent=1) + "\n", encoding="utf-8")
        return ActivationStore(path, meta)


def _make_arrays(path: Path, parts: Sequence[Part], rows: Mapping[str, IntArray], window_rows: int) -> None:
    """Make the arrays of a store: empty ones for the states, and the data rows of the points."""
    zarr = load_zarr()
    group = zarr.open_group(str(path), mode="a", zarr_format=3)
    checked = [zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), zarr.codecs.Crc32cCodec()]
    for part in parts:
        group.create_array(
            part.name,
            shape=(len(part.layers), len(rows[part.stack]), part.width),
            chunks=(1, window_rows, part.width),
            shards=(len(part.layers), window_rows, part.width),
            dtype=part.dtype,
            compressors=checked,
            fill_value=float("nan"),
            config={"write_empty_chunks": True},
            overwrite=True,
        )
    for stack, values in rows.items():
        array = group.create_array(
            f"{stack}_rows", shape=values.shape, dtype="int64", compressors=checked, fill_value=-1, overwrite=True
        )
        array[:] = values


def open_store(path: str | Path) -> ActivationStore:
    """Open a store.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is of another kind, damaged, or newer than this gelora.
    """
    folder = Path(path)
    try:
        text = (folder / META_FILE).read_text(encoding="utf-8", errors="replace")  # which JSON then is not
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"`store`: there is no store in {str(path)!r}; `gelora estimate --store` makes one"
        ) from error
    meta = read_meta(text, f"`store`: {str(folder / META_FILE)!r}")
    try:
        return ActivationStore(folder, meta)
    except Exception as error:  # zarr's errors depend on what is damaged
        raise ValueError(f"`store`: {str(path)!r} is damaged ({error}): remove it, and it is made again") from error
