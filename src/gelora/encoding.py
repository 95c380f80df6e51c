"""Data → examples: the token ids or pixels of each distinct row, without padding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import position_limit
from gelora.corpora import Texts, draw_rows, is_texts, read_texts
from gelora.images import Pixels, check_processor, image_mode, is_images, read_images, stack_pixels
from gelora.masking import masked
from gelora.models import load_tokenizer
from gelora.provenance import fingerprint
from gelora.token_table import TableBuilder, TokenTable, first_of_equal, pieces
from gelora.tokenizing import (
    IGNORED_LABEL,
    TOKEN_KEYS,
    Features,
    add_decoder_texts,
    length_limit,
    shift_right,
    tokenize,
)
from gelora.tokenizing import pad_id_of as pad_id_of

# Per-token features, cut to the attended tokens and padded again on the right in our own batches, so that
# positions count from the first real token whatever side the data was padded on.
MASK_KEYS = ("attention_mask", "decoder_attention_mask")
WHOLE_KEYS = ("pixel_values", "inputs")
UNSUPPORTED_KEYS = ("inputs_embeds", "position_ids")
# Marks of equal length compare as bytes: 128 bits of BLAKE2b, of which no two examples share all.
_MARK = np.dtype("S16")
READ_KEYS = (*TOKEN_KEYS, *MASK_KEYS, *WHOLE_KEYS, *UNSUPPORTED_KEYS, "decoder_input_ids", "labels")


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct inputs of a model.

    Parameters
    ----------
    features : list of mapping
        One an example: ``input_ids`` and the like of shape (n_tokens,), or ``pixel_values``.
    rows : ndarray of shape (n_examples,)
        The data row of each, the first where several rows have the same token ids.
    record : mapping
        Counts and fingerprints for the provenance.
    """

    features: Sequence[Mapping[str, torch.Tensor]]
    rows: NDArray[np.int64]
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where examples come from: opened once, of which any rows can be taken, one round after another.

    Parameters
    ----------
    n_available : int
        Data rows.
    features_of : callable
        From data rows, and a folder where token ids are kept if not in memory, to their features, and how many texts
        were cut.
    record : mapping
        Provenance that no draw changes.
    drawn : ndarray of shape (n_rows,), optional
        The only rows there are, where they were drawn from a stream.
    """

    n_available: int
    features_of: Callable[[NDArray[np.int64], Path | None], tuple[Sequence[Mapping[str, torch.Tensor]], int]]
    record: Mapping[str, Any]
    drawn: NDArray[np.int64] | None = None

    def draw(self, n_samples: int | None, seed: int) -> NDArray[np.int64]:
        """Return the rows that a seed draws, see `gelora.corpora.draw_rows`, or that were drawn from a stream."""
        return draw_rows(self.n_available, n_samples, seed) if self.drawn is None else self.drawn


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
        data = read_texts(data, text_column=text_column, n_samples=n_samples, seed=seed)
    source = open_source(
        model,
        data,
        tokenizer=tokenizer,
        text_column=text_column,
        max_length=max_length,
        decoder_texts=decoder_texts,
    )
    examples = take_examples(source, source.draw(n_samples, seed), model)
    held = [dict(feature) for feature in examples.features]  # few, and asked for again and again
    return replace(examples, features=held, record={**examples.record, "sample_seed": seed})


def open_source(
    model: torch.nn.Module,
    data: Any,
    *,
    tokenizer: Any = None,
    text_column: str | Sequence[str] | None = None,
    max_length: int | None = None,
    decoder_texts: Sequence[str] | None = None,
) -> Source:
    """Open ``data`` for `take_examples`; parameters and errors are those of `encode`."""
    if is_images(data, text_column):
        if decoder_texts is not None or max_length is not None:
            raise ValueError("`decoder_texts` and `max_length` go with texts: leave them out for images")
        return _image_source(model, data, tokenizer, text_column)
    if not needs_tokenizer(data, text_column):
        if decoder_texts is not None or text_column is not None:
            raise ValueError("`decoder_texts` and `text_column` go with texts: tensors carry `labels` for the decoder")
        every = list(_tensor_features(data, model))  # once: a loader may give another order each time
        if not every:
            raise ValueError("`data` must hold at least one example, got none")
        record = _source_record(f"{type(data).__name__} in memory", fingerprint(map(_key, every)), len(every), None, "")
        return Source(len(every), lambda rows, _: ([every[row] for row in rows], 0), record)
    texts = data if isinstance(data, Texts) else read_texts(data, text_column=text_column)
    loaded = load_tokenizer(model, tokenizer)
    limit = length_limit(model, loaded, max_length)
    available, mark = texts.n_available, texts.fingerprint()
    if decoder_texts is not None:
        mark = fingerprint([mark.encode(), Texts(decoder_texts, "").fingerprint().encode()])

    def features_of(rows: NDArray[np.int64], folder: Path | None) -> tuple[TokenTable, int]:
        table, n_truncated = TableBuilder(folder), 0
        for piece in pieces(rows):
            encoded, n_cut = tokenize(texts.take(piece), loaded, limit, piece)
            n_truncated += n_cut
            if decoder_texts is not None:
                n_truncated += add_decoder_texts(encoded, decoder_texts, piece, available, model, loaded, limit)
            table.add(encoded)
        return table.finish(), n_truncated

    name = str(getattr(loaded, "name_or_path", "") or type(loaded).__name__)
    return Source(available, features_of, _source_record(texts.source, mark, available, limit, name), texts.rows)


def _image_source(model: torch.nn.Module, data: Any, processor: Any, column: str | Sequence[str] | None) -> Source:
    """Open images, which the model's image processor turns into pixel values when they are drawn."""
    images = read_images(data, column)
    made: Any = check_processor(load_tokenizer(model, processor, "AutoImageProcessor"))
    mode = image_mode(model)

    def features_of(rows: NDArray[np.int64], _: Path | None) -> tuple[Sequence[Mapping[str, torch.Tensor]], int]:
        return [Pixels(images, row, made, mode) for row in rows.tolist()], 0

    record = _source_record(images.source, images.fingerprint(), len(images), None, type(made).__name__)
    return Source(len(images), features_of, record)


def _source_record(data: str, mark: str, n_available: int, limit: int | None, tokenizer: str) -> dict[str, Any]:
    return {
        "data": masked(data),
        "data_fingerprint": mark,
        "n_available": n_available,
        "max_length": limit or 0,
        "tokenizer": masked(tokenizer),
    }


class Seen:
    """Remembers which examples there were, by 16 bytes of each."""

    def __init__(self) -> None:
        self._marks = np.empty(0, dtype=_MARK)

    def new(self, features: Sequence[Mapping[str, torch.Tensor]]) -> NDArray[np.int64]:
        """Return the positions of those that were not seen before, the first of equal ones, and remember them."""
        digests = (blake2b(_key(one), digest_size=_MARK.itemsize).digest() for one in features)
        marks = np.fromiter(digests, _MARK, count=len(features))
        found = first_of_equal(marks)
        if len(self._marks):
            found = found[~np.isin(marks[found], self._marks)]
        self._marks = np.concatenate([self._marks, marks[found]]) if len(self._marks) else marks[found]
        return found


def take_examples(
    source: Source,
    rows: NDArray[np.int64],
    model: torch.nn.Module,
    seen: Seen | None = None,
    folder: Path | None = None,
) -> Examples:
    """Return the distinct examples of these data rows.

    Parameters
    ----------
    source : Source
        As from `open_source`.
    rows : ndarray of shape (n_rows,)
        Data rows.
    model : torch.nn.Module
        What they are for.
    seen : Seen, optional
        Examples of earlier rounds, which are left out; those of this round are added.
    folder : Path, optional
        Where token ids are kept on disk; in memory without.
    """
    features, n_truncated = source.features_of(rows, folder)
    _check_fits(features, model)
    kept = (Seen() if seen is None else seen).new(features)
    record = {
        **source.record,
        "n_texts": len(rows),
        "text_copies_removed": len(rows) - len(kept),
        "n_truncated": n_truncated,
    }
    distinct = features[kept] if isinstance(features, TokenTable) else [features[position] for position in kept]
    return Examples(distinct, rows[kept], record)


def needs_tokenizer(data: Any, text_column: str | Sequence[str] | None = None) -> bool:
    """Say whether ``data`` holds texts; a dataset with ``input_ids`` and no ``text_column`` is tokenized already."""
    if is_images(data, text_column):
        return False
    tokenized = text_column is None and "input_ids" in (getattr(data, "column_names", None) or ())
    return isinstance(data, Texts) or (is_texts(data) and not tokenized)


def collate(features: Sequence[Mapping[str, torch.Tensor]], pad_id: int) -> Features:
    """Pad examples on the right to one batch, with ``attention_mask`` (and ``decoder_attention_mask``)."""
    batch: Features = {}
    for key in features[0]:
        values = [feature[key] for feature in features]
        if key in WHOLE_KEYS:
            batch[key] = stack_pixels(values)
            continue
        fill = 0 if key == "token_type_ids" else pad_id
        batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
        if key.endswith("input_ids"):
            lengths = torch.tensor([len(value) for value in values])
            mask = torch.arange(batch[key].shape[1])[None, :] < lengths[:, None]
            batch[key.replace("input_ids", "attention_mask")] = mask.long()
    return batch


def count_tokens(features: Sequence[Mapping[str, torch.Tensor]], stack: str = "encoder") -> NDArray[np.int64]:
    """Return the number of tokens of each example in ``stack``, 0 where it holds no token ids."""
    decoder = stack == "decoder" and "decoder_input_ids" in features[0]
    key = "decoder_input_ids" if decoder else "input_ids"
    if isinstance(features, TokenTable):
        return features.lengths(key)
    return np.array([len(one[key]) if key in one else 0 for one in features], dtype=np.int64)


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
            "`data`: a batch must be a tensor or a mapping of tensors (and texts a list of strings, or a "
            f"datasets.IterableDataset), got {type(batch).__name__}"
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
            feature["decoder_input_ids"] = shift_right(labels[: int(used[-1]) + 1], model)
    return feature


def _key(feature: Mapping[str, torch.Tensor]) -> bytes:
    if isinstance(feature, Pixels):
        return feature.digest()
    parts = [(key, tuple(value.shape), str(value.dtype)) for key, value in feature.items()]
    values = (value.contiguous().flatten().view(torch.uint8).numpy().tobytes() for value in feature.values())
    return repr(parts).encode() + b"".join(values)


def _check_fits(features: Sequence[Mapping[str, torch.Tensor]], model: torch.nn.Module) -> None:
    """Raise ValueError where token ids or lengths go beyond what the model embeds."""
    positions = position_limit(model)
    longest = int(count_tokens(features).max(initial=0)) if len(features) else 0
    if positions is not None and longest > positions:
        raise ValueError(
            f"`data`: an example has {longest} tokens, but the model has {positions} positions: truncate the examples"
        )
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    size = getattr(embeddings, "num_embeddings", None)
    if isinstance(features, TokenTable):
        largest = features.largest("input_ids")
    else:
        largest = max((int(feature["input_ids"].max()) for feature in features if "input_ids" in feature), default=-1)
    if size is not None and largest >= size:
        raise ValueError(
            f"`tokenizer` does not belong to the model: token id {largest}, but the model embeds {size} ids only"
        )
