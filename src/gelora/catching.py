"""Catch warnings by thread: the filters of the `warnings` module belong to the whole process."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_LOCK = threading.Lock()
_OWN = threading.local()


class _Shared:
    """What is set aside of the process's warnings while any thread catches."""

    def __init__(self) -> None:
        self.n_catching = 0
        self.aside: Any = None
        self.filters: list[Any] = []
        self.show: Any = None
        self.shown: set[Any] = set()


_SHARED = _Shared()


@contextmanager
def caught() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what this thread warns of inside, every time it does; other threads warn as they would without.

    ``warnings.catch_warnings`` takes those of all threads, and where two threads enter and leave it by turns the
    filters of one stay for good. Here whoever comes first sets one filter aside, and the last puts it back.

    Yields
    ------
    list of warnings.WarningMessage

    Examples
    --------
    >>> with caught() as found:
    ...     warnings.warn("careful")
    >>> [str(entry.message) for entry in found]
    ['careful']
    """
    stack: list[list[warnings.WarningMessage]] = _OWN.__dict__.setdefault("stack", [])
    found: list[warnings.WarningMessage] = []
    with _LOCK:
        _SHARED.n_catching += 1
        if _SHARED.n_catching == 1:
            _SHARED.filters, _SHARED.show = list(warnings.filters), warnings.showwarning
            _SHARED.aside = warnings.catch_warnings()
            _SHARED.aside.__enter__()
            warnings.simplefilter("always")
            warnings.showwarning = _show
    stack.append(found)
    try:
        yield found
    finally:
        stack.pop()
        with _LOCK:
            _SHARED.n_catching -= 1
            if _SHARED.n_catching == 0:
                _SHARED.aside.__exit__(None, None, None)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Give a warning to the thread's own list, or do with it what the process would have done."""
    stack: list[list[warnings.WarningMessage]] = _OWN.__dict__.get("stack", [])
    if stack:
        stack[-1].append(warnings.WarningMessage(message, category, filename, lineno, file, line))
        return
    action = _action(str(message), category, filename, lineno)
    if action == "error":
        raise message if isinstance(message, Warning) else category(message)
    place = (category, str(message), None if action == "once" else (filename, lineno if action == "default" else 0))
    if action == "always" or (action != "ignore" and place not in _SHARED.shown):
        _SHARED.shown.add(place)
        _SHARED.show(message, category, filename, lineno, file, line)


def _action(text: str, category: type[Warning], filename: str, lineno: int) -> str:
    """Return what the filters that were set aside say; of the module the name of its file is known."""
    module = filename.removesuffix(".py").rsplit("/", maxsplit=1)[-1]
    for action, message, kind, name, line in _SHARED.filters:
        if (
            (message is None or message.match(text))
            and issubclass(category, kind)
            and (name is None or name.match(module))
            and line in (0, lineno)
        ):
            return str(action)
    return "default"
