"""Find a transformer's blocks and their attention matrices; tell models apart.

Blocks are found by structure, not by a table of model names: a list of modules of which every one holds
the attention projections of one known layout.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gelora.offloading import offloaded_parameters
from gelora.provenance import fingerprint

if TYPE_CHECKING:
    import torch
    from torch import nn

ROLES = ("query", "key", "value", "output", "query_key_value")
# Matrices that serve several roles at once, adapted whole where all of these are wanted.
SHARED_ROLES = {
    "query_key_value": {"query", "key", "value"},
    "query_down": {"query"},
    "key_value_down": {"key", "value"},
    "key_value": {"key", "value"},
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a family of transformers keeps the attention matrices of a block.

    Parameters
    ----------
    roles : mapping of str to str
        Role to module path relative to the block.
    stack : str
        ``"encoder"`` or ``"decoder"``, for models of one stack.
    """

    roles: Mapping[str, str]
    stack: str


def _separate(prefix: str, query: str, key: str, value: str, output: str) -> dict[str, str]:
    names = {"query": query, "key": key, "value": value, "output": output}
    return {role: prefix + name for role, name in names.items()}


def _latent(prefix: str) -> dict[str, str]:
    names = {"key_value_down": "kv_a_proj_with_mqa", "key_value": "kv_b_proj", "output": "o_proj"}
    return {role: prefix + name for role, name in names.items()}


LAYOUTS = (
    # BERT, RoBERTa, XLM-RoBERTa, ELECTRA, MiniLM
    Layout(_separate("attention.", "self.query", "self.key", "self.value", "output.dense"), "encoder"),
    # DeBERTa-v2 and -v3
    Layout(
        _separate("attention.", "self.query_proj", "self.key_proj", "self.value_proj", "output.dense"),
        "encoder",
    ),
    # DistilBERT
    Layout(_separate("attention.", "q_lin", "k_lin", "v_lin", "out_lin"), "encoder"),
    # MPNet
    Layout(_separate("attention.attn.", "q", "k", "v", "o"), "encoder"),
    # ViT
    Layout(_separate("attention.", "q_proj", "k_proj", "v_proj", "o_proj"), "encoder"),
    # ModernBERT
    Layout({"query_key_value": "attn.Wqkv", "output": "attn.Wo"}, "encoder"),
    # T5: self-attention alone; the stacks are told apart by their path
    Layout(_separate("layer.0.SelfAttention.", "q", "k", "v", "o"), "encoder"),
    # BART
    Layout(_separate("self_attn.", "q_proj", "k_proj", "v_proj", "out_proj"), "decoder"),
    # LLaMA, Qwen, Mistral, Gemma
    Layout(_separate("self_attn.", "q_proj", "k_proj", "v_proj", "o_proj"), "decoder"),
    # Phi-3
    Layout({"query_key_value": "self_attn.qkv_proj", "output": "self_attn.o_proj"}, "decoder"),
    # GPT-2
    Layout({"query_key_value": "attn.c_attn", "output": "attn.c_proj"}, "decoder"),
    # GPT-NeoX
    Layout({"query_key_value": "attention.query_key_value", "output": "attention.dense"}, "decoder"),
    # DeepSeek-V2 and -V3: keys and values, and mostly queries too, go through a narrow layer
    Layout(
        {"query_down": "self_attn.q_a_proj", "query": "self_attn.q_b_proj", **_latent("self_attn.")},
        "decoder",
    ),
    Layout({"query": "self_attn.q_proj", **_latent("self_attn.")}, "decoder"),
)


class UnknownArchitectureError(ValueError):
    """The blocks or the attention matrices of a model could not be found."""


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer block.

    Parameters
    ----------
    stack : str
        ``"encoder"`` or ``"decoder"``.
    index : int
        Position in its stack, from 1: block i maps layer i − 1 to layer i.
    name : str
        Module path in the model.
    roles : mapping of str to str
        Role (`ROLES`, `SHARED_ROLES`) to module path in the model; empty where the caller named the blocks.
    """

    stack: str
    index: int
    name: str
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What two models must share for a profile of one to serve the other.

    Parameters
    ----------
    model_type : str
        ``config.model_type``, or the class name of a model without configuration.
    blocks : mapping of str to int
        Number of blocks of each stack.
    width : int
        Width of the hidden states, 0 where unknown.
    """

    model_type: str
    blocks: Mapping[str, int]
    width: int

    def __str__(self) -> str:
        """Describe the architecture in a few words, for messages."""
        stacks = " and ".join(f"{count} {stack} blocks" for stack, count in self.blocks.items())
        return f"{self.model_type} with {stacks} of width {self.width}"

    @staticmethod
    def from_record(record: Any) -> "Architecture":
        """Read the fields from plain values.

        Raises
        ------
        ValueError
            If they are not those of an architecture.
        """
        sound = (
            isinstance(record, Mapping)
            and set(record) == {"model_type", "blocks", "width"}
            and isinstance(record["model_type"], str)
            and isinstance(record["blocks"], Mapping)
            and all(isinstance(key, str) and isinstance(count, int) for key, count in record["blocks"].items())
            and isinstance(record["width"], int)
        )
        if not sound:
            raise ValueError(f"no architecture: {record!r:.120}")
        return Architecture(record["model_type"], dict(record["blocks"]), record["width"])

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON takes."""
        return asdict(self)


def find_blocks(model: "nn.Module", layers: Sequence[str] | None = None) -> list[Block]:
    """Find the transformer blocks of ``model``, encoder before decoder, in order of depth.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, bare or with a head, also wrapped by peft; or any module with ``layers``.
    layers : sequence of str, optional
        Module paths of the blocks, for an architecture not known here. They form one stack
        ``"encoder"`` in the order given.

    Returns
    -------
    list of Block

    Raises
    ------
    UnknownArchitectureError
        If no list of blocks, or more than one for a stack, is found, or a path in ``layers`` does not exist.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(
    ...     num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=9
    ... )
    >>> [block.name for block in find_blocks(BertModel(config))]
    ['encoder.layer.0', 'encoder.layer.1']
    """
    if layers is not None:
        return _named_blocks(model, layers)
    stacks: dict[str, list[Block]] = {}
    for name, layout, modules in _block_lists(model):
        stack = _stack_of(name, layout, model)
        if stack in stacks:
            raise UnknownArchitectureError(
                f"{type(model).__name__} has two lists of blocks for the {stack} ({stacks[stack][0].name} and {name}): "
                "name the blocks to read by `layers=`, a list of module paths"
            )
        stacks[stack] = [
            Block(
                stack,
                position + 1,
                f"{name}.{position}",
                {role: f"{name}.{position}.{path}" for role, path in layout.roles.items()},
            )
            for position in range(len(modules))
        ]
    if not stacks:
        raise UnknownArchitectureError(
            f"no transformer blocks of a known layout in {type(model).__name__}: name the blocks to read by "
            "`layers=`, a list of module paths such as those of model.named_modules()"
        )
    return [block for stack in ("encoder", "decoder") for block in stacks.get(stack, [])]


def _named_blocks(model: "nn.Module", layers: Sequence[str]) -> list[Block]:
    known = dict(model.named_modules())
    missing = [name for name in layers if name not in known]
    if isinstance(layers, str) or not layers or missing:
        raise UnknownArchitectureError(
            f"`layers` must be a non-empty list of module paths of {type(model).__name__}, got {layers!r}"
            + (f": no module {missing[0]!r}" if missing else "")
        )
    return [Block("encoder", position + 1, name, {}) for position, name in enumerate(layers)]


def _block_lists(model: "nn.Module") -> list[tuple[str, Layout, "nn.ModuleList"]]:
    """List the module lists of which every element holds all matrices of one layout."""
    from torch import nn

    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            for layout in LAYOUTS:
                if all(_has(block, path) for block in module for path in layout.roles.values()):
                    found.append((name, layout, module))
                    break
    return found


def _has(module: "nn.Module", path: str) -> bool:
    for part in path.split("."):
        child = module._modules.get(part)
        if child is None:
            return False
        module = child
    return True


def _stack_of(name: str, layout: Layout, model: "nn.Module") -> str:
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return "decoder" if re.search(r"(^|\.)decoder(\.|$)", name) else "encoder"
    return layout.stack


def architecture_of(model: "nn.Module", blocks: Sequence[Block]) -> Architecture:
    """Return the architecture of ``model`` with these ``blocks``."""
    config = getattr(model, "config", None)
    counts: dict[str, int] = {}
    for block in blocks:
        counts[block.stack] = counts.get(block.stack, 0) + 1
    return Architecture(
        getattr(config, "model_type", None) or type(model).__name__,
        counts,
        int(getattr(config, "hidden_size", None) or 0),
    )


def matrix_shape(module: "nn.Module") -> tuple[int, int]:
    """Return (in, out) features of a linear layer: ``nn.Linear``, ``Conv1D``, quantised or wrapped by peft.

    Raises
    ------
    UnknownArchitectureError
        If the module is no linear layer.
    """
    base: Any = getattr(module, "base_layer", module)
    if hasattr(base, "in_features") and hasattr(base, "out_features"):
        return int(base.in_features), int(base.out_features)
    if hasattr(base, "nf") and hasattr(base, "nx"):  # transformers' Conv1D keeps the transposed weight
        return int(base.nx), int(base.nf)
    raise UnknownArchitectureError(f"{type(base).__name__} is not a linear layer that LoRA can adapt")


def is_linear(module: "nn.Module") -> bool:
    """Say whether `matrix_shape` takes the module: a single linear layer, whatever library made or wrapped it."""
    base = getattr(module, "base_layer", module)
    sides = [getattr(base, name, None) for name in ("in_features", "out_features")]
    if sides == [None, None]:
        sides = [getattr(base, name, None) for name in ("nx", "nf")]
    return all(isinstance(side, int) for side in sides) and not base._modules


def is_transposed(module: "nn.Module") -> bool:
    """Say whether a linear layer keeps its weight as (in, out): transformers' ``Conv1D``."""
    base = getattr(module, "base_layer", module)
    return not hasattr(base, "in_features") and hasattr(base, "nf")


def weights_fingerprint(model: "nn.Module", blocks: Sequence[Block]) -> str | None:
    """Return a hash of the blocks' parameters, or None where they have no values, on the meta device.

    Equal for a bare model and the same model under a head, whatever its device or a float precision that
    holds bfloat16. A sample of each matrix is read: tuning moves practically every entry. A LoRA adapter of peft
    counts once it is trained: at its start B = 0 and it changes nothing. So does one of GeoLoRA, by its S. Parameters
    that accelerate keeps in memory or on disk are read there, one at a time. Of quantised matrices the constants
    count too.
    """
    import torch

    parts = []
    modules, elsewhere = dict(model.named_modules()), offloaded_parameters(model)
    for block in blocks:
        # peft moves the original matrix to `base_layer` and adds its own beside it.
        for name, tensor in sorted(_tensors(modules[block.name]).items(), key=lambda item: _plain(item[0])):
            path = f"{block.name}.{name}"
            if "lora_" in name and not ("lora_B" in name or "geolora_S" in name):
                continue
            if tensor.is_meta and path not in elsewhere:
                return None
            flat = (elsewhere[path]() if tensor.is_meta else tensor).detach().flatten()
            if "lora_" in name and not flat.any():
                continue
            sample = flat[:: max(1, flat.numel() // 1024)].to(device="cpu", dtype=torch.bfloat16)
            parts += [f"{block.stack}.{block.index}.{_plain(name)}".encode()]
            parts += [sample.view(torch.int16).numpy().tobytes()]
    return fingerprint(parts)


def _plain(name: str) -> str:
    return name.replace("base_layer.", "")


def _tensors(block: "nn.Module") -> "dict[str, torch.Tensor]":
    """Return the parameters of a block, and where some are quantised all that its state consists of."""
    if all(parameter.is_floating_point() for parameter in block.parameters()):
        return dict(block.named_parameters())
    # First: bitsandbytes puts weights in another layout back into the usual one for it.
    state = block.state_dict()
    described = {name for name in state if ".quant_state." in name}  # by text, in which the type of the rest stands
    return {**{name: state[name] for name in state if name not in described}, **dict(block.named_parameters())}


def position_limit(model: "nn.Module") -> int | None:
    """Return how many tokens the model has positions for, None where it says nothing."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not positions:
        return None
    # RoBERTa counts positions from the padding token on.
    backbone = getattr(model, "base_model", model)
    offset = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return int(positions) if offset is None else int(positions) - int(offset) - 1


def check_finite_parameters(model: "nn.Module") -> None:
    """Raise ValueError naming the first parameter of ``model`` that holds NaN or infinity."""
    import torch

    elsewhere = offloaded_parameters(model)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or (parameter.is_meta and name not in elsewhere):
            continue
        values = elsewhere[name]() if parameter.is_meta else parameter
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(
                f"`model`: the parameter {name!r} holds {bad} NaN or infinite values of {values.numel()}: "
                "load sound weights"
            )
