"""Run batches through a model and collect one pooled vector per example and layer."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.blocks import Block, UnknownArchitectureError, check_finite_parameters
from gelora.encoding import Examples, collate, n_tokens, pad_id_of
from gelora.hooks import inference_on, read_blocks
from gelora.pooling import choose_tokens, pool
from gelora.provenance import generator
from gelora.tokenizing import Features

Cloud = NDArray[np.float32] | NDArray[np.float64]


class Collector:
    """Runs the batches and writes the pooled hidden states where they belong.

    Parameters
    ----------
    runner : torch.nn.Module
        What is called.
    blocks : sequence of Block
        What is read.
    examples : Examples
        What is run.
    pooling : str
        See `gelora.pooling.pool`.
    n_kept : int, optional
        With ``pooling="tokens"``: tokens kept.
    seed : int
        Of their choice.
    """

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
                batch = collate([self.examples.features[int(i)] for i in self.indices], pad_id)
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
