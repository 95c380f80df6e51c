"""Measure dimensions against the number of points, and against the scale at the largest number.

Usage: python paper_figures/measure/ours_n_and_scale.py --data FOLDER
"""

import warnings

import numpy as np
import xarray as xr
from _field import MODEL, write
from _origin import make_parser
from tqdm.auto import tqdm

from gelora import estimate_representations, extract_representations
from gelora.demo import demo_model

ESTIMATORS = {
    "TwoNN": "twonn(interval='chi2')",
    "MLE, k = 10…20": "mle(interval='pointwise')",
    "H0, α = 1": "ph(n_repetitions=1)",
    "MLE, batches of 500": "minibatch:mle(batch_size=500)",
}
SCAN = "gride(scan_to=256)"
SIZES = (125, 250, 500, 1000, 2000, 4000, 8000)
N_DRAWS = 8  # disjoint ones, as many as there are
SEED = 0


def main() -> None:
    """Measure MiniLM on SST-2 and write the file."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    file = arguments.data / "sst2" / "train.parquet"
    found = extract_representations(demo_model(), file, text_column="sentence", n_samples=SIZES[-1] + 100, seed=SEED)
    order = np.random.default_rng(SEED).permutation(len(found[0]))[: SIZES[-1]]
    shape = (len(SIZES), N_DRAWS, len(ESTIMATORS), len(found))
    dimension, scans = np.full(shape, np.nan), []
    for place, n in enumerate(tqdm(SIZES, desc="sizes")):
        draws = [order[n * draw : n * draw + n] for draw in range(min(N_DRAWS, SIZES[-1] // n))]
        for draw, rows in enumerate(draws):
            clouds = [cloud[np.sort(rows)] for cloud in found.clouds]
            with warnings.catch_warnings():
                # Batches of 500 need 500 points; that the line behind H0 bends is what the figure shows.
                warnings.filterwarnings("ignore", message=".*undefined|.*bends")
                profile = estimate_representations(clouds, estimator=ESTIMATORS, seed=draw, progress=False)
            dimension[place, draw] = profile["dimension"].values
            if draw == 0:
                scan = estimate_representations(clouds, estimator=SCAN, progress=False)["dimension_scales"]
                scans.append(scan[0])
    scan = xr.concat(scans, "n", join="outer").transpose("n", "layer", "scale")
    dataset = xr.Dataset(
        {
            "dimension": (("n", "draw", "estimator", "layer"), dimension),
            "scan": (("n", "layer", "scale"), scan.values),
        },
        coords={"n": list(SIZES), "estimator": list(ESTIMATORS), "scale": scan["scale"].values},
    )
    facts = {
        "model": MODEL,
        "data": "train rows of SST-2, mean over tokens; the draws of one size are disjoint",
        "estimators": ESTIMATORS,
        "scan_by": SCAN,
        "seed": SEED,
    }
    print(write(dataset, arguments, "ours_n_and_scale", **facts))


if __name__ == "__main__":
    main()
