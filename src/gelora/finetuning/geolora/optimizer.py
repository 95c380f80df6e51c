"""The optimizer of GeoLoRA: AdamW on everything that moves by itself, and the bases at their own pace."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gelora.finetuning.geolora.integrator import (
    Decomposed,
    choose_rank,
    decompose,
    extend,
    rotate,
    share_budget,
    truncate,
)
from gelora.finetuning.geolora.layer import DIRECTION_SCALE, GeoLoRALinear
from gelora.finetuning.geolora_options import check_geolora_options

# Of the coefficients, in the optimizer's state: mean, mean square, and the weights in the latter.
MOMENTS = ("first", "second", "weight")


class GeoLoRAOptimizer(torch.optim.AdamW):
    r"""Dynamical low-rank training of the `GeoLoRALinear` layers of a model, AdamW for its other parameters.

    Each step moves the coefficients S of every layer by AdamW. Every ``interval`` steps the bases move too, with the
    gradients of the same backward pass: K and L step, augmentation to twice the rank, singular values, truncation
    (Schotthöfer et al. 2025, arXiv 2410.18720). The moments of S follow the bases.

    Truncated at once, a new direction must reach the tolerance by its one K or L step, which small rates do not
    allow: ranks hardly grow. On trial, it stays until the next move of the bases, trained as all others, and is
    truncated then; as in the rank-adaptive integrator of Ceruti, Kusch and Lubich 2022 (arXiv 2104.05247), the
    coefficients have moved in the augmented bases before.

    Parameters
    ----------
    model : nn.Module
        With `GeoLoRALinear` layers; all its trainable parameters are optimised.
    lr : float
        λ, for everything.
    tolerance : float
        τ: the truncation error allowed relative to the norm of the singular values, in [0, 1).
    budget : int, optional
        In place of ``tolerance``: how many singular values all layers keep together, the largest ones. A layer that
        the model never uses keeps the rank it started with, out of this number.
    min_rank : int
        No layer falls below it, where its ``max_rank`` allows that.
    interval : int
        Steps of the coefficients from one move of the bases to the next.
    truncation : {"on_trial", "at_once"}
        When new directions are judged: at the next move of the bases, or, as the paper has it, in the same step.
    last_move : int, optional
        After that many steps the bases stay: nothing is on trial any more, the ranks are final.
    method : {"adamw", "sgd"}
        What moves S, K and L. With ``"sgd"`` a step is exactly that of the paper; with ``"adamw"`` S moves by AdamW,
        the K and L steps are divided by the root mean square of S's second moment, and by more where they
        would be longer than the longest step of S, the rank times the rate: so one rate serves.
    betas, eps, weight_decay
        As AdamW's; the decay acts on S, and on other parameters that ``no_decay`` does not name, never on the bases.
    no_decay : iterable of str
        Names of other parameters without decay.

    Raises
    ------
    ValueError
        If an option is out of range, or the model has no such layer.

    Notes
    -----
    ``interval`` counts steps that are made: those that gradient scaling skips, and those at rate 0, move no bases.
    The step counter and all moments stand in ``state_dict``; ranks and bases in the model's. In distributed training
    the process of rank 0 decides, and the others take its bases and ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        tolerance: float = 0.1,
        budget: int | None = None,
        min_rank: int = 2,
        interval: int = 10,
        truncation: str = "on_trial",
        last_move: int | None = None,
        method: str = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_decay: Iterable[str] = (),
    ) -> None:
        self.layers = geolora_layers(model)
        check_geolora_options(
            tolerance=tolerance,
            budget=budget,
            min_rank=min_rank,
            interval=interval,
            truncation=truncation,
            method=method,
        )
        if not self.layers:
            raise ValueError("`model` has no GeoLoRA layer: put them there by add_geolora(model, plan)")
        self._least = {layer: min(min_rank, layer.max_rank) for layer in self.layers.values()}
        least = sum(self._least.values())
        if budget is not None and budget < least:
            raise ValueError(
                f"`budget` must be at least {least}, `min_rank` for each of {len(self.layers)} matrices, got {budget}"
            )
        self._tolerance, self._budget, self._interval, self._method = tolerance, budget, interval, method
        self._on_trial, self.last_move = truncation == "on_trial", last_move
        groups = _groups(model, self.layers, weight_decay, frozenset(no_decay))
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=0.0)
        self._arm()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of everything.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = {layer: _take_gradients(layer) for layer in self.layers.values()}
        super().step()  # passes over parameters without a gradient
        group = self.param_groups[0]
        moved = {layer: gradients for layer, gradients in held.items() if gradients[0] is not None}
        divisors = {layer: self._step_coefficients(layer, moved[layer][0], group) for layer in moved}
        collected = bool(moved) and all(gradients[1] is not None for gradients in moved.values())
        if not group["settled"] and self.last_move is not None and group["made"] >= self.last_move:
            self.settle()
        elif group["countdown"] == 0 and group["lr"] > 0 and collected and not group["settled"]:
            self._move_bases({layer: (*moved[layer][1:], divisors[layer]) for layer in moved}, float(group["lr"]))
            group["countdown"] = self._interval
        group["countdown"] = max(0, group["countdown"] - 1)
        group["made"] += 1
        self._arm()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the moments and the step counter."""
        super().load_state_dict(state_dict)
        self._arm()

    def _arm(self) -> None:
        """Tell the layers whether the next backward pass must yield G V and GᵀU."""
        # Data-parallel training expects a gradient for every parameter at every step.
        group = self.param_groups[0]
        collect = (group["countdown"] == 0 and not group["settled"]) or _world_size() > 1
        for layer in self.layers.values():
            layer.collect = collect

    def _step_coefficients(self, layer: GeoLoRALinear, gradient: Tensor, group: Mapping[str, Any]) -> Tensor | None:
        """Move S, and return what the gradients of K and L are to be divided by."""
        rank, rate = layer.rank, float(group["lr"])
        S, g = layer.geolora_S[:rank, :rank], gradient[:rank, :rank]
        S.mul_(1.0 - rate * group["weight_decay"])
        if self._method == "sgd":
            S.sub_(g, alpha=rate)
            return None
        state = self.state[layer.geolora_S]
        if not state:
            state |= {name: torch.zeros_like(layer.geolora_S) for name in MOMENTS}
            state["step"] = torch.tensor(0.0)  # as torch's own AdamW keeps it
        (beta1, beta2), eps = group["betas"], group["eps"]
        state["step"] += 1
        first, second, weight = (state[name][:rank, :rank] for name in MOMENTS)
        first.lerp_(g, 1.0 - beta1)
        second.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        weight.mul_(beta2).add_(1.0 - beta2)  # 1 − β2^t for directions that were there from the start
        spread = second / weight
        S.sub_(first / (spread.sqrt() + eps), alpha=rate / (1.0 - beta1 ** float(state["step"])))
        divisor: Tensor = spread.mean().sqrt() + eps
        return divisor

    def _move_bases(self, gradients: Mapping[GeoLoRALinear, tuple[Tensor, Tensor, Any]], rate: float) -> None:
        """Augment the bases of all layers, choose their ranks together and truncate each once."""
        directions = {layer: _directions(layer, *gradients[layer]) for layer in gradients}
        if not _finite(tensor for layer, both in directions.items() for tensor in (layer.geolora_S, *both)):
            return  # neither is the loss of this step: whoever watches it stops the run
        if self._on_trial:
            for layer, one in self._truncate({layer: decompose(*_factors(layer)) for layer in directions}).items():
                GV, GtU = directions[layer]
                kept = layer.rank
                turned = (GV @ one.Q[:, :kept], GtU @ one.P[:, :kept])
                wide = extend(*_factors(layer), *turned, rate, layer.capacity)
                _put(layer, *wide)  # the moments of what is new are zero already
                layer.set_rank(len(wide[1]), kept)
        else:
            reached = {
                layer: extend(*_factors(layer), *both, rate, layer.capacity) for layer, both in directions.items()
            }
            self._truncate({layer: decompose(*wide) for layer, wide in reached.items()})
        self._agree(directions)

    def settle(self) -> None:
        """Judge what is on trial; the bases stay from now on."""
        if not _finite(layer.geolora_S for layer in self.layers.values()):
            return
        self._truncate({layer: decompose(*_factors(layer)) for layer in self.layers.values()})
        self._agree(self.layers.values())
        self.param_groups[0]["settled"] = True
        self._arm()

    def _truncate(self, whole: Mapping[GeoLoRALinear, Decomposed]) -> dict[GeoLoRALinear, Decomposed]:
        """Truncate the layers once, with ranks chosen together; return those that have something to keep."""
        found = {layer: one for layer, one in whole.items() if one.sigma[0] > 0}
        ranks = self._choose_ranks({layer: one.sigma.tolist() for layer, one in found.items()})
        for layer, one in found.items():
            self._take(layer, one, ranks[layer])
        return found

    def _choose_ranks(self, spectra: Mapping[GeoLoRALinear, list[float]]) -> dict[GeoLoRALinear, int]:
        least = [self._least[layer] for layer in spectra]
        most = [layer.max_rank for layer in spectra]
        if self._budget is not None:
            left = self._budget - sum(layer.rank for layer in self.layers.values() if layer not in spectra)
            return dict(zip(spectra, share_budget(list(spectra.values()), left, least, most), strict=True))
        bounds = zip(spectra.items(), least, most, strict=True)
        return {layer: choose_rank(sigma, self._tolerance, low, high) for (layer, sigma), low, high in bounds}

    def _take(self, layer: GeoLoRALinear, whole: Decomposed, rank: int) -> None:
        old = layer.rank
        U, sigma, V = truncate(whole, rank)
        _put(layer, U, sigma.diag(), V)
        state = self.state.get(layer.geolora_S)
        if state:
            first, second, weight = (state[name][:old, :old] for name in MOMENTS)
            turned = rotate(first, second, weight, whole, rank)
            for name, value in zip(MOMENTS, turned, strict=True):
                _fill(state[name], value)
        layer.set_rank(rank)

    def _agree(self, layers: Iterable[GeoLoRALinear]) -> None:
        """Take over what the process of rank 0 has: factorisations may differ in the last digit between machines."""
        if _world_size() < 2:
            return
        for layer in layers:
            state = self.state.get(layer.geolora_S) or {}
            moments = [state[name] for name in MOMENTS if name in state]
            for tensor in (layer.geolora_ranks, layer.geolora_U, layer.geolora_V, layer.geolora_S.data, *moments):
                torch.distributed.broadcast(tensor, src=0)
            layer.read_ranks()


def geolora_layers(model: nn.Module) -> dict[str, GeoLoRALinear]:
    """Return the GeoLoRA layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GeoLoRALinear)}


def _groups(
    model: nn.Module, layers: Mapping[str, GeoLoRALinear], weight_decay: float, no_decay: frozenset[str]
) -> list[dict[str, Any]]:
    coefficients = [layer.geolora_S for layer in layers.values()]
    directions = [one for layer in layers.values() for one in (layer.geolora_K, layer.geolora_L)]
    own = {id(parameter) for parameter in (*coefficients, *directions)}
    rest = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    groups: list[dict[str, Any]] = [
        {"params": coefficients, "weight_decay": weight_decay, "countdown": 0, "made": 0, "settled": False},
        {"params": directions, "weight_decay": 0.0},
        {"params": [p for name, p in rest if name not in no_decay], "weight_decay": weight_decay},
        {"params": [p for name, p in rest if name in no_decay], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _take_gradients(layer: GeoLoRALinear) -> tuple[Any, Any, Any]:
    """Return the gradients of S, K and L and leave None in their place."""
    parameters = (layer.geolora_S, layer.geolora_K, layer.geolora_L)
    found = tuple(parameter.grad for parameter in parameters)
    for parameter in parameters:
        parameter.grad = None
    return found[0], found[1], found[2]


def _directions(layer: GeoLoRALinear, K: Tensor, L: Tensor, divisor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return G V and GᵀU, with ``divisor`` divided as the gradient of the coefficients was, and no longer than that.

    AdamW moves no entry of S further than the rate, S as a whole by at most rank times the rate: K and L neither.
    """
    rank = layer.rank
    GV, GtU = K[:, :rank] / DIRECTION_SCALE, L[:, :rank] / DIRECTION_SCALE
    if divisor is None:
        return GV, GtU
    longest = torch.maximum(GV.norm(), GtU.norm())
    divisor = torch.maximum(divisor, longest / rank)
    return GV / divisor, GtU / divisor


def _factors(layer: GeoLoRALinear) -> tuple[Tensor, Tensor, Tensor]:
    rank = layer.rank
    return layer.geolora_U[:, :rank], layer.geolora_S.data[:rank, :rank], layer.geolora_V[:, :rank]


def _put(layer: GeoLoRALinear, U: Tensor, S: Tensor, V: Tensor) -> None:
    for tensor, values in ((layer.geolora_U, U), (layer.geolora_S.data, S), (layer.geolora_V, V)):
        _fill(tensor, values)


def _finite(tensors: Iterable[Tensor]) -> bool:
    # One number is read back from the device, not one a tensor.
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def _fill(target: Tensor, values: Tensor) -> None:
    target.zero_()
    target[: values.shape[0], : values.shape[1]] = values


def _world_size() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
