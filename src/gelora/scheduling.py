"""Run the tasks of an estimation: in threads, on the workers of dask.distributed, or one after the other."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gelora.messages import nearest

SERIAL, THREADS = "serial", "threads"
# Searches use all cores by themselves; threads are for what they leave idle.
_MOST_THREADS = 4
_SCHEMES = ("tcp://", "tls://", "ucx://", "ws://", "wss://", "inproc://")


class Scheduler:
    """Makes tasks, which may take the results of others, and gets their results.

    Parameters
    ----------
    scheduler : str, optional
        ``"threads"``, ``"serial"``, or the address of a dask scheduler, as in ``"tcp://host:8786"``. By default the
        ``dask.distributed`` client that is active in this process, if there is one, else threads; without dask
        everything runs in turn.
    patience : float
        Seconds to wait for a scheduler to answer.

    Raises
    ------
    ValueError
        If it is none of these.
    ImportError
        If dask, or distributed, is needed and not installed.
    OSError
        If no scheduler answers at the address.
    """

    def __init__(self, scheduler: str | None = None, patience: float = 10.0) -> None:
        self._client: Any = None
        self._own_client = False
        check_scheduler(scheduler)
        if scheduler is None:
            self._client = _active_client()
            self.kind = "distributed" if self._client is not None else THREADS if _has("dask") else SERIAL
        elif scheduler in (SERIAL, THREADS):
            self.kind = scheduler
        else:
            self.kind = "distributed"
            self._client, self._own_client = _connect(scheduler, patience), True
        if self.kind == THREADS and not _has("dask"):
            raise ImportError("`scheduler='threads'` needs dask, which is not installed: pip install 'gelora[scale]'")

    @property
    def remote(self) -> bool:
        """Whether tasks run in other processes."""
        return self.kind == "distributed"

    def send(self, value: Any) -> Any:
        """Return a stand-in for a large array that several tasks take."""
        return self._client.scatter(value) if self.remote else value

    def task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the task of calling ``function``, or its result where everything runs in turn."""
        if self.kind == SERIAL:
            return function(*arguments)
        delayed: Any = importlib.import_module("dask.delayed")
        called = _Packed(function) if self.remote else function
        return delayed.delayed(called, pure=False)(*arguments)

    def results(self, tasks: Sequence[Any], advance: Callable[[], object]) -> list[Any]:
        """Return what came of ``tasks``, calling ``advance`` as each ends.

        A task whose worker dies is run by another one.
        """
        if self.kind == SERIAL:
            for _ in tasks:
                advance()
            return list(tasks)
        if not self.remote:
            dask: Any = importlib.import_module("dask")
            counted = [self.task(_Counted(advance), task) for task in tasks]
            # Threads of our own: those that dask keeps do not live in a process that is forked off.
            with ThreadPoolExecutor(n_threads()) as pool:
                return list(dask.compute(*counted, scheduler="threads", pool=pool))
        distributed: Any = importlib.import_module("distributed")
        futures = self._client.compute(list(tasks))
        try:
            for _ in distributed.as_completed(futures, loop=self._client.loop):
                advance()
            return list(self._client.gather(futures))
        except BaseException:
            self._client.cancel(futures)
            raise

    def close(self) -> None:
        """Leave the scheduler, if it was joined for this."""
        if self._own_client:
            self._client.close()


def check_scheduler(scheduler: str | None) -> None:
    """Raise ValueError unless this names a scheduler, or is None: before long work, whose end it may be used at."""
    if scheduler not in (None, SERIAL, THREADS) and not str(scheduler).startswith(_SCHEMES):
        raise ValueError(
            f"`scheduler` must be 'threads', 'serial' or the address of a dask scheduler such as "
            f"'tcp://host:8786', got {scheduler!r}{nearest(str(scheduler), (SERIAL, THREADS))}"
        )


class _Packed:
    """A function that is unpacked by the task itself: what a worker cannot import is an error of the task.

    Unpacked with the message that brings it, it would end the worker, and its successors, again and again.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        cloudpickle: Any = importlib.import_module("cloudpickle")
        self._bytes: bytes = cloudpickle.dumps(function)

    def __call__(self, *arguments: Any) -> Any:
        cloudpickle: Any = importlib.import_module("cloudpickle")
        return cloudpickle.loads(self._bytes)(*arguments)


class _Counted:
    """Hands a result on and says that it is there."""

    def __init__(self, advance: Callable[[], object]) -> None:
        self._advance = advance

    def __call__(self, result: Any) -> Any:
        self._advance()
        return result


def n_threads() -> int:
    """Return how many tasks run at once in threads."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, available))


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _active_client() -> Any:
    """Return the client of dask.distributed that the caller has made, without importing what is not in use."""
    # Another thread may be importing it at this moment: then nobody has a client yet.
    default_client = getattr(sys.modules.get("distributed"), "default_client", None)
    if default_client is None:
        return None
    try:
        return default_client()
    except ValueError:
        return None


def _connect(address: str, patience: float) -> Any:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError(
            f"`scheduler={address!r}` needs dask.distributed, which is not installed: pip install 'gelora[scale]'"
        ) from error
    try:
        return distributed.Client(address, timeout=patience, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise OSError(
            f"`scheduler`: no dask scheduler answers at {address!r} ({error}): start one, or mend it"
        ) from error
