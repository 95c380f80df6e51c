"""What happens to ``gelora estimate --store`` when it is killed, cut short, damaged or run at the wrong time.

Run by ``python tests/benchmarks/faults.py [--data FOLDER]``, with a folder of GLUE files or the built-in corpus; writes
``docs/benchmarks/faults.json`` and the page ``faults.md``. ``--only NAME`` provokes one fault and leaves the others.
Full disks and read-only folders are file systems in memory, which it takes root to mount.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Before anything loads a library: runs share the cores, and their numbers depend on the threads.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from fault_runs import N_TEXTS, PRELOADED, SERVER, Bench, Case, in_turn, watch, windows_at
from faults_harm import damage_metadata, damage_windows
from faults_page import page
from faults_places import full_disk, read_only, wrong_clock

from gelora.files import atomic_path, make_folder, to_json
from gelora.provenance import package_versions

OUTPUT = Path("docs/benchmarks")
NAMES = (
    "extraction", "again", "estimation", "interrupt", "terminate", "disk", "read_only", "windows", "metadata", "two",
    "clock", "memory",
)  # fmt: skip
Outcome = dict[str, Any]


def sentences(data: Path | None) -> list[str]:
    """Return sentences of CoLA and SST-2, or of the built-in corpus."""
    if data is None:
        from gelora.builtin_corpus import builtin_corpus

        return builtin_corpus(n_train=N_TEXTS, n_validation=0).train.texts
    import pandas as pd

    half = N_TEXTS // 2
    parts = [pd.read_parquet(data / task / "train.parquet")["sentence"].head(half) for task in ("cola", "sst2")]
    return [" ".join(text.split()) for part in parts for text in part]


def prepare(bench: Bench) -> Outcome:
    """Make what all runs are held against: one undisturbed run, and a store that holds points alone."""
    from fault_runs import TEXT_LENGTH, digests, numbers

    from gelora.representations import extract_representations

    bench.start(bench.case()).wait()  # caches of the file system
    case = bench.case()
    run = bench.start(case)
    while run.alive:
        if len(windows_at(case.store)) == 8 and not bench.seconds["extraction"]:
            bench.seconds["extraction"] = time.perf_counter() - run.started
        time.sleep(0.005)
    bench.seconds["whole"] = time.perf_counter() - run.started
    if run.wait():
        raise RuntimeError(run.said)
    bench.points, bench.profile = digests(case.store), numbers(case.output)
    extract_representations(
        bench.model, bench.data, n_samples=None, max_length=TEXT_LENGTH, layers=[1], store=bench.complete,
        progress=False,
    )  # fmt: skip
    on = bench.complete_case()
    run = bench.start(on)
    run.wait()
    bench.seconds["estimation"] = time.perf_counter() - run.started
    if digests(bench.complete) != bench.points or not bench.is_same(on):
        raise RuntimeError(f"undisturbed runs differ: {run.said}")
    return {
        "texts": N_TEXTS,
        "windows": len(windows_at(case.store)),
        "seconds": {k: round(v, 2) for k, v in bench.seconds.items()},
    }


def gone_on(bench: Bench, case: Case, code: int, said: str) -> Outcome:
    """Run a case that something ended once more, and say what of it was kept and whether the result is right."""
    before, whole, (_, left) = windows_at(case.store), bench.is_whole(case), case.profiles()
    run = bench.start(case)
    ended, after = run.wait(), windows_at(case.store)
    outcome = {
        "ended": code,
        "said": said,
        "kept": len(before),
        "again": sum(after.get(name) != form for name, form in before.items()),
        "half_profile": not whole,
        "left": left,
        "completed": ended == 0,
        "same": bench.is_same(case),
        "second": run.errors,
    }
    case.remove()
    return outcome


def _summed(outcomes: list[Outcome], ended: str) -> Counter[str]:
    return Counter(
        {
            ended: len(outcomes),
            "the same call then completed": sum(one["completed"] for one in outcomes),
            "windows kept": sum(one["kept"] for one in outcomes),
            "of them made again": sum(one["again"] for one in outcomes),
            "half-written profiles": sum(one["half_profile"] for one in outcomes),
        }
    )


def killed(bench: Bench, kills: int, workers: int, *, estimation: bool) -> dict[str, Any]:
    """Kill extraction, or estimation on a complete store, at random moments, and call again."""
    phase = "estimation" if estimation else "extraction"

    def one(number: int) -> Outcome:
        after = bench.draw(phase, number).uniform(0.0, bench.seconds[phase])
        case = bench.complete_case() if estimation else bench.case()
        run = bench.start(case)
        return gone_on(bench, case, run.stop(signal.SIGKILL, after), "") | {"after": round(after, 3)}

    outcomes = in_turn(workers, one, kills)
    counts = _summed(outcomes, "killed")
    counts["killed"] = sum(outcome["ended"] == -signal.SIGKILL for outcome in outcomes)
    counts["ended before the kill"] = len(outcomes) - counts["killed"]
    return _entry(f"`kill -9` at a random moment of {phase}", len(outcomes), counts, outcomes)


def killed_again_and_again(bench: Bench, workers: int) -> dict[str, Any]:
    """Kill one run until it ends before its kill."""

    def one(number: int) -> Outcome:
        draw, case, n_kills, lost = bench.draw("again", number), bench.case(), 0, 0
        known: dict[str, tuple[int, int]] = {}
        while n_kills < 60:
            code = bench.start(case).stop(signal.SIGKILL, draw.uniform(0.2, 0.6) * bench.seconds["extraction"])
            found = windows_at(case.store)
            lost += sum(found.get(name) != form for name, form in known.items())
            known = found
            if code == 0 or len(known) == 8:
                break
            n_kills += 1
        return gone_on(bench, case, code, "") | {"kills": n_kills, "again": lost}

    outcomes = in_turn(workers, one, 2)
    counts = _summed(outcomes, "runs")
    counts["kills"] = sum(outcome["kills"] for outcome in outcomes)
    return _entry("one run killed, called, killed … until its windows are there", len(outcomes), counts, outcomes)


def told_to_stop(bench: Bench, number: int, name: str, tries: int, workers: int) -> dict[str, Any]:
    """Send a signal at random moments of the whole run, and call again."""

    def one(index: int) -> Outcome:
        case = bench.case()
        run = bench.start(case)
        code = run.stop(number, bench.draw(name, index).uniform(0.1, 0.95) * bench.seconds["whole"])
        return gone_on(bench, case, code, run.said[-600:])

    outcomes = in_turn(workers, one, tries)
    counts = _summed(outcomes, "stopped")
    counts["stopped"] = sum(outcome["ended"] != 0 for outcome in outcomes)
    for code, times in sorted(Counter(outcome["ended"] for outcome in outcomes).items()):
        counts[f"exit code {code}"] = times
    counts["tracebacks"] = sum("Traceback" in outcome["said"] for outcome in outcomes)
    counts["said so"] = sum("gelora: interrupted" in outcome["said"] for outcome in outcomes)
    counts["temporary files left"] = sum(outcome["left"] for outcome in outcomes)
    for outcome in outcomes:
        outcome["said"] = "\n".join(line for line in outcome["said"].splitlines() if line.startswith("gelora: "))
    return _entry(f"{name} at a random moment", tries, counts, outcomes)


def two_at_once(bench: Bench, tries: int) -> dict[str, Any]:
    """Start two runs on one store."""

    def one(number: int) -> Outcome:
        case, other = bench.case(), bench.case()
        other.store = case.store
        runs = [bench.start(case), bench.start(other)]
        seen = watch(runs, case.store)
        outcome = {
            "completed": sum(run.wait() == 0 for run in runs),
            "waited": sum("waiting for it to end" in run.said for run in runs),
            "twice": sum(len(forms) > 1 for forms in seen.values()),
            "same": bench.is_same(case) and bench.is_same(other),
            "said": [run.errors for run in runs],
        }
        case.remove()
        other.remove()
        return outcome

    outcomes = in_turn(1, one, tries)
    counts = Counter(
        {
            "runs that completed": sum(one["completed"] for one in outcomes),
            "said that they wait": sum(one["waited"] for one in outcomes),
            "windows made twice": sum(one["twice"] for one in outcomes),
        }
    )
    return _entry("two runs on one store at once", tries, counts, outcomes)


def out_of_memory(bench: Bench, workers: int) -> dict[str, Any]:
    """Let memory run out above 9 texts a batch, kill the run, and go on with enough memory."""
    from fault_runs import digests

    of_eight = bench.case()
    bench.start(of_eight, "--batch-size", "8").wait()
    wanted = digests(of_eight.store)
    of_eight.remove()

    def one(number: int) -> Outcome:
        case = bench.case()
        after = bench.draw("memory", number).uniform(0.5, 1.0) * bench.seconds["extraction"]
        run = bench.start(case, memory_for=9)
        run.stop(signal.SIGKILL, after)
        kept, halved = len(windows_at(case.store)), "going on with 8" in run.said
        code = bench.start(case).wait()
        outcome = {"kept": kept, "halved": halved, "completed": code == 0, "same": digests(case.store) == wanted}
        case.remove()
        return outcome

    outcomes = in_turn(workers, one, 3)
    counts = Counter(
        {
            "batches halved to 8": sum(one["halved"] for one in outcomes),
            "windows kept": sum(one["kept"] for one in outcomes),
            "the same call then completed": sum(one["completed"] for one in outcomes),
        }
    )
    return _entry("memory for 9 texts a batch of 32, a kill, then memory for all", len(outcomes), counts, outcomes)


def _entry(fault: str, tries: int, counts: Counter[str], outcomes: list[Outcome]) -> dict[str, Any]:
    return {"fault": fault, "tries": tries, "counts": dict(counts), "outcomes": outcomes}


def faults(bench: Bench, kills: int, workers: int) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """Return what is provoked, by name."""
    return {
        "extraction": lambda: [killed(bench, kills, workers, estimation=False)],
        "again": lambda: [killed_again_and_again(bench, workers)],
        "estimation": lambda: [killed(bench, kills, workers, estimation=True)],
        "interrupt": lambda: [told_to_stop(bench, signal.SIGINT, "Ctrl-C", 5, workers)],
        "terminate": lambda: [told_to_stop(bench, signal.SIGTERM, "`SIGTERM`", 5, workers)],
        "disk": lambda: full_disk(bench),
        "read_only": lambda: read_only(bench),
        "windows": lambda: damage_windows(bench, workers),
        "metadata": lambda: damage_metadata(bench, workers),
        "two": lambda: [two_at_once(bench, 3)],
        "clock": lambda: wrong_clock(bench, workers),
        "memory": lambda: [out_of_memory(bench, workers)],
    }


def write(
    options: argparse.Namespace, reference: Outcome, found: list[dict[str, Any]], seconds: float, work: str
) -> None:
    """Write the counts and their page, beside those of the faults that were not asked for."""
    make_folder(OUTPUT)
    command = "python tests/benchmarks/faults.py" + (" --data FOLDER" if options.data else "")
    if options.only and (OUTPUT / "faults.json").exists():
        known = json.loads((OUTPUT / "faults.json").read_text(encoding="utf-8"))
        reference, seconds = known["reference"], known["seconds"]
        command = f"{known['command']}, then --only {' '.join(options.only)}"
        found += [entry for entry in known["faults"] if entry["name"] not in options.only]
        found.sort(key=lambda entry: NAMES.index(entry["name"]))
    result = {
        "reference": reference,
        "data": "CoLA and SST-2" if options.data else "the built-in corpus",
        "faults": found,
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "command": command,
        "machine": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, no GPU",
        "versions": package_versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    for path, text in (
        (OUTPUT / "faults.json", to_json(result, indent=1).replace(work, "FOLDER") + "\n"),
        (OUTPUT / "faults.md", page(result)),
    ):
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Provoke, count and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cola/ and sst2/; by default the built-in corpus")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="tries at once")
    parser.add_argument(
        "--only", choices=NAMES, action="append", help="provoke this fault and leave the others as they were measured"
    )
    options = parser.parse_args()
    SERVER.set_forkserver_preload(list(PRELOADED))
    began, found = time.perf_counter(), []
    work = Path(tempfile.mkdtemp(prefix="gelora-faults-"))
    try:
        bench = Bench(work, sentences(options.data), options.seed)
        reference = prepare(bench)
        sys.stdout.write(f"{reference}\n")
        for name, provoke in faults(bench, options.kills, options.workers).items():
            if options.only and name not in options.only:
                continue
            started = time.perf_counter()
            entries = [{"name": name} | entry for entry in provoke()]
            for entry in entries:
                entry["same"] = sum(bool(one.get("same")) for one in entry["outcomes"])
                entry["same_of"] = sum(one.get("same") is not None for one in entry["outcomes"])
                shown = {k: v for k, v in entry.items() if k != "outcomes" or options.only}
                sys.stdout.write(f"{json.dumps(shown, indent=1 if options.only else None)}\n")
            sys.stdout.write(f"{name}: {time.perf_counter() - started:.0f} s\n")
            sys.stdout.flush()
            found += entries
    finally:
        shutil.rmtree(work, ignore_errors=True)
    write(options, reference, found, time.perf_counter() - began, str(work))


if __name__ == "__main__":
    main()
