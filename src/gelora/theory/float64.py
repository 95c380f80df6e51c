"""Run a copy of one block in float64 throughout."""

import copy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this context, casts to float32 go to float64.

    Many models compute norms and attention weights in float32 whatever the precision of the rest, which would
    leave errors of 1e-7 in a Jacobian that is otherwise exact to 1e-16.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default and options.get("dtype") == torch.float32:
            options["dtype"] = torch.float64
        return func(*args, **options)


def double_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of ``module`` in float64 and evaluation mode, on the CPU where its device has no float64."""
    parameter = next(module.parameters(), None)
    device = torch.device("cpu") if parameter is None or parameter.device.type == "mps" else parameter.device
    found: Any = copy.deepcopy(module).to(device).double()
    for weight in found.parameters():
        weight.requires_grad_(False)
    moved: torch.nn.Module = found.eval()
    return moved


def to_double(value: Any, device: torch.device) -> Any:
    """Return ``value``, a tensor or a list, tuple or dict of such, with new tensors, the floating ones in float64."""
    if isinstance(value, torch.Tensor):
        dtype = torch.float64 if value.is_floating_point() else value.dtype
        # A copy in any case: tensors made in inference mode take no part in a backward pass.
        return value.to(device=device, dtype=dtype, copy=True)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(to_double(part, device) for part in value)
    if isinstance(value, dict):
        return {key: to_double(part, device) for key, part in value.items()}
    return value
