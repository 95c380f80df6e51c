"""Full disks, folders that may not be written to, and clocks that are wrong, for the benchmark of faults."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault_runs import Bench, Case, Run, files_at, in_turn, windows_at

NOBODY = 65534
TEN_YEARS = 315_576_000.0


def _mount(*words: str) -> bool:
    return os.geteuid() == 0 and subprocess.run(["mount", *words], capture_output=True).returncode == 0


@contextmanager
def _memory_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a file system in memory of so many bytes; False where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _clear(run: Run, code: int, words: str) -> bool:
    return code == 1 and words in run.errors and "Traceback" not in run.said


def full_disk(bench: Bench) -> list[dict[str, Any]]:
    """Give the store a disk that is too small, then room; then the profile."""
    size = sum(file.stat().st_size for file in bench.complete.rglob("*") if file.is_file())
    outcomes = []
    for share in (0.001, 0.05, 0.3, 0.6, 0.9, 0.99):
        case = bench.case()
        with _memory_disk(case.store, max(int(share * size), 4096)) as mounted:
            if not mounted:
                return [_not_tried("disk full")]
            run = bench.start(case)
            code, kept = run.wait(), windows_at(case.store)
            outcome = {"share": share, "clear": _clear(run, code, "No space left"), "kept": len(kept)}
            outcome["said"] = run.errors or run.said[-800:]
            _mount("-o", f"remount,size={4 * size}", str(case.store))
            second = bench.start(case)
            outcome["completed"] = second.wait() == 0
            outcome["again"] = sum(windows_at(case.store).get(name) != form for name, form in kept.items())
            outcomes.append(outcome | {"same": bench.is_same(case), "second": second.errors})
        case.remove()
    counts = {
        "ended with the error and what to do": sum(one["clear"] for one in outcomes),
        "windows kept": sum(one["kept"] for one in outcomes),
        "of them made again": sum(one["again"] for one in outcomes),
        "the same call completed with room": sum(one["completed"] for one in outcomes),
    }
    how = "disk full at 0.1 to 99 % of the store (file system in memory)"
    return [
        {"fault": how, "tries": len(outcomes), "counts": counts, "outcomes": outcomes},
        _full_disk_of_the_profile(bench),
    ]


def _full_disk_of_the_profile(bench: Bench) -> dict[str, Any]:
    case = bench.complete_case()
    folder = case.folder / "profiles"
    case.output = folder / "profile.nc"
    with _memory_disk(folder, 8192):
        run = bench.start(case)
        code = run.wait()
        clear, whole = _clear(run, code, "No space left"), bench.is_whole(case)
        left = len(list(folder.iterdir()))
        _mount("-o", "remount,size=16m", str(folder))
        completed = bench.start(case).wait() == 0
        same = bench.is_same(case)
    case.remove()
    outcome = {"said": run.errors or run.said[-800:], "clear": clear, "same": same, "completed": completed}
    counts = {
        "ended with the error": int(clear),
        "half-written profiles": int(not whole),
        "files left": left,
        "the same call completed with room": int(completed),
    }
    return {"fault": "disk of the profile full", "tries": 1, "counts": counts, "outcomes": [outcome]}


def _not_tried(fault: str) -> dict[str, Any]:
    return {"fault": fault, "tries": 0, "counts": {"not tried: mounting needs root": 1}, "outcomes": []}


def read_only(bench: Bench) -> list[dict[str, Any]]:
    """Put no store, part of one and a whole one where nothing can be written."""
    outcomes = []
    for what in ("none", "part", "whole"):
        for way in ("read-only file system", "another user's folder"):
            case = bench.case()
            with _memory_disk(case.store, 2**30) as mounted:
                if not mounted:
                    return [_not_tried("read-only folder")]
                if what != "none":
                    shutil.copytree(bench.complete, case.store, dirs_exist_ok=True)
                if what == "part":
                    for mark in sorted((case.store / "windows").glob("*.json"))[3:]:
                        mark.unlink()
                outcomes.append({"holds": what, "way": way} | _refused(bench, case, way))
                _mount("-o", "remount,rw", str(case.store))
                second = bench.start(case)
                outcomes[-1] |= {"completed": second.wait() == 0, "same": bench.is_same(case)}
            case.remove()
    counts = {
        "refused with what to do": sum(one["clear"] for one in outcomes),
        "files changed": sum(one["changed"] for one in outcomes),
        "the same call completed with rights": sum(one["completed"] for one in outcomes),
    }
    how = "folder that may not be written to: read-only mount, another user's"
    return [{"fault": how, "tries": len(outcomes), "counts": counts, "outcomes": outcomes}]


def _refused(bench: Bench, case: Case, way: str) -> dict[str, Any]:
    before, kept = files_at(case.store), case.output
    if way == "read-only file system":
        _mount("-o", "remount,ro", str(case.store))
        run = bench.start(case)
    else:
        case.output = bench.work / f"{case.folder.name}.out" / "profile.nc"  # of the other user
        case.output.parent.mkdir()
        os.chown(case.output.parent, NOBODY, NOBODY)
        run = bench.start(case, user=NOBODY)
    code = run.wait()
    case.output = kept
    after = files_at(case.store)
    changed = sum(after.get(name) != before.get(name) for name in {*before, *after})
    return {"clear": _clear(run, code, str(case.store)), "changed": changed, "said": run.errors or run.said[-800:]}


def wrong_clock(bench: Bench, workers: int) -> list[dict[str, Any]]:
    """Run ten years late and early, on stores of today, and on stores whose files are of other years."""
    entries = [_wrong_times(bench, workers)]
    if shutil.which("faketime") is None:
        return [*entries, _not_tried("clock ten years off (needs faketime)")]

    def one(number: int) -> dict[str, Any]:
        shift, part = ("+10y", "-10y")[number % 2], number // 2 == 1
        case = bench.case() if part else bench.complete_case()
        if part:
            after = bench.draw("clock", number).uniform(0.5, 0.9) * bench.seconds["extraction"]
            bench.start(case).stop(signal.SIGKILL, after)
        before = windows_at(case.store)
        run = bench.start(case, fresh=["faketime", "--exclude-monotonic", "-f", shift])
        return _compared(bench, case, run, before) | {"shift": shift}

    outcomes = in_turn(workers, one, 4)
    ours = time.gmtime().tm_year
    jumped = sum(str(one["created"])[:4] != str(ours) for one in outcomes)
    fault = "clock ten years late or early (faketime), on a whole store and on part of one"
    entries.append({"fault": fault, "tries": 4, "counts": _counts(outcomes) | {"profiles dated so": jumped}})
    entries[-1]["outcomes"] = outcomes
    return entries


def _wrong_times(bench: Bench, workers: int) -> dict[str, Any]:
    def one(number: int) -> dict[str, Any]:
        case = bench.complete_case()
        files: Sequence[Path] = list(case.store.rglob("*"))
        for position, file in enumerate(files):
            sign = (1, -1, (-1) ** position)[number]
            os.utime(file, (time.time() + sign * TEN_YEARS,) * 2)
        before = windows_at(case.store)
        return _compared(bench, case, bench.start(case), before)

    outcomes = in_turn(workers, one, 3)
    fault = "files of the store dated ten years ahead, back, and mixed"
    return {"fault": fault, "tries": 3, "counts": _counts(outcomes), "outcomes": outcomes}


def _compared(bench: Bench, case: Case, run: Run, before: dict[str, tuple[int, int]]) -> dict[str, Any]:
    from gelora.profile import open_profile

    code, after = run.wait(), windows_at(case.store)
    outcome = {
        "completed": code == 0,
        "kept": len(before),
        "again": sum(after.get(name) != form for name, form in before.items()),
        "created": open_profile(case.output).attrs["created"] if code == 0 else "",
        "same": bench.is_same(case),
        "said": run.errors or ("" if code == 0 else run.said[-800:]),
    }
    case.remove()
    return outcome


def _counts(outcomes: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "completed": sum(one["completed"] for one in outcomes),
        "windows kept": sum(one["kept"] for one in outcomes),
        "of them made again": sum(one["again"] for one in outcomes),
    }
