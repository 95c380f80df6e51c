"""Profiles, plans and scores as text tables."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import xarray as xr

from gelora.netcdf import json_attribute

if TYPE_CHECKING:
    from rich.table import Table

    from gelora.plan import RankPlan


def profile_table(profile: xr.Dataset, plan: "RankPlan | None" = None, title: str | None = None) -> "Table":
    """Return a table with a row per layer: dimension ± standard error by estimator, and rank.

    Parameters
    ----------
    profile : xarray.Dataset
        As `gelora.estimate` returns.
    plan : RankPlan, optional
        Adds the rank of each block, beside the layer it ends in.
    title : str, optional
        Stands above the table.

    Returns
    -------
    rich.table.Table
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("layer", justify="right")
    several = len(set(profile["stack"].values)) > 1
    if several:
        table.add_column("stack")
    labels = [str(label) for label in profile["estimator"].values]
    for label in labels:
        table.add_column(label, justify="right")
    table.add_column("points", justify="right")
    if plan is not None:
        table.add_column("rank", justify="right")
    ranks = plan.block_ranks if plan is not None else {}
    for column in range(profile.sizes["layer"]):
        layer = profile.isel(layer=column)
        stack, number = str(layer["stack"].item()), int(layer["layer"].item())
        cells = [str(number)] + ([stack] if several else [])
        for label in labels:
            entry = layer.sel(estimator=label)
            cells.append(number_with_error(float(entry["dimension"]), float(entry["standard_error"])))
        cells.append(f"{int(layer['n_points'].max()):,}")
        if plan is not None:
            cells.append(str(ranks.get((stack, number), "")))
        table.add_row(*cells)
    return table


def number_with_error(value: float, error: float) -> str:
    """Return ``12.3 ± 0.4``; a dash where the value is undefined, no error where there is none.

    Examples
    --------
    >>> number_with_error(12.34, 0.41), number_with_error(float("nan"), 1.0)
    ('12.3 ± 0.4', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.1f}" + ("" if math.isnan(error) else f" ± {error:.1f}")


def plan_table(plans: Mapping[str, "RankPlan"], title: str | None = None) -> "Table":
    """Return a table with a row per plan: rank of every block, and trainable adapter parameters."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("plan / block")
    keys = list(dict.fromkeys(key for plan in plans.values() for key in plan.block_ranks))
    several = len({stack for stack, _ in keys}) > 1
    for stack, block in keys:
        table.add_column(f"{stack[:3]} {block}" if several else str(block), justify="right")
    table.add_column("parameters", justify="right")
    for name, plan in plans.items():
        ranks = plan.block_ranks
        table.add_row(name, *(str(ranks.get(key, "")) for key in keys), f"{plan.n_parameters:,}")
    return table


def stability_table(plan: "RankPlan", title: str | None = None) -> "Table":
    """Return a table with a row per block: its rank, the probability of each rank, and how stable it is.

    Where the matrices of a block differ, each has a row of its own.

    Raises
    ------
    ValueError
        If the plan carries no probabilities.
    """
    from rich.table import Table

    found = plan.uncertainty
    if found is None:
        raise ValueError("`plan` has no probabilities: make its profile with n_replicates=50")
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    settling = "no number of examples" if math.isinf(found.n_settling) else f"about {found.n_settling:,.0f} examples"
    table.caption = (
        f"another draw of {found.n_examples:,} examples gives the same plan with probability {found.stability:.2f}; "
        f"{settling} for {found.confidence:g}"
    )
    for heading in ("block", "matrix", "rank", "mean", "probabilities", "stable"):
        table.add_column(heading, justify="left" if heading == "probabilities" else "right")
    seen: dict[tuple[str, int], set[tuple[object, ...]]] = {}
    for place, module in enumerate(plan.modules):
        shares = found.probabilities[place]
        known = seen.setdefault((module.stack, module.block), set())
        if (module.rank, shares) in known:
            continue
        known.add((module.rank, shares))
        table.add_row(
            f"{module.stack[:3]} {module.block}",
            module.role if len(known) > 1 else "",
            str(module.rank),
            f"{found.expected[place]:.1f}",
            ", ".join(
                f"{rank}: {share:.2f}" for rank, share in zip(found.ranks, shares, strict=True) if share >= 0.005
            ),
            f"{found.module_stability[place]:.2f}",
        )
    return table


def scale_table(plan: "RankPlan", title: str | None = None) -> "Table":
    """Return a table with a row per scale of the plan's estimator: the rank of every block there, and how stable.

    Raises
    ------
    ValueError
        If the plan's estimator reads one scale only.
    """
    from rich.table import Table

    found = plan.by_scale
    if found is None or not found.scales:
        raise ValueError("`plan` has one scale only: its estimator reads no other")
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    table.caption = f"taken: {found.taken}, as {found.reason}"
    keys = list(plan.block_ranks)
    for heading in ("scale / block", *(f"{stack[:3]} {block}" for stack, block in keys), "stable"):
        table.add_column(heading, justify="right")
    for scale, ranks, stability in zip(found.scales, found.ranks, found.stabilities, strict=True):
        largest: dict[tuple[str, int], int] = {}
        for module, rank in zip(plan.modules, ranks, strict=True):
            key = (module.stack, module.block)
            largest[key] = max(largest.get(key, 0), rank)
        shown = "" if math.isnan(stability) else f"{stability:.2f}"
        table.add_row(f"{scale:g}", *(str(largest[key]) for key in keys), shown)
    return table


def record_table(records: Mapping[str, xr.Dataset], title: str | None = None) -> "Table":
    """Return a table with a row per fine-tuning: score, trainable parameters, time, peak memory."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    table.caption = "adapter, head: trainable parameters"
    score = " and ".join(json_attribute(next(iter(records.values())), "score_metrics", "`records`"))
    table.add_column("fine-tuning")
    for heading in (score, "adapter", "head", "seconds", "ms per step", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, record in records.items():
        parts, memory = record["trainable_parameters"], float(record["peak_memory"])
        table.add_row(
            name,
            f"{float(record['score']):.4f}",
            f"{int(parts.sel(part='adapter')):,}",
            f"{int(parts.sel(part='head')):,}",
            f"{float(record['seconds']):.1f}",
            f"{1000 * float(record['seconds_per_step']):.0f}",
            "–" if math.isnan(memory) else f"{memory / 2**20:,.0f}",
        )
    return table
