"""Measure TwoNN and the number of principal components against depth, over 50 resamples of 90 % of the points.

Usage: python paper_figures/measure/field_ansuini.py --data FOLDER

After Ansuini2019, who flatten the activations of images: here texts, mean pooled, in MiniLM.
"""

import numpy as np
import xarray as xr
from _field import MODEL, write
from _origin import make_parser
from tqdm.auto import tqdm

from gelora import estimate_representations, extract_representations
from gelora.demo import demo_model

ESTIMATORS = {
    "twonn": "twonn(discard=0.1, interval='chi2')",
    "pca": "spectral(method='variance', threshold=0.9, interval='none')",
}
TASKS = ("sst2", "cola")
N_SAMPLES = 2000
N_RESAMPLES = 50
SHARE = 0.9
SEED = 0


def resampled(data, task):
    """Return the dimensions (n_resamples, n_estimators, n_layers) of a task, and its number of distinct texts."""
    file = data / task / "train.parquet"
    found = extract_representations(demo_model(), file, text_column="sentence", n_samples=N_SAMPLES, seed=SEED)
    n = len(found[0])
    rng = np.random.default_rng(SEED)
    dimensions = []
    for _ in tqdm(range(N_RESAMPLES), desc=task):
        rows = np.sort(rng.choice(n, size=round(SHARE * n), replace=False))
        clouds = [cloud[rows] for cloud in found.clouds]
        profile = estimate_representations(clouds, estimator=list(ESTIMATORS.values()), progress=False)
        dimensions.append(profile["dimension"].values)
    return np.array(dimensions), n


def main() -> None:
    """Measure both tasks and write the file."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    found = {task: resampled(arguments.data, task) for task in TASKS}
    dimension = np.array([values for values, _ in found.values()])
    dataset = xr.Dataset(
        {
            "dimension": (("task", "resample", "estimator", "layer"), dimension),
            "n_points": ("task", [n for _, n in found.values()]),
        },
        coords={"task": list(TASKS), "estimator": list(ESTIMATORS)},
    )
    facts = {
        "model": MODEL,
        "data": f"{N_SAMPLES:,} train rows of SST-2 and of CoLA, mean over tokens",
        "estimators": ESTIMATORS,
        "share": SHARE,
        "seed": SEED,
    }
    print(write(dataset, arguments, "field_ansuini", **facts))


if __name__ == "__main__":
    main()
