"""Clouds beyond memory: neighbours and spanning trees of a memory map, in a fixed amount of memory.

Run by ``python tests/benchmarks/large_clouds.py``; writes ``large_clouds.json`` and ``large_clouds.png`` to
``docs/benchmarks``. Each cloud lies in a file, and the process that searches it may have a fixed amount of anonymous
memory more than it starts with, by ``RLIMIT_DATA``: what does not fit ends in an error.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gelora.files import atomic_path, to_json
from gelora.provenance import package_versions

WIDTH, DIMENSION = 2048, 12
SIZES = (10_000, 20_000, 40_000, 80_000)
ROOM = 512 * 2**20
OUTPUT = Path("docs/benchmarks")

MEASURE = """
import json, resource, sys, threading, time
import numpy as np, torch
from gelora_estimators import TwoNN, nearest_distances
from gelora_estimators.spanning_tree import minimum_spanning_tree

small = np.random.default_rng(1).normal(size=(3000, 64))
TwoNN()(small, rng=np.random.default_rng(0))
minimum_spanning_tree(small)


def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return 1024 * int(line.split()[1])


path, n, width, room, tree = sys.argv[1], *map(int, sys.argv[2:])
points = np.memmap(path, dtype=np.float32, mode="r", shape=(n, width))
before, resident = status("VmData"), status("RssAnon")
resource.setrlimit(resource.RLIMIT_DATA, (before + room, before + room))
peak, ended = [resident], threading.Event()


def watch():
    while not ended.wait(0.02):
        peak[0] = max(peak[0], status("RssAnon"))


watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
one = TwoNN()(points, rng=np.random.default_rng(0))
middle = time.perf_counter()
length = float(minimum_spanning_tree(points).lengths.sum()) if tree else None
found = {"n": n, "twonn": one.dimension, "search_seconds": middle - began, "tree_length": length}
if tree:
    found["tree_seconds"] = time.perf_counter() - middle
ended.set()
watcher.join()
print(json.dumps(found | {"peak": peak[0] - resident}))
"""


def write_cloud(n: int, path: Path) -> None:
    """Write a curved cloud of known dimension in a wide space, with a little noise, block by block."""
    rng = np.random.default_rng(0)
    planes, phases = rng.normal(size=(DIMENSION, WIDTH)), rng.random(WIDTH) * 6.0
    with path.open("wb") as file:
        for start in range(0, n, 4096):
            inner = rng.random((min(4096, n - start), DIMENSION))
            points = np.sin(inner @ planes * 0.5 + phases) + 1e-3 * rng.normal(size=(len(inner), WIDTH))
            file.write(points.astype(np.float32).tobytes())


def measure(n: int, folder: Path, tree: bool) -> dict[str, Any]:
    """Search one cloud in a process of its own."""
    path = folder / "points"
    write_cloud(n, path)
    words = [str(path), str(n), str(WIDTH), str(ROOM), str(int(tree))]
    run = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    found: dict[str, Any] = json.loads(run.stdout) | {"cloud_bytes": path.stat().st_size}
    found["search_gflops"] = 2.0 * n * n * (WIDTH + 2) / found["search_seconds"] / 1e9
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw memory and time against the number of points."""
    from matplotlib.figure import Figure

    from gelora.palette import COLORS

    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    n = [row["n"] for row in rows]
    left.plot(n, [row["cloud_bytes"] / 2**20 for row in rows], "s--", color="0.5", label="the cloud, on disk")
    left.plot(n, [row["peak"] / 2**20 for row in rows], "o-", color=COLORS[0], label="memory taken")
    left.set(xscale="log", yscale="log", xlabel="points", ylabel="MiB")
    left.legend(frameon=False)
    right.plot(n, [row["search_seconds"] for row in rows], "o-", color=COLORS[0], label="neighbours")
    trees = [row for row in rows if "tree_seconds" in row]
    right.plot([row["n"] for row in trees], [row["tree_seconds"] for row in trees], "o-", color=COLORS[1], label="tree")
    right.set(xscale="log", yscale="log", xlabel="points", ylabel="seconds")
    right.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--largest-tree", type=int, default=40_000)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in arguments.sizes:
            rows.append(measure(n, Path(folder), n <= arguments.largest_tree))
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    found = {
        "width": WIDTH,
        "dimension": DIMENSION,
        "room": ROOM,
        "rows": rows,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": package_versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    with atomic_path(OUTPUT / "large_clouds.json") as temporary:
        temporary.write_text(to_json(found, indent=1) + "\n", encoding="utf-8")
    draw(rows, OUTPUT / "large_clouds.png")


if __name__ == "__main__":
    main()
