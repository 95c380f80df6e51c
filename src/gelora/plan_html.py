"""A rank plan as a small HTML table: how a notebook shows it, readable on light and dark pages."""

import math
from dataclasses import dataclass
from html import escape
from typing import Any

# The tint of a cell lets the page's own colours through, so that text keeps its contrast on either.
_TINT = "86, 180, 233"
_STRONGEST = 0.45
_CELL = "padding: 0.15em 0.6em; text-align: right; border: 1px solid rgba(128, 128, 128, 0.4)"


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One block of a plan.

    Parameters
    ----------
    stack : str
        ``"encoder"`` or ``"decoder"``.
    block : int
        From 1.
    ranks : tuple of int or None
        By role, None where the block has no such matrix in the plan.
    n_parameters : int
        Trainable parameters of the block.
    stability : float
        Of its least certain matrix; NaN where unknown.
    """

    stack: str
    block: int
    ranks: tuple[int | None, ...]
    n_parameters: int
    stability: float


def block_rows(plan: Any) -> tuple[tuple[str, ...], list[BlockRow]]:
    """Return the roles of a `gelora.RankPlan`, in its order, and a row for each block that it adapts."""
    roles = tuple(dict.fromkeys(module.role for module in plan.modules))
    stability = (math.nan,) * len(plan.modules) if plan.uncertainty is None else plan.uncertainty.module_stability
    blocks: dict[tuple[str, int], list[tuple[Any, float]]] = {}
    for module, stable in zip(plan.modules, stability, strict=True):
        blocks.setdefault((module.stack, module.block), []).append((module, stable))
    rows = []
    for (stack, block), members in blocks.items():
        by_role = {module.role: module.rank for module, _ in members}
        rows.append(
            BlockRow(
                stack=stack,
                block=block,
                ranks=tuple(by_role.get(role) for role in roles),
                n_parameters=sum(module.n_parameters for module, _ in members),
                stability=min(stable for _, stable in members),
            )
        )
    return roles, rows


def plan_html(plan: Any) -> str:
    """Return a plan as HTML that needs nothing else: ranks by block and role, parameters, and how stable each is.

    Parameters
    ----------
    plan : gelora.RankPlan

    Returns
    -------
    str
        A ``div`` with one table. Whatever comes from the plan is escaped.
    """
    roles, rows = block_rows(plan)
    several = len({row.stack for row in rows}) > 1
    stable = plan.uncertainty is not None
    largest = max(module.rank for module in plan.modules)
    heads = ["block", *roles, "parameters", *(["stable"] if stable else [])]
    lines = []
    for row in rows:
        name = f"{row.stack} {row.block}" if several else str(row.block)
        cells = [_head(name, "row"), *(_rank(rank, largest) for rank in row.ranks), _cell(f"{row.n_parameters:,}")]
        lines.append("".join([*cells, *([_cell(f"{row.stability:.2f}")] if stable else [])]))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<div style="overflow-x: auto"><table style="border-collapse: collapse; color: inherit">'
        f'<caption style="text-align: left; color: inherit">{escape(plan_summary(plan))}</caption>'
        f"<thead><tr>{''.join(_head(head, 'col') for head in heads)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def plan_summary(plan: Any) -> str:
    """Return a plan in one line: policy, parameters, stability where known."""
    text = f"{plan.policy} ranks, {plan.n_parameters:,} trainable parameters, α / r = {plan.scaling:g}"
    if plan.uncertainty is None:
        return text
    draw = f"another draw of {plan.uncertainty.n_examples:,} examples gives the same plan with probability"
    return f"{text}; {draw} {plan.uncertainty.stability:.2f}"


def tint(rank: int, largest: int) -> str:
    """Return the CSS colour behind a rank, the stronger the larger."""
    return f"rgba({_TINT}, {_STRONGEST * rank / max(largest, 1):.2f})"


def _head(text: str, scope: str) -> str:
    return f'<th scope="{scope}" style="{_CELL}">{escape(text)}</th>'


def _cell(text: str, more: str = "") -> str:
    return f'<td style="{_CELL}{more}">{escape(text)}</td>'


def _rank(rank: int | None, largest: int) -> str:
    return _cell("–") if rank is None else _cell(str(rank), f"; background: {tint(rank, largest)}")
