"""Adapters by name: what ``adapter=`` takes, the options in it, and whether it goes with a plan."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gelora.finetuning.adalora import AdaLoRA
from gelora.finetuning.adaptation import Adapter
from gelora.finetuning.bottleneck import Houlsby, Pfeiffer
from gelora.finetuning.eva_adapter import EVA
from gelora.finetuning.geolora_adapter import GeoLoRA
from gelora.finetuning.lora import DoRA, LoRA, RsLoRA
from gelora.finetuning.sora import SoRA
from gelora.finetuning.whole import BitFit, Full
from gelora.messages import check_option_names, nearest, parse_choice

ADAPTERS: Mapping[str, type[Adapter]] = {
    kind.name: kind for kind in (Full, BitFit, Houlsby, Pfeiffer, LoRA, RsLoRA, DoRA, AdaLoRA, EVA, SoRA, GeoLoRA)
}


_TWO_NAMES = (
    "; GeLoRA, ranks from intrinsic dimensions, is policy='geometric' of plan_ranks on adapter='lora'; "
    "GeoLoRA, ranks that move while it trains, is adapter='geolora'"
)


def make_adapter(adapter: str | Adapter) -> Adapter:
    """Return the adapter of that name, with the options written after it.

    Parameters
    ----------
    adapter : str or Adapter
        One of `ADAPTERS`, options may stand in it: ``"rslora(alpha=16)"``. Or an instance of one of its classes, or
        anything of your own that follows `gelora.finetuning.adaptation.Adapter`.

    Raises
    ------
    ValueError, TypeError
        If there is none of that name, or an option does not fit.

    Examples
    --------
    >>> make_adapter("rslora(alpha=16)")
    RsLoRA(alpha=16)
    """
    if not isinstance(adapter, str):
        if isinstance(adapter, type) or not callable(adapter) or not hasattr(adapter, "plan_use"):
            raise TypeError(
                f"`adapter` must be one of {list(ADAPTERS)}, or an instance of an adapter's class, got {adapter!r:.80}"
            )
        return adapter
    name, options = parse_choice("adapter", adapter, "rslora(alpha=16)")
    if name not in ADAPTERS:
        hint = _TWO_NAMES if "ge" in name.lower() and "lora" in name.lower() else nearest(name, ADAPTERS)
        raise ValueError(f"`adapter` must be one of {list(ADAPTERS)}, got {name!r}{hint}")
    check_option_names(f"the adapter {name!r}", ADAPTERS[name], options)
    return ADAPTERS[name](**options)


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """Return the name and all options of an adapter, for the record."""
    kind: Any = adapter
    names: list[str] = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(adapter) else []
    return {"name": adapter.name, "options": {name: getattr(adapter, name) for name in names}}


def check_plan_use(adapter: Adapter, plan_given: bool) -> None:
    """Raise ValueError where a plan is missing, or given to an adapter that cannot take one."""
    if adapter.plan_use == "required" and not plan_given:
        raise ValueError(
            f"`plan` must be given for adapter={adapter.name!r}: make one by gelora.plan_ranks(profile, model), or "
            "gelora.plan_ranks(None, model, 'uniform', rank=8)"
        )
    if adapter.plan_use == "none" and plan_given:
        takers = [name for name, kind in ADAPTERS.items() if kind.plan_use != "none"]
        raise ValueError(
            f"`plan` must be left out for adapter={adapter.name!r}, which has no ranks: give plan=None, or one of the "
            f"adapters that take ranks, {takers}"
        )
