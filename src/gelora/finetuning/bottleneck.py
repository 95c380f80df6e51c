"""Bottleneck adapters: small networks behind the sublayers of each block."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.blocks import Block, find_blocks, matrix_shape
from gelora.finetuning.adaptation import OWN, Adapted, Setting, freeze_but_head, train_in_float32
from gelora.finetuning.own_folder import SHAPE_FILE, load_own, read_shape, save_own
from gelora.messages import check_choice, check_integer
from gelora.targets import find_matrices

if TYPE_CHECKING:
    from torch import nn

ACTIVATIONS = ("gelu", "relu", "swish")
DEFAULT_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class _Bottlenecks:
    """What the two kinds share: their options, and how they are put in, saved and loaded."""

    width: int | None = None
    activation: str = "gelu"

    plan_use: ClassVar[str] = "optional"
    places: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.width is not None:
            check_integer("width", self.width, 1, f", or None for the plan's ranks or {DEFAULT_WIDTH}")
        check_choice("activation", self.activation, ACTIVATIONS)

    def __call__(self, setting: Setting) -> Adapted:
        """Put a bottleneck behind the sublayers of each block.

        Raises
        ------
        ValueError
            If both a plan and a width are given, a block's sublayers are not found, or the model has bottlenecks.
        """
        from gelora.finetuning.bottleneck_layers import add_bottlenecks, check_free_of_bottlenecks

        model: Any = setting.classifier.model
        check_free_of_bottlenecks(model)
        plan = setting.plan
        if plan is not None and self.width is not None:
            raise ValueError(
                f"`plan` and the option `width` ({self.width}) of the adapter are both given: leave one out"
            )
        blocks = find_blocks(model)
        planned = None if plan is None else plan.block_ranks
        widths = {
            name: (self.width or DEFAULT_WIDTH) if planned is None else planned[block.stack, block.index]
            for block in blocks
            if planned is None or (block.stack, block.index) in planned
            for name in _places(model, block, self.places)
        }
        freeze_but_head(setting.classifier)
        add_bottlenecks(model, widths, self.activation, setting.dropout)
        train_in_float32(model)
        sides = {name: matrix_shape(model.get_submodule(name))[1] for name in widths}
        count = sum(2 * sides[name] * width + width + sides[name] for name, width in widths.items())
        ranks = {} if plan is None else {m.name: plan.block_ranks[m.stack, m.block] for m in plan.modules}

        def save(folder: Path) -> None:
            save_own(folder, model, {"widths": widths, "activation": self.activation})

        return Adapted(model=model, save=save, kind=OWN, count=lambda: count, ranks=lambda: ranks)

    @staticmethod
    def attach(model: "nn.Module", folder: Path, facts: dict[str, Any]) -> "nn.Module":  # noqa: ARG004
        """Put the bottlenecks and the head that ``folder`` holds into ``model``.

        Raises
        ------
        ValueError
            If the folder is damaged, the model lacks a layer that had one or has another size, or it has bottlenecks;
            the model is left as it is then.
        """
        from gelora.finetuning.bottleneck_layers import add_bottlenecks, check_free_of_bottlenecks

        widths, activation = _read_options(folder)
        check_free_of_bottlenecks(model)
        known = dict(model.named_modules())
        for name in widths:
            if name not in known:
                raise ValueError(
                    f"`model` does not fit the adapter: it has no layer {name!r}; give the pretrained model it was "
                    "trained on"
                )
        take_out = add_bottlenecks(model, widths, activation, 0.0)
        try:
            return load_own(model, folder)
        except ValueError:
            take_out()
            raise


@dataclass(frozen=True, kw_only=True)
class Houlsby(_Bottlenecks):
    """Two bottlenecks a block, Houlsby et al. 2019 (arXiv 1902.00751).

    One behind the output matrix of the self-attention and one behind the last matrix of the feed-forward layer, each
    before the residual is added, as in the paper; a decoder's attention to its encoder gets none. With x the output
    of such a matrix, x + W_up f(W_down x + b_down) + b_up goes on. W_up and both biases start at zero, so that training
    starts from the pretrained model; the paper starts near it.

    Parameters
    ----------
    width : int, optional
        Of the bottlenecks. By default the rank that a plan gives to the block, or 64 without a plan.
    activation : {"gelu", "relu", "swish"}
        Between the two matrices.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    name: ClassVar[str] = "houlsby"
    places: ClassVar[tuple[str, ...]] = ("attention", "ffn")


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(_Bottlenecks):
    """One bottleneck a block, Pfeiffer et al. 2021 (arXiv 2005.00247).

    Behind the last matrix of the feed-forward layer, before the residual is added, as the second of `Houlsby`; the
    original puts it behind the residual and the norm, with its own residual around it.

    Its options are those of `Houlsby`.
    """

    name: ClassVar[str] = "pfeiffer"
    places: ClassVar[tuple[str, ...]] = ("ffn",)


def _read_options(folder: Path) -> tuple[dict[str, int], str]:
    """Return the widths by the names of the layers, and the activation, as saved."""
    shape = read_shape(folder)
    widths, activation = shape.get("widths"), shape.get("activation")
    sound = isinstance(widths, dict) and all(type(width) is int and width > 0 for width in widths.values())
    if not sound or not widths or activation not in ACTIVATIONS:
        raise ValueError(
            f"`folder`: {str(folder / SHAPE_FILE)!r} is damaged, it must hold the widths of bottlenecks and an "
            f"activation of {', '.join(ACTIVATIONS)}, got {shape!r:.80}: save the adapter again"
        )
    return dict(widths), str(activation)


def _places(model: "nn.Module", block: Block, wanted: tuple[str, ...]) -> list[str]:
    """Return the linear layers whose outputs are added to the residual stream."""
    attention = block.roles.get("output")
    if attention is None:
        raise ValueError(f"`model`: the attention of {block.name!r} has no output matrix: give another adapter")
    width = matrix_shape(model.get_submodule(attention))[1]
    last = [matrix.name for matrix in find_matrices(model, [block], "ffn") if matrix.out_features == width]
    if not last:
        raise ValueError(
            f"`model`: no matrix of the feed-forward layer of {block.name!r} has {width} outputs: give another adapter"
        )
    found = {"attention": attention, "ffn": last[-1]}
    return [found[place] for place in wanted]
