"""Read block inputs and outputs while a model runs, and leave the model exactly as found."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from gelora.blocks import Block

Sink = Callable[[str, int, torch.Tensor], None]

# Hooks and the train/eval mode belong to the model object, so two extractions on one object take turns.
_LOCKS: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


@contextmanager
def inference_on(model: torch.nn.Module) -> Iterator[None]:
    """Hold ``model`` in evaluation and inference mode for this thread, then restore every module's mode."""
    with _LOCKS_GUARD:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            with torch.inference_mode():
                yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def read_blocks(model: torch.nn.Module, blocks: Sequence[Block], sink: Sink) -> Iterator[None]:
    """Send the hidden states of every layer to ``sink(stack, layer, hidden)`` while the model runs.

    Layer 0 of a stack is the input of its first block, layer i the output of block i. Hooks, not
    ``output_hidden_states``: for many models its last entry is the output of the final norm.
    """
    owner = threading.get_ident()
    modules = dict(model.named_modules())
    handles = []

    def send(stack: str, layer: int, hidden: torch.Tensor) -> None:
        # Another thread may run the same model object for its own ends.
        if threading.get_ident() == owner:
            sink(stack, layer, hidden)

    try:
        for block in blocks:
            if block.index == 1:
                handles.append(_hook_input(modules[block.name], block, send))
            handles.append(_hook_output(modules[block.name], block, send))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_input(module: torch.nn.Module, block: Block, send: Sink) -> Any:
    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        candidates = (*args, kwargs.get("hidden_states"), *kwargs.values())
        send(block.stack, 0, _hidden(next((v for v in candidates if isinstance(v, torch.Tensor)), None), block))

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _hook_output(module: torch.nn.Module, block: Block, send: Sink) -> Any:
    def after(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
        send(block.stack, block.index, _hidden(output, block))

    return module.register_forward_hook(after)


def _hidden(output: Any, block: Block) -> torch.Tensor:
    """Return the hidden states among what a block takes or gives: the tensor, or the first of a tuple."""
    value = output if isinstance(output, torch.Tensor) else (output[0] if output else None)
    if not isinstance(value, torch.Tensor) or value.ndim not in (2, 3) or not value.is_floating_point():
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(
            f"the block {block.name!r} must give hidden states of shape (examples, tokens, width) or "
            f"(examples, width), got {got}: name other modules by `layers=`"
        )
    return value
