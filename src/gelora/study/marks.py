"""What tells files from others wherever they lie: known again on another machine, and seen when they change."""

import functools
import hashlib
from pathlib import Path

# Larger files are told apart by their names and sizes alone.
HASHED_BYTES = 64_000_000
MOST_FILES = 10_000


@functools.lru_cache(maxsize=256)
def mark_of(path: str) -> str:
    """Return a short hash of a file's content, or of the names, sizes and contents of a folder's files.

    What is not there, a name on the hub say, stands for itself.
    """
    place = Path(path)
    if place.is_file():
        return _short([_file_mark(place)])
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file() and not file.name.startswith("."))
        whole = len(files) <= MOST_FILES
        marks = [f"{file.relative_to(place).as_posix()} {_file_mark(file) if whole else ''}" for file in files]
        return _short(marks)
    return path


def _file_mark(file: Path) -> str:
    size = file.stat().st_size
    if size > HASHED_BYTES:
        return f"{size}"
    with file.open("rb") as stream:
        return f"{size} {hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _short(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
