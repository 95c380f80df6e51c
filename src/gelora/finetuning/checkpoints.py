"""A run's folder: what it holds, whether it may be continued, and from where."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gelora.files import atomic_path, check_folder, make_folder, read_json
from gelora.masking import masked

RUN_FILE = "run.json"
RECORD_FILE = "record.nc"
PREDICTIONS_FILE = "predictions.parquet"
ADAPTER_FOLDER = "adapter"
CHECKPOINT_FOLDER = "checkpoints"
SCHEMA = "gelora-finetuning-run"
STATE_FILE = "trainer_state.json"
SEAL_FILE = "checksums.json"


def open_run(output_dir: str | Path, resume: bool) -> Path:
    """Check that a run can have the folder, without making it; with ``resume=False`` it must not hold one yet.

    Raises
    ------
    NotADirectoryError, PermissionError
        If it cannot be written into.
    ValueError
        If it holds results that this call would overwrite.
    """
    folder = Path(output_dir)
    check_folder(folder)
    ours = (RUN_FILE, RECORD_FILE, PREDICTIONS_FILE, ADAPTER_FOLDER, CHECKPOINT_FOLDER)
    held = [name for name in ours if (folder / name).exists()]
    if held and not resume:
        raise ValueError(
            f"`output_dir` {str(folder)!r} holds a run already ({', '.join(held)}): give a fresh folder, or "
            "resume=True to continue the same run"
        )
    if held and RUN_FILE not in held:
        raise ValueError(
            f"`output_dir` {str(folder)!r} holds {', '.join(held)} of something else than a gelora run: "
            "give a fresh folder"
        )
    return folder


def claim_run(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Make the folder and write down the arguments of this run, or check that they are those of the run it holds.

    Raises
    ------
    ValueError
        If they differ, naming the first differences.
    """
    make_folder(folder)
    wanted = json.loads(masked(json.dumps(arguments, default=str)))
    file = folder / RUN_FILE
    if not _checkpoints(folder) and not (folder / RECORD_FILE).exists():
        with atomic_path(file) as temporary:  # nothing to continue yet
            text = json.dumps({"schema": SCHEMA, "arguments": wanted}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        return
    stored = _read_json(file).get("arguments", {})
    differences = [
        f"{name} was {stored.get(name)!r:.80}, is {wanted.get(name)!r:.80}"
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"`output_dir` {str(folder)!r} holds a run with other arguments ({'; '.join(differences[:5])}): "
            "give a fresh folder, or the same arguments to continue that run"
        )


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the checksum of every file of a checkpoint into it: it is whole from then on."""
    sums = {
        file.relative_to(checkpoint).as_posix(): _checksum(file)
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != SEAL_FILE
    }
    with atomic_path(checkpoint / SEAL_FILE) as temporary:
        temporary.write_text(json.dumps(sums, indent=1), encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, None where there is none.

    Warns
    -----
    UserWarning
        If a newer one was not written to its end, or has changed since.
    """
    for checkpoint in _checkpoints(folder):
        fault = _fault(checkpoint)
        if not fault:
            return checkpoint
        warnings.warn(
            f"the checkpoint {checkpoint.name!r} of {str(folder)!r} is damaged ({fault}): the one before it is used, "
            "or the run starts again where there is none",
            stacklevel=2,
        )
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, newest first."""
    found = [path for path in (folder / CHECKPOINT_FOLDER).glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]), reverse=True)


def _fault(checkpoint: Path) -> str:
    """Return what is wrong with a checkpoint, empty if it is as it was sealed."""
    sums = _read_json(checkpoint / SEAL_FILE)
    if not sums:
        return "it was not written to its end"
    # What lies there is looked up in the list, never the other way: that may name files anywhere.
    held = {file.relative_to(checkpoint).as_posix(): file for file in checkpoint.rglob("*")}
    for name, expected in sums.items():
        file = held.get(name, checkpoint)
        if not file.is_file():
            return f"{name} is missing"
        if _checksum(file) != expected:
            return f"{name} has changed since"
    return ""


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the trainer's state in ``checkpoint``, empty where it is absent or cut off."""
    return _read_json(checkpoint / STATE_FILE)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
