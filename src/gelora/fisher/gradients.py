"""Gradients of single examples, kept as small as they come, and the products of all pairs of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gelora.blocks import UnknownArchitectureError, is_transposed, matrix_shape
from gelora.hooks import inference_on
from gelora.messages import nearest

# Inputs a of shape (..., in) and output gradients δ of shape (..., out) of one call of a linear layer.
Call = tuple[torch.Tensor, torch.Tensor]
# Inputs, and the output's place in the graph, which stays when another function changes the output in place.
Watched = tuple[torch.Tensor, GradientEdge]
_SLAB_BYTES = 2**26
_LABELS = ("labels", "start_positions")


@dataclass(slots=True, kw_only=True, eq=False)
class Target:
    """A weight whose gradients are wanted.

    Parameters
    ----------
    label : str
        The spectrum that it belongs to.
    name : str
        As the caller named it.
    parameter : torch.nn.Parameter
        The weight.
    module : torch.nn.Module or None
        The linear layer it is the weight of, whose inputs and output gradients make up the gradient Σ_t δ_t a_tᵀ;
        None where gradients are taken whole.
    rows : list of tuple of Tensor
        Of each example the factors (tokens, out) and (tokens, in), or the whole gradient (out, in).
    n_bytes : int
        Memory of the rows.
    """

    label: str
    name: str
    parameter: torch.nn.Parameter
    module: torch.nn.Module | None
    rows: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, calls: Sequence[Call], whole: torch.Tensor | None) -> None:
        """Keep the gradient of one example, as whatever is smaller."""
        row: tuple[torch.Tensor, ...]
        if self.module is None:
            found = torch.zeros_like(self.parameter) if whole is None else whole
            row = (found.detach().reshape(len(found) if found.ndim else 1, -1),)
        else:
            row = _joined(calls, self.parameter, matrix_shape(self.module))
            if sum(part.numel() for part in row) > self.parameter.numel():
                row = (row[0].T @ row[1],)
        if self.parameter.device.type == "mps":  # which has no float64
            row = tuple(part.cpu() for part in row)
        self.rows.append(row)
        self.n_bytes += sum(part.numel() * part.element_size() for part in row)

    def forget(self) -> None:
        """Let go of all gradients."""
        self.rows, self.n_bytes = [], 0

    def gram(self) -> NDArray[np.float64]:
        """Return the products of the gradients of all pairs of examples, shape (n_examples, n_examples)."""
        first = self.rows[0]
        n_rows = first[0].shape[0] if len(first) == 1 else first[0].shape[1]
        width = max(1, self.parameter.numel() // n_rows)
        step = min(n_rows, max(1, _SLAB_BYTES // (8 * width * len(self.rows))))
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64, device=first[0].device)
        slab = total.new_empty(len(self.rows), step, width)
        for start in range(0, n_rows, step):
            used = slab[:, : n_rows - start]
            for row, out in zip(self.rows, used, strict=True):
                _write(row, start, out)
            total += used.flatten(1) @ used.flatten(1).T
        return np.asarray(total.cpu().numpy())


def _joined(
    calls: Sequence[Call], parameter: torch.nn.Parameter, shape: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return δ (tokens, out) and a (tokens, in) of all calls, without the tokens that the loss does not feel."""
    if not calls:
        return parameter.new_zeros(1, shape[1]), parameter.new_zeros(1, shape[0])
    inputs = torch.cat([given.reshape(-1, given.shape[-1]) for given, _ in calls])
    delta = torch.cat([gradient.reshape(-1, gradient.shape[-1]) for _, gradient in calls])
    felt = (delta != 0).any(1)  # NaN is felt, so that it is seen
    felt[:1] = True
    return delta[felt], inputs[felt]


def _write(row: tuple[torch.Tensor, ...], start: int, out: torch.Tensor) -> None:
    """Write as many rows of a gradient as ``out`` has, from ``start`` on, in float64."""
    stop = start + len(out)
    if len(row) == 1:
        out.copy_(row[0][start:stop])
    else:
        torch.mm(row[0][:, start:stop].double().T, row[1].double(), out=out)


def find_targets(model: torch.nn.Module, label: str, names: Sequence[str]) -> list[Target]:
    """Return the weights of those names, each once: a layer and its own ``weight`` are the same.

    Raises
    ------
    ValueError
        If there is none, the module is no linear layer, or the weights are on the meta device or of half precision.
    """
    found = [_find_target(model, label, name) for name in names]
    return list({id(target.parameter): target for target in reversed(found)}.values())[::-1]


def _find_target(model: torch.nn.Module, label: str, name: str) -> Target:
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    if name in modules:
        try:
            matrix_shape(modules[name])
        except UnknownArchitectureError as error:
            raise ValueError(
                f"`names`: {name!r} is a {type(modules[name]).__name__}, no linear layer: name its parameters, "
                f"such as {name + '.weight'!r}"
            ) from error
        base: Any = getattr(modules[name], "base_layer", modules[name])
        target = Target(label=label, name=name, parameter=base.weight, module=base)
    elif name in parameters:
        target = Target(label=label, name=name, parameter=parameters[name], module=None)
    else:
        raise ValueError(
            f"`names`: the model has no module or parameter {name!r}{nearest(name, [*modules, *parameters])}"
        )
    if target.parameter.is_meta:
        raise ValueError(f"`model` must hold its weights, but {name!r} is on the meta device: load it")
    if target.parameter.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"`model`: {name!r} holds {target.parameter.dtype}, but small eigenvalues need float32 or float64: "
            "give model.float()"
        )
    return target


def cut_batches(
    model: torch.nn.Module, batches: Iterable[Mapping[str, Any]], most: int
) -> list[dict[str, torch.Tensor]]:
    """Return the first ``most`` examples as batches of one, on the model's device and in its precision.

    Raises
    ------
    ValueError, TypeError
        If there is none, or a batch is no mapping of tensors of one length with ``labels``.
    """
    parameter = next(model.parameters())
    examples: list[dict[str, torch.Tensor]] = []
    with torch.inference_mode(False):
        for batch in [batches] if isinstance(batches, str | Mapping) else batches:
            found = _checked(batch, alone=batch is batches)
            n_rows = len(next(found[name] for name in _LABELS if name in found))
            for i in range(min(n_rows, most - len(examples))):
                # A copy: a slice of what was made in inference mode would not do.
                one = {key: value[i : i + 1].clone().to(parameter.device) for key, value in found.items()}
                examples.append({k: v.to(parameter.dtype) if v.is_floating_point() else v for k, v in one.items()})
            if len(examples) >= most:
                break
    if not examples:
        raise ValueError("`batches` must hold at least one labelled example, got none")
    return examples


def _checked(batch: Any, *, alone: bool) -> dict[str, torch.Tensor]:
    if alone or not isinstance(batch, Mapping):
        raise TypeError(
            "`batches` must be mappings of tensors, one after another as a DataLoader gives them, got "
            f"{type(batch).__name__}" + (" alone: put it in a list" if alone and isinstance(batch, Mapping) else "")
        )
    found = {str(key): value for key, value in batch.items() if value is not None}
    for key, value in found.items():
        if not isinstance(value, torch.Tensor) or not value.ndim:
            got = f"{value.item()!r} alone" if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"`batches`: {key!r} must be a tensor with the examples along its first axis, got {got}")
    if not any(name in found for name in _LABELS):
        raise ValueError(
            f"`batches`: a batch must hold `labels` for the loss, got only {sorted(found)}: see "
            "gelora.finetuning.labelled.labelled_batches"
        )
    sizes = sorted({len(value) for value in found.values()})
    if len(sizes) > 1:
        raise ValueError(f"`batches`: the tensors of a batch must have one length, got {sizes}")
    return found


def collect_gradients(
    model: torch.nn.Module,
    examples: Sequence[Mapping[str, torch.Tensor]],
    targets: Sequence[Target],
    max_bytes: int,
    bar: Any,
) -> tuple[list[Target], list[Target]]:
    """Run all examples once; return the targets whose gradients are complete, and those that did not fit.

    Raises
    ------
    ValueError
        If the gradients of one target alone exceed ``max_bytes``, one is not finite or there is no loss.
    """
    active, late = list(targets), list[Target]()
    with _ready(model, [target.parameter for target in targets]):
        for number, example in enumerate(examples):
            _add_gradients(model, example, active, number)
            while sum(target.n_bytes for target in active) > max_bytes:
                if len(active) == 1:
                    raise ValueError(
                        f"`max_bytes` must hold the gradients of one module: those of {active[0].name!r} exceed "
                        f"{max_bytes:,} bytes at example {number}; raise it, or lower `max_examples`"
                    )
                late.insert(0, active.pop())
                late[0].forget()
            bar.update()
    return active, late


@contextmanager
def _ready(model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Put ``model`` in evaluation mode, only ``parameters`` requiring gradients; then restore all flags."""
    with inference_on(model), torch.inference_mode(False), torch.enable_grad():
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, required in flags:
                parameter.requires_grad_(required)


def _add_gradients(
    model: torch.nn.Module, example: Mapping[str, torch.Tensor], targets: Sequence[Target], number: int
) -> None:
    """Run one example and keep the gradient of its loss with respect to every target."""
    calls, loss = _run(model, example, targets)
    if not bool(torch.isfinite(loss)):
        raise ValueError(
            f"`batches`: the loss of example {number} is {loss.item()}: drop that example (has it a label?), or check "
            "the weights"
        )
    # At the first example also whole gradients, to see whether the factors explain them.
    dense = [target for target in targets if target.module is None or number == 0]
    outputs: list[Any] = [edge for watched in calls.values() for _, edge in watched]
    wanted = [*outputs, *(target.parameter for target in dense)]
    found: Any = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    of_output = {id(edge): gradient for edge, gradient in zip(outputs, found, strict=False)}
    whole = {id(target): gradient for target, gradient in zip(dense, found[len(outputs) :], strict=True)}
    for target in targets:
        factors = [
            (given, gradient) for given, edge in calls[id(target)] if (gradient := of_output.get(id(edge))) is not None
        ]
        if target.module is not None and number == 0 and not _explain(factors, whole[id(target)], target.module):
            target.module = None  # the weight also acts elsewhere, as one tied to the embeddings
        target.add(factors, whole.get(id(target)))
        if not all(bool(torch.isfinite(part).all()) for part in target.rows[-1]):
            raise ValueError(
                f"`batches`: the gradient of {target.name!r} at example {number} is not finite: drop that example, "
                "or check the weights"
            )


def _run(
    model: torch.nn.Module, example: Mapping[str, torch.Tensor], targets: Sequence[Target]
) -> tuple[dict[int, list[Watched]], torch.Tensor]:
    """Return what the calls of every target's module take and give, and the loss."""
    calls: dict[int, list[Watched]] = {id(target): [] for target in targets}
    handles = []
    try:
        for target in targets:
            if target.module is not None:
                hook = _keeper(calls[id(target)])
                handles.append(target.module.register_forward_hook(hook, with_kwargs=True))
        return calls, _loss(model(**example))
    finally:
        for handle in handles:
            handle.remove()


def _keeper(calls: list[Watched]) -> Any:
    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        if output.requires_grad:
            calls.append((given.detach(), get_gradient_edge(output)))

    return keep


def _explain(factors: Sequence[Call], whole: torch.Tensor | None, module: torch.nn.Module) -> bool:
    """Say whether inputs and output gradients of the module make up the whole gradient of its weight."""
    if whole is None or not factors:
        return whole is None and not factors
    product = sum(
        gradient.reshape(-1, gradient.shape[-1]).T @ given.reshape(-1, given.shape[-1]) for given, gradient in factors
    )
    expected = whole.T if is_transposed(module) else whole
    # NaN is reported as such later.
    return not bool((product - expected).norm() > 1e-3 * expected.norm())


def _loss(output: Any) -> torch.Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise ValueError(
            "`model` must return a scalar `loss` for a batch with `labels`: give a model with a head, got "
            f"{type(output).__name__} without one"
        )
    return loss.reshape(())
