"""One plan or record, or several in a sequence or mapping: all become a mapping by names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from gelora.plan import RankPlan

Plans = RankPlan | Sequence[RankPlan] | Mapping[str, RankPlan]
Records = xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset]


def named_plans(plan: Any) -> dict[str, RankPlan]:
    """Return plans of one architecture by their keys, or their policies, those of one policy with their places.

    Raises
    ------
    TypeError, ValueError
        If one is no plan, there is none, or they are of several architectures.
    """
    if not isinstance(plan, RankPlan | Sequence | Mapping):
        raise TypeError(f"`plan` must be a RankPlan, or several in a sequence or mapping, got {type(plan).__name__}")
    if isinstance(plan, Mapping):
        items = [(str(key), entry) for key, entry in plan.items()]
    else:
        items = [("", entry) for entry in ([plan] if isinstance(plan, RankPlan) else plan)]
    if not items:
        raise ValueError("`plan` must hold at least one RankPlan, got none")
    for _, entry in items:
        if not isinstance(entry, RankPlan):
            raise TypeError(f"`plan` must hold RankPlans only, got {type(entry).__name__}")
        first, other = items[0][1].architecture, entry.architecture
        if other != first:
            raise ValueError(f"`plan` must hold plans for one architecture, got {first} and {other}: take them apart")
    totals = Counter(entry.policy for _, entry in items)
    return {
        key or (entry.policy if totals[entry.policy] == 1 else f"{entry.policy} {place}"): entry
        for place, (key, entry) in enumerate(items, start=1)
    }


def named_records(record: Any) -> dict[str, xr.Dataset]:
    """Return training records by their keys, or their adapters, those of several with their places.

    Raises
    ------
    TypeError, ValueError
        If one is no Dataset, or there is none.
    """
    if isinstance(record, Mapping) and not isinstance(record, xr.Dataset):
        named = {str(key): one for key, one in record.items()}
    elif isinstance(record, xr.Dataset | Sequence) and not isinstance(record, str):
        given = [record] if isinstance(record, xr.Dataset) else list(record)
        names = [str(getattr(one, "attrs", {}).get("adapter", "run")) for one in given]
        numbered = [f"{name} {place}" for place, name in enumerate(names, start=1)]
        named = dict(zip(names if len(names) == 1 else numbered, given, strict=True))
    else:
        raise TypeError(f"`record` must be a Dataset, or several in a sequence or mapping, got {type(record).__name__}")
    if not named:
        raise ValueError("`record` must hold at least one training record, got none")
    for name, one in named.items():
        if not isinstance(one, xr.Dataset):
            raise TypeError(f"`record` {name!r} must be an xarray.Dataset, got {type(one).__name__}")
    return named
