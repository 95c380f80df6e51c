"""Measure the persistent homology dimension of the tokens of single texts, of three kinds.

Usage: python paper_figures/measure/field_tulchinskii.py --data FOLDER

With the settings of Tulchinskii2023: degree 0, α = 1, all tokens of one text in the last layer. The paper sets texts of
people beside texts of language models, in RoBERTa; here paragraphs of an encyclopedia stand beside the same words
shuffled and beside sentences of another register, the examples of linguists, joined. All texts are cut to the same
number of tokens, on which the estimate depends.
"""

import numpy as np
import xarray as xr
from _field import MODEL, column, shuffled, wikitext, write
from _origin import make_parser
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from gelora import extract_representations
from gelora.demo import demo_model
from gelora_estimators import DegenerateCloudError, PersistentHomology

N_TEXTS = 120
N_TOKENS = 256  # [CLS] and [SEP] included
LAST = 6
N_JOINED = 40  # sentences of CoLA in a text
SEED = 0


def kinds(data):
    """Return texts of at least the wanted number of tokens, by kind."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    rng = np.random.default_rng(SEED)

    def long_enough(texts):
        lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=N_TOKENS)["input_ids"]]
        return [text for text, length in zip(texts, lengths, strict=True) if length == N_TOKENS]

    paragraphs = long_enough(wikitext(data, "validation", "test", n_words=150))
    chosen = rng.permutation(paragraphs)[:N_TEXTS].tolist()
    sentences = rng.permutation(column(data, "cola/train.parquet", "sentence")).tolist()
    joined = [" ".join(sentences[at : at + N_JOINED]) for at in range(0, len(sentences) - N_JOINED, N_JOINED)]
    return {
        "paragraph": chosen,
        "shuffled": long_enough([shuffled(text, rng) for text in chosen]),
        "sentences": long_enough(joined)[:N_TEXTS],
    }


def dimension_of_each(texts, kind):
    """Return the dimension of the tokens of each text; NaN where it has none."""
    found = extract_representations(
        demo_model(), texts, pooling="tokens", n_samples=None, n_tokens=None, layers=[LAST], max_length=N_TOKENS
    )
    rows, points = found.rows["encoder"], found[0]
    dimensions = []
    for row in tqdm(np.unique(rows), desc=kind):
        try:
            estimate = PersistentHomology.tulchinskii2023()(points[rows == row], rng=np.random.default_rng(SEED))
            dimensions.append(estimate.dimension)
        except DegenerateCloudError:
            dimensions.append(np.nan)
    return np.array(dimensions)


def main() -> None:
    """Measure the texts of every kind and write the file."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    found = {kind: dimension_of_each(texts, kind) for kind, texts in kinds(arguments.data).items()}
    dataset = xr.Dataset({kind: (f"text_of_{kind}", values) for kind, values in found.items()})
    facts = {
        "model": MODEL,
        "data": "paragraphs of WikiText-2 (validation and test); their words shuffled; train sentences of CoLA, joined",
        "estimator": repr(PersistentHomology.tulchinskii2023()),
        "layer": LAST,
        "n_tokens": N_TOKENS,
        "seed": SEED,
    }
    print(write(dataset, arguments, "field_tulchinskii", **facts))


if __name__ == "__main__":
    main()
