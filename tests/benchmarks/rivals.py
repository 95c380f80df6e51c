"""Put gelora beside scikit-dimension, DADApy and torchid on clouds like hidden states; write ``rivals.json``.

The cloud is a 5-sphere in 768 coordinates, 1,000 points; then the same in float32 with an offset in two coordinates,
with one row in ten copied, and with both. Time is that of TwoNN, with all that a default call returns, on 5,000 × 384
points.

Usage: python tests/benchmarks/rivals.py [--dadapy PYTHON] [--torchid PYTHON-OR-FOLDER]

scikit-dimension runs in this environment. DADApy needs NumPy below 2: give the Python of an environment of its own.
torchid needs Python 3.13: give that Python, or a folder with torchid and torchmetrics unpacked, which is put before
this path. A library that is not given keeps what the file says of it, with its date.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gelora.files import atomic_path
from gelora_estimators.clouds import sphere

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "rivals.json"
PROBE = Path(__file__).with_name("rivals_probe.py")
SEED, N, COPIES, OFFSET = 4, 1000, 100, (300.0, -1000.0)


def make_clouds() -> dict[str, np.ndarray]:
    """Return the clouds by name."""
    clean = sphere(N, 5, 768, np.random.default_rng(SEED))
    shifted = clean.copy()
    shifted[:, :2] += OFFSET
    again = np.random.default_rng(1).choice(N, COPIES, replace=False)
    rng = np.random.default_rng(2)
    curved = np.tanh(rng.standard_normal((5000, 12)) @ rng.standard_normal((12, 384)) / 4.0)
    return {
        "clean": clean,
        "offset": shifted.astype(np.float32),
        "copies": np.concatenate([clean, clean[again]]),
        "offset and copies": np.concatenate([shifted, shifted[again]]).astype(np.float32),
        "large": curved.astype(np.float32),
    }


def main() -> None:
    """Run the probe once a library and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dadapy", type=Path, help="Python of an environment with DADApy")
    parser.add_argument("--torchid", type=Path, help="Python with torchid, or a folder that holds it")
    arguments = parser.parse_args()
    here = Path(sys.executable)
    pythons = {"gelora": here, "skdim": here, "dadapy": arguments.dadapy, "torchid": arguments.torchid}
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"libraries": {}}
    with tempfile.TemporaryDirectory() as folder:
        clouds = Path(folder) / "clouds.npz"
        np.savez(clouds, **make_clouds())
        for library, python in pythons.items():
            if python is not None:
                results["libraries"][library] = probe(library, python, clouds, Path(folder))
    results |= {
        "command": "make bench-rivals DADAPY=PYTHON TORCHID=FOLDER",
        "machine": f"{os.uname().sysname} {os.uname().machine}, one thread, no GPU",
        "n": N,
        "timed": "5,000 x 384, float32",
    }
    with atomic_path(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def probe(library: str, python: Path, clouds: Path, folder: Path) -> dict[str, Any]:
    """Return what the library says, read in its own environment with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    environment = os.environ | threads
    if python.is_dir():
        environment["PYTHONPATH"], python = str(python.resolve()), Path(sys.executable)
    output = folder / f"{library}.json"
    subprocess.run([python, PROBE, library, clouds, output], check=True, env=environment, timeout=1800)
    record: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return record | {"date": datetime.now(UTC).date().isoformat()}


if __name__ == "__main__":
    main()
