"""Read clouds with one library and say what it gives; runs in that library's own environment.

Usage: python rivals_probe.py LIBRARY clouds.npz found.json. Imports NumPy and that library alone.
"""

import importlib.metadata
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 3
TIMED = "large"


def gelora_readings() -> dict[str, Callable[[np.ndarray], Any]]:
    from gelora_estimators import MLE, TwoNN

    rng = np.random.default_rng(0)
    return {
        "twonn": lambda points: TwoNN()(points, rng=rng),
        "twonn, no error": lambda points: TwoNN(interval="chi2")(points, rng=rng),  # from the number alone
        "mle": lambda points: MLE()(points, rng=rng),
    }


def skdim_readings() -> dict[str, Callable[[np.ndarray], Any]]:
    from skdim.id import MLE, TwoNN

    return {
        "twonn": lambda points: TwoNN().fit(points),
        "mle": lambda points: MLE(K=20).fit(points),
    }


def dadapy_readings() -> dict[str, Callable[[np.ndarray], Any]]:
    from dadapy import Data

    def two_nearest(points: np.ndarray) -> Any:
        return Data(coordinates=points.astype(np.float64), maxk=3, verbose=False, n_jobs=1).compute_id_2NN()

    return {"twonn": two_nearest}


def torchid_readings() -> dict[str, Callable[[np.ndarray], Any]]:
    from torchid.estimators import MLE, TwoNN

    return {
        "twonn": lambda points: TwoNN().fit(points),
        "mle": lambda points: MLE().fit(points, n_neighbors=20),
    }


def dimension_of(found: Any) -> float:
    """Return the dimension of whatever a library gives: a tuple, an estimate or a fitted object."""
    if isinstance(found, tuple):
        return float(found[0])
    return float(found.dimension if hasattr(found, "dimension") else found.dimension_)


def estimators_of(library: str) -> list[str]:
    """Return the names of the estimators a library offers."""
    if library == "gelora":
        points = importlib.metadata.entry_points(group="gelora.estimators")
        return sorted(point.name for point in points if not point.name.startswith("skdim:"))
    if library == "skdim":
        import skdim.id as module
    elif library == "torchid":
        import torchid.estimators as module
    else:
        from dadapy import Data

        return sorted(name for name in dir(Data) if name.startswith(("compute_id_", "return_id_scaling_")))
    return sorted(name for name in dir(module) if isinstance(getattr(module, name), type) and name[0] != "_")


READINGS = {
    "gelora": (gelora_readings, "gelora"),
    "skdim": (skdim_readings, "scikit-dimension"),
    "dadapy": (dadapy_readings, "dadapy"),
    "torchid": (torchid_readings, "torchid"),
}


def main() -> None:
    """Read every cloud by every estimator of the library named, and write what came out."""
    library, clouds, output = sys.argv[1:]
    warnings.simplefilter("ignore")
    make, distribution = READINGS[library]
    readings = make()
    warnings.simplefilter("ignore")  # importing scikit-dimension changes the filters
    found: dict[str, Any] = {name: {} for name in readings}
    with np.load(clouds, allow_pickle=False) as loaded:
        data = {name: loaded[name] for name in loaded.files}
    for name, read in readings.items():
        for cloud, points in data.items():
            if cloud != TIMED:
                found[name][cloud] = _read(read, points)
        found[name]["seconds"] = _seconds(read, data[TIMED])
    meta = importlib.metadata.metadata(distribution)
    record = {
        "version": meta["Version"],
        "python": platform.python_version(),
        "requires_python": meta["Requires-Python"] or "",
        "numpy": np.__version__,
        "estimators": estimators_of(library),
        "readings": found,
    }
    Path(output).write_text(json.dumps(record), encoding="utf-8")


def _read(read: Callable[[np.ndarray], Any], points: np.ndarray) -> float | str:
    try:
        return round(dimension_of(read(points.copy())), 4)
    except Exception as error:  # noqa: BLE001 (an error of the other library is a result)
        return f"{type(error).__name__}: {error!s:.100}"


def _seconds(read: Callable[[np.ndarray], Any], points: np.ndarray) -> float:
    read(points[:200].copy())  # compiles and warms up
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        read(points.copy())
        taken.append(time.perf_counter() - began)
    return round(float(np.median(taken)), 3)


if __name__ == "__main__":
    main()
