"""Measure MiniLM with every kind of estimator, on the same points.

Usage: python paper_figures/measure/ours_estimators.py --data FOLDER
"""

import warnings

from _field import MODEL, write
from _origin import make_parser

from gelora import estimate
from gelora.demo import demo_model

ESTIMATORS = {
    "TwoNN": "twonn",
    "Gride, n2 = 16": "gride(n1=8, n2=16, interval='subsampling')",
    "MLE, k = 10…20": "mle",
    "MLE, batches of 1,000": "minibatch:mle(batch_size=1000)",
    "H0, α = 1": "ph",
    "correlation integral": "corrint",
    "participation ratio": "spectral",
    "PCA, 90 %": "spectral(method='variance')",
}
N_SAMPLES = 2000
SEED = 0


def main() -> None:
    """Estimate on SST-2 and write the profile."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    file = arguments.data / "sst2" / "train.parquet"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        profile = estimate(
            demo_model(), file, text_column="sentence", estimator=ESTIMATORS, n_samples=N_SAMPLES, seed=SEED
        )
    facts = {
        "model": MODEL,
        "tokenizer": MODEL,
        "data": f"{N_SAMPLES:,} train rows of SST-2, mean over tokens",
        "warnings": [str(one.message) for one in caught],
    }
    print(write(profile, arguments, "ours_estimators", **facts))


if __name__ == "__main__":
    main()
