"""Measure Gride over its scales, layer by layer, at the last token of real texts and of the same words shuffled.

Usage: python paper_figures/measure/field_cheng.py --data FOLDER

After Cheng2025, who take five sets of 10,000 sequences and decoders: here three sets of 1,000 pieces of 20 words, and
MiniLM, an encoder, whose last attended token is [SEP]. In the input of the first block that token differs by its
position alone, so that layer has no dimension.
"""

import warnings

import numpy as np
import xarray as xr
from _field import MODEL, shuffled, wikitext, write
from _origin import make_parser
from tqdm.auto import tqdm

from gelora import estimate_representations, extract_representations
from gelora.demo import demo_model

ESTIMATOR = "gride(scan_to=64)"
N_WORDS = 20
N_TEXTS = 1000
N_SETS = 3
SEED = 0


def pieces(data):
    """Return disjoint pieces of equally many words, of all paragraphs, in random order."""
    found = []
    for text in wikitext(data, "validation", "test", n_words=N_WORDS):
        words = text.split()
        found += [" ".join(words[at : at + N_WORDS]) for at in range(0, len(words) - N_WORDS + 1, N_WORDS)]
    return [found[place] for place in np.random.default_rng(SEED).permutation(len(found))]


def scan(texts):
    """Return the dimension by layer and scale, the scales, and the depth of the layers."""
    found = extract_representations(demo_model(), texts, pooling="last", n_samples=None, progress=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*undefined.*")  # layer 0, as the docstring says
        profile = estimate_representations(found, estimator=ESTIMATOR, progress=False)
    return profile["dimension_scales"].values[0], profile["scale"].values, profile["depth"].values


def main() -> None:
    """Measure every set, real and shuffled, and write the file."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    texts = pieces(arguments.data)
    rng = np.random.default_rng(SEED)
    values = []
    for part in tqdm(range(N_SETS), desc="sets"):
        real = texts[N_TEXTS * part : N_TEXTS * part + N_TEXTS]
        scans = [scan(real), scan([shuffled(text, rng) for text in real])]
        values.append([dimensions for dimensions, _, _ in scans])
    _, scales, depth = scans[0]
    dataset = xr.Dataset(
        {"dimension": (("part", "text", "layer", "scale"), np.array(values))},
        coords={"text": ["real", "shuffled"], "scale": scales, "depth": ("layer", depth)},
    )
    facts = {
        "model": MODEL,
        "data": f"{N_SETS} disjoint sets of {N_TEXTS:,} pieces of {N_WORDS} words, WikiText-2 validation and test",
        "estimator": ESTIMATOR,
        "n_texts": N_TEXTS,
        "n_words": N_WORDS,
        "seed": SEED,
    }
    print(write(dataset, arguments, "field_cheng", **facts))


if __name__ == "__main__":
    main()
