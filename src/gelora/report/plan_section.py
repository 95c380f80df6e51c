"""What a report shows of rank plans: the map of ranks, probabilities, ranks by scale, and the configuration to copy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gelora.lora_arguments import lora_config_code
from gelora.plan import RankPlan
from gelora.plan_html import block_rows, plan_summary, tint
from gelora.plan_uncertainty import alike_modules, rank_shares
from gelora.report.charts import block_names, column_names, probabilities_chart, ranks_chart
from gelora.report.finding import Finding
from gelora.report.pieces import Cell, Chart, Table, number, row


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPart:
    """One plan as a report shows it.

    Parameters
    ----------
    name, summary : str
        What it is called, and one line about it.
    ranks : Table
        By block and role.
    chart : Chart, optional
        Probabilities of the ranks, where known.
    scales : Table, optional
        Ranks at each scale of the estimator, where it has several.
    code : str
        Python that makes peft's configuration.
    findings : list of Finding
        What is to be known of it.
    """

    name: str
    summary: str
    ranks: Table
    chart: Chart | None
    scales: Table | None
    code: str
    findings: list[Finding]


def plan_part(name: str, plan: RankPlan, number_of_plan: int, findings: list[Finding]) -> PlanPart:
    """Return what is shown of one plan."""
    figure = probabilities_chart(plan)
    chart = None
    if figure is not None:
        chart = Chart(
            name=f"probabilities-{number_of_plan}",
            title="Probability of each rank by block; the chosen rank has a tick",
            figures={"": figure},
            table=probabilities_table(plan),
            height=320,
        )
    return PlanPart(
        name=name,
        summary=plan_summary(plan),
        ranks=ranks_table(plan),
        chart=chart,
        scales=scales_table(plan),
        code=lora_config_code(plan.modules, plan.scaling),
        findings=findings,
    )


def plans_chart(plans: Mapping[str, RankPlan]) -> Chart:
    """Return the ranks of several plans by block, side by side."""
    blocks = list(dict.fromkeys(key for plan in plans.values() for key in plan.block_ranks))
    rows = [
        row(name, *(str(plan.block_ranks.get(block, "–")) for plan in plans.values()))
        for name, block in zip(block_names(blocks), blocks, strict=True)
    ]
    table = Table(
        caption="Rank of each block (the largest of its matrices), and trained parameters of the adapter",
        head=["block", *plans],
        rows=[*rows, row("parameters", *(f"{plan.n_parameters:,}" for plan in plans.values()))],
    )
    return Chart(
        name="plans", title="Rank of each block, by plan", figures={"": ranks_chart(plans)}, height=320, table=table
    )


def ranks_table(plan: RankPlan) -> Table:
    """Return rank by block and role, the stronger tinted the larger."""
    roles, rows = block_rows(plan)
    largest = max(module.rank for module in plan.modules)
    names = block_names([(line.stack, line.block) for line in rows])
    stable = plan.uncertainty is not None
    body = []
    for name, line in zip(names, rows, strict=True):
        ranks = [
            Cell(text="–") if rank is None else Cell(text=str(rank), tint=tint(rank, largest)) for rank in line.ranks
        ]
        more = row(f"{line.n_parameters:,}", *([number(line.stability, 2)] if stable else []))
        body.append([Cell(text=name), *ranks, *more])
    caption = "Rank r of each adapted matrix"
    caption += "; stable: probability that another draw gives the block the same ranks" if stable else ""
    return Table(caption=caption, head=["block", *roles, "parameters", *(["stable"] if stable else [])], rows=body)


def probabilities_table(plan: RankPlan) -> Table | None:
    """Return the probability of each rank by matrix; matrices of a block that are alike share a row."""
    found = plan.uncertainty
    if found is None:
        return None
    columns, shares = alike_modules(plan.modules, found), rank_shares(plan.modules, found)
    rows = []
    for name, (place, *_) in zip(column_names(list(columns)), columns.values(), strict=True):
        rows.append(
            row(
                name,
                str(plan.modules[place].rank),
                f"{found.expected[place]:.2f}",
                *(f"{by_module[place]:.2f}" for by_module in shares.values()),
                f"{found.module_stability[place]:.2f}",
            )
        )
    heads = ["block", "chosen", "mean", *(f"rank {rank}" for rank in shares), "stable"]
    return Table(caption="Probability of each rank, given the noise of the dimensions", head=heads, rows=rows)


def scales_table(plan: RankPlan) -> Table | None:
    """Return the rank of every block at each scale of the plan's estimator; None where it has one scale."""
    found = plan.by_scale
    if found is None or not found.scales:
        return None
    blocks = list(plan.block_ranks)
    rows = []
    for scale, ranks, stability in zip(found.scales, found.ranks, found.stabilities, strict=True):
        largest: dict[tuple[str, int], int] = {}
        for module, rank in zip(plan.modules, ranks, strict=True):
            key = (module.stack, module.block)
            largest[key] = max(largest.get(key, 0), rank)
        shown = "–" if math.isnan(stability) else f"{stability:.2f}"
        rows.append(row(f"{scale:g}", *(str(largest[block]) for block in blocks), shown))
    return Table(
        caption=f"Rank of each block at each scale of the estimator; taken: {found.taken}, as {found.reason}",
        head=["scale", *(f"block {name}" for name in block_names(blocks)), "stable"],
        rows=rows,
    )
