"""Data → examples: the token ids or pixels of each distinct row, without padding."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import position_limit
from gelora.corpora import Text, Texts, draw_rows, is_texts, read_texts
from gelora.messages import check_integer
from gelora.models import load_tokenizer
from gelora.provenance import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Features = dict[str, torch.Tensor]

# Per-token features, cut to the attended tokens and padded again on the right in our own batches, so that
# positions count from the first real token whatever side the data was padded on.
TOKEN_KEYS = ("input_ids", "token_type_ids")
MASK_KEYS = ("attention_mask", "decoder_attention_mask")
WHOLE_KEYS = ("pixel_values", "inputs")
UNSUPPORTED_KEYS = ("inputs_embeds", "position_ids")
READ_KEYS = (*TOKEN_KEYS, *MASK_KEYS, *WHOLE_KEYS, *UNSUPPORTED_KEYS, "decoder_input_ids", "labels")
IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct inputs of a model.

    Parameters
    ----------
    features : list of dict
        One an example: ``input_ids`` and the like of shape (n_tokens,), or ``pixel_values``.
    rows : ndarray of shape (n_examples,)
        The data row of each, the first where several rows have the same token ids.
    record : mapping
        Counts and fingerprints for the provenance.
    """

    features: list[Features]
    rows: NDArray[np.int64]
    record: Mapping[str, Any]


def encode(
    model: torch.nn.Module,
    data: Any,
    *,
    tokenizer: Any = None,
    text_column: str | Sequence[str] | None = None,
    max_length: int | None = None,
    decoder_texts: Sequence[str] | None = None,
    n_samples: int | None = None,
    seed: int = 0,
) -> Examples:
    """Turn ``data`` into the distinct examples that a seeded draw of its rows gives.

    Parameters
    ----------
    model : torch.nn.Module
        What they are for.
    data
        See `gelora.extract_representations`, as for the other parameters.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Naming the argument, what was found and the remedy.
    """
    if needs_tokenizer(data, text_column):
        texts = data if isinstance(data, Texts) else read_texts(data, text_column=text_column)
        rows = draw_rows(len(texts.values), n_samples, seed)
        loaded = load_tokenizer(model, tokenizer)
        limit = _length_limit(model, loaded, max_length)
        features, n_truncated = _tokenize([texts.values[row] for row in rows], loaded, limit, rows)
        available, source, mark = len(texts.values), texts.source, texts.fingerprint()
        if decoder_texts is not None:
            n_truncated += _add_decoder_texts(features, decoder_texts, rows, available, model, loaded, limit)
            mark = fingerprint([mark.encode(), Texts(list(decoder_texts), "").fingerprint().encode()])
        name = str(getattr(loaded, "name_or_path", "") or type(loaded).__name__)
    else:
        if decoder_texts is not None or text_column is not None:
            raise ValueError("`decoder_texts` and `text_column` go with texts: tensors carry `labels` for the decoder")
        every = list(_tensor_features(data, model))
        if not every:
            raise ValueError("`data` must hold at least one example, got none")
        rows, name = draw_rows(len(every), n_samples, seed), ""
        features, n_truncated, limit = [every[row] for row in rows], 0, None
        available, source = len(every), f"{type(data).__name__} in memory"
        mark = fingerprint(_key(feature) for feature in every)
    _check_fits(features, model)
    kept = list({_key(feature): position for position, feature in reversed(list(enumerate(features)))}.values())
    kept.sort()
    record = {
        "data": source,
        "data_fingerprint": mark,
        "n_available": available,
        "n_texts": len(rows),
        "text_copies_removed": len(rows) - len(kept),
        "n_truncated": n_truncated,
        "max_length": limit or 0,
        "tokenizer": name,
        "sample_seed": seed,
    }
    return Examples([features[position] for position in kept], rows[kept], record)


def needs_tokenizer(data: Any, text_column: str | Sequence[str] | None = None) -> bool:
    """Say whether ``data`` holds texts; a dataset with ``input_ids`` and no ``text_column`` is tokenized already."""
    tokenized = text_column is None and "input_ids" in getattr(data, "column_names", ())
    return isinstance(data, Texts) or (is_texts(data) and not tokenized)


def collate(features: Sequence[Features], pad_id: int) -> Features:
    """Pad examples on the right to one batch, with ``attention_mask`` (and ``decoder_attention_mask``)."""
    batch: Features = {}
    for key in features[0]:
        values = [feature[key] for feature in features]
        if key in WHOLE_KEYS:
            batch[key] = torch.stack(values)
            continue
        fill = 0 if key == "token_type_ids" else pad_id
        batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
        if key.endswith("input_ids"):
            lengths = torch.tensor([len(value) for value in values])
            mask = torch.arange(batch[key].shape[1])[None, :] < lengths[:, None]
            batch[key.replace("input_ids", "attention_mask")] = mask.long()
    return batch


def n_tokens(feature: Features, stack: str = "encoder") -> int:
    """Return the number of tokens of an example in ``stack``, 0 where it holds no token ids."""
    key = "decoder_input_ids" if stack == "decoder" and "decoder_input_ids" in feature else "input_ids"
    return len(feature[key]) if key in feature else 0


def pad_id_of(model: torch.nn.Module) -> int:
    """Return the token id to pad with; RoBERTa-like models derive positions from it."""
    return max(0, int(getattr(getattr(model, "config", None), "pad_token_id", None) or 0))  # LLaMA once had −1


def _length_limit(model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase", asked: int | None) -> int | None:
    own = int(tokenizer.model_max_length)
    # Tokenizers without a limit of their own say 1e30.
    limits = [] if asked is None else [check_integer("max_length", asked, 3)]
    limits += [own] if own < 1_000_000 else []
    positions = position_limit(model)
    limits += [] if positions is None else [positions]
    return min(limits, default=None)


def _tokenize(
    texts: Sequence[Text], tokenizer: Any, limit: int | None, rows: NDArray[np.int64]
) -> tuple[list[Features], int]:
    """Tokenize texts without padding; return the features and how many texts were truncated."""
    encoded = _call_tokenizer(tokenizer, texts, None)
    long = [i for i, ids in enumerate(encoded["input_ids"]) if limit is not None and len(ids) > limit]
    if long:
        cut = _call_tokenizer(tokenizer, [texts[i] for i in long], limit)
        for key, values in encoded.items():
            for i, value in zip(long, cut[key], strict=True):
                values[i] = value
    features = []
    for i in range(len(texts)):
        feature = {key: torch.tensor(encoded[key][i]) for key in TOKEN_KEYS if key in encoded}
        if not len(feature["input_ids"]):
            raise ValueError(f"`data`: the text in row {rows[i]} has no tokens: drop empty texts first")
        features.append(feature)
    return features, len(long)


def _call_tokenizer(tokenizer: Any, texts: Sequence[Text], limit: int | None) -> dict[str, list[list[int]]]:
    cut = {"truncation": True, "max_length": limit} if limit is not None else {"truncation": False}
    pairs = isinstance(texts[0], tuple)
    if any(isinstance(text, tuple) != pairs for text in texts):
        raise TypeError("`data` must hold texts or pairs of texts, got both")
    columns = [list(column) for column in zip(*texts, strict=True)] if pairs else [list(texts)]
    return dict(tokenizer(*columns, padding=False, verbose=False, **cut))


def _add_decoder_texts(
    features: list[Features],
    decoder_texts: Sequence[str],
    rows: NDArray[np.int64],
    n_available: int,
    model: torch.nn.Module,
    tokenizer: Any,
    limit: int | None,
) -> int:
    """Add the decoder's inputs to the features; return how many decoder texts were truncated."""
    if len(decoder_texts) != n_available:
        raise ValueError(
            f"`decoder_texts` must hold one text for each of the {n_available} rows of `data`, got {len(decoder_texts)}"
        )
    targets, n_truncated = _tokenize([decoder_texts[row] for row in rows], tokenizer, limit, rows)
    for feature, target in zip(features, targets, strict=True):
        feature["decoder_input_ids"] = _shift_right(target["input_ids"], model)
    return n_truncated


def _shift_right(labels: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
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


def _tensor_features(data: Any, model: torch.nn.Module) -> Iterable[Features]:
    for batch in _batches(data):
        named = _named(batch, model)
        bad = [key for key in named if key in UNSUPPORTED_KEYS]
        if bad:
            raise TypeError(f"`data` carries {bad[0]!r}, which cannot be batched anew: pass `input_ids` or texts")
        sizes = {len(value) for value in named.values()}
        if len(sizes) > 1:
            raise ValueError(f"`data`: the tensors of a batch must have one length, got {sorted(sizes)}")
        for i in range(max(sizes, default=1)):
            yield _one(named, i, model)


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, torch.Tensor | np.ndarray | Mapping):
        return [data]
    if hasattr(data, "column_names"):  # a tokenized dataset: rows of different length
        keys = [key for key in (*TOKEN_KEYS, *MASK_KEYS, "decoder_input_ids", "labels") if key in data.column_names]
        return ({key: torch.as_tensor(row[key])[None] for key in keys} for row in data)
    if isinstance(data, Iterable):
        return data
    raise TypeError(
        "`data` must be texts, pairs of texts, a datasets.Dataset, a DataLoader, tensors or the path of a file, "
        f"got {type(data).__name__}"
    )


def _named(batch: Any, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    if isinstance(batch, Mapping):
        return {str(key): _tensor(str(key), value) for key, value in batch.items() if key in READ_KEYS}
    value = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
    if not isinstance(value, torch.Tensor | np.ndarray):
        raise TypeError(
            "`data`: a batch must be a tensor or a mapping of tensors (and texts a list of strings), got "
            f"{type(batch).__name__}"
        )
    tensor = _tensor("input_ids", value)
    if not tensor.is_floating_point():
        if isinstance(batch, list | tuple) and len(batch) > 1:
            raise ValueError(
                "`data`: of a batch of several tensors of token ids nobody knows which is the mask: give mappings with "
                "`input_ids` and `attention_mask`"
            )
        return {"input_ids": tensor}
    return {"pixel_values" if getattr(model, "config", None) is not None else "inputs": tensor}


def _tensor(key: str, value: Any) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"`data`: {key!r} must be a tensor of numbers, all rows of one length ({error}): pad them, e.g. by "
            "tokenizer(texts, padding=True, return_tensors='pt'), or pass the texts"
        ) from error
    if tensor.ndim < 2 and key != "labels":
        raise ValueError(
            f"`data`: {key!r} of a batch must have the examples along its first axis and at least one axis more, got "
            f"shape {tuple(tensor.shape)}; rows of a dataset become one by datasets.Dataset.from_list(rows)"
        )
    return tensor


def _one(batch: Mapping[str, torch.Tensor], i: int, model: torch.nn.Module) -> Features:
    feature = {key: batch[key][i] for key in WHOLE_KEYS if key in batch}
    if feature:
        return feature
    if "input_ids" not in batch:
        raise ValueError(
            f"`data`: a batch must hold `input_ids` or `pixel_values`, got {sorted(batch) or 'neither'}; texts come as "
            "a list of strings, or with `text_column`"
        )
    attended = batch["attention_mask"][i].bool() if "attention_mask" in batch else None
    for key in TOKEN_KEYS:
        if key in batch:
            feature[key] = batch[key][i].long() if attended is None else batch[key][i][attended].long()
    if not len(feature["input_ids"]):
        raise ValueError(f"`data`: example {i} of a batch has no attended token: drop it first")
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        if "decoder_input_ids" in batch:
            mask = batch.get("decoder_attention_mask")
            ids = batch["decoder_input_ids"][i].long()
            feature["decoder_input_ids"] = ids if mask is None else ids[mask[i].bool()]
        elif "labels" in batch and batch["labels"].ndim == 2:  # of one number a row they are classes
            labels = batch["labels"][i].long()
            used = (labels != IGNORED_LABEL).nonzero()
            if not len(used):
                raise ValueError(f"`data`: the labels of example {i} of a batch are all {IGNORED_LABEL}")
            feature["decoder_input_ids"] = _shift_right(labels[: int(used[-1]) + 1], model)
    return feature


def _key(feature: Features) -> bytes:
    parts = [(key, tuple(value.shape), str(value.dtype)) for key, value in feature.items()]
    values = (value.contiguous().flatten().view(torch.uint8).numpy().tobytes() for value in feature.values())
    return repr(parts).encode() + b"".join(values)


def _check_fits(features: Sequence[Features], model: torch.nn.Module) -> None:
    """Raise ValueError where token ids or lengths go beyond what the model embeds."""
    positions = position_limit(model)
    longest = max((n_tokens(feature) for feature in features), default=0)
    if positions is not None and longest > positions:
        raise ValueError(
            f"`data`: an example has {longest} tokens, but the model has {positions} positions: truncate the examples"
        )
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    size = getattr(embeddings, "num_embeddings", None)
    largest = max((int(feature["input_ids"].max()) for feature in features if "input_ids" in feature), default=-1)
    if size is not None and largest >= size:
        raise ValueError(
            f"`tokenizer` does not belong to the model: token id {largest}, but the model embeds {size} ids only"
        )
