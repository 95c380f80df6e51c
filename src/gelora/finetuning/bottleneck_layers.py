"""A bottleneck behind a linear layer: x + W_up f(W_down x), put there by a forward hook."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gelora.blocks import matrix_shape

FUNCTIONS = {"gelu": nn.functional.gelu, "relu": nn.functional.relu, "swish": nn.functional.silu}


class Bottleneck(nn.Module):
    """``x + up(f(down(dropout(x))))``; the identity until it is trained, as ``up`` starts at zero.

    Parameters
    ----------
    features, width : int
        Of x, and of the narrow place.
    activation : str
        A key of `FUNCTIONS`.
    dropout : float
        Of the input.
    """

    def __init__(self, features: int, width: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        self.function: Any = FUNCTIONS[activation]
        nn.init.normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with what passed the bottleneck added."""
        inner = self.dropout(x)
        if not torch.is_autocast_enabled(x.device.type):
            inner = inner.to(self.down.weight.dtype)  # half-precision weights beside a float32 adapter
        found: Tensor = x + self.up(self.function(self.down(inner))).to(x.dtype)
        return found


def check_free_of_bottlenecks(model: nn.Module) -> None:
    """Raise ValueError where ``model`` holds bottlenecks: behind each other they would add to what was trained."""
    held = [name for name, module in model.named_modules() if isinstance(module, Bottleneck)]
    if held:
        raise ValueError(
            f"`model` holds bottlenecks already, the first at {held[0]!r}: give the pretrained model, loaded afresh"
        )


def add_bottlenecks(model: nn.Module, widths: Mapping[str, int], activation: str, dropout: float) -> Callable[[], None]:
    """Put a bottleneck behind each named linear layer; its parameters stand below that layer's, as ``bottleneck``.

    Returns
    -------
    callable
        Takes them out again.
    """
    layers = {name: model.get_submodule(name) for name in widths}
    features = {name: matrix_shape(layer)[1] for name, layer in layers.items()}
    handles = []
    for name, layer in layers.items():
        made = Bottleneck(features[name], widths[name], activation, dropout).to(next(layer.parameters()).device)
        layer.add_module("bottleneck", made.train(layer.training))
        handles.append(layer.register_forward_hook(_through))

    def take_out() -> None:
        for layer, handle in zip(layers.values(), handles, strict=True):
            handle.remove()
            del layer.bottleneck

    return take_out


def _through(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
    # The module is asked for its own, so that a copy of the model goes through the copy.
    through: Any = layer.bottleneck
    result: Tensor = through(output)
    return result
