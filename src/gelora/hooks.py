"""Read block inputs and outputs while a model runs, and leave the model exactly as found."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch

from gelora.blocks import Block
from gelora.offloading import is_dispatched, offload_again
from gelora.quantization import as_found
from gelora.windows import Layer

Sink = Callable[[str, int, torch.Tensor], None]


class _Enough(Exception):  # noqa: N818 (no error)
    """Ends a pass whose remaining blocks nobody reads."""


# Hooks and the train/eval mode belong to the model object, so two extractions on one object take turns.
_LOCKS: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


@contextmanager
def inference_on(model: torch.nn.Module) -> Iterator[None]:
    """Hold ``model`` in evaluation and inference mode for this thread, then restore every module's mode.

    A model that accelerate has dispatched gets new parameters while it runs, which must not be inference tensors: it
    runs without gradients instead. What it has loaded is taken away again, also where a pass ends inside.
    """
    with _LOCKS_GUARD:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules()]
        dispatched = is_dispatched(model)
        try:
            model.eval()
            with as_found(model), torch.no_grad() if dispatched else torch.inference_mode():
                yield
        finally:
            if dispatched:
                offload_again(model)
            for module, training in modes:
                module.training = training


@contextmanager
def read_blocks(
    model: torch.nn.Module, blocks: Sequence[Block], layers: Collection[Layer], sink: Sink
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Send hidden states to ``sink(stack, layer, hidden)`` while the model runs.

    Layer 0 of a stack is the input of its first block, layer i the output of block i. Hooks, not
    ``output_hidden_states``: for many models its last entry is the output of the final norm.

    Parameters
    ----------
    model : torch.nn.Module
        What runs.
    blocks : sequence of Block
        All of them, in the order in which they run.
    layers : collection of (str, int)
        Stack and number of those that are wanted.
    sink : callable
        What takes them.

    Yields
    ------
    callable
        Makes a context for each pass of the model, which ends without error after the last wanted layer where blocks
        come after it.
    """
    owner = threading.get_ident()
    modules = dict(model.named_modules())
    handles = []
    stop_at = _last_layer(blocks, layers)

    def send(stack: str, layer: int, hidden: torch.Tensor) -> None:
        # Another thread may run the same model object for its own ends.
        if threading.get_ident() == owner:
            sink(stack, layer, hidden)
            if (stack, layer) == stop_at:
                raise _Enough

    try:
        for block in blocks:
            if block.index == 1 and (block.stack, 0) in layers:
                handles.append(_hook_input(modules[block.name], block, send))
            if (block.stack, block.index) in layers:
                handles.append(_hook_output(modules[block.name], block, send))
        yield lambda: suppress(_Enough)
    finally:
        for handle in handles:
            handle.remove()


def _last_layer(blocks: Sequence[Block], layers: Collection[Layer]) -> Layer | None:
    """Return the last of the layers where blocks come after it, else None: the pass ends by itself."""
    order = [(block.stack, index) for block in blocks for index in ((0, 1) if block.index == 1 else (block.index,))]
    places = [place for place, layer in enumerate(order) if layer in layers]
    return order[places[-1]] if places and places[-1] < len(order) - 1 else None


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
