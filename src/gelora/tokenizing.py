"""Texts → token ids, without padding."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import position_limit
from gelora.messages import check_integer
from gelora.text_values import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Features = dict[str, torch.Tensor]
Encoded = dict[str, list[list[int]]]
TOKEN_KEYS = ("input_ids", "token_type_ids")
IGNORED_LABEL = -100


def pad_id_of(model: torch.nn.Module) -> int:
    """Return the token id to pad with; RoBERTa-like models derive positions from it."""
    return max(0, int(getattr(getattr(model, "config", None), "pad_token_id", None) or 0))  # LLaMA once had −1


def length_limit(model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase", asked: int | None) -> int | None:
    """Return how many tokens a text may have: as asked, at most what tokenizer and model take; None for any."""
    own = int(tokenizer.model_max_length)
    # Tokenizers without a limit of their own say 1e30.
    limits = [] if asked is None else [check_integer("max_length", asked, 3)]
    limits += [own] if own < 1_000_000 else []
    positions = position_limit(model)
    limits += [] if positions is None else [positions]
    return min(limits, default=None)


def tokenize(texts: Sequence[Text], tokenizer: Any, limit: int | None, rows: NDArray[np.int64]) -> tuple[Encoded, int]:
    """Tokenize texts without padding; return the ids of each text by name, and how many texts were truncated."""
    encoded = _call_tokenizer(tokenizer, texts, None)
    long = [i for i, ids in enumerate(encoded["input_ids"]) if limit is not None and len(ids) > limit]
    if long:
        cut = _call_tokenizer(tokenizer, [texts[i] for i in long], limit)
        for key, values in encoded.items():
            for i, value in zip(long, cut[key], strict=True):
                values[i] = value
    for row, ids in zip(rows, encoded["input_ids"], strict=True):
        if not len(ids):
            raise ValueError(f"`data`: the text in row {row} has no tokens: drop empty texts first")
    return {key: encoded[key] for key in TOKEN_KEYS if key in encoded}, len(long)


def _call_tokenizer(tokenizer: Any, texts: Sequence[Text], limit: int | None) -> Encoded:
    cut = {"truncation": True, "max_length": limit} if limit is not None else {"truncation": False}
    pairs = isinstance(texts[0], tuple)
    if any(isinstance(text, tuple) != pairs for text in texts):
        raise TypeError("`data` must hold texts or pairs of texts, got both")
    columns = [list(column) for column in zip(*texts, strict=True)] if pairs else [list(texts)]
    return dict(tokenizer(*columns, padding=False, verbose=False, **cut))


def add_decoder_texts(
    encoded: Encoded,
    decoder_texts: Sequence[str],
    rows: NDArray[np.int64],
    n_available: int,
    model: torch.nn.Module,
    tokenizer: Any,
    limit: int | None,
) -> int:
    """Add the decoder's inputs to the ids of texts; return how many decoder texts were truncated."""
    if len(decoder_texts) != n_available:
        raise ValueError(
            f"`decoder_texts` must hold one text for each of the {n_available} rows of `data`, got {len(decoder_texts)}"
        )
    targets, n_truncated = tokenize([decoder_texts[row] for row in rows], tokenizer, limit, rows)
    shifted = (shift_right(torch.tensor(ids), model) for ids in targets["input_ids"])
    encoded["decoder_input_ids"] = [ids.tolist() for ids in shifted]
    return n_truncated


def shift_right(labels: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """Return the decoder inputs that go with ``labels``: the start token, then all labels but the last."""
    config = getattr(model, "config", None)
    start = getattr(config, "decoder_start_token_id", None)
    if not getattr(config, "is_encoder_decoder", False) or start is None:
        raise ValueError(
            "`decoder_texts` go with an encoder-decoder model whose configuration has a `decoder_start_token_id`, "
            f"got {type(model).__name__}"
        )
    shifted = torch.cat([torch.tensor([start]), labels[:-1]])
    return shifted.masked_fill(shifted == IGNORED_LABEL, pad_id_of(model))
