"""Damage to the files of a store, for the benchmark of faults."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from fault_runs import Bench, Case, files_at, in_turn, windows_at

HARMS = ("truncated", "a bit flipped", "removed")


def harm(file: Path, how: str, draw: random.Random) -> None:
    """Damage a file: cut it, flip a bit, remove it, empty it, or fill it with something else."""
    content = bytearray(file.read_bytes())
    if how == "removed":
        file.unlink()
        return
    if how == "truncated":
        content = content[: draw.randrange(len(content))]
    elif how == "a bit flipped":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif how == "emptied":
        content = bytearray()
    elif how == "overwritten":
        content = bytearray(draw.randbytes(len(content)))
    file.write_bytes(content)


def damage_windows(bench: Bench, workers: int) -> list[dict[str, Any]]:
    """Damage three windows at a time, one each way, at random places, and call again."""
    from gelora.store import open_store

    def one(number: int) -> list[dict[str, Any]]:
        draw, case = bench.draw("windows", number), bench.complete_case()
        store = open_store(case.store)
        chosen = draw.sample(range(store.n_windows), len(HARMS))
        own = [{f"windows/{n:07d}.json", *(str(f.relative_to(case.store)) for f in store.files_of(n))} for n in chosen]
        before = files_at(case.store)
        for n, how in zip(chosen, HARMS, strict=True):
            harm(store.files_of(n)[0], how, draw)
        run = bench.start(case)
        code, after = run.wait(), files_at(case.store)
        changed = {name for name, form in before.items() if after.get(name) != form}
        others, same = len(changed - set().union(*own)), bench.is_same(case)
        found = [{"made": names <= changed, "others": others, "completed": code == 0, "same": same} for names in own]
        case.remove()
        return found

    tried = in_turn(workers, one, 10)
    entries = []
    for column, how in enumerate(HARMS):
        outcomes = [one[column] for one in tried]
        counts = Counter(
            {
                "found and made again": sum(outcome["made"] for outcome in outcomes),
                "files of other windows touched": sum(outcome["others"] for outcome in outcomes),
                "completed": sum(outcome["completed"] for outcome in outcomes),
            }
        )
        entries.append(
            {"fault": f"file of a window {how}", "tries": len(tried), "counts": dict(counts), "outcomes": outcomes}
        )
    return entries


def _again(bench: Bench, case: Case) -> dict[str, Any]:
    """Call again after damage, and say whether it was mended, did no harm, or was refused so that a user can act."""
    before = windows_at(case.store)
    run = bench.start(case)
    code, after = run.wait(), windows_at(case.store)
    refused = code == 1 and "gelora: error: `store`" in run.said and "Traceback" not in run.said
    outcome = {
        "completed": code == 0,
        "refused": refused,
        "again": sum(after.get(name) != form for name, form in before.items()),
        "traceback": "Traceback" in run.said,
        "said": run.errors[:400] if refused or not code else run.said[-800:],
        "same": bench.is_same(case) if code == 0 else None,
    }
    case.remove()
    return outcome


def damage_metadata(bench: Bench, workers: int) -> list[dict[str, Any]]:
    """Damage marks, and the files that describe the store."""
    every = ("truncated", "a bit flipped", "emptied", "overwritten", "removed")
    plans = {
        "mark of a window damaged": ("mark", every * 2),
        "`gelora.json` damaged": ("gelora.json", (*every, "a bit flipped", "a bit flipped", "truncated")),
        "`zarr.json` damaged": ("zarr", every),
        "rows of the points damaged": ("rows", every),
    }
    entries = []
    for fault, (what, hows) in plans.items():

        def one(number: int, what: str = what, hows: tuple[str, ...] = hows) -> dict[str, Any]:
            draw, case = bench.draw(what, number), bench.complete_case()
            choices = {
                "mark": sorted((case.store / "windows").glob("*.json")),
                "gelora.json": [case.store / "gelora.json"],
                "zarr": sorted(case.store.rglob("zarr.json")),
                "rows": [f for f in sorted(case.store.glob("*_rows/c/*")) if f.is_file()],
            }[what]
            file = draw.choice(choices)
            harm(file, hows[number], draw)
            return {"file": str(file.relative_to(case.store)), "how": hows[number]} | _again(bench, case)

        outcomes = in_turn(workers, one, len(hows))
        counts = Counter(
            {
                "went on": sum(outcome["completed"] for outcome in outcomes),
                "windows made again": sum(outcome["again"] for outcome in outcomes if outcome["completed"]),
                "refused with what to do": sum(outcome["refused"] for outcome in outcomes),
                "tracebacks": sum(outcome["traceback"] for outcome in outcomes),
                "wrong results": sum(outcome["same"] is False for outcome in outcomes),
            }
        )
        entries.append({"fault": fault, "tries": len(hows), "counts": dict(counts), "outcomes": outcomes})
    return entries
