"""The files of a report, told apart by what they say they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr

from gelora.plan import RankPlan
from gelora.report.page import write_report
from gelora.results import open_result

_WANTED = "a profile (.nc), rank plans (.json), a comparison (.nc) and training records (.nc)"


@dataclass(slots=True)
class Sources:
    """What files hold.

    Parameters
    ----------
    profile, comparison : xarray.Dataset, optional
        One of each.
    plans, records : dict
        By the name of the file.
    """

    profile: xr.Dataset | None = None
    comparison: xr.Dataset | None = None
    plans: dict[str, RankPlan] = field(default_factory=dict)
    records: dict[str, xr.Dataset] = field(default_factory=dict)


def report_files(sources: Sequence[str | Path], output: str | Path) -> Path:
    """Write a report on files: a profile, rank plans, a comparison and training records, in any order.

    Parameters
    ----------
    sources : sequence of str or Path
        Rank plans end in ``.json``; the others say in themselves what they are. At most one profile and comparison.
    output : str or Path
        The page to write.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is damaged or holds none of these, there are two profiles, or they do not belong together.
    """
    found = open_sources(sources)
    return write_report(found.profile, output, plan=found.plans, comparison=found.comparison, record=found.records)


def open_sources(paths: Sequence[str | Path]) -> Sources:
    """Read the files of a report; errors name the file and the remedy."""
    found = Sources()
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError(f"`source` must name at least one of {_WANTED}, got none")
    if len({file.absolute() for file in files}) < len(files):
        raise ValueError(f"`source` has one file twice: {[str(file) for file in files]}")
    plans = [file.stem for file in files if file.suffix.lower() == ".json"]
    twice = len(set(plans)) < len(plans)
    for file in files:
        what, content = open_result(file)
        match what:
            case "rank plan":
                found.plans[str(file) if twice else file.stem] = content
            case "profile":
                found.profile = _one(found.profile, content, what, file)
            case "comparison":
                found.comparison = _one(found.comparison, content, what, file)
            case "training record":
                name = f"{file.parent.name}/{file.stem}" if file.parent.name else file.stem
                found.records[name if name not in found.records else str(file)] = content
            case _:
                raise ValueError(f"`source` {str(file)!r} is a {what}, which a report does not show: give {_WANTED}")
    return found


def _one(known: xr.Dataset | None, dataset: xr.Dataset, kind: str, file: Path) -> xr.Dataset:
    if known is not None:
        raise ValueError(f"`source` must have one {kind} at most, and {str(file)!r} is another: make a report of each")
    return dataset
