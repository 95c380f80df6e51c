"""Where a result comes from: versions, fingerprints, seeds."""

import hashlib
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from gelora.messages import check_integer

RECORDED_PACKAGES = (
    "gelora",
    "torch",
    "transformers",
    "peft",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-dimension",
    "ripser",
    "giotto-ph",
    "faiss-cpu",
    "pynndescent",
    "xarray",
    "zarr",
)


def package_versions(packages: Iterable[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """Return the installed version of each package, and of Python; absent packages are left out.

    Examples
    --------
    >>> sorted(package_versions(["numpy", "no-such-package"]))
    ['numpy', 'python']
    """
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def timestamp() -> str:
    """Return the time of now in UTC, ISO 8601; ``SOURCE_DATE_EPOCH`` takes its place where set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    return now.isoformat(timespec="seconds")


def fingerprint(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of ``parts``, each preceded by its length so that no two lists collide.

    Examples
    --------
    >>> fingerprint([b"ab", b"c"]) == fingerprint([b"a", b"bc"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def generator(seed: int, *names: Any) -> np.random.Generator:
    """Return the random generator of ``seed`` for what ``names`` name.

    One generator for each (estimator, layer, …): a number does not change because something else
    was asked for too.

    Parameters
    ----------
    seed : int
        A non-negative integer.
    *names
        What the generator is for; their text, in order, is hashed into the seed.

    Examples
    --------
    >>> generator(0, "twonn", 3).integers(100) == generator(0, "twonn", 3).integers(100)
    np.True_
    """
    check_integer("seed", seed, 0)
    words = np.frombuffer(bytes.fromhex(fingerprint(str(name).encode() for name in names)), dtype=np.uint32)
    return np.random.default_rng([int(seed), *(int(word) for word in words)])
