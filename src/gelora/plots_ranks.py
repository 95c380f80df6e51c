"""Draw rank plans: the map of one, the bars of several, and how probable each rank is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora.captions import height_of, legend_above, set_title, size_of, width_of
from gelora.messages import check_choice
from gelora.naming import Plans, named_plans
from gelora.palette import COLORS, HATCHES, new_axes
from gelora.plan import RankPlan
from gelora.plan_uncertainty import Column, alike_modules, rank_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALLEST = 4.5  # points: type below cannot be read in print

_ROLE_NAMES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "query_key_value": "query, key, value",
    "output": "output",
}


def plot_ranks(plan: Plans, ax: "Axes | None" = None, *, show: str = "ranks") -> "Axes":
    """Draw the ranks of one plan as a map of block and matrix, of several as bars side by side.

    In the map each cell is one adapted matrix with its rank written in it, or told by a colour bar where the axes are
    too narrow for that; a dash, or a blank, is a matrix left alone. A bar
    is the rank of a block, the largest of its matrices where they differ. Where a plan knows how stable it is, the
    title or the legend says it: the probability that another draw of as many examples gives the same ranks.

    Parameters
    ----------
    plan : RankPlan, or sequence or mapping of RankPlan
        Several plans for one architecture are compared, under their keys or their policies.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.
    show : {"ranks", "probabilities"}
        The ranks; or, of one plan from a profile with replicates, the probability of each rank in each block as a
        map, in per cent, with the plan's own rank framed. Matrices of a block that differ have columns of their own.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``plan`` is no plan, is empty, or holds plans for different architectures; or if probabilities are asked
        of several plans, or of one that has none.
    """
    plans = named_plans(plan)
    check_choice("show", show, ("ranks", "probabilities"))
    first = next(iter(plans.values()))
    if show == "probabilities":
        if len(plans) > 1:
            raise ValueError(f"`plan` must be one plan where show='probabilities', got {len(plans)}: draw them apart")
        return _plot_probabilities(first, ax)
    blocks = _all_blocks(first)
    axes = new_axes(ax, (max(6.4, 0.42 * len(blocks) + 1.6), 4.0 if len(plans) > 1 else 2.6))
    if len(plans) == 1:
        _draw_map(axes, first, blocks)
    else:
        _draw_bars(axes, plans, blocks)
    _label_blocks(axes, blocks)
    return axes


def _all_blocks(plan: RankPlan) -> list[tuple[str, int]]:
    return [(stack, block) for stack, count in plan.architecture.blocks.items() for block in range(1, count + 1)]


def _draw_map(axes: "Axes", plan: RankPlan, blocks: list[tuple[str, int]]) -> None:
    present = {module.role for module in plan.modules}
    roles = [role for role in _ROLE_NAMES if role in present] + sorted(present - _ROLE_NAMES.keys())
    ranks = np.full((len(roles), len(blocks)), np.nan)
    for module in plan.modules:
        ranks[roles.index(module.role), blocks.index((module.stack, module.block))] = module.rank
    texts = [["–" if np.isnan(rank) else f"{rank:.0f}" for rank in row] for row in ranks]
    _draw_cells(axes, ranks, texts, float(np.nanmax(ranks)), label="rank")
    axes.set_yticks(range(len(roles)), [_ROLE_NAMES.get(role, role) for role in roles])
    own = [f"{plan.policy} ranks: {plan.n_parameters:,} trainable parameters"]
    set_title(axes, own, [_stability(plan)])


def _draw_cells(
    axes: "Axes", values: NDArray[np.float64], texts: list[list[str]], most: float, *, unit: float = 1.0, label: str
) -> None:
    """Draw a table as shades from white to dark blue, white lines between the cells.

    Each cell has its text; where that could not be read a colour bar, in ``unit``, takes its place.
    """
    n_rows, n_columns = values.shape
    size = _cell_size(axes, n_columns, max(len(text) for row in texts for text in row))
    image = axes.imshow(np.ma.masked_invalid(values) / unit, cmap="Blues", vmin=0, vmax=most / unit, aspect="auto")
    if size < _SMALLEST:
        figure: Any = axes.figure
        figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, label=label)
    for (row, column), value in np.ndenumerate(values) if size >= _SMALLEST else ():
        color = "white" if value > 0.6 * most else "black"
        axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=size, color=color)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(0.5, n_columns - 1), minor=True)
    axes.set_yticks(np.arange(0.5, n_rows - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=min(1.5, 0.12 * width_of(axes) / n_columns))
    axes.tick_params(which="minor", length=0)


def _cell_size(axes: "Axes", n_columns: int, n_characters: int) -> float:
    """Return the type size at which the longest text fits into its cell; at most the usual one."""
    room = width_of(axes) / n_columns
    return float(min(size_of("medium"), room / (0.75 * max(n_characters, 2))))


def _stability(plan: RankPlan) -> str:
    return "" if plan.uncertainty is None else f"stability {plan.uncertainty.stability:.2f}"


def _plot_probabilities(plan: RankPlan, ax: "Axes | None") -> "Axes":
    known = plan.uncertainty
    if known is None:
        raise ValueError(
            "`plan` has no probabilities of its ranks: estimate the profile with n_replicates=50 and plan again"
        )
    columns, by_rank = alike_modules(plan.modules, known), rank_shares(plan.modules, known)
    ranks = list(by_rank)
    shares = np.array([[by_rank[rank][members[0]] for members in columns.values()] for rank in ranks])
    axes = new_axes(ax, (max(6.4, 0.42 * len(columns) + 1.6), 1.6 + 0.3 * min(len(ranks), 12)))
    _draw_cells(axes, shares, [[_per_cent(share) for share in row] for row in shares], 1.0, unit=0.01, label="%")
    for place, members in enumerate(columns.values()):
        width = min(1.6, 0.15 * width_of(axes) / len(columns))
        _frame(axes, place, ranks.index(plan.modules[members[0]].rank), width)
    step = int(np.ceil(1.4 * size_of("medium") * len(ranks) / height_of(axes)))
    axes.set_yticks(range(0, len(ranks), step), [str(rank) for rank in ranks[::step]])
    axes.set_ylim(-0.5, len(ranks) - 0.5)
    axes.set_ylabel("rank")
    _label_columns(axes, list(columns))
    counts = f"n = {known.n_examples:,} examples, {known.n_replicates} halves"
    set_title(axes, [f"{plan.policy} ranks: probability in %", "framed: the plan"], [_stability(plan), counts])
    return axes


def _per_cent(share: float) -> str:
    if share == 0.0:
        return ""
    return "<1" if share < 0.01 else f"{100.0 * share:.0f}"


def _frame(axes: "Axes", column: int, row: int, width: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=COLORS[1], linewidth=width, zorder=3)
    )


def _draw_bars(axes: "Axes", plans: Mapping[str, RankPlan], blocks: list[tuple[str, int]]) -> None:
    from matplotlib.ticker import MaxNLocator

    width = 0.8 / len(plans)
    # A rank is written above its bar where there is room for two digits.
    room = width_of(axes) * width / len(blocks)
    size = min(size_of("small"), room / 1.3)
    for index, (name, plan) in enumerate(plans.items()):
        heights = [plan.block_ranks.get(block, 0) for block in blocks]
        bars = axes.bar(
            np.arange(len(blocks)) + (index - (len(plans) - 1) / 2) * width,
            heights,
            width,
            color=COLORS[index % len(COLORS)],
            edgecolor="white",
            hatch=HATCHES[index % len(HATCHES)],
            label=", ".join(part for part in (f"{name}: {plan.n_parameters:,} parameters", _stability(plan)) if part),
        )
        if size >= 4.0:
            axes.bar_label(bars, [str(height) if height else "–" for height in heights], padding=1, fontsize=size)
    axes.set_ylabel("rank")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02, y=0.12)
    legend_above(axes)


def _label_blocks(axes: "Axes", blocks: list[tuple[str, int]], more: Sequence[str] = ()) -> None:
    """Number the blocks below the axes, ``more`` behind each number, and part the stacks."""
    stacks = list(dict.fromkeys(stack for stack, _ in blocks))
    if len(stacks) == 1:
        labels = [str(block) for _, block in blocks]
        axes.set_xlabel("block")
    else:
        labels = [f"{stack[0].upper()}{block}" for stack, block in blocks]
        axes.set_xlabel("block (" + ", ".join(f"{stack[0].upper()}: {stack}" for stack in stacks) + ")")
    if any(more):
        labels = [f"{label} {text}".strip() for label, text in zip(labels, more, strict=True)]
    room = width_of(axes) / len(blocks)
    longest = max(len(label) for label in labels)
    size = size_of("medium")
    turned = any(more) and longest * 0.6 * size > room
    lines = 1.2 if turned else 0.65 * longest + 0.3
    size = max(min(size, room / lines), _SMALLEST)
    shown = range(0, len(blocks), int(np.ceil(size * lines / room)))
    axes.set_xticks(list(shown), [labels[place] for place in shown], fontsize=size, rotation=90 if turned else 0)
    for position in range(1, len(blocks)):
        if blocks[position][0] != blocks[position - 1][0]:
            axes.axvline(position - 0.5, color="0.3", linewidth=1.0)


def _label_columns(axes: "Axes", columns: list[Column]) -> None:
    """Label columns by their block, and by their matrices where a block has several columns."""
    blocks = [(stack, block) for stack, block, _ in columns]
    counts = Counter(blocks)
    roles = [", ".join(roles) if counts[stack, block] > 1 else "" for stack, block, roles in columns]
    _label_blocks(axes, blocks, roles)
