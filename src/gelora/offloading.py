"""Models that accelerate has spread over devices, memory and disk: where they compute, and what their weights are.

A parameter that waits in memory or on disk until its module runs stands in the model on the meta device, without
values.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def _hooks(module: "nn.Module") -> list[Any]:
    """Return the hooks of accelerate on a module."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def _offloading(model: "nn.Module") -> "Iterator[tuple[str, nn.Module, Any]]":
    """Yield path, module and hook where accelerate brings parameters before a module runs and takes them away after."""
    for path, module in model.named_modules():
        for hook in _hooks(module):
            if getattr(hook, "weights_map", None) is not None and hook.offload:
                yield path, module, hook


def is_dispatched(model: "nn.Module") -> bool:
    """Say whether accelerate moves inputs or weights while the model runs."""
    return any(_hooks(module) for module in model.modules())


def offloaded_parameters(model: "nn.Module") -> "dict[str, Callable[[], torch.Tensor]]":
    """Return what reads each parameter that is kept outside the model, by its path; one at a time fits into memory.

    Examples
    --------
    >>> from accelerate import cpu_offload
    >>> from torch import nn
    >>> layer = cpu_offload(nn.Linear(3, 2))
    >>> layer.weight.device.type, sorted(offloaded_parameters(layer))
    ('meta', ['bias', 'weight'])
    >>> offloaded_parameters(layer)["weight"]().shape
    torch.Size([2, 3])
    """
    return {
        f"{path}.{name}".lstrip("."): partial(hook.weights_map.__getitem__, name)
        for path, module, hook in _offloading(model)
        for name, parameter in module.named_parameters(recurse=hook.place_submodules)
        if parameter.is_meta
    }


def offload_again(model: "nn.Module") -> None:
    """Take away the weights that a pass which ended inside a module has left there."""
    for _, module, hook in _offloading(model):
        if not all(parameter.is_meta for parameter in module.parameters(recurse=hook.place_submodules)):
            hook.post_forward(module, None)


def input_device(model: "nn.Module") -> "torch.device":
    """Return where the inputs of a model belong: where its embeddings compute.

    Of one without parameters it is the CPU.
    """
    import torch

    for module in (_embeddings(model), model):
        for part in () if module is None else module.modules():
            for parameter in part.parameters(recurse=False):
                if not parameter.is_meta:
                    return parameter.device
                places = [hook.execution_device for hook in _hooks(part) if hasattr(hook, "execution_device")]
                if places:  # not torch.device(places[-1]), which needs the accelerator that a number counts
                    return torch.empty(0, device=places[-1]).device
    return torch.device("cpu")


def _embeddings(model: "nn.Module") -> "nn.Module | None":
    try:
        found: nn.Module | None = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:  # of a model of transformers that has none
        return None
    return found


def float_type(model: "nn.Module") -> "torch.dtype | None":
    """Return the type of a model's first parameter of real numbers: quantised ones are integers."""
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(kinds, None)
