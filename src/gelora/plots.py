"""Draw profiles, rank plans and comparisons: a Dataset or a plan in, matplotlib Axes out.

Nothing global is touched: no style is set, and pyplot is used only to open a figure where no ``ax`` is given.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.palette import COLORS as COLORS
from gelora.palette import HATCHES as HATCHES
from gelora.palette import MARKERS as MARKERS
from gelora.palette import new_axes
from gelora.plan import RankPlan
from gelora.plots_comparison import plot_comparison as plot_comparison
from gelora.profile import check_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STACK_LINES = {"encoder": "-", "decoder": "--"}
_ROLE_NAMES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "query_key_value": "query, key, value",
    "output": "output",
}


def plot_profile(
    profile: xr.Dataset,
    ax: "Axes | None" = None,
    *,
    estimator: str | Sequence[str] | None = None,
    x: str = "depth",
    errors: bool = True,
) -> "Axes":
    """Draw intrinsic dimension against depth, one line for each estimator and stack.

    Bars are the confidence intervals, or ± one standard error where an estimator gives no interval. A layer
    whose dimension is undefined is a gap in the line and a cross at the foot of the axes, never a number.

    Parameters
    ----------
    profile : xarray.Dataset
        As `gelora.estimate` returns.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.
    estimator : str or sequence of str, optional
        Which of the profile's estimators to draw; all where left out.
    x : {"depth", "layer"}
        Relative depth, from 0 (input of the first block) to 1 (output of the last), or the number of the layer.
    errors : bool
        Draw the bars.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``profile`` is no profile, or ``estimator`` or ``x`` names something it lacks.
    """
    check_profile(profile)
    names = _chosen(profile, estimator)
    if x not in ("depth", "layer"):
        raise ValueError(f"`x` must be 'depth' or 'layer', got {x!r}")
    axes = new_axes(ax, (6.4, 4.0))
    stacks = list(dict.fromkeys(profile["stack"].values.tolist()))
    missing = False
    for index, name in enumerate(names):
        for stack in stacks:
            label = name if len(stacks) == 1 else f"{name}, {stack}"
            line = profile.sel(estimator=name).isel(layer=profile["stack"].values == stack)
            missing |= _draw_line(axes, line, x, index, _STACK_LINES.get(stack, ":"), label, errors)
    if missing:
        axes.plot([], [], marker="x", color="0.3", linestyle="none", label="undefined")
    _finish_profile(axes, profile.sel(estimator=names), x, errors)
    return axes


def plot_ranks(plan: RankPlan | Sequence[RankPlan] | Mapping[str, RankPlan], ax: "Axes | None" = None) -> "Axes":
    """Draw the ranks of one plan as a map of block and matrix, of several as bars side by side.

    In the map each cell is one adapted matrix with its rank written in it; a dash is a matrix left alone. A bar
    is the rank of a block, the largest of its matrices where they differ.

    Parameters
    ----------
    plan : RankPlan, or sequence or mapping of RankPlan
        Several plans for one architecture are compared, under their keys or their policies.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``plan`` is no plan, is empty, or holds plans for different architectures.
    """
    plans = _named_plans(plan)
    blocks = _all_blocks(next(iter(plans.values())))
    axes = new_axes(ax, (max(6.4, 0.42 * len(blocks) + 1.6), 4.0 if len(plans) > 1 else 2.6))
    if len(plans) == 1:
        _draw_map(axes, next(iter(plans.values())), blocks)
    else:
        _draw_bars(axes, plans, blocks)
    _label_blocks(axes, blocks)
    return axes


def plot_rank_history(
    record: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset], ax: "Axes | None" = None
) -> "Axes":
    """Draw how the ranks of an adapter moved while it was trained, one line a run.

    The line is the mean over the adapted matrices, the band holds the middle half of them.

    Parameters
    ----------
    record : xarray.Dataset, or sequence or mapping of these
        Training records as `gelora.finetune` returns; several are told apart by their keys, or the adapter's name.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If a record has no ranks, or there is none.
    """
    if isinstance(record, Mapping) and not isinstance(record, xr.Dataset):
        named = dict(record)
    else:
        records = [record] if isinstance(record, xr.Dataset) else list(record)
        named = {f"{one.attrs.get('adapter', 'run')} {place}": one for place, one in enumerate(records, start=1)}
        named = {"": records[0]} if len(records) == 1 else named
    for label, one in named.items():
        if "rank_history" not in one or not one.sizes.get("module"):
            raise ValueError(f"`record` {label!r} has no ranks: give records of an adapter with ranks")
    if not named:
        raise ValueError("`record` must hold at least one training record, got none")
    axes = new_axes(ax, (6.4, 3.6))
    for index, (label, one) in enumerate(named.items()):
        steps = np.append(one["change_step"].values, one.sizes["step"])
        ranks = one["rank_history"].values.astype(np.float64)
        ranks = np.vstack([ranks, ranks[-1:]])
        color = COLORS[index % len(COLORS)]
        low, high = np.quantile(ranks, [0.25, 0.75], axis=1)
        axes.fill_between(steps, low, high, step="post", color=color, alpha=0.15, linewidth=0)
        style = ("-", "--", ":", "-.")[index % 4]
        axes.plot(steps, ranks.mean(axis=1), drawstyle="steps-post", color=color, linestyle=style, label=label or None)
    axes.set_xlabel("step of the optimiser")
    axes.set_ylabel("rank, mean over the matrices")
    axes.set_ylim(bottom=0)
    if any(named):
        axes.legend(frameon=False)
    return axes


def _chosen(profile: xr.Dataset, estimator: str | Sequence[str] | None) -> list[str]:
    known = [str(name) for name in profile["estimator"].values]
    if estimator is None:
        return known
    names = [estimator] if isinstance(estimator, str) else list(estimator)
    for name in names:
        if name not in known:
            raise ValueError(f"`estimator` must be among those of the profile, {', '.join(known)}; got {name!r}")
    if not names:
        raise ValueError(f"`estimator` must name at least one of {', '.join(known)}, got an empty sequence")
    return names


def _draw_line(axes: "Axes", line: xr.Dataset, x: str, index: int, dashes: str, label: str, errors: bool) -> bool:
    """Draw one estimator on one stack; return whether a layer of it is undefined."""
    place, dimension = line[x].values, line["dimension"].values
    color = COLORS[index % len(COLORS)]
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(place, dimension, color=color, marker=marker, linestyle=dashes, label=label)
    if errors:
        low, high = _interval(line)
        if np.isfinite(low).any():
            # Drawn around their own middle: an interval need not be centred on the estimate.
            axes.errorbar(
                place, (low + high) / 2, yerr=(high - low) / 2, fmt="none", ecolor=color, elinewidth=1.0, capsize=3
            )
    undefined = ~np.isfinite(dimension)
    if undefined.any():
        height = np.full(int(undefined.sum()), 0.03 + 0.045 * index)
        axes.plot(
            place[undefined],
            height,
            transform=axes.get_xaxis_transform(),
            color=color,
            marker="x",
            markeredgewidth=1.8,
            linestyle="none",
            label="_undefined",
        )
    return bool(undefined.any())


def _interval(line: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = line["ci_low"].values, line["ci_high"].values
    given = np.isfinite(low) & np.isfinite(high)
    dimension, error = line["dimension"].values, line["standard_error"].values
    return np.where(given, low, dimension - error), np.where(given, high, dimension + error)


def _finish_profile(axes: "Axes", profile: xr.Dataset, x: str, errors: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if x == "layer":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer (0: input of the first block)")
    else:
        axes.set_xlabel("relative depth (0: input of the first block, 1: output of the last)")
    axes.set_ylabel("intrinsic dimension")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    axes.set_title(_origin(profile, errors), loc="left", fontsize="medium")


def _origin(profile: xr.Dataset, errors: bool) -> str:
    counts = profile["n_points"].values[np.isfinite(profile["dimension"].values)]
    parts = []
    if profile.attrs.get("pooling"):
        parts.append(f"pooling: {profile.attrs['pooling']}")
    if profile.attrs.get("n_texts"):
        parts.append(f"{int(profile.attrs['n_texts']):,} texts")
    if counts.size:
        low, high = int(counts.min()), int(counts.max())
        parts.append(f"n = {low:,} points" if low == high else f"n = {low:,} to {high:,} points")
    if errors:
        given = np.isfinite(profile["ci_low"].values)
        intervals, others = given.any(), (~given & np.isfinite(profile["standard_error"].values)).any()
        bars = ["confidence interval"] * bool(intervals) + ["± standard error"] * bool(others)
        parts += [f"bars: {' or '.join(bars)}"] if bars else []
    # Of a path the last two parts: an organisation and a model, or a folder named for what it holds.
    model = "/".join(str(profile.attrs.get("model", "")).strip("/").split("/")[-2:])
    return "\n".join(part for part in (model, ", ".join(parts)) if part)


def _named_plans(plan: RankPlan | Sequence[RankPlan] | Mapping[str, RankPlan]) -> dict[str, RankPlan]:
    if isinstance(plan, RankPlan):
        return {plan.policy: plan}
    if not isinstance(plan, Sequence | Mapping):
        raise TypeError(f"`plan` must be a RankPlan, or several in a sequence or mapping, got {type(plan).__name__}")
    items = list(plan.items()) if isinstance(plan, Mapping) else [(None, entry) for entry in plan]
    if not items:
        raise ValueError("`plan` must hold at least one RankPlan, got none")
    for _, entry in items:
        if not isinstance(entry, RankPlan):
            raise TypeError(f"`plan` must hold RankPlans only, got {type(entry).__name__}")
        first, other = items[0][1].architecture, entry.architecture
        if other != first:
            raise ValueError(f"`plan` must hold plans for one architecture, got {first} and {other}: draw them apart")
    totals = Counter(entry.policy for _, entry in items)
    names = [key or _numbered(entry.policy, totals[entry.policy], n) for n, (key, entry) in enumerate(items, start=1)]
    return {name: entry for name, (_, entry) in zip(names, items, strict=True)}


def _numbered(policy: str, total: int, number: int) -> str:
    return policy if total == 1 else f"{policy} {number}"


def _all_blocks(plan: RankPlan) -> list[tuple[str, int]]:
    return [(stack, block) for stack, count in plan.architecture.blocks.items() for block in range(1, count + 1)]


def _draw_map(axes: "Axes", plan: RankPlan, blocks: list[tuple[str, int]]) -> None:
    present = {module.role for module in plan.modules}
    roles = [role for role in _ROLE_NAMES if role in present] + sorted(present - _ROLE_NAMES.keys())
    ranks = np.full((len(roles), len(blocks)), np.nan)
    for module in plan.modules:
        ranks[roles.index(module.role), blocks.index((module.stack, module.block))] = module.rank
    axes.imshow(np.ma.masked_invalid(ranks), cmap="Blues", vmin=0, vmax=np.nanmax(ranks), aspect="auto")
    size = "medium" if len(blocks) <= 16 else "x-small"
    for (row, column), rank in np.ndenumerate(ranks):
        dark = rank > 0.6 * np.nanmax(ranks)
        text = "–" if np.isnan(rank) else f"{rank:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else "black")
    axes.set_yticks(range(len(roles)), [_ROLE_NAMES.get(role, role) for role in roles])
    axes.tick_params(length=0)
    # White lines between the cells.
    axes.set_xticks(np.arange(0.5, len(blocks) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(roles) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.set_title(f"{plan.policy} ranks: {plan.n_parameters:,} trainable parameters", loc="left", fontsize="medium")


def _draw_bars(axes: "Axes", plans: Mapping[str, RankPlan], blocks: list[tuple[str, int]]) -> None:
    from matplotlib.ticker import MaxNLocator

    width = 0.8 / len(plans)
    many = len(blocks) * len(plans) > 48
    for index, (name, plan) in enumerate(plans.items()):
        largest: dict[tuple[str, int], int] = {}
        for module in plan.modules:
            key = (module.stack, module.block)
            largest[key] = max(largest.get(key, 0), module.rank)
        heights = [largest.get(block, 0) for block in blocks]
        bars = axes.bar(
            np.arange(len(blocks)) + (index - (len(plans) - 1) / 2) * width,
            heights,
            width,
            color=COLORS[index % len(COLORS)],
            edgecolor="white",
            hatch=HATCHES[index % len(HATCHES)],
            label=f"{name}: {plan.n_parameters:,} parameters",
        )
        labels = [str(height) if height else "–" for height in heights]
        axes.bar_label(bars, labels, padding=1, fontsize="xx-small" if many else "small")
    axes.set_ylabel("rank")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02, y=0.25)
    axes.legend(frameon=False, loc="upper left", ncols=len(plans))


def _label_blocks(axes: "Axes", blocks: list[tuple[str, int]]) -> None:
    stacks = list(dict.fromkeys(stack for stack, _ in blocks))
    if len(stacks) == 1:
        labels = [str(block) for _, block in blocks]
        axes.set_xlabel("block")
    else:
        labels = [f"{stack[0].upper()}{block}" for stack, block in blocks]
        axes.set_xlabel("block (" + ", ".join(f"{stack[0].upper()}: {stack}" for stack in stacks) + ")")
    axes.set_xticks(range(len(blocks)), labels, fontsize="medium" if len(blocks) <= 24 else "x-small")
    for position in range(1, len(blocks)):
        if blocks[position][0] != blocks[position - 1][0]:
            axes.axvline(position - 0.5, color="0.3", linewidth=1.0)
