"""Results of any kind from their files, told apart by what the files say they are."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from gelora import profile as profiles
from gelora import scores, topology
from gelora.finetuning import record as records
from gelora.netcdf import read_dataset
from gelora.plan import RankPlan

# By schema: what a netCDF file holds, and what it must be then.
_CHECKS: Mapping[str, tuple[str, Callable[[Any], xr.Dataset]]] = {
    profiles.SCHEMA: ("profile", profiles.check_profile),
    records.SCHEMA: ("training record", records.check_record),
    scores.SCHEMA: ("comparison", scores.check_comparison),
    topology.PERSISTENCE_SCHEMA: ("persistence", topology.check_persistence),
    topology.TREE_SCHEMA: ("spanning tree", topology.check_spanning_tree),
}


def open_result(path: Path) -> tuple[str, Any]:
    """Return what a file holds, in words, and its content.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or none of the results that are drawn or reported.
    """
    match path.suffix.lower():
        case ".json":
            return "rank plan", RankPlan.load(path)
        case ".nc":
            dataset = read_dataset(path, made_by="gelora estimate --output")
            schema = str(dataset.attrs.get("schema", ""))
            if schema not in _CHECKS:
                known = ", ".join(what for what, _ in _CHECKS.values())
                raise ValueError(
                    f"`source` {str(path)!r} is none of what is drawn and reported from .nc files, {known}: its "
                    f"attribute `schema` is {schema!r:.80}"
                )
            what, check = _CHECKS[schema]
            try:
                return what, check(dataset)
            except (TypeError, ValueError) as error:
                raise ValueError(f"`source` {str(path)!r}: {error}") from error
    raise ValueError(f"`source` must be a rank plan (.json) or one of gelora's other results (.nc), got {str(path)!r}")
