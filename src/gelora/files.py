"""Write a file whole or not at all; JSON of what NumPy made."""

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gelora.masking import masked

# Of a JSON file that is read: the largest of ours, plans and outcomes, have some megabytes.
MAX_BYTES = 64 * 2**20
# What says that there is no room: of a disk, of a user's share of it, of a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    Parameters
    ----------
    path : str or Path
        The file to write. Its folder must exist and be writable.

    Yields
    ------
    Path
        Where to write. Renamed to ``path`` on success, removed on any error.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
        If ``path`` cannot be written; nothing is left behind.
    OSError
        Where there is no room for it, naming the path; nothing is left behind.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder) / "note.txt"
    ...     with atomic_path(target) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     target.read_text()
    'whole'
    """
    target = Path(path)
    check_writable(target)
    # Beside the target: a rename is atomic only within one file system. Not mkstemp, whose files are private.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
    temporary.touch(exist_ok=False)
    try:
        with naming_full_disk(target):
            yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Let the error of a full disk name what was written: libraries leave it out, or say it in their own words.

    Raises
    ------
    OSError
        With the number of the error that was caught.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or str(error.strerror).startswith("cannot write"):
            raise
        reason = os.strerror(error.errno)
        raise OSError(error.errno, f"cannot write `{path}` ({reason}): make room, and call again") from error


def check_writable(path: str | Path) -> None:
    """Raise now if ``path`` could not be written later.

    Long work calls this first, so that a mistyped output path costs no time.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
        Naming the path and the remedy.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise IsADirectoryError(f"`{target}` is a folder: give the path of a file to write")
    if not folder.exists():
        raise FileNotFoundError(f"cannot write `{target}`: the folder `{folder}` does not exist, create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write `{target}`: `{folder}` is not a folder")
    _probe(folder, target)


def check_folder(path: str | Path) -> None:
    """Raise now if the folder ``path`` could not be made or written into later; nothing is made.

    Raises
    ------
    NotADirectoryError, PermissionError
        Naming the path and the remedy.
    """
    folder = Path(path)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"cannot write into `{folder}`: a file is in the way, give another folder")
    _probe(existing, folder)


def make_folder(path: str | Path) -> Path:
    """Make the folder ``path`` if needed and raise now if it could not be written into.

    Raises
    ------
    NotADirectoryError, PermissionError
        Naming the path and the remedy.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"cannot write into `{folder}`: a file is in the way, give another folder") from error
    except OSError as error:
        raise PermissionError(f"cannot make the folder `{folder}`: {error.strerror}, give a writable one") from error
    _probe(folder, folder)
    return folder


def _probe(folder: Path, target: Path) -> None:
    # Asking for permission bits lies on read-only and network file systems: try it.
    try:
        handle, name = tempfile.mkstemp(prefix=".gelora-", dir=folder)
    except OSError as error:
        raise PermissionError(
            f"cannot write `{target}`: the folder `{folder}` is not writable ({error.strerror}), give another path"
        ) from error
    os.close(handle)
    Path(name).unlink(missing_ok=True)


def to_json(value: Any, **options: Any) -> str:
    """Return ``value`` as JSON, NumPy's numbers as numbers and credentials masked."""
    return masked(json.dumps(value, default=lambda number: number.item(), **options))


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds, whoever wrote it.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no JSON, nests values without end, has a number of thousands of digits, or is larger than `MAX_BYTES`.
    """
    file = Path(path)
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
