"""Prove that peft adapts a model as a rank plan says."""

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gelora.blocks import is_linear, is_transposed, matrix_shape

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


class Planned(Protocol):
    """An adapted matrix, as `gelora.plan.ModuleRank`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def alpha(self) -> float: ...  # noqa: D102
    @property
    def in_features(self) -> int: ...  # noqa: D102
    @property
    def out_features(self) -> int: ...  # noqa: D102
    @property
    def transposed(self) -> bool: ...  # noqa: D102
    @property
    def n_parameters(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class CheckedModule:
    """One adapted matrix as peft made it.

    Parameters
    ----------
    name : str
        Module path in the model.
    key : str
        Its key in ``rank_pattern``.
    rank : int
        Rank r.
    alpha : float
        LoRA's α.
    n_parameters : int
        Trainable parameters, counted on what peft made.
    """

    name: str
    key: str
    rank: int
    alpha: float
    n_parameters: int


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """What was proven of a plan on a model.

    Parameters
    ----------
    modules : tuple of CheckedModule
        In the plan's order.
    n_parameters : int
        Trainable adapter parameters in all.
    adapted : bool
        Whether the model itself carried the adapter, which was then compared too.
    """

    modules: tuple[CheckedModule, ...]
    n_parameters: int
    adapted: bool


def bare_model(model: "nn.Module") -> "nn.Module":
    """Return the model inside peft's wrapper, or ``model`` where it has none."""
    if not hasattr(model, "named_modules"):
        raise TypeError(f"`model` must be a loaded model, got {type(model).__name__}: load it first")
    inner: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def check_adaptation(modules: Sequence[Planned], scaling: float, model: "nn.Module", config: "LoraConfig") -> PlanCheck:
    """Prove that peft adapts ``model`` as planned, without changing it or copying its weights.

    Parameters
    ----------
    modules : sequence of Planned
        Bound to ``model``.
    scaling : float
        α / r.
    model : torch.nn.Module
        Outside peft's wrapper; its layers may carry an adapter.
    config : peft.LoraConfig
        What to prove; left as it is.

    Returns
    -------
    PlanCheck

    Raises
    ------
    ValueError
        If the plan does not fit the model, or a key of ``config`` matches another number of modules than one.
    RuntimeError
        If peft makes something else of it, or the adapter that ``model`` carries is another.
    """
    layers = {name: module for name, module in model.named_modules() if is_linear(module)}
    for module in modules:
        _check_matrix(module, scaling, layers[module.name])
    skeleton = _skeleton(model)
    names = [name for name, _ in skeleton.named_modules() if name]
    keys = _check_patterns(config, names)
    _check_targets(config, names, [module.name for module in modules])
    made = _adapted_by_peft(skeleton, config)
    _compare(modules, scaling, made, "peft would make of the plan")
    carried = _adapters(model)
    if carried:
        _compare(modules, scaling, carried, "the model carries")
    checked = tuple(CheckedModule(m.name, keys[m.name], made[m.name][0], m.alpha, made[m.name][2]) for m in modules)
    return PlanCheck(checked, sum(module.n_parameters for module in checked), bool(carried))


def _check_matrix(module: Planned, scaling: float, layer: "nn.Module") -> None:
    if is_transposed(layer) != module.transposed:
        kept = {False: "(out, in)", True: "(in, out)"}
        raise ValueError(
            f"the plan takes the weight of {module.name!r} as {kept[module.transposed]}, but the model keeps it as "
            f"{kept[not module.transposed]}: make the plan again for this model"
        )
    sides = matrix_shape(layer)
    if module.rank > min(sides):
        raise ValueError(
            f"the rank {module.rank} of {module.name!r} exceeds its matrix of {sides[0]} × {sides[1]}: "
            "make the plan again, with `maximum=`"
        )
    if not _close(module.alpha / module.rank, scaling):
        raise ValueError(
            f"α / r of {module.name!r} is {module.alpha / module.rank:g}, but the plan's scaling is {scaling:g}: "
            "make the plan again"
        )


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-9 * abs(second)


def _check_patterns(config: "LoraConfig", names: Sequence[str]) -> dict[str, str]:
    """Check that each key matches one module, and return the keys of ``rank_pattern`` by module."""
    keys: dict[str, str] = {}
    for field, pattern in (("alpha_pattern", config.alpha_pattern), ("rank_pattern", config.rank_pattern)):
        keys = {}
        for key in pattern or ():
            expression = re.compile(rf"(.*\.)?({key})$")  # as peft reads it
            _check_one(f"the key {key!r} of `{field}`", [name for name in names if expression.match(name)], keys, key)
    return keys


def _check_one(what: str, found: Sequence[str], keys: dict[str, str], key: str) -> None:
    if len(found) != 1 or found[0] in keys:
        shown = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
        taken = f", which {keys[found[0]]!r} matches too" if len(found) == 1 else ""
        raise ValueError(
            f"{what} must match one module of the model, but matches {len(found)}"
            f"{': ' if found else ''}{shown}{taken}: make the configuration with `to_lora_config(model=...)`"
        )
    keys[found[0]] = key


def _check_targets(config: "LoraConfig", names: Sequence[str], planned: Sequence[str]) -> None:
    targets = config.target_modules or []
    if isinstance(targets, str):
        found = {name for name in names if re.fullmatch(targets, name)}
    else:
        hits = {target: [n for n in names if n == target or n.endswith(f".{target}")] for target in targets}
        if len(hits) == len(planned):  # peft shortens a long list to common ends once it has adapted a model
            seen: dict[str, str] = {}
            for target, matched in hits.items():
                _check_one(f"the name {target!r} of `target_modules`", matched, seen, target)
        found = {name for matched in hits.values() for name in matched}
    wrong = sorted(found ^ set(planned))
    if wrong:
        raise ValueError(
            f"`target_modules` {'matches' if wrong[0] in found else 'misses'} {wrong[0]!r}, which the plan "
            f"{'does not adapt' if wrong[0] in found else 'adapts'}: make the configuration with "
            "`to_lora_config(model=...)`"
        )


def _skeleton(model: "nn.Module") -> "nn.Module":
    """Return the modules of ``model`` under their names: linear layers on the meta device, all others empty."""
    from torch import nn

    root = nn.Module()
    if hasattr(model, "config"):
        root.config = model.config
    made = {"": root}
    linear = set()
    for name, module in model.named_modules():
        parent, _, child = name.rpartition(".")
        if not name or parent in linear or parent not in made:  # inside a linear layer lies peft's own
            continue
        made[name] = _meta_linear(module) if is_linear(module) else nn.Module()
        made[parent].add_module(child, made[name])
        if is_linear(module):
            linear.add(name)
    return root


def _meta_linear(module: "nn.Module") -> "nn.Module":
    import torch
    from transformers.pytorch_utils import Conv1D

    sides = matrix_shape(module)
    with torch.device("meta"):
        made: nn.Module = torch.nn.Linear(*sides, bias=False)
        if is_transposed(module):
            made = Conv1D(sides[1], sides[0])  # type: ignore[no-untyped-call]
    return made


_Adapters = dict[str, tuple[int, float, int]]


def _adapted_by_peft(skeleton: "nn.Module", config: "LoraConfig") -> _Adapters:
    from peft import inject_adapter_in_model

    used = copy.deepcopy(config)  # peft writes into it
    used.init_lora_weights = True  # starting values from the weights' SVD or from data need weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is compared next, and an error
        inject_adapter_in_model(used, skeleton)
    return _adapters(skeleton)


def _adapters(model: "nn.Module") -> _Adapters:
    """Return (rank, α / r, parameters) of each module that carries an adapter."""
    from peft.tuners.lora import LoraLayer

    found: _Adapters = {}
    for name, module in model.named_modules():
        parameters = module.named_parameters()
        if isinstance(module, LoraLayer) and module.r:
            active = [name for name in module.active_adapters if name in module.r]
            adapter = active[0] if active else next(iter(module.r))
            own = (f"lora_A.{adapter}.", f"lora_B.{adapter}.")
            count = sum(parameter.numel() for key, parameter in parameters if key.startswith(own))
            found[name] = (module.r[adapter], float(module.scaling[adapter]), count)
    return found


def _compare(modules: Sequence[Planned], scaling: float, found: _Adapters, what: str) -> None:
    for module in modules:
        rank, ratio, count = found.get(module.name, (0, 0.0, 0))
        if (rank, count) != (module.rank, module.n_parameters) or not _close(ratio, scaling):
            raise RuntimeError(
                f"{module.name!r} should have rank {module.rank}, α/r {scaling:g} and {module.n_parameters:,} "
                f"parameters, but {what} rank {rank}, α/r {ratio:g} and {count:,} parameters: adapt the model with "
                "this plan's `to_lora_config`, and the tested version of peft"
            )
    extra = sorted(set(found) - {module.name for module in modules})
    if extra:
        raise RuntimeError(f"{extra[0]!r} is not in the plan, but {what} an adapter of rank {found[extra[0]][0]} there")
