"""Hidden states → one point cloud per layer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import Block, architecture_of, find_blocks, weights_fingerprint
from gelora.clouds import Representations as Representations
from gelora.collecting import Collector
from gelora.corpora import draw_rows, read_texts
from gelora.encoding import Examples, needs_tokenizer, open_source, take_examples
from gelora.hooks import inference_on
from gelora.images import is_images, read_images
from gelora.messages import check_integer
from gelora.models import load_pretrained
from gelora.pooling import check_pooling
from gelora.rounds import read_until


def extract_representations(
    model: Any,
    data: Any,
    *,
    pooling: str = "mean",
    n_samples: int | Callable[[Representations], bool] | None = 5000,
    seed: int = 0,
    text_column: str | Sequence[str] | None = None,
    max_length: int | None = None,
    decoder_texts: Sequence[str] | None = None,
    n_tokens: int | None = 20_000,
    layers: Sequence[str] | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Representations:
    """Run ``data`` through ``model`` and collect one vector per example and layer.

    Layer 0 is the input of the first block, layer i the output of block i, read by hooks. Texts with the same
    token ids run once. The model is left exactly as found.

    Parameters
    ----------
    model : PreTrainedModel, torch.nn.Module, str or Path
        A loaded model, which runs where it is; or the folder or hub name of one.
    data : list of str, list of pairs of str, datasets.Dataset, DataLoader, tensors, or path
        Texts; or batches of ``input_ids`` (with ``attention_mask`` and, for the decoder of an encoder-decoder
        model, ``labels`` or ``decoder_input_ids``) or ``pixel_values``; or a text, CSV, JSON lines or Parquet file.
        Images: a folder of files, a ``datasets.Dataset`` with an image column or a list of PIL images, for which the
        model's image processor is taken.
    pooling : {"mean", "last", "cls", "max", "tokens"}
        How the tokens of an example become one vector, over the attended tokens; ``"tokens"`` keeps each.
    n_samples : int or callable, optional
        Rows drawn without replacement, by the seed alone; None takes all. A callable decides when there are
        enough: rows are drawn in growing rounds, spread evenly over the data, until it says so of all that was
        extracted so far, or the data end. Its attributes ``first`` and ``growth``, where it has them, set the rows
        of the first round (500) and the growth of their number (2).
    seed : int
        Seed of that draw, and of the choice of tokens.
    text_column : str or two str, optional
        The column of a file or dataset; two columns make pairs that the tokenizer encodes together. Or the image
        column of a dataset that has several.
    max_length : int, optional
        Tokens of a text beyond this are cut, and the texts concerned counted; by default the model's limit.
    decoder_texts : sequence of str, optional
        For an encoder-decoder model: the decoder's text of each data row. Without it only the encoder runs.
    n_tokens : int, optional
        With ``pooling="tokens"``: tokens kept, drawn uniformly from all texts; None keeps all.
    layers : sequence of str, optional
        Module paths of the blocks, for an architecture gelora does not know.
    tokenizer : PreTrainedTokenizerBase, str or Path, optional
        By default the one beside the model's weights. For images an image processor.
    batch_size : int
        Examples run together; they are sorted by length first.
    device : str, optional
        For a model given by name: where it runs; by default a GPU if there is one.
    revision : str, optional
        For a model given by name: branch, tag or commit on the hub.
    trust_remote_code : bool
        For a model given by name: run code that comes with it.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Representations

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Naming the argument, the requirement, what was found and the remedy.
    UnknownArchitectureError
        If the blocks are not found and ``layers`` is not given.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(
    ...     num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=9
    ... )
    >>> tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    >>> extract_representations(BertModel(config), tokens, progress=False)[2].shape
    (2, 8)
    """
    started = time.perf_counter()
    check_pooling(pooling)
    batch_size = check_integer("batch_size", batch_size, 1)
    if callable(n_samples) and pooling == "tokens":
        raise ValueError(
            "`n_samples` must be a number or None with pooling='tokens', whose points `n_tokens` limits, not the texts"
        )
    if needs_tokenizer(data, text_column):
        # Before the model is loaded: a mistyped column costs no time.
        data = read_texts(data, text_column=text_column)
        if tokenizer is None and isinstance(model, str | Path):
            tokenizer = load_pretrained(model, "AutoTokenizer", revision=revision, trust_remote_code=trust_remote_code)
    elif is_images(data, text_column):
        data = read_images(data, text_column)
        if tokenizer is None and isinstance(model, str | Path):
            own: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
            tokenizer = load_pretrained(model, "AutoImageProcessor", **own)
    loaded = _load(model, device, revision, trust_remote_code)
    runner = _backbone(loaded)
    found = find_blocks(runner, layers)
    source = open_source(
        runner,
        data,
        tokenizer=tokenizer,
        text_column=text_column,
        max_length=max_length,
        decoder_texts=decoder_texts,
    )
    attributes = {
        **_describe(loaded, runner, found, revision),
        "pooling": pooling,
        "n_tokens": (n_tokens or "all") if pooling == "tokens" else "",
        "text_column": [text_column] if isinstance(text_column, str) else list(text_column or ()),
        "batch_size": batch_size,
        "sample_seed": seed,
    }

    def collect(examples: Examples) -> Representations:
        return _collect(runner, found, examples, pooling, n_tokens, seed, batch_size, progress)

    def take(rows: NDArray[np.int64], seen: set[bytes] | None = None) -> Examples:
        return take_examples(source, rows, runner, seen)

    if callable(n_samples):
        collected = read_until(take, collect, n_samples, source.n_available, seed)
    else:
        collected = collect(take(draw_rows(source.n_available, n_samples, seed)))
    spent = {"extraction_seconds": round(time.perf_counter() - started, 3)}
    return replace(collected, attributes={**attributes, **spent, **collected.attributes})


def _collect(
    runner: torch.nn.Module,
    found: Sequence[Block],
    examples: Examples,
    pooling: str,
    n_tokens: int | None,
    seed: int,
    batch_size: int,
    progress: bool,
) -> Representations:
    """Run the examples, and return their clouds with the record of the examples as attributes."""
    two_stacks = {block.stack for block in found} == {"encoder", "decoder"}
    encoder_alone = two_stacks and "decoder_input_ids" not in examples.features[0]
    blocks = [block for block in found if block.stack == "encoder"] if encoder_alone else found
    collector = Collector(runner, blocks, examples, pooling, n_tokens, seed)
    with inference_on(runner):
        collector.run(batch_size, progress)
    names = {(block.stack, block.index): block.name for block in blocks}
    names |= {(block.stack, 0): f"{block.name} (input)" for block in blocks if block.index == 1}
    keys = sorted(collector.clouds, key=lambda key: (key[0] == "decoder", key[1]))
    return Representations(
        clouds=tuple(collector.clouds[key] for key in keys),
        stacks=tuple(stack for stack, _ in keys),
        layers=tuple(layer for _, layer in keys),
        names=tuple(names[key] for key in keys),
        rows={stack: np.repeat(examples.rows, np.diff(ends)) for stack, ends in collector.offsets.items()},
        attributes=dict(examples.record),
    )


def _describe(
    model: torch.nn.Module, runner: torch.nn.Module, blocks: Sequence[Block], revision: str | None
) -> dict[str, Any]:
    """Return the provenance of the model and of what is read from it."""
    parameter = next(runner.parameters(), None)
    return {
        "model": str(getattr(model, "name_or_path", "") or type(model).__name__),
        "model_class": type(model).__name__,
        "revision": str(getattr(getattr(model, "config", None), "_commit_hash", None) or revision or ""),
        "architecture": architecture_of(runner, blocks).as_dict(),
        "weights_fingerprint": weights_fingerprint(runner, blocks) or "",
        "read": "input of the first block, then the output of every block, by forward hooks",
        "device": str(parameter.device) if parameter is not None else "cpu",
        "dtype": str(parameter.dtype).removeprefix("torch.") if parameter is not None else "",
    }


def _load(model: Any, device: str | None, revision: str | None, trust_remote_code: bool) -> torch.nn.Module:
    if isinstance(model, torch.nn.Module):
        if device not in (None, "auto"):
            raise ValueError("`device` goes with a model given by name: a loaded model runs where it is, move it first")
        return model
    if not isinstance(model, str | Path):
        raise TypeError(f"`model` must be a loaded model, a folder or a hub name, got {type(model).__name__}")
    target = _device(device)
    loaded: torch.nn.Module = load_pretrained(
        model, "AutoModel", revision=revision, trust_remote_code=trust_remote_code
    )
    return loaded.to(target)


def _device(device: str | None) -> torch.device:
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(str(device))
    except RuntimeError as error:
        raise ValueError(
            f"`device` must be 'auto' or a torch device such as 'cpu' or 'cuda:0', got {device!r}"
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` is {device!r}, but torch finds no CUDA device: give device='auto' or 'cpu'")
    return found


def _backbone(model: torch.nn.Module) -> torch.nn.Module:
    """Return what has to run for the hidden states: no language-model head, whose logits would fill memory."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    backbone = getattr(inner, "base_model", inner)
    return backbone if isinstance(backbone, torch.nn.Module) else inner
