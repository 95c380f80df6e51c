"""Hidden states → one point cloud per layer."""

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.blocks import (
    Block,
    UnknownArchitectureError,
    architecture_of,
    check_finite_parameters,
    find_blocks,
    weights_fingerprint,
)
from gelora.corpora import read_texts
from gelora.encoding import Examples, Features, collate, encode, n_tokens, needs_tokenizer, pad_id_of
from gelora.hooks import inference_on, read_blocks
from gelora.messages import check_integer
from gelora.models import load_pretrained
from gelora.pooling import check_pooling, choose_tokens, pool
from gelora.provenance import generator

Cloud = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Representations:
    """Point clouds of the layers of a model, rows aligned between the layers of a stack.

    Parameters
    ----------
    clouds : tuple of ndarray of shape (n_points, width)
        One a layer.
    stacks, layers, names : tuple
        Of each cloud: ``"encoder"`` or ``"decoder"``, position from 0 (the input of the first block), and the
        path of the module it was read from.
    rows : mapping of str to ndarray of shape (n_points,)
        By stack: the data row that each point comes from.
    attributes : mapping
        Provenance: model, data, pooling, counts.
    """

    clouds: tuple[Cloud, ...]
    stacks: tuple[str, ...]
    layers: tuple[int, ...]
    names: tuple[str, ...]
    rows: Mapping[str, NDArray[np.int64]]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.clouds)

    def __getitem__(self, index: int) -> Cloud:
        """Return the cloud at position ``index``."""
        return self.clouds[index]


def extract_representations(
    model: Any,
    data: Any,
    *,
    pooling: str = "mean",
    n_samples: int | None = 5000,
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
    pooling : {"mean", "last", "cls", "max", "tokens"}
        How the tokens of an example become one vector, over the attended tokens; ``"tokens"`` keeps each.
    n_samples : int, optional
        Rows drawn without replacement, by the seed alone; None takes all.
    seed : int
        Seed of that draw, and of the choice of tokens.
    text_column : str or two str, optional
        The column of a file or dataset; two columns make pairs that the tokenizer encodes together.
    max_length : int, optional
        Tokens of a text beyond this are cut, and the texts concerned counted; by default the model's limit.
    decoder_texts : sequence of str, optional
        For an encoder-decoder model: the decoder's text of each data row. Without it only the encoder runs.
    n_tokens : int, optional
        With ``pooling="tokens"``: tokens kept, drawn uniformly from all texts; None keeps all.
    layers : sequence of str, optional
        Module paths of the blocks, for an architecture gelora does not know.
    tokenizer : PreTrainedTokenizerBase, str or Path, optional
        By default the one beside the model's weights.
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
    if needs_tokenizer(data, text_column):
        # Before the model is loaded: a mistyped column costs no time.
        data = read_texts(data, text_column=text_column)
        if tokenizer is None and isinstance(model, str | Path):
            tokenizer = load_pretrained(model, "AutoTokenizer", revision=revision, trust_remote_code=trust_remote_code)
    loaded = _load(model, device, revision, trust_remote_code)
    runner = _backbone(loaded)
    found = find_blocks(runner, layers)
    examples = encode(
        runner,
        data,
        tokenizer=tokenizer,
        text_column=text_column,
        max_length=max_length,
        decoder_texts=decoder_texts,
        n_samples=n_samples,
        seed=seed,
    )
    two_stacks = {block.stack for block in found} == {"encoder", "decoder"}
    encoder_alone = two_stacks and "decoder_input_ids" not in examples.features[0]
    blocks = [block for block in found if block.stack == "encoder"] if encoder_alone else found
    collector = _Collector(runner, blocks, examples, pooling, n_tokens, seed)
    with inference_on(runner):
        collector.run(batch_size, progress)
    return collector.representations(
        {
            **_describe(loaded, runner, found, revision),
            "pooling": pooling,
            "n_tokens": (n_tokens or "all") if pooling == "tokens" else "",
            "text_column": [text_column] if isinstance(text_column, str) else list(text_column or ()),
            "batch_size": batch_size,
            "extraction_seconds": round(time.perf_counter() - started, 3),
            **examples.record,
        }
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


class _Collector:
    """Runs the batches and writes the pooled hidden states where they belong."""

    def __init__(
        self,
        runner: torch.nn.Module,
        blocks: Sequence[Block],
        examples: Examples,
        pooling: str,
        n_kept: int | None,
        seed: int,
    ) -> None:
        self.runner = runner
        self.blocks = blocks
        self.examples = examples
        self.pooling = pooling
        self.clouds: dict[tuple[str, int], Cloud] = {}
        self.kept: dict[str, list[NDArray[np.int64]]] = {}
        self.offsets: dict[str, NDArray[np.int64]] = {}
        self.indices = np.empty(0, dtype=np.int64)  # examples of the batch that runs
        self.masks: dict[str, torch.Tensor] = {}
        self.seen: set[tuple[str, int]] = set()
        self.checked_parameters = False
        for stack in dict.fromkeys(block.stack for block in blocks):
            self._place(stack, n_kept, seed)

    def _place(self, stack: str, n_kept: int | None, seed: int) -> None:
        """Decide which rows of the stack's clouds each example fills."""
        counts = np.ones(len(self.examples.features), dtype=np.int64)
        if self.pooling == "tokens":
            lengths = np.array([n_tokens(feature, stack) for feature in self.examples.features], dtype=np.int64)
            if not lengths.all():
                lengths[:] = self._probe_length()
            self.kept[stack] = choose_tokens(lengths, n_kept, generator(seed, "tokens", stack))
            counts = np.array([len(kept) for kept in self.kept[stack]], dtype=np.int64)
        self.offsets[stack] = np.concatenate([[0], np.cumsum(counts)])

    def _probe_length(self) -> int:
        """Return how many tokens the model makes of an image, by running one."""
        lengths = []
        with (
            inference_on(self.runner),
            read_blocks(self.runner, self.blocks[:1], lambda _stack, _layer, h: lengths.append(h.shape[1])),
        ):
            self._forward(collate(self.examples.features[:1], 0))
        return int(lengths[0])

    def run(self, batch_size: int, progress: bool) -> None:
        """Run all examples in batches of similar length, the longest first."""
        sizes = [n_tokens(feature) + n_tokens(feature, "decoder") for feature in self.examples.features]
        order = np.argsort(-np.array(sizes), kind="stable")
        pad_id = pad_id_of(self.runner)
        bar = tqdm(total=len(order), desc="hidden states", unit=" texts", disable=not progress)
        with bar, read_blocks(self.runner, self.blocks, self._receive):
            for start in range(0, len(order), batch_size):
                self.indices = order[start : start + batch_size]
                batch = collate([self.examples.features[i] for i in self.indices], pad_id)
                self.masks = {
                    stack: batch[key].bool()
                    for stack, key in (("encoder", "attention_mask"), ("decoder", "decoder_attention_mask"))
                    if key in batch
                }
                if "decoder_attention_mask" not in batch and "attention_mask" in batch:
                    self.masks["decoder"] = self.masks["encoder"]  # a model of one stack, a decoder
                self.seen = set()
                self._forward(batch)
                self._check_complete()
                bar.update(len(self.indices))

    def _forward(self, batch: Features) -> None:
        runner = self.runner
        parameter = next(runner.parameters(), None)
        device = parameter.device if parameter is not None else torch.device("cpu")
        if getattr(getattr(runner, "config", None), "is_encoder_decoder", False) and "decoder_input_ids" not in batch:
            runner = runner.get_encoder()  # type: ignore[operator]
        moved = {key: value.to(device) for key, value in batch.items()}
        if parameter is not None:
            moved = {k: v.to(parameter.dtype) if v.is_floating_point() else v for k, v in moved.items()}
        if getattr(runner, "config", None) is None:
            runner(moved["inputs"] if "inputs" in moved else moved["input_ids"])
            return
        known = inspect.signature(runner.forward).parameters
        accepted = {key: value for key, value in moved.items() if key != "token_type_ids" or key in known}
        runner(**accepted, **({"use_cache": False} if "use_cache" in known else {}))

    def _receive(self, stack: str, layer: int, hidden: torch.Tensor) -> None:
        if (stack, layer) in self.seen:
            raise UnknownArchitectureError(
                f"layer {layer} of the {stack} ran twice in one pass: blocks that share one module have no layers "
                "to tell apart; name modules that run once by `layers=`"
            )
        self.seen.add((stack, layer))
        states = hidden[:, None, :] if hidden.ndim == 2 else hidden
        mask = self.masks.get(stack)
        mask = torch.ones(states.shape[:2], dtype=torch.bool) if mask is None or hidden.ndim == 2 else mask
        if mask.shape != states.shape[:2]:
            raise ValueError(
                f"layer {layer} of the {stack} has {states.shape[1]} tokens for {mask.shape[1]} token ids: "
                "pooling needs one hidden state a token"
            )
        keep = self._keep(stack, mask) if self.pooling == "tokens" else None
        pooled = pool(states, mask.to(states.device), self.pooling, None if keep is None else keep.to(states.device))
        self._write(stack, layer, pooled.cpu().numpy())

    def _keep(self, stack: str, mask: torch.Tensor) -> torch.Tensor:
        keep = torch.zeros_like(mask)
        for row, example in enumerate(self.indices):
            # Our own batches are padded on the right: position p of the text is column p.
            keep[row, torch.from_numpy(self.kept[stack][example])] = True
        return keep

    def _write(self, stack: str, layer: int, values: Cloud) -> None:
        offsets = self.offsets[stack]
        if (stack, layer) not in self.clouds:
            self.clouds[stack, layer] = np.empty((int(offsets[-1]), values.shape[1]), values.dtype)
        rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in self.indices])
        self.clouds[stack, layer][rows] = values
        if not self.checked_parameters and not np.isfinite(values).all():
            check_finite_parameters(self.runner)
            self.checked_parameters = True

    def _check_complete(self) -> None:
        missing = [block for block in self.blocks if (block.stack, block.index) not in self.seen]
        if missing:
            raise UnknownArchitectureError(
                f"the block {missing[0].name!r} did not run on this data: name blocks that run by `layers=`"
            )

    def representations(self, attributes: Mapping[str, Any]) -> Representations:
        """Return what was collected."""
        names = {(block.stack, block.index): block.name for block in self.blocks}
        names |= {(block.stack, 0): f"{block.name} (input)" for block in self.blocks if block.index == 1}
        keys = sorted(self.clouds, key=lambda key: (key[0] == "decoder", key[1]))
        rows = {stack: np.repeat(self.examples.rows, np.diff(offsets)) for stack, offsets in self.offsets.items()}
        return Representations(
            clouds=tuple(self.clouds[key] for key in keys),
            stacks=tuple(stack for stack, _ in keys),
            layers=tuple(layer for _, layer in keys),
            names=tuple(names[key] for key in keys),
            rows=rows,
            attributes=attributes,
        )
