"""Run all windows of an extraction: into memory, or into a store that goes on where it was cut off."""

import ctypes
import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from gelora.collecting import Cloud, Collector
from gelora.files import atomic_path, read_json, to_json
from gelora.processes import Processes
from gelora.readings import forget_readings
from gelora.store import META_FILE, ActivationStore, create, locked, open_store
from gelora.store_format import difference
from gelora.windows import IntArray, Layer, Window

HALVINGS_FILE = "batch_sizes.json"
_log = logging.getLogger("gelora")


def fill_memory(collector: Collector, window_rows: int, batch_size: int, progress: bool) -> dict[Layer, Cloud]:
    """Run everything, and return the clouds by stack and layer.

    Parameters
    ----------
    collector : Collector
        What runs the examples.
    window_rows : int
        Points of a window.
    batch_size : int
        Examples run together; halved where they do not fit into memory.
    progress : bool
        Show a bar over the points.
    """
    clouds: dict[Layer, Cloud] = {}
    windows = collector.windows(window_rows)
    with _bar(windows, progress) as bar:
        for window in windows:
            found, batch_size = run_halving(collector, window, batch_size)
            for layer, cloud in found.items():
                if layer not in clouds:
                    n_points = int(collector.offsets[layer[0]][-1])
                    clouds[layer] = np.empty((n_points, cloud.shape[1]), cloud.dtype)
                clouds[layer][window.first : window.last] = cloud
            bar.update(len(window))
    return clouds


def fill_store(
    path: Path,
    collector: Collector,
    identity: Mapping[str, Any],
    rows: Mapping[str, IntArray],
    *,
    window_rows: int,
    batch_size: int,
    processes: Processes,
    progress: bool,
) -> ActivationStore:
    """Run what a store lacks, and return it complete.

    Parameters
    ----------
    path : Path
        Folder of the store, which is made where there is none.
    collector : Collector
        What runs the examples.
    identity : mapping
        What the states depend on: a store of another identity is refused.
    rows : mapping of str to ndarray
        By stack: the data row of each point.
    window_rows, batch_size
        As for `fill_memory`; of a store that is there its own count.
    processes : Processes
        That call this together, and deal the windows among themselves.
    progress : bool
        Show a bar over the points.

    Raises
    ------
    ValueError
        If the store is of something else, naming the difference, or damaged beyond its windows.
    OSError
        If it cannot be written; what was made is kept.
    """

    def prepare() -> list[int]:
        store = _open_or_create(path, collector, identity, rows, window_rows, batch_size)
        return _missing(store, progress)

    with locked(path) if processes.first else nullcontext():
        missing = processes.agree(prepare)
        store = open_store(path)
        windows = collector.windows(int(store.meta["window_rows"]))
        own = missing[processes.index :: processes.count]
        _make(store, collector, windows, own, progress and processes.first)
        processes.wait()
    return store


def _open_or_create(
    path: Path,
    collector: Collector,
    identity: Mapping[str, Any],
    rows: Mapping[str, IntArray],
    window_rows: int,
    batch_size: int,
) -> ActivationStore:
    if not (path / META_FILE).exists():
        windows = collector.windows(window_rows)
        return create(path, identity, collector.shapes(), rows, windows, window_rows, batch_size)
    store = open_store(path)
    unlike = difference(store.meta["identity"], identity)
    if unlike:
        raise ValueError(
            f"`store`: {str(path)!r} was made with something else ({unlike}): give another folder, or remove it"
        )
    return store


def _missing(store: ActivationStore, progress: bool) -> list[int]:
    """Return the windows that are not there, or are not what their checksums say, which lose their marks."""
    done = store.done()
    with tqdm(total=len(done), desc="checking the store", unit=" windows", disable=not (progress and done)) as bar:
        damaged = store.damaged(bar.update)
    if damaged:
        _log.warning("`store`: %d of %d windows are damaged and made again", len(damaged), len(done))
        store.forget(damaged)
    missing = [number for number in range(store.n_windows) if number not in done or number in damaged]
    if missing:
        forget_readings(store.path)  # elsewhere the states may come out with other bits
    return missing


def _make(
    store: ActivationStore, collector: Collector, windows: list[Window], numbers: list[int], progress: bool
) -> None:
    """Run windows and write them."""
    sizes = _BatchSizes(store)
    missing = [windows[number] for number in numbers]
    with _bar(windows, progress, sum(len(window) for window in windows) - sum(map(len, missing))) as bar:
        for window in missing:
            began = time.perf_counter()
            before = dict(collector.n_nonfinite)
            clouds, size = run_halving(
                collector, window, sizes.of(window.number), functools.partial(sizes.halved, window.number)
            )
            counts = {f"{s}.{i}": collector.n_nonfinite[s, i] - before[s, i] for s, i in clouds}
            mark = {"batch_size": size, "seconds": round(time.perf_counter() - began, 3)}
            store.write(window, clouds, mark | {"n_nonfinite": {name: n for name, n in counts.items() if n}})
            _give_back()
            bar.update(len(window))


def _give_back() -> None:
    """Give freed memory back to the system: glibc keeps what lies between blocks in use, more with every window."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


class _BatchSizes:
    """The batch size of every window, halvings noted in the store: a call that goes on makes the same batches."""

    def __init__(self, store: ActivationStore) -> None:
        self._file = store.path / HALVINGS_FILE
        self._from = {0: int(store.meta["batch_size"])} | self._noted()

    def _noted(self) -> dict[int, int]:
        try:
            noted = read_json(self._file)
            sizes = {int(number): int(size) for number, size in noted.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise self._damaged(str(error)) from error
        if any(number < 0 or size < 1 for number, size in sizes.items()):
            raise self._damaged("a size or a window is not positive")
        return sizes

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(f"`store`: {str(self._file)!r} is damaged ({reason}): remove the store, and it is made again")

    def of(self, number: int) -> int:
        """Return the batch size of a window."""
        return min(size for first, size in self._from.items() if first <= number)

    def halved(self, number: int, size: int) -> None:
        """Note that from this window on no more than ``size`` examples are run together."""
        self._from[number] = size
        with atomic_path(self._file) as temporary:
            temporary.write_text(to_json(self._from) + "\n", encoding="utf-8")


def run_halving(
    collector: Collector, window: Window, batch_size: int, halved: Callable[[int], object] = lambda _: None
) -> tuple[dict[Layer, Cloud], int]:
    """Run a window, with half the batch size each time that memory runs out; return what came of it and the size.

    Raises
    ------
    RuntimeError
        If one example alone does not fit.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    size = batch_size
    while size:
        try:
            return collector.run(window, size), size
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        # Outside the handler, whose error holds on to what was computed; and not before each window, where most fit.
        clear_device_cache(garbage_collection=True)
        too_large, size = size, size // 2
        if size:
            _log.warning("out of memory at `batch_size` %d: going on with %d", too_large, size)
            halved(size)
    raise RuntimeError(
        "`batch_size`: memory runs out at a single example: lower `max_length`, give `precision='bfloat16'`, or "
        "spread the model over more memory by `device_map='auto'` or `quantization='nf4'`"
    )


def _bar(windows: list[Window], progress: bool, done: int = 0) -> "tqdm[Any]":
    total = sum(len(window) for window in windows)
    return tqdm(total=total, initial=done, desc="hidden states", unit=" points", disable=not progress)
