"""Write the numbers that DADApy gives on a few clouds into ``dadapy_golden.json``.

DADApy needs NumPy below 2, so it runs in an environment of its own:

    python3.11 -m venv dadapy-environment
    dadapy-environment/bin/pip install dadapy==0.3.4 "numpy<2"
    dadapy-environment/bin/python tests/validation/dadapy_golden.py

Nothing of gelora is imported. The clouds are made from a seed by sums and products alone, which NumPy rounds
the same way in every version; the checksum in the file says whether they came out the same elsewhere.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("dadapy_golden.json")
SEED = 20_261_122
GRIDE_TO = 64
K, RATIO = 32, 0.6  # of the binomial estimator at fixed k
ALPHA = 1e-6  # of the test that chooses k*


def clouds() -> dict[str, np.ndarray]:
    """Return the clouds by name, (n, ambient) in float64."""
    rng = np.random.default_rng(SEED)
    line = rng.random((400, 1))
    square = rng.random((600, 2))
    cube = rng.random((500, 6))
    noisy = rng.standard_normal((500, 5)) * np.array([1.0, 1.0, 1.0, 0.02, 0.02])
    flat = rng.standard_normal((500, 2))
    latent = rng.standard_normal((400, 4))
    products = [latent[:, i] * latent[:, j] for i in range(4) for j in range(i, 4)]
    return {
        "line": np.concatenate([line, line * line], axis=1),
        "square": square,
        "cube": cube,
        "noisy Gaussian": noisy,
        "paraboloid": np.concatenate([flat, (flat * flat).sum(axis=1, keepdims=True)], axis=1),
        "quadratic": np.concatenate([latent, np.stack(products, axis=1)], axis=1),
    }


def checksum(points: np.ndarray) -> str:
    """Return the SHA-256 of the bits."""
    return hashlib.sha256(np.ascontiguousarray(points, dtype="<f8").tobytes()).hexdigest()


def measure(points: np.ndarray) -> dict[str, Any]:
    """Return what DADApy says about one cloud."""
    return {
        "checksum": checksum(points),
        "n": len(points),
        **_two_neighbors(points),
        **_gride(points),
        **_binomial(points),
        **_kstar(points),
    }


def _data(points: np.ndarray) -> Any:
    """Return a fresh object: DADApy's methods write their results and distances into it."""
    from dadapy import Data

    return Data(coordinates=points.copy(), maxk=100, verbose=False, n_jobs=1)


def _two_neighbors(points: np.ndarray) -> dict[str, Any]:
    regression = _data(points).compute_id_2NN(mu_fraction=0.9)
    likelihood = _data(points).compute_id_2NN(algorithm="ml")
    posterior = _data(points).compute_id_2NN_wprior(alpha=2, beta=5)
    mode = _data(points).compute_id_2NN_wprior(alpha=2, beta=5, posterior_mean=False)
    ids, errors, sizes = _data(points).return_id_scaling_2NN(n_min=40, return_sizes=True)
    return {
        "two_nn": {
            "regression": _floats(regression),
            "likelihood": _floats(likelihood),
            "posterior_mean": _floats(posterior),
            "posterior_mode": float(mode[0]),
        },
        "two_nn_scaling": {"dimension": _floats(ids), "error": _floats(errors), "sizes": [int(n) for n in sizes]},
    }


def _gride(points: np.ndarray) -> dict[str, Any]:
    ids, errors, radii = _data(points).return_id_scaling_gride(range_max=GRIDE_TO)
    return {"gride": {"dimension": _floats(ids), "error": _floats(errors), "mean_radius": _floats(radii)}}


def _binomial(points: np.ndarray) -> dict[str, Any]:
    """Return the binomial estimator at fixed k and at a fixed radius (the mean distance of neighbour K)."""
    data = _data(points)
    fixed_k = [data.compute_id_binomial_k(K, RATIO, bayes=bayes)[:2] for bayes in (False, True)]
    radius = round(float(data.distances[:, K].mean()), 3)
    with_all = _data(points)
    with_all.compute_distances(maxk=len(points) - 1)  # else points with more than maxk neighbours are left out
    fixed_radius = [with_all.compute_id_binomial_rk(radius, RATIO, bayes=bayes)[:2] for bayes in (False, True)]
    return {
        "binomial_k": {"k": K, "ratio": RATIO, "likelihood": _floats(fixed_k[0]), "posterior": _floats(fixed_k[1])},
        "binomial_radius": {
            "radius": radius,
            "ratio": RATIO,
            "likelihood": _floats(fixed_radius[0]),
            "posterior": _floats(fixed_radius[1]),
        },
    }


def _kstar(points: np.ndarray) -> dict[str, Any]:
    """Return k* at a given dimension, and the dimensions of the two loops that alternate between them."""
    start = round(float(_data(points).compute_id_2NN()[0]), 3)
    data = _data(points)
    data.compute_distances()
    data.set_id(start)
    data.compute_kstar(alpha=ALPHA)
    alone = " ".join(str(int(k)) for k in data.kstar)  # one line of the file, not hundreds
    ids, errors, sizes, _ = _data(points).return_ids_kstar_gride(initial_id=start, n_iter=5, alpha=ALPHA)
    binomial, binomial_errors, binomial_sizes, _ = _data(points).return_ids_kstar_binomial(
        initial_id=start, n_iter=5, alpha=ALPHA
    )
    return {
        "kstar": {"dimension": start, "alpha": ALPHA, "maxk": 100, "kstar": alone},
        "kstar_gride": {
            "dimension": _floats(ids),
            "error": _floats(errors),
            "mean_kstar": [float(np.mean(k)) for k in sizes],
        },
        "kstar_binomial": {
            "dimension": _floats(binomial),
            "error": _floats(binomial_errors),
            "mean_kstar": [float(np.mean(k)) for k in binomial_sizes],
        },
    }


def _floats(values: Any) -> list[Any]:
    """Return plain numbers; DADApy leaves None where it has no error."""
    return [None if value is None else float(value) for value in values]


def main() -> None:
    """Measure every cloud and write the file in one step."""
    result = {
        "made_by": "python tests/validation/dadapy_golden.py",
        "date": datetime.now(timezone.utc).date().isoformat(),  # noqa: UP017
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("dadapy", "numpy", "scipy", "scikit-learn")},
        "machine": f"{platform.system()} {platform.machine()}",
        "seed": SEED,
        "clouds": {name: measure(points) for name, points in clouds().items()},
    }
    temporary = FILE.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, FILE)  # noqa: PTH105


if __name__ == "__main__":
    main()
