"""Measure anisotropy and dimension of every token: of MiniLM by layer, and of a small decoder while it is trained.

Usage: python paper_figures/measure/field_razzhigaev.py --data FOLDER

As in Razzhigaev2024: no pooling, at least 4,096 tokens, TwoNN on the smallest 20 % of the ratios. The decoder has the
shape of GPT-2, 4 blocks and 2.2 million parameters; it is trained here, from random weights, on the validation split
of WikiText-2, and measured on the test split. Errors are the spread over disjoint sets of texts.
"""

import numpy as np
import torch
import xarray as xr
from _field import MODEL, wikitext, write
from _origin import make_parser
from tokenizers import ByteLevelBPETokenizer
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from gelora import estimate_representations, extract_representations
from gelora.demo import demo_model

ESTIMATOR = "twonn(discard=0.8, interval='chi2')"
N_TOKENS = 4096
N_PARTS = 3  # disjoint sets of texts
N_PARAGRAPHS = 40  # of a set, for MiniLM
CONTEXT = 128
BATCH = 4
WIDTH = 192
VOCABULARY = 2048
RECORDED = (0, 5, 10, 20, 40, 80, 160, 320, 640)
SEED = 0


def measure(model, parts):
    """Return dimension and anisotropy of the tokens of each part, both of shape (n_parts, n_layers)."""
    found = []
    for part in parts:
        clouds = extract_representations(model, part, pooling="tokens", n_tokens=N_TOKENS, seed=SEED, progress=False)
        profile = estimate_representations(clouds, estimator=ESTIMATOR, progress=False)
        found.append((profile["dimension"].values[0], profile["anisotropy"].values))
    return np.swapaxes(np.array(found), 0, 1)


def encoder(data):
    """Measure MiniLM on disjoint sets of paragraphs."""
    texts = np.random.default_rng(SEED).permutation(wikitext(data, "validation", "test", n_words=60))
    parts = [texts[N_PARAGRAPHS * part : N_PARAGRAPHS * (part + 1)].tolist() for part in range(N_PARTS)]
    return measure(demo_model(), tqdm(parts, desc="MiniLM"))


def sequences(tokenizer, texts):
    """Return the tokens of all texts, one after the other, as rows of the context's length."""
    tokens = torch.tensor([token for text in tokenizer.encode_batch(texts) for token in text.ids])
    return tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)


def decoder(data):
    """Train the small decoder; return its records of dimension and anisotropy, the losses, and its size."""
    train, test = (wikitext(data, split, n_words=10) for split in ("validation", "test"))
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(train, vocab_size=VOCABULARY, show_progress=False)
    rows, held_out = sequences(tokenizer, train), sequences(tokenizer, test)
    step = N_TOKENS // CONTEXT
    parts = [held_out[step * part : step * part + step] for part in range(N_PARTS)]

    torch.manual_seed(SEED)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=4, n_head=4)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    records, losses = [], []
    for now in tqdm(range(RECORDED[-1] + 1), desc="training"):
        if now in RECORDED:
            model.eval()
            records.append(measure(model, parts))
            with torch.no_grad():
                losses.append(float(np.mean([model(part, labels=part).loss.item() for part in parts])))
            model.train()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (now + 1) / 40)
        batch = rows[torch.randint(len(rows), (BATCH,))]
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return np.array(records), losses, sum(p.numel() for p in model.parameters()), rows.numel()


def main() -> None:
    """Measure both models and write the file."""
    arguments = make_parser(__doc__, needs_data=True).parse_args()
    torch.set_num_threads(1)
    dimension, anisotropy = encoder(arguments.data)
    records, losses, n_parameters, n_trained_on = decoder(arguments.data)
    grid = ("step", "part", "block")
    dataset = xr.Dataset(
        {
            "encoder_dimension": (("part", "layer"), dimension),
            "encoder_anisotropy": (("part", "layer"), anisotropy),
            "decoder_dimension": (grid, records[:, 0]),
            "decoder_anisotropy": (grid, records[:, 1]),
            "decoder_test_loss": ("step", losses),
        },
        coords={"step": list(RECORDED)},
    )
    facts = {
        "model": MODEL,
        "decoder": f"GPT-2's shape, 4 blocks of width {WIDTH}, {n_parameters} parameters, random weights at step 0",
        "decoder_parameters": n_parameters,
        "data": "WikiText-2: MiniLM on paragraphs of validation and test; decoder trained on validation, read on test",
        "training": f"AdamW, learning rate 1e-3, {BATCH} sequences of {CONTEXT} tokens a step, of {n_trained_on:,}",
        "estimator": ESTIMATOR,
        "n_tokens": N_TOKENS,
        "n_parts": N_PARTS,
        "seed": SEED,
    }
    print(write(dataset, arguments, "field_razzhigaev", **facts))


if __name__ == "__main__":
    main()
