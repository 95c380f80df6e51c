"""Measure Gride over its scales, and the neighbours that consecutive layers share, against depth.

Usage: python paper_figures/measure/field_valeriani.py --data FOLDER

After Valeriani2023, who average over tokens too, and read the dimension on a plateau over scales.
"""

import re
import warnings

import xarray as xr
from _field import MODEL, write
from _origin import make_parser

from gelora import estimate_representations, extract_representations
from gelora.demo import demo_model
from gelora.similarity import compare_representations

ESTIMATOR = "gride(scan_to=64, scale='plateau')"
N_SAMPLES = 2000
N_REPLICATES = 20
K = 30
SEED = 0


def main() -> None:
    """Measure MiniLM on SST-2 and write the file."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    file = arguments.data / "sst2" / "train.parquet"
    found = extract_representations(demo_model(), file, text_column="sentence", n_samples=N_SAMPLES, seed=SEED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        profile = estimate_representations(found, estimator=ESTIMATOR, n_replicates=N_REPLICATES, seed=SEED)
    told = [str(one.message) for one in caught]
    without = {layer for text in told if "no plateau" in text for layer in re.findall(r"layer (\d+) of", text)}
    near = compare_representations(found, k=K, n_replicates=N_REPLICATES, seed=SEED)
    before = range(len(found) - 1)
    dataset = xr.Dataset(
        {
            "dimension_scales": (("layer", "scale"), profile["dimension_scales"].values[0]),
            "dimension_scale_replicates": (
                ("layer", "scale", "replicate"),
                profile["dimension_scale_replicates"].values[0],
            ),
            "plateau": ("layer", profile["dimension"].values[0]),
            "plateau_error": ("layer", profile["standard_error"].values[0]),
            "overlap": ("gap", [near["neighborhood_overlap"].values[at, at + 1] for at in before]),
            "overlap_error": ("gap", [near["neighborhood_overlap_standard_error"].values[at, at + 1] for at in before]),
        },
        coords={"scale": profile["scale"].values, "depth": ("layer", profile["depth"].values)},
    )
    facts = {
        "model": MODEL,
        "data": f"{N_SAMPLES:,} train rows of SST-2, mean over tokens",
        "estimator": ESTIMATOR,
        "warnings": told,
        "layers_without_plateau": len(without),
        "k": K,
        "n_points": near.attrs["n_points"],
        "overlap_by_chance": near.attrs["overlap_by_chance"],
        "n_rows": profile.attrs["n_rows"],
        "replicate_rows": profile.attrs["replicate_rows"],
        "seed": SEED,
    }
    print(write(dataset, arguments, "field_valeriani", **facts))


if __name__ == "__main__":
    main()
