"""A split of a task → token ids and labels, as the trainer takes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gelora.blocks import position_limit
from gelora.finetuning.glue import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode_split(
    split: "Dataset", task: Task, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> tuple[list[Mapping[str, Any]], int]:
    """Tokenize the texts or pairs of ``split``, without padding.

    Returns
    -------
    list of dict
        Token ids and the like, and ``labels``.
    int
        How many rows were cut to ``max_length`` tokens.
    """
    columns = [list(split[name]) for name in task.text]
    cut = {"truncation": True, "max_length": max_length, "padding": False, "verbose": False}
    encoded = dict(tokenizer(*columns, **cut))
    full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) == max_length]
    n_cut = 0
    if full:
        whole = tokenizer(*[[column[row] for row in full] for column in columns], padding=False, verbose=False)
        n_cut = sum(len(ids) > max_length for ids in whole["input_ids"])
    labels = list(split[task.label])
    keys = list(encoded)
    rows = zip(*(encoded[key] for key in keys), labels, strict=True)
    return [dict(zip((*keys, "labels"), row, strict=True)) for row in rows], n_cut


def length_limit(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", asked: int) -> int:
    """Return ``asked`` tokens, or as many as the model takes if that is less."""
    own = int(tokenizer.model_max_length)
    limits = [asked] + ([own] if own < 1_000_000 else [])  # tokenizers without a limit of their own say 1e30
    positions = position_limit(model)
    limits += [] if positions is None else [positions]
    return min(limits)
