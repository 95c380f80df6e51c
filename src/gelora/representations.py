"""Hidden states → one point cloud per layer."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import Block, architecture_of, find_blocks, weights_fingerprint
from gelora.clouds import Representations as Representations
from gelora.collecting import Collector
from gelora.corpora import read_texts
from gelora.encoding import Examples, Seen, needs_tokenizer, open_source, take_examples
from gelora.files import make_folder
from gelora.filling import fill_memory, fill_store
from gelora.images import is_images, read_images
from gelora.masking import masked
from gelora.messages import check_choice, check_integer
from gelora.models import check_placement, load_model, load_pretrained
from gelora.offloading import float_type, input_device
from gelora.pooling import check_pooling
from gelora.processes import Processes
from gelora.provenance import fingerprint, package_versions
from gelora.quantization import quantization_of
from gelora.rounds import read_until
from gelora.store import StoredCloud
from gelora.windows import Layer, window_rows

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_AUTO_SIZES = {False: 32, True: 512}
_USUAL_WIDTH = 1024


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
    layers: Sequence[str] | Sequence[int] | None = None,
    tokenizer: Any = None,
    batch_size: int | str = 32,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | None = None,
    precision: str = "float32",
    store: str | Path | None = None,
    all_processes: bool = False,
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
        A loaded model, which runs where it is, also where accelerate has spread it over devices, memory and disk; or
        the folder or hub name of one.
    data : list of str, list of pairs of str, datasets.Dataset or IterableDataset, DataLoader, tensors, or path
        Texts; or batches of ``input_ids`` (with ``attention_mask`` and, for the decoder of an encoder-decoder
        model, ``labels`` or ``decoder_input_ids``) or ``pixel_values``; or a text, CSV, JSON lines or Parquet file.
        Of a stream the rows are drawn as they pass, and all of it passes.
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
    layers : sequence of int or of str, optional
        Numbers of the layers to read, of each stack: the others are not kept, and the model is left after the last
        of them. Or module paths of the blocks, for an architecture gelora does not know.
    tokenizer : PreTrainedTokenizerBase, str or Path, optional
        By default the one beside the model's weights. For images an image processor.
    batch_size : int or "auto"
        Examples run together, of similar length. Where they do not fit into memory, half as many from there on;
        ``"auto"`` starts with 512 on a GPU and 32 on a CPU.
    device : str, optional
        For a model given by name: where it runs; by default a GPU if there is one.
    device_map : {"auto", "balanced", "balanced_low_0", "sequential"} or mapping of str to device, optional
        For a model given by name, instead of `device`: how it is spread over several devices, ``"cpu"`` and ``"disk"``,
        as ``from_pretrained`` takes it.
    quantization : {"nf4", "fp4", "int8"}, optional
        For a model given by name: hold its linear layers in 4 or 8 bits, by bitsandbytes. Needs ``gelora[quantized]``.
    precision : {"float32", "bfloat16", "float16"}
        Of automatic mixed precision; ``"float32"`` leaves the model as it is. Points with non-finite coordinates are
        counted, and warned of.
    store : str or Path, optional
        Folder of a zarr store for the hidden states: they are written as they are made and read layer by layer, so
        that memory does not grow with the data; a call that is cut off goes on at the next. Needs ``gelora[scale]``.
    all_processes : bool
        Every process of a job that torchrun or ``accelerate launch`` started makes this call: they divide the windows
        of the `store`, and each returns all of it.
    revision : str, optional
        For a model given by name: branch, tag or commit on the hub.
    trust_remote_code : bool
        For a model given by name: run code that comes with it.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Representations
        With a store its clouds are `gelora.store.StoredCloud`, which NumPy reads when it needs them.

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
    if batch_size != "auto":
        batch_size = check_integer("batch_size", batch_size, 1, ", or 'auto'")
    check_choice("precision", precision, PRECISIONS)
    check_placement(model, device, device_map, quantization)
    if store is not None and callable(n_samples):
        raise ValueError("`store` needs to know the rows beforehand: give `n_samples` as a number or None")
    if callable(n_samples) and pooling == "tokens":
        raise ValueError(
            "`n_samples` must be a number or None with pooling='tokens', whose points `n_tokens` limits, not the texts"
        )
    if all_processes and store is None:
        raise ValueError("`all_processes` needs a `store`, whose windows they divide: give a folder that they share")
    processes = Processes(device or "auto", alone=not all_processes)
    if needs_tokenizer(data, text_column):
        # Before the model is loaded: a mistyped column costs no time.
        data = read_texts(data, text_column=text_column, n_samples=n_samples, seed=seed)
        if tokenizer is None and isinstance(model, str | Path):
            tokenizer = load_pretrained(model, "AutoTokenizer", revision=revision, trust_remote_code=trust_remote_code)
    elif is_images(data, text_column):
        data = read_images(data, text_column)
        if tokenizer is None and isinstance(model, str | Path):
            own: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
            tokenizer = load_pretrained(model, "AutoImageProcessor", **own)
    loaded = load_model(
        model,
        device=device,
        device_map=device_map,
        quantization=quantization,
        precision=precision,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    runner = _backbone(loaded)
    paths = [one for one in layers or () if isinstance(one, str)]
    found = find_blocks(runner, paths or None)
    asked = _asked_layers([one for one in layers or () if not isinstance(one, str)], bool(paths), found)
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
        "precision": precision,
        "pooling": pooling,
        "n_tokens": (n_tokens or "all") if pooling == "tokens" else "",
        "text_column": [text_column] if isinstance(text_column, str) else list(text_column or ()),
        "batch_size": batch_size,
        "sample_seed": seed,
    }
    folder = None if store is None else make_folder(store)

    def collect(examples: Examples) -> Representations:
        blocks = _running_blocks(found, examples)
        collector = Collector(
            runner, blocks, examples, pooling, n_tokens, seed, layers=asked, precision=PRECISIONS[precision]
        )
        size = batch_size if isinstance(batch_size, int) else _AUTO_SIZES[input_device(runner).type == "cuda"]
        return _collect(collector, folder, attributes, size, processes, progress)

    def take(rows: NDArray[np.int64], seen: Seen | None = None) -> Examples:
        return take_examples(source, rows, runner, seen, folder)

    if callable(n_samples):
        collected = read_until(take, collect, n_samples, source.n_available, seed)
    else:
        collected = collect(take(source.draw(n_samples, seed)))
    spent = {"extraction_seconds": round(time.perf_counter() - started, 3)}
    return replace(collected, attributes={**attributes, **spent, **collected.attributes})


def _running_blocks(found: Sequence[Block], examples: Examples) -> Sequence[Block]:
    """Return the blocks that run: without inputs for the decoder only those of the encoder."""
    two_stacks = {block.stack for block in found} == {"encoder", "decoder"}
    encoder_alone = two_stacks and "decoder_input_ids" not in examples.features[0]
    return [block for block in found if block.stack == "encoder"] if encoder_alone else found


def _asked_layers(numbers: Sequence[Any], named: bool, blocks: Sequence[Block]) -> set[Layer] | None:
    """Return the layers that are read, None for all; numbers count in each stack.

    Raises
    ------
    ValueError
        If a number is that of no layer, or stands beside paths of modules.
    """
    if not numbers:
        return None
    if named:
        raise ValueError(
            f"`layers` must be numbers of layers or module paths, not both, got {list(numbers)} beside paths"
        )
    known = {(block.stack, index) for block in blocks for index in (0, block.index)}
    asked = {check_integer("layers", number, 0, ", or the path of a module") for number in numbers}
    most = max(index for _, index in known)
    if max(asked) > most:
        raise ValueError(f"`layers` must be numbers from 0 to {most}, got {max(asked)}")
    return {layer for layer in known if layer[1] in asked}


def _collect(
    collector: Collector,
    folder: Path | None,
    attributes: Mapping[str, Any],
    batch_size: int,
    processes: Processes,
    progress: bool,
) -> Representations:
    """Run the examples, and return their clouds with the record of the examples as attributes."""
    examples = collector.examples
    rows = {stack: np.repeat(examples.rows, np.diff(ends)) for stack, ends in collector.offsets.items()}
    size = window_rows(int(attributes["architecture"]["width"]) or _USUAL_WIDTH)
    keys = sorted(collector.layers, key=lambda key: (key[0] == "decoder", key[1]))
    clouds: Mapping[Layer, Any]
    if folder is None:
        clouds = fill_memory(collector, size, batch_size, progress)
        nonfinite: Mapping[Layer, int] = collector.n_nonfinite
    else:
        identity = _identity(attributes, examples, keys, rows)
        options: dict[str, Any] = {"window_rows": size, "batch_size": batch_size, "processes": processes}
        store = fill_store(folder, collector, identity, rows, progress=progress, **options)
        clouds = {(stack, layer): StoredCloud(store, stack, layer) for stack, layer in keys}
        nonfinite = store.count_nonfinite()
    names = {(block.stack, block.index): block.name for block in collector.blocks}
    names |= {(block.stack, 0): f"{block.name} (input)" for block in collector.blocks if block.index == 1}
    bad = {names[key]: nonfinite[key] for key in keys if nonfinite.get(key)}
    if bad:
        name = next(iter(bad))
        warnings.warn(
            f"{bad[name]} of {len(clouds[keys[0]])} points of {name!r} have non-finite coordinates"
            + (f", and others of {len(bad) - 1} more layers" if len(bad) > 1 else "")
            + ": no dimension is defined there; give another `precision` or `dtype`",
            stacklevel=4,
        )
    return Representations(
        clouds=tuple(clouds[key] for key in keys),
        stacks=tuple(stack for stack, _ in keys),
        layers=tuple(layer for _, layer in keys),
        names=tuple(names[key] for key in keys),
        rows=rows,
        attributes={**examples.record, "n_nonfinite": bad},
    )


def _identity(
    attributes: Mapping[str, Any], examples: Examples, layers: Sequence[Layer], rows: Mapping[str, NDArray[np.int64]]
) -> dict[str, Any]:
    """Return what the hidden states in a store depend on."""
    own = ("model_class", "architecture", "weights_fingerprint", "dtype", "quantization", "quantization_options")
    return {
        **{name: attributes[name] for name in (*own, "precision", "pooling", "n_tokens")},
        "layers": [list(layer) for layer in layers],
        "data_fingerprint": examples.record["data_fingerprint"],
        "max_length": examples.record["max_length"],
        "tokenizer": examples.record["tokenizer"],
        "rows": {stack: fingerprint([values.astype("<i8").tobytes()]) for stack, values in rows.items()},
        "token_seed": attributes["sample_seed"] if attributes["pooling"] == "tokens" else "",
        "gelora": package_versions(["gelora"]).get("gelora", ""),
    }


def _describe(
    loaded: torch.nn.Module, runner: torch.nn.Module, blocks: Sequence[Block], revision: str | None
) -> dict[str, Any]:
    """Return the provenance of the model and of what is read from it.

    Raises
    ------
    ValueError
        If the weights of the blocks are not loaded.
    """
    weights = weights_fingerprint(runner, blocks)
    if weights is None:
        raise ValueError("`model` has no weights, its blocks are on the meta device: load them")
    quantization, options = quantization_of(loaded)
    places = {str(name): str(place) for name, place in (getattr(loaded, "hf_device_map", None) or {}).items()}
    return {
        "model": masked(str(getattr(loaded, "name_or_path", "") or type(loaded).__name__)),
        "model_class": type(loaded).__name__,
        "revision": str(getattr(getattr(loaded, "config", None), "_commit_hash", None) or revision or ""),
        "architecture": architecture_of(runner, blocks).as_dict(),
        "weights_fingerprint": weights,
        "read": "input of the first block, then the output of every block, by forward hooks",
        "device": str(input_device(runner)),
        "device_map": places if len(set(places.values())) > 1 else {},
        "dtype": str(float_type(runner) or "").removeprefix("torch."),
        "quantization": quantization,
        "quantization_options": options,
    }


def _backbone(model: torch.nn.Module) -> torch.nn.Module:
    """Return what has to run for the hidden states: no language-model head, whose logits would fill memory."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    backbone = getattr(inner, "base_model", inner)
    return backbone if isinstance(backbone, torch.nn.Module) else inner
