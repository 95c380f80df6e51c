"""Clouds in a memory map: neighbours, spanning trees and estimates in less memory than the cloud would take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gelora_estimators import MLE, TwoNN, nearest_distances
from gelora_estimators.spanning_tree import minimum_spanning_tree

N, WIDTH = 3000, 2048
SCRIPT = """
import json, resource, sys
import numpy as np, torch
from gelora_estimators import MLE, TwoNN, bounds, nearest_distances
from gelora_estimators.spanning_tree import minimum_spanning_tree

torch.set_num_threads(1)
bounds._COLUMN_BYTES, bounds._BLOCK_ELEMENTS = {"cpu": 2**22}, {"cpu": 2**16}
small = np.random.default_rng(1).normal(size=(300, 8))
for estimator in (TwoNN(), MLE()):  # whatever is imported or set up once
    estimator(small, rng=np.random.default_rng(0))
minimum_spanning_tree(small)
points = np.memmap(sys.argv[1], dtype=np.float32, mode="r", shape=(int(sys.argv[2]), int(sys.argv[3])))


def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
    return 1024 * int(line.split()[1])


limit = anonymous() + 3 * points.nbytes // 4
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(points)
    raise SystemExit("the limit does not bind")
except MemoryError:
    pass
found = nearest_distances(points, 3)
lengths = minimum_spanning_tree(points).lengths
made = [estimator(points, rng=np.random.default_rng(0)).dimension for estimator in (TwoNN(), MLE())]
print(json.dumps([found.distances.sum(), int(found.indices.sum()), float(lengths.sum()), *made]))
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(N, 9)) @ rng.normal(size=(9, WIDTH))).astype(np.float32)
    path = tmp_path_factory.mktemp("cloud") / "points"
    points.tofile(path)
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of anonymous memory are Linux's")
def test_a_cloud_on_disk_takes_less_memory_than_it_holds_and_gives_the_same_numbers(cloud: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cloud), str(N), str(WIDTH)],
        capture_output=True,
        text=True,
        timeout=300,
        # What is freed is given back at once: the limit is on what is held, not on what the allocator keeps for later.
        env=os.environ
        | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    points = np.fromfile(cloud, dtype=np.float32).reshape(N, WIDTH)
    found = nearest_distances(points, 3)
    made = [estimator(points, rng=np.random.default_rng(0)).dimension for estimator in (TwoNN(), MLE())]
    wanted = [found.distances.sum(), int(found.indices.sum()), minimum_spanning_tree(points).lengths.sum(), *made]
    assert json.loads(run.stdout) == wanted
