"""The adapted parameters of a block: the LoRA factors it has, or those that a plan would give it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gelora.blocks import Block, find_blocks
from gelora.fisher import FisherSpectrum, fisher_spectra
from gelora.plan import ModuleRank, RankPlan
from gelora.provenance import generator

BlockKey = tuple[str, int]
FACTORS = ("lora_A", "lora_B")
# Norm of the generic update, relative to that of the matrix it is added to.
UPDATE_SHARE = 0.01


def lora_factors(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the active LoRA factors inside ``module``, by their paths; those of peft, and of `lora_at_generic_point`.

    Examples
    --------
    >>> lora_factors(torch.nn.Linear(2, 2))
    {}
    """
    found: dict[str, torch.nn.Module] = {}
    for path, layer in module.named_modules():
        active = getattr(layer, "active_adapters", ())
        for factor in FACTORS:
            inner = getattr(layer, factor, None)
            if isinstance(inner, torch.nn.ModuleDict):
                found |= {_path(path, factor, name): inner[name] for name in active if name in inner}
            elif isinstance(inner, torch.nn.Linear):
                found[_path(path, factor)] = inner
    return found


def _path(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def planned_matrices(plan: RankPlan | None, model: torch.nn.Module) -> dict[BlockKey, list[ModuleRank]]:
    """Return the planned matrices of each block, with the names they have in ``model``; empty without a plan."""
    if plan is None:
        return {}
    grouped: dict[BlockKey, list[ModuleRank]] = {}
    for module in plan.bind(model).modules:
        grouped.setdefault((module.stack, module.block), []).append(module)
    return grouped


@contextmanager
def lora_at_generic_point(
    root: torch.nn.Module, planned: Sequence[ModuleRank], seed: int, prefix: str = ""
) -> Iterator[None]:
    """Give the planned matrices inside ``root`` LoRA factors for as long as the context lasts.

    Both factors are random and small: a hundredth of the matrix in norm. At the point B = 0 where a tuning starts,
    the derivative by A vanishes, and with it the rank that a single step of the optimiser brings.

    Parameters
    ----------
    root : torch.nn.Module
        A model, or one block of it.
    planned : sequence of ModuleRank
        Named as in the model.
    seed : int
        Of the factors; each matrix has its own generator, by its name.
    prefix : str
        What to take off the names to get paths in ``root``.
    """
    modules = dict(root.named_modules())
    handles: list[Any] = []
    changed = []
    try:
        for matrix in planned:
            layer = modules[matrix.name.removeprefix(prefix)]
            changed.append(layer)
            first, second = _factors(layer, matrix, seed)
            layer.add_module("lora_A", first)
            layer.add_module("lora_B", second)
            handles.append(layer.register_forward_hook(_adder(first, second, matrix.alpha / matrix.rank)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in changed:
            for factor in FACTORS:
                layer._modules.pop(factor, None)


def _adder(first: torch.nn.Module, second: torch.nn.Module, scaling: float) -> Any:
    def add(_: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        update: torch.Tensor = second(first(args[0]))
        return output + scaling * update

    return add


def _factors(layer: torch.nn.Module, matrix: ModuleRank, seed: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    weight: Any = layer.weight
    own = torch.Generator().manual_seed(
        int(generator(seed, "lora", matrix.stack, matrix.block, matrix.role).integers(2**62))
    )
    a = torch.randn(matrix.rank, matrix.in_features, generator=own, dtype=torch.float64) / math.sqrt(matrix.in_features)
    b = torch.randn(matrix.out_features, matrix.rank, generator=own, dtype=torch.float64)
    size = float(weight.detach().double().norm()) or 1.0
    b *= UPDATE_SHARE * size / (matrix.alpha / matrix.rank * float((b @ a).norm()))
    return _linear(a, weight), _linear(b, weight)


def _linear(values: torch.Tensor, like: torch.Tensor) -> torch.nn.Module:
    # skip_init: the usual one would draw from the global generator.
    make: Any = torch.nn.utils.skip_init
    made: torch.nn.Module = make(torch.nn.Linear, values.shape[1], values.shape[0], bias=False)
    made.weight = torch.nn.Parameter(values.to(like), requires_grad=False)
    return made


def fisher_ranks(
    model: torch.nn.Module,
    batches: Any,
    *,
    plan: RankPlan | None = None,
    max_examples: int = 256,
    max_bytes: int = 2**31,
    seed: int = 0,
    progress: bool = False,
) -> dict[BlockKey, FisherSpectrum]:
    """Return the spectrum of the Fisher information of each block's adapted parameters.

    Parameters
    ----------
    model : torch.nn.Module
        With a head that gives a loss. Adapted by peft's LoRA, or else ``plan`` says what would be adapted: factors at
        a generic point then stand in, and are taken off again.
    batches : iterable of mappings of tensors
        With ``labels``; see `gelora.fisher.fisher_spectra`, as for ``max_examples``, ``max_bytes``, ``progress``.
    plan : RankPlan, optional
        For a model that is not adapted.
    seed : int
        Of the factors at the generic point.

    Returns
    -------
    dict from (stack, block) to FisherSpectrum

    Raises
    ------
    ValueError
        If the model is not adapted and there is no plan; and as `gelora.fisher.fisher_spectra`.

    Notes
    -----
    EdDib2024, definition 3.1: the rank is the local dimensionality at the model's parameters, seen through the
    examples. It cannot exceed their number: `FisherSpectrum.saturated` says where more of them would find more.
    """
    blocks = find_blocks(model)
    options: Mapping[str, Any] = {"max_examples": max_examples, "max_bytes": max_bytes, "progress": progress}
    planned = [] if lora_factors(model) else [m for found in planned_matrices(plan, model).values() for m in found]
    with lora_at_generic_point(model, planned, seed):
        keys = {f"{block.stack} {block.index}": (block.stack, block.index) for block in blocks}
        names = {f"{block.stack} {block.index}": _parameter_names(model, block) for block in blocks}
        adapted = {label: found for label, found in names.items() if found}
        if not adapted:
            raise ValueError(
                "`plan` must say which matrices would be adapted, since `model` has no LoRA factors: make one with "
                "`gelora.plan_ranks`"
            )
        spectra = fisher_spectra(model, batches, adapted, **options)
    return {keys[label]: spectrum for label, spectrum in spectra.items()}


def _parameter_names(model: torch.nn.Module, block: Block) -> list[str]:
    module = model.get_submodule(block.name)
    return [f"{block.name}.{path}.weight" for path in lora_factors(module)]
