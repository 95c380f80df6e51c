"""Methods by name: an adapter, and the rank policy that it starts from."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from gelora.finetuning.adapters import make_adapter
from gelora.messages import nearest
from gelora.policies import POLICIES, PROFILE_FREE, RECOMMENDED_ESTIMATOR, TAKES

# Options of `plan_ranks` that a study may give, beside `rank` and `budget`.
RANK_OPTIONS = (
    "estimator",
    "scale",
    "statistic",
    "confidence",
    "rounding",
    "offset",
    "minimum",
    "maximum",
    "undefined",
    "scaling",
    "targets",
    "roles",
)
# The budget of a method: as much as the geometric plan of the task costs.
SAME_BUDGET = "geometric"
_WITH_RANK = re.compile(r"(?P<base>.+)-r(?P<rank>[1-9]\d*)$")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one row of the comparison does.

    Parameters
    ----------
    name : str
        Of the row.
    adapter : str
        A name in `gelora.finetuning.adapters.ADAPTERS`, options may stand in it.
    policy : str
        A name in `gelora.policies.POLICIES`; empty for an adapter that goes without ranks.
    rank : int, optional
        The rank everywhere, or the mean rank, in place of ``budget``.
    budget : int or "geometric", optional
        Adapter parameters: a number, or what the geometric plan of the task costs.
    ranks : mapping
        Further options of `gelora.plan_ranks`.
    training : mapping
        Options of `gelora.finetune` for this method alone.
    search : mapping
        Values to search over for this method alone, in place of the study's.
    """

    name: str
    adapter: str = "lora"
    policy: str = "uniform"
    rank: int | None = None
    budget: int | str | None = SAME_BUDGET
    ranks: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Return what tells this method from others: its fields that are not as the definition has them, in order.

        What is added to the definition later leaves what is written down of older methods as it is. How it is trained
        stands in the options of each run, how these are searched in the study.
        """
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            default = one.default_factory() if one.default_factory is not MISSING else one.default
            if value != default and one.name not in ("training", "search"):
                found[one.name] = value
        return found

    @property
    def kept(self) -> float:
        """The share of the planned ranks that is left in the end: AdaLoRA prunes to a part of its plan."""
        adapter: Any = make_adapter(self.adapter)
        return float(adapter.target) if adapter.name == "adalora" else 1.0

    @property
    def needs_profile(self) -> bool:
        """Whether its ranks, or its budget, come from intrinsic dimensions."""
        from_dimensions = self.policy not in ("", *PROFILE_FREE)
        return from_dimensions or (bool(self.policy) and self.budget == SAME_BUDGET)

    @property
    def estimator(self) -> str | None:
        """The estimator its ranks are read from, where it is not the study's."""
        return RECOMMENDED_ESTIMATOR if self.policy == "recommended" else self.ranks.get("estimator")


# What the name of a method stands for. SoRA and GeoLoRA find their ranks while they train: they start from the rank
# that their papers start from.
METHODS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"adapter": name, "policy": "", "budget": None} for name in ("full", "bitfit", "houlsby", "pfeiffer")},
    **{name: {"adapter": name} for name in ("lora", "rslora", "dora", "eva", "adalora")},
    "sora": {"adapter": "sora", "rank": 8, "budget": None},
    "geolora": {"adapter": "geolora", "rank": 8, "budget": None},
    "geolora-geometric": {"adapter": "geolora", "policy": "geometric", "budget": None},
    "gelora": {"policy": "geometric", "budget": None},
    "gelora-recommended": {"policy": "recommended", "budget": None},
    **{name: {"policy": name} for name in ("random", "shuffled", "reversed", "proportional", "budget", "fisher")},
}
# Policies that decide on the cost themselves.
_OWN_COST = ("geometric", "recommended")


def named_method(name: str) -> dict[str, Any]:
    """Return the fields that a name stands for; ``lora-r8`` is ``lora`` of rank 8.

    Raises
    ------
    ValueError
        If it stands for nothing.

    Examples
    --------
    >>> named_method("lora-r8")
    {'adapter': 'lora', 'rank': 8, 'budget': None}
    """
    if name in METHODS:
        return dict(METHODS[name])
    found = _WITH_RANK.match(name)
    if found and found["base"] in METHODS and "rank" in _takes(METHODS[found["base"]].get("policy", "uniform")):
        return dict(METHODS[found["base"]]) | {"rank": int(found["rank"]), "budget": None}
    raise ValueError(
        f"must be one of {', '.join(METHODS)}, or one of those with a rank as in lora-r8, got {name!r}"
        f"{nearest(name, METHODS)}"
    )


def make_method(name: str, given: Mapping[str, Any]) -> Method:
    """Return the method of that name, with what is given for it.

    Parameters
    ----------
    name : str
        One of `METHODS`, one with a rank as ``lora-r8``, or any other with an ``adapter`` or a ``policy`` given.
    given : mapping
        Fields of `Method`.

    Raises
    ------
    ValueError
        If the name stands for nothing and neither adapter nor policy is given, or the fields contradict each other.

    Examples
    --------
    >>> make_method("wide", {"adapter": "lora", "rank": 32}).policy
    'uniform'
    """
    try:
        base = named_method(name)  # what is given takes the place of its adapter, its policy, …
    except ValueError:
        if "adapter" not in given and "policy" not in given:
            raise
        base = _base(given)
    if "policy" in given and given["policy"] != base.get("policy", "uniform"):
        base |= {"rank": None, "budget": None if given["policy"] in _OWN_COST else SAME_BUDGET}
    fields = base | dict(given)
    if given.get("rank") is not None:
        if given.get("budget") is not None:
            raise ValueError(f"must have a rank or a budget, got rank {given['rank']} and budget {given['budget']}")
        fields["budget"] = None
    if given.get("budget") is not None:
        fields["rank"] = None
    method = Method(name=name, **fields)
    _check(method)
    return method


def _base(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a method that goes by its adapter and policy, not by its name."""
    adapter = str(given.get("adapter", "lora"))
    bare = adapter.partition("(")[0].strip()
    return dict(METHODS.get(bare, {})) | {"adapter": adapter}


def _takes(policy: str) -> tuple[str, ...]:
    """Return which of rank and budget a policy takes."""
    return TAKES.get(policy, ())


def _check(method: Method) -> None:
    adapter = make_adapter(method.adapter)
    if method.policy and method.policy not in POLICIES:
        raise ValueError(
            f"must have one of {', '.join(POLICIES)} as policy, got {method.policy!r}{nearest(method.policy, POLICIES)}"
        )
    if method.policy and adapter.plan_use == "none":
        raise ValueError(f"must go without a policy: the adapter {adapter.name!r} has no ranks")
    if not method.policy and adapter.plan_use == "required":
        raise ValueError(f"must have a policy: the adapter {adapter.name!r} needs ranks")
    taken = _takes(method.policy)
    for name in ("rank", "budget"):
        if getattr(method, name) is not None and name not in taken:
            what = f"the policy {method.policy!r}" if method.policy else f"the adapter {adapter.name!r}"
            raise ValueError(f"must go without a {name}: {what} takes none")
