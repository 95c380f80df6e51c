"""Estimates of the dimension of a helix, a curve in three dimensions, by every estimator, against n and noise.

Usage: python paper_figures/measure/helix.py

Points are drawn evenly along the helix; the noise is Gaussian, in all three coordinates, its standard deviation given
relative to the radius. Each case is drawn several times. Writes ``helix.json``. No data set is read.
"""

import argparse
import warnings

import numpy as np
from _origin import make_parser, origin, write_json
from numpy.typing import NDArray
from tqdm import tqdm

from gelora import make_estimator
from gelora.provenance import generator
from gelora_estimators.protocol import DegenerateCloudError

# Of scikit-dimension those that this library does not offer itself; DANCo and ESS take minutes a cloud.
ESTIMATORS = (
    "twonn",
    "mle",
    "gride",
    "gride(n1=8, n2=16)",
    "ph",
    "corrint",
    "spectral",
    "local:twonn",
    "minibatch:mle(batch_size=500)",
    "skdim:lPCA",
    "skdim:MADA",
    "skdim:MOM",
    "skdim:TLE",
    "skdim:FisherS",
    "skdim:MiND_ML",
)
SIZES = (125, 250, 500, 1000, 2000)
NOISES = (0.0, 0.003, 0.01, 0.03, 0.1)
N_FIXED = 1000
TURNS, PITCH = 4, 0.6  # pitch: height of a turn in radii


def draw_helix(n: int, noise: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return ``n`` points of a helix of radius 1."""
    angle = 2 * np.pi * TURNS * rng.random(n)
    points = np.stack([np.cos(angle), np.sin(angle), PITCH * angle / (2 * np.pi)], axis=1)
    return points + noise * rng.standard_normal(points.shape)


def measure(name: str, n: int, noise: float, n_draws: int) -> list[float | None]:
    """Return an estimate of each draw, None where it is undefined."""
    found: list[float | None] = []
    for draw in range(n_draws):
        points = draw_helix(n, noise, generator(0, "helix", n, noise, draw))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = make_estimator(name)(points, rng=generator(0, name, n, noise, draw)).dimension
        except DegenerateCloudError:
            value = np.nan
        found.append(round(float(value), 5) if np.isfinite(value) else None)
    return found


def main() -> None:
    """Measure every case."""
    parser = make_parser(__doc__)
    parser.add_argument("--draws", type=int, default=10, help="clouds of each case")
    arguments: argparse.Namespace = parser.parse_args()
    cases = [(n, 0.0) for n in SIZES] + [(N_FIXED, noise) for noise in NOISES if noise]
    rows = [
        {"estimator": name, "n": n, "noise": noise, "dimension": measure(name, n, noise, arguments.draws)}
        for name in tqdm(ESTIMATORS, desc="estimators")
        for n, noise in cases
    ]
    sample = draw_helix(250, 0.0, generator(0, "helix", 250, 0.0, 0))
    setting = {"turns": TURNS, "pitch": PITCH, "radius": 1, "n_fixed": N_FIXED, "n_draws": arguments.draws}
    content = {"setting": setting, "rows": rows, "points": np.round(sample, 3).tolist(), "origin": origin(arguments)}
    write_json(arguments.output / "helix.json", content)


if __name__ == "__main__":
    main()
