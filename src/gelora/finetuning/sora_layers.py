"""The gated matrix of SoRA and the proximal step of its gates."""

# ruff: noqa: ARG002, D102 (the signatures of the events are those of transformers)

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments


class GatedLinear(nn.Linear):
    """The A of a LoRA layer with a gate on each of its rows.

    Parameters
    ----------
    linear : torch.nn.Linear
        Without bias; its weight (rank × inputs) is taken over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        weight = linear.weight
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = weight
        self.gate = nn.Parameter(torch.randn(len(weight), dtype=weight.dtype).to(weight.device))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the gated rows of A times the input."""
        # The rows are gated, not the products: there are far fewer inputs than tokens.
        return functional.linear(input, self.weight * self.gate[:, None])


def add_gates(layers: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    """Gate the A of every peft LoRA layer, and return the gates by the same names."""
    gates = {}
    for name, layer in layers.items():
        layer.lora_A["default"] = GatedLinear(layer.lora_A["default"])
        gates[name] = layer.lora_A["default"].gate
    return gates


def count_open(gates: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return how many gates of each module are not zero, read from the device at once."""
    counts = torch.stack([torch.count_nonzero(gate) for gate in gates.values()]).tolist()
    return dict(zip(gates, counts, strict=True))


@torch.no_grad()
def shrink(gates: Sequence[torch.Tensor], threshold: float) -> None:
    """Apply the proximal operator of threshold · ‖g‖₁ in place: every entry moves to 0 by at most the threshold.

    Examples
    --------
    >>> gate = torch.tensor([0.75, -0.5, 0.125])
    >>> shrink([gate], 0.25)
    >>> gate.tolist()
    [0.5, -0.25, 0.0]
    """
    if threshold == 0:
        return
    sizes = torch._foreach_abs(list(gates))
    torch._foreach_sub_(sizes, threshold)
    torch._foreach_clamp_min_(sizes, 0.0)
    signs = torch._foreach_sign(list(gates))
    torch._foreach_mul_(sizes, signs)
    torch._foreach_copy_(list(gates), sizes)


class Shrinkage(TrainerCallback):
    """Shrink the gates after each step of the optimiser by its rate times λ.

    Parameters
    ----------
    gates : sequence of torch.Tensor
        Changed in place.
    sparsity : float
        λ.
    """

    def __init__(self, gates: Sequence[torch.Tensor], sparsity: float) -> None:
        self._gates, self._sparsity = gates, sparsity

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        if getattr(optimizer, "step_was_skipped", False):
            return  # gradients overflowed: there was no step to follow
        # The schedule moves on only after this event: it is the rate of the step just made.
        shrink(self._gates, float(optimizer.param_groups[0]["lr"]) * self._sparsity)


def make_optimizer(
    model: nn.Module, gates: Iterable[nn.Parameter], arguments: TrainingArguments, decayed: Collection[str]
) -> torch.optim.Optimizer:
    """Return the optimizer that ``arguments`` name, without weight decay on the gates.

    Decay would make the penalty on them another one.
    """
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    gated = {id(gate) for gate in gates}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name in decayed and id(parameter) not in gated].append(parameter)
    rates = {True: arguments.weight_decay, False: 0.0}
    made: torch.optim.Optimizer = kind(
        [{"params": members, "weight_decay": rates[decays]} for decays, members in groups.items() if members], **options
    )
    return made
