"""Choose which weight matrices of a model LoRA adapts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gelora.blocks import (
    ROLES,
    SHARED_ROLES,
    Block,
    UnknownArchitectureError,
    is_linear,
    is_transposed,
    matrix_shape,
)
from gelora.messages import nearest

if TYPE_CHECKING:
    from torch import nn

TARGETS = ("attention", "ffn", "all-linear")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight matrix that LoRA can adapt.

    Parameters
    ----------
    stack : str
        ``"encoder"`` or ``"decoder"``.
    block : int
        Block of that stack, from 1.
    role : str
        What it is in the block's attention (`gelora.blocks.ROLES`, `gelora.blocks.SHARED_ROLES`), or else its
        module path relative to the block.
    name : str
        Module path in the model.
    in_features, out_features : int
        Shape of the matrix.
    transposed : bool
        Whether the model keeps its weight as (in, out), as GPT-2's ``Conv1D`` does.

    Examples
    --------
    >>> matrix = Matrix(stack="encoder", block=1, role="query", name="h.0.q", in_features=8, out_features=4)
    >>> matrix.key, matrix.n_per_rank
    (('encoder', 1, 'query'), 12)
    """

    stack: str
    block: int
    role: str
    name: str
    in_features: int
    out_features: int
    transposed: bool = False

    @property
    def key(self) -> tuple[str, int, str]:
        """(stack, block, role): the same in a bare model and under a head."""
        return (self.stack, self.block, self.role)

    @property
    def n_per_rank(self) -> int:
        """Trainable parameters that one rank costs, in + out."""
        return self.in_features + self.out_features


def find_matrices(
    model: "nn.Module", blocks: Sequence[Block], targets: str = "attention", roles: Sequence[str] = ROLES
) -> tuple[Matrix, ...]:
    r"""Return the matrices of ``model`` to adapt, block by block: attention by role, then the rest in module order.

    Linear layers count whatever library made them: ``nn.Linear``, transformers' ``Conv1D``, quantised ones, and
    those that peft has wrapped, which count once under their own path. Routers and gates of mixtures of experts are
    never adapted.

    Parameters
    ----------
    model : torch.nn.Module
        A model on any device, the meta device included.
    blocks : sequence of Block
        Its blocks, from `gelora.blocks.find_blocks`.
    targets : {"attention", "ffn", "all-linear"} or str
        ``"attention"``: the self-attention's matrices named by ``roles``. ``"ffn"``: the linear layers of the
        blocks outside any attention. ``"all-linear"``: every linear layer of the blocks, cross-attention included.
        Anything else is a regular expression that must match the whole module path, as peft reads a string of
        ``target_modules``.
    roles : sequence of str
        For ``"attention"``: some of `gelora.blocks.ROLES`. A matrix that serves several roles is adapted where all
        of them are wanted.

    Returns
    -------
    tuple of Matrix

    Raises
    ------
    UnknownArchitectureError
        If a block holds no such matrix, keeps its experts in one tensor that linear adapters do not reach, or the
        expression matches no linear layer.
    ValueError
        If the expression is invalid or matches what cannot be adapted, or a role is unknown.
    TypeError
        If ``targets`` is no string.

    Examples
    --------
    >>> from gelora.blocks import find_blocks
    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(
    ...     num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=9, vocab_size=9
    ... ))
    >>> [(m.role, m.in_features, m.out_features) for m in find_matrices(model, find_blocks(model), "ffn")]
    [('intermediate.dense', 8, 9), ('output.dense', 9, 8)]
    >>> [m.role for m in find_matrices(model, find_blocks(model), r".*\.(query|output\.dense)")]
    ['query', 'output', 'output.dense']
    """
    _check_arguments(blocks, targets, roles)
    if targets == "attention":
        chosen = _by_role(model, blocks, roles)
    elif targets in TARGETS:
        chosen = _by_place(model, blocks, targets)
    else:
        chosen = _by_expression(model, blocks, targets)
    layers = dict(model.named_modules())
    return tuple(_matrix(block, role, name, layers[name]) for block, role, name in chosen)


Chosen = list[tuple[Block, str, str]]


def _check_arguments(blocks: Sequence[Block], targets: str, roles: Sequence[str]) -> None:
    if not isinstance(targets, str):
        raise TypeError(
            f"`targets` must be one of {', '.join(TARGETS)} or a regular expression of module paths, got "
            f"{type(targets).__name__}: join names as 'a|b'"
        )
    if isinstance(roles, str) or not roles or set(roles) - set(ROLES):
        raise ValueError(f"`roles` must be a list of some of {', '.join(ROLES)}, got {roles!r}")
    if targets != "attention" and set(roles) != set(ROLES):
        raise ValueError(
            f"`roles` goes with targets='attention', got {list(roles)} with {targets!r}: leave it out, or name the "
            "matrices by a regular expression"
        )
    if not blocks:
        raise UnknownArchitectureError("`blocks` must name at least one block, got none: see gelora.blocks.find_blocks")


def _matrix(block: Block, role: str, name: str, layer: "nn.Module") -> Matrix:
    sides = matrix_shape(layer)
    if min(sides) < 1:
        raise UnknownArchitectureError(
            f"the linear layer {name!r} is {sides[0]} × {sides[1]}, which leaves nothing to adapt: name other matrices "
            "by `targets`"
        )
    return Matrix(
        stack=block.stack,
        block=block.index,
        role=role,
        name=name,
        in_features=sides[0],
        out_features=sides[1],
        transposed=is_transposed(layer),
    )


def _by_role(model: "nn.Module", blocks: Sequence[Block], roles: Sequence[str]) -> Chosen:
    wanted = set(roles) | {role for role, parts in SHARED_ROLES.items() if parts <= set(roles)}
    chosen: Chosen = []
    for block in blocks:
        found = [(block, role, name) for role, name in block.roles.items() if role in wanted]
        if not found:
            raise UnknownArchitectureError(
                f"`roles` {list(roles)} name no matrix of {type(model).__name__}, whose blocks have "
                f"{list(block.roles)}; a fused query_key_value matrix is adapted whole or not at all"
            )
        chosen += found
    return chosen


def _by_place(model: "nn.Module", blocks: Sequence[Block], targets: str) -> Chosen:
    modules = dict(model.named_modules())
    chosen: Chosen = []
    for block in blocks:
        experts = _fused_experts(modules[block.name], block.name)
        if experts:
            raise UnknownArchitectureError(
                f"targets={targets!r}: block {block.index} of the {block.stack} keeps all its experts in one tensor "
                f"({experts[0]}, {type(modules[experts[0]]).__name__}), which adapters of linear layers do not reach: "
                "adapt the attention alone, targets='attention'"
            )
        names = _linear_layers(modules[block.name], block.name)
        if targets == "ffn":
            names = [name for name in names if not _in_attention(block, name)]
        if not names:
            raise UnknownArchitectureError(
                f"targets={targets!r}: block {block.index} of the {block.stack} ({block.name}) has no such linear "
                "layer: choose targets='attention', or name the matrices by a regular expression"
            )
        chosen += _in_order(block, names)
    return chosen


def _by_expression(model: "nn.Module", blocks: Sequence[Block], targets: str) -> Chosen:
    try:
        expression = re.compile(targets)
    except re.error as error:
        raise ValueError(
            f"`targets` must be one of {', '.join(TARGETS)} or a regular expression, got {targets!r}: {error}"
        ) from error
    modules = dict(_walk(model))
    matched = [name for name in modules if expression.fullmatch(name)]
    if not matched:
        raise UnknownArchitectureError(_no_match(expression, modules))
    linear = [name for name in matched if is_linear(modules[name])]
    others = [name for name in matched if name not in linear and _holds_matrix(modules[name])]
    if others or not linear:
        wrong = others or matched
        raise UnknownArchitectureError(
            f"`targets` must match linear layers alone, but {targets!r} matches {_some(wrong)}, the first a "
            f"{type(modules[wrong[0]]).__name__}: narrow the expression, e.g. by the layers' own names"
        )
    routers = _routers(model)
    routing = [name for name in linear if _under(name, routers)]
    if routing:
        raise UnknownArchitectureError(
            f"`targets`={targets!r} matches {_some(routing)}: routers of mixtures of experts are never adapted, narrow "
            "the expression"
        )
    return _inside(blocks, linear, targets)


def _inside(blocks: Sequence[Block], names: Sequence[str], targets: str) -> Chosen:
    outside = [name for name in names if not _under(name, [block.name for block in blocks])]
    if outside:
        raise ValueError(
            f"`targets` must match matrices of the blocks alone, but {targets!r} matches {_some(outside)} too, outside "
            f"{blocks[0].name} … {blocks[-1].name}: narrow the expression"
        )
    return [
        entry for block in blocks for entry in _in_order(block, [name for name in names if _under(name, [block.name])])
    ]


def _in_order(block: Block, names: Sequence[str]) -> Chosen:
    """Attention first, by role; the rest by path relative to the block."""
    known = [(block, role, name) for role, name in block.roles.items() if name in names]
    by_role = set(block.roles.values())
    return known + [(block, name[len(block.name) + 1 :], name) for name in names if name not in by_role]


def _walk(module: "nn.Module", prefix: str = "") -> Iterator[tuple[str, "nn.Module"]]:
    """Yield every module below ``module`` with its path, but nothing inside a layer that adapters have wrapped."""
    from torch import nn

    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        yield path, child
        # What stands in those is read by its parent itself, so that an adapter would have no effect.
        closed = child._modules.keys() & {"base_layer", "original_module"} or isinstance(child, nn.MultiheadAttention)
        if not closed:
            yield from _walk(child, path)


def _linear_layers(block: "nn.Module", prefix: str) -> list[str]:
    routers = [f"{prefix}.{path}" for path in _routers(block)]
    return [path for path, module in _walk(block, prefix) if is_linear(module) and not _under(path, routers)]


def _routers(module: "nn.Module") -> list[str]:
    """Return the paths of what distributes tokens among experts: called router, or a gate beside experts."""
    found = []
    for path, parent in module.named_modules():
        beside_experts = any("expert" in name and "gate" not in name for name in parent._modules)
        for name in parent._modules:
            if "router" in name.lower() or (beside_experts and re.fullmatch("(.*_)?gate", name)):
                found.append(f"{path}.{name}" if path else name)
    return found


def _fused_experts(block: "nn.Module", prefix: str) -> list[str]:
    """Return the paths of modules that hold weights of experts without linear layers."""
    routers = _routers(block)
    return [
        f"{prefix}.{path}"
        for path, module in block.named_modules()
        if "expert" in f"{path} {type(module).__name__}".lower()
        and "lora_" not in path
        and not _under(path, routers)
        and not is_linear(module)
        and _holds_matrix(module)
    ]


def _holds_matrix(module: "nn.Module") -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _in_attention(block: Block, name: str) -> bool:
    return name in block.roles.values() or bool(_ATTENTION.search(name[len(block.name) + 1 :]))


def _under(name: str, parents: Sequence[str]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _no_match(expression: re.Pattern[str], modules: Mapping[str, "nn.Module"]) -> str:
    linear = [name for name, module in modules.items() if is_linear(module)]
    inside = [name for name in linear if expression.search(name)]
    text = f"`targets`={expression.pattern!r} matches no module path as a whole"
    if inside:
        return f"{text}, only a part of {_some(inside)}: write e.g. '.*{expression.pattern}.*'"
    hint = nearest(expression.pattern, TARGETS) or nearest(expression.pattern, linear)
    return f"{text}{hint}; linear layers are {_some(linear) or 'none'}"
