"""Compare exact and approximate neighbour search: seconds, recall, and the dimension that TwoNN reads.

``python tests/benchmarks/approximate.py [--points N …]`` writes ``docs/benchmarks/approximate.json``. The clouds stand
for hidden states of width 384: a curved 12-dimensional manifold with noise. CPU seconds stand beside those of the
clock, which other work on the machine stretches. pynndescent is compiled on a small cloud first.
"""

import argparse
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gelora.files import atomic_path, to_json
from gelora.provenance import package_versions
from gelora_estimators import TwoNN, nearest_distances

OUTPUT = Path("docs/benchmarks/approximate.json")
WIDTH, LATENT, SEED = 384, 12, 0
METHODS = ("exact", "faiss", "pynndescent")


def curved_manifold(n: int) -> np.ndarray:
    """Return a Gaussian of 12 dimensions, bent by a random layer of tanh into 384 coordinates, with noise."""
    rng = np.random.default_rng(SEED)
    latent = rng.standard_normal((n, LATENT))
    hidden = np.tanh(latent @ (rng.standard_normal((LATENT, 64)) / 3.0))
    noise = 0.02 * rng.standard_normal((n, WIDTH))
    return (hidden @ (rng.standard_normal((64, WIDTH)) / 8.0) + noise).astype(np.float32)


def measure(points: np.ndarray, method: str) -> dict[str, Any]:
    """Search once and read the dimension off."""
    estimator = TwoNN(neighbors=method)
    wall, cpu = time.perf_counter(), time.process_time()
    found = nearest_distances(points, estimator.k, neighbors=method)
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    rng = np.random.default_rng(SEED)
    estimate = estimator.from_distances(
        found.distances, len(points), rng, indices=found.indices, points=points[found.rows]
    )
    return {
        "n_points": len(points),
        "neighbors": method,
        "k": estimator.k,
        **{name: round(value, 2) for name, value in seconds.items()},
        "recall": found.recall,
        "dimension": estimate.dimension,
        "standard_error": estimate.standard_error,
    }


def main() -> None:
    """Measure every size and method, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[20_000, 50_000])
    sizes = parser.parse_args().points
    nearest_distances(curved_manifold(1000), 32, neighbors="pynndescent")
    rows = [measure(curved_manifold(n), method) for n in sizes for method in METHODS]
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "width": WIDTH,
        "latent_dimension": LATENT,
        "versions": package_versions(),
        "rows": rows,
    }
    with atomic_path(OUTPUT) as temporary:
        temporary.write_text(to_json(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
