"""Run batches through a model and collect one pooled vector per example and layer."""

import inspect
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import Block, UnknownArchitectureError, check_finite_parameters
from gelora.encoding import Examples, collate, count_tokens, pad_id_of
from gelora.hooks import inference_on, read_blocks
from gelora.offloading import float_type, input_device
from gelora.pooling import KeptTokens, choose_tokens, pool
from gelora.provenance import generator
from gelora.tokenizing import Features
from gelora.windows import IntArray, Layer, Window, batches_of, first_points, plan_windows

Cloud = NDArray[np.float32] | NDArray[np.float64]


class Collector:
    """Runs examples and puts the pooled hidden states where they belong, window by window.

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
    layers : collection of (str, int), optional
        Stack and number of the layers that are read; by default all of the blocks.
    precision : torch.dtype, optional
        Of automatic mixed precision; without it the model computes as it is.
    """

    def __init__(
        self,
        runner: torch.nn.Module,
        blocks: Sequence[Block],
        examples: Examples,
        pooling: str,
        n_kept: int | None,
        seed: int,
        *,
        layers: Collection[Layer] | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self.runner = runner
        self.blocks = blocks
        self.examples = examples
        self.pooling = pooling
        every = [(block.stack, index) for block in blocks for index in ((0, 1) if block.index == 1 else (block.index,))]
        self.layers = [layer for layer in every if layers is None or layer in layers]
        self.precision = precision
        self.kept: dict[str, KeptTokens] = {}
        self.offsets: dict[str, IntArray] = {}
        self.n_nonfinite: dict[Layer, int] = dict.fromkeys(self.layers, 0)
        self._clouds: dict[Layer, Cloud] = {}
        self._window = Window(0, (), 0, 0, np.empty(0, dtype=np.int64))
        self._indices = np.empty(0, dtype=np.int64)  # examples of the batch that runs
        self._masks: dict[str, torch.Tensor] = {}
        self._seen: set[Layer] = set()
        self._checked_parameters = False
        for stack in dict.fromkeys(stack for stack, _ in self.layers):
            self._place(stack, n_kept, seed)
        features = examples.features
        self._sizes = count_tokens(features) + count_tokens(features, "decoder")

    def _place(self, stack: str, n_kept: int | None, seed: int) -> None:
        """Decide which rows of the stack's clouds each example fills."""
        counts = np.ones(len(self.examples.features), dtype=np.int64)
        if self.pooling == "tokens":
            lengths = count_tokens(self.examples.features, stack)
            if not lengths.all():
                lengths[:] = self._probe_length()
            self.kept[stack] = choose_tokens(lengths, n_kept, generator(seed, "tokens", stack))
            counts = np.diff(self.kept[stack].ends)
        self.offsets[stack] = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])

    def _probe_length(self) -> int:
        """Return how many tokens the model makes of an image, by running one."""
        lengths = []
        first = self.layers[:1]
        with (
            inference_on(self.runner),
            read_blocks(self.runner, self.blocks, first, lambda _stack, _layer, h: lengths.append(h.shape[1])) as whole,
            whole(),
        ):
            self._forward(collate([self.examples.features[0]], 0), both=True)
        return int(lengths[0])

    def windows(self, rows: int) -> list[Window]:
        """Return the windows of so many points that all examples fill."""
        return plan_windows(self.offsets, rows)

    def shapes(self) -> dict[Layer, tuple[int, str]]:
        """Return width and type of every layer, by running one point of each stack."""
        clouds: dict[Layer, Cloud] = {}
        for window in first_points(self.offsets):
            clouds |= self._collect(window, 1)
        return {layer: (cloud.shape[1], str(cloud.dtype)) for layer, cloud in clouds.items()}

    def run(self, window: Window, batch_size: int) -> dict[Layer, Cloud]:
        """Run the examples of a window in batches of similar length, the longest first.

        Returns
        -------
        dict of (str, int) to ndarray of shape (len(window), width)
            By stack and layer, in float32, or float64 where the model computes in float64.
        """
        clouds = self._collect(window, batch_size)
        for layer, cloud in clouds.items():
            self.n_nonfinite[layer] += int((~np.isfinite(cloud).all(axis=1)).sum())
        return clouds

    def _collect(self, window: Window, batch_size: int) -> dict[Layer, Cloud]:
        self._window, self._clouds = window, {}
        wanted = [layer for layer in self.layers if layer[0] in window.stacks]
        pad_id = pad_id_of(self.runner)
        with inference_on(self.runner), read_blocks(self.runner, self.blocks, wanted, self._receive) as whole:
            for indices in batches_of(window, self._sizes, batch_size):
                self._indices = indices
                batch = collate([self.examples.features[int(i)] for i in indices], pad_id)
                self._masks = {
                    stack: batch[key].bool()
                    for stack, key in (("encoder", "attention_mask"), ("decoder", "decoder_attention_mask"))
                    if key in batch
                }
                if "decoder_attention_mask" not in batch and "attention_mask" in batch:
                    self._masks["decoder"] = self._masks["encoder"]  # a model of one stack, a decoder
                self._seen = set()
                with whole():
                    self._forward(batch, both="decoder" in window.stacks)
                self._check_complete(wanted)
        clouds, self._clouds = self._clouds, {}
        return clouds

    def _forward(self, batch: Features, both: bool) -> None:
        runner = self.runner
        device, dtype = input_device(runner), float_type(runner)
        if getattr(getattr(runner, "config", None), "is_encoder_decoder", False) and not (
            both and "decoder_input_ids" in batch
        ):
            runner = runner.get_encoder()  # type: ignore[operator]
            batch = {key: value for key, value in batch.items() if not key.startswith("decoder_")}
        moved = {key: value.to(device) for key, value in batch.items()}
        if dtype is not None:
            moved = {k: v.to(dtype) if v.is_floating_point() else v for k, v in moved.items()}
        with self._autocast(device):
            if getattr(runner, "config", None) is None:
                runner(moved["inputs"] if "inputs" in moved else moved["input_ids"])
                return
            known = inspect.signature(runner.forward).parameters
            accepted = {key: value for key, value in moved.items() if key != "token_type_ids" or key in known}
            runner(**accepted, **({"use_cache": False} if "use_cache" in known else {}))

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision is None:
            return nullcontext()
        # Each weight runs once: a cache of converted ones would hold on to those of an offloaded model, all of them.
        return torch.autocast(device.type, dtype=self.precision, cache_enabled=False)

    def _receive(self, stack: str, layer: int, hidden: torch.Tensor) -> None:
        if (stack, layer) in self._seen:
            raise UnknownArchitectureError(
                f"layer {layer} of the {stack} ran twice in one pass: blocks that share one module have no layers "
                "to tell apart; name modules that run once by `layers=`"
            )
        self._seen.add((stack, layer))
        states = hidden[:, None, :] if hidden.ndim == 2 else hidden
        mask = self._masks.get(stack)
        mask = torch.ones(states.shape[:2], dtype=torch.bool) if mask is None or hidden.ndim == 2 else mask
        if mask.shape != states.shape[:2]:
            raise ValueError(
                f"layer {layer} of the {stack} has {states.shape[1]} tokens for {mask.shape[1]} token ids: "
                "pooling needs one hidden state a token"
            )
        keep = self._keep(stack, mask) if self.pooling == "tokens" else None
        pooled = pool(states, mask.to(states.device), self.pooling, None if keep is None else keep.to(states.device))
        self._write(stack, layer, pooled.cpu().numpy())

    def _part(self, stack: str, example: int) -> tuple[int, int]:
        """Return which of an example's points lie in the window: from where to where."""
        start, end = self.offsets[stack][example : example + 2]
        return max(self._window.first - start, 0), min(self._window.last, end) - start

    def _keep(self, stack: str, mask: torch.Tensor) -> torch.Tensor:
        keep = torch.zeros_like(mask)
        for row, example in enumerate(self._indices.tolist()):
            # Our own batches are padded on the right: position p of the text is column p.
            low, high = self._part(stack, example)
            keep[row, torch.from_numpy(self.kept[stack][example][low:high])] = True
        return keep

    def _write(self, stack: str, layer: int, values: Cloud) -> None:
        if (stack, layer) not in self._clouds:
            self._clouds[stack, layer] = np.empty((len(self._window), values.shape[1]), values.dtype)
        starts = self.offsets[stack][self._indices] - self._window.first
        parts = [self._part(stack, example) for example in self._indices.tolist()]
        rows = np.concatenate(
            [np.arange(start + low, start + high) for start, (low, high) in zip(starts, parts, strict=True)]
        )
        self._clouds[stack, layer][rows] = values
        if not self._checked_parameters and not np.isfinite(values).all():
            check_finite_parameters(self.runner)
            self._checked_parameters = True

    def _check_complete(self, wanted: Sequence[Layer]) -> None:
        missing = [layer for layer in wanted if layer not in self._seen]
        if missing:
            names = {(block.stack, max(block.index, 1)): block.name for block in self.blocks}
            stack, index = missing[0]
            raise UnknownArchitectureError(
                f"the block {names[stack, max(index, 1)]!r} did not run on this data: name blocks that run by `layers=`"
            )
