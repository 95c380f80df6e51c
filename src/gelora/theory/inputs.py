"""What every block of a model receives from single examples, as the model itself passes it on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gelora.blocks import Block, find_blocks
from gelora.collecting import Collector
from gelora.encoding import Examples, encode, needs_tokenizer
from gelora.models import load_pretrained

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model, the blocks of it that run, and the examples that it runs on.

    Parameters
    ----------
    runner : torch.nn.Module
        What is called: the model without its head.
    blocks : list of Block
        Named as in ``runner``.
    examples : Examples
        Distinct, without padding.
    """

    runner: torch.nn.Module
    blocks: list[Block]
    examples: Examples


def open_subject(model: torch.nn.Module, data: Any, layers: Sequence[str] | None = None, **options: Any) -> Subject:
    """Take examples from ``data`` for ``model``; options are those of `gelora.encoding.encode`."""
    runner = backbone(model)
    blocks = find_blocks(runner, layers)
    examples = encode(runner, data, **options)
    two_stacks = {block.stack for block in blocks} == {"encoder", "decoder"}
    if two_stacks and "decoder_input_ids" not in examples.features[0]:
        blocks = [block for block in blocks if block.stack == "encoder"]
    return Subject(runner=runner, blocks=blocks, examples=examples)


def backbone(model: torch.nn.Module) -> torch.nn.Module:
    """Return ``model`` without its head, inside what peft wraps around it."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    found = getattr(inner, "base_model", inner)
    return found if isinstance(found, torch.nn.Module) else inner


def load_model(
    model: Any, data: Any, tokenizer: Any, revision: str | None, trust_remote_code: bool
) -> tuple[torch.nn.Module, Any]:
    """Return the model, loaded where it is a name, and the tokenizer that goes with a name.

    Raises
    ------
    TypeError
        If ``model`` is neither a module nor a name.
    """
    if isinstance(model, torch.nn.Module):
        return model, tokenizer
    if not isinstance(model, str | Path):
        raise TypeError(f"`model` must be a loaded model, a folder or a hub name, got {type(model).__name__}")
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    loaded: torch.nn.Module = load_pretrained(model, **options)
    if tokenizer is None and needs_tokenizer(data):
        tokenizer = load_pretrained(model, "AutoTokenizer", **options)
    return loaded, tokenizer


def record_calls(subject: Subject, point: int, n_copies: int) -> dict[str, Call]:
    """Run one example, ``n_copies`` times in one batch, and return what each block is called with.

    Of the hidden states one copy is kept, and they are the first tensor of the call.
    """
    calls: dict[str, Call] = {}
    modules = dict(subject.runner.named_modules())
    handles = [modules[block.name].register_forward_pre_hook(_keeper(calls, block.name), with_kwargs=True)
               for block in subject.blocks]  # fmt: skip
    copies = Examples([subject.examples.features[point]] * n_copies, np.arange(n_copies), {})
    try:
        collector = Collector(subject.runner, subject.blocks, copies, "mean", None, 0)
        for window in collector.windows(n_copies):
            collector.run(window, n_copies)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _keeper(calls: dict[str, Call], name: str) -> Any:
    def keep(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[name] = exchange((args, kwargs), lambda hidden: hidden[:1].clone())

    return keep


def exchange(call: Call, new: Any) -> Call:
    """Return the call with its hidden states, ``hidden_states`` or the first tensor, replaced by ``new(hidden)``."""
    args, kwargs = call
    for position, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            return (*args[:position], new(value), *args[position + 1 :]), kwargs
    named = [key for key, value in kwargs.items() if isinstance(value, torch.Tensor)]
    key = "hidden_states" if "hidden_states" in named else named[0]
    return args, {**kwargs, key: new(kwargs[key])}
