"""What ``peft.LoraConfig`` is given for a rank plan, as plain values and as Python text: no peft is needed for it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gelora.plan_check import Planned


def lora_arguments(
    modules: Sequence[Planned], scaling: float, model_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the arguments of ``peft.LoraConfig`` for ``modules``.

    Parameters
    ----------
    modules : sequence of Planned
        With the names of the model where its modules are given.
    scaling : float
        α / r.
    model_names : sequence of str, optional
        Paths of all modules of the model: anchors the keys at its names.

    Returns
    -------
    dict
        ``r``, ``lora_alpha``, ``target_modules``, ``rank_pattern`` and ``alpha_pattern``; ``fan_in_fan_out`` where the
        model keeps its weights transposed.
    """
    names = [module.name for module in modules]
    # peft matches "(.*\.)?(key)$": an anchor leaves nothing before the name.
    anchor = "" if model_names is None and not _longer(names, names) else "^"
    keys = {name: anchor + re.escape(name) for name in names}
    largest = max(module.rank for module in modules)
    found = {
        "r": largest,
        "lora_alpha": _number(scaling * largest),
        "target_modules": _targets(names, names if model_names is None else model_names),
        "rank_pattern": {keys[module.name]: module.rank for module in modules},
        "alpha_pattern": {keys[module.name]: _number(module.alpha) for module in modules},
    }
    return found | ({"fan_in_fan_out": True} if all(module.transposed for module in modules) else {})


def lora_config_code(modules: Sequence[Planned], scaling: float) -> str:
    """Return Python that makes the configuration of ``modules``, as `gelora.RankPlan.to_lora_config` does.

    Examples
    --------
    >>> from gelora.plan import ModuleRank
    >>> module = ModuleRank(
    ...     stack="encoder", block=1, role="query", name="h.0.q", rank=3, alpha=6.0, in_features=8, out_features=8
    ... )
    >>> print(lora_config_code([module], 2.0).splitlines()[3])
        r=3,
    """
    lines = [f"    {name}={python_literal(value)}," for name, value in lora_arguments(modules, scaling).items()]
    return "\n".join(["from peft import LoraConfig", "", "config = LoraConfig(", *lines, ")"]) + "\n"


def _targets(names: Sequence[str], others: Sequence[str]) -> list[str] | str:
    """Return the names, or one anchored expression where a listed name would match another module by its end."""
    if not _longer(names, others):
        return list(names)
    return "|".join(re.escape(name) for name in names)


def _longer(names: Iterable[str], others: Iterable[str]) -> bool:
    """Say whether one of ``others`` is one of ``names`` with something before it."""
    wanted = set(names)
    return any(name[place + 1 :] in wanted for name in others for place, mark in enumerate(name) if mark == ".")


def _number(value: float) -> float:
    """Return whole numbers as int: configuration files read by other tools expect them so."""
    return int(value) if float(value).is_integer() else value


def python_literal(value: Any) -> str:
    """Return Python that makes ``value``, an argument of a call, lists and mappings on a line for each entry."""
    if isinstance(value, Mapping):
        lines = [f"{name!r}: {entry!r}" for name, entry in value.items()]
    elif isinstance(value, list):
        lines = [repr(entry) for entry in value]
    else:
        return repr(value)
    ends = "{}" if isinstance(value, Mapping) else "[]"
    return f"{ends[0]}\n" + "".join(f"        {line},\n" for line in lines) + f"    {ends[1]}"
