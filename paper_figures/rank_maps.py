"""The rank pattern of one task: ranks of every block and matrix by two plans, and the probabilities of the ranks."""

import numpy as np
from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora import RankPlan
from gelora.plots import plot_ranks

PLANS = {"paper": "TwoNN as in the paper, rounded up", "recommended": "recommended: MLE on batches, rounded"}


LEAST = 0.005  # smaller probabilities are not written


def probabilities(plan):
    """Return the probability of each rank by block: all matrices of a block share it."""
    return plan.probabilities.groupby("block").first().transpose("rank", "block")


def draw_probabilities(axes, by_block, largest):
    """Draw the probability of each rank from 1 to ``largest`` by block."""
    by_block = by_block.reindex(rank=range(1, largest + 1), fill_value=0.0)
    ranks, values = by_block["rank"].values, by_block.values
    axes.imshow(values, cmap="Greys", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values):
        if value >= LEAST:
            color = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color)
    axes.set_yticks(range(len(ranks)), ranks)
    axes.set_xticks(range(values.shape[1]), by_block["block"].values)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(visible=True, color="0.7")
    axes.set(xlabel="block", ylabel="rank")


def set_scale(axes, largest):
    """Give the map the colours of ranks up to ``largest``, so that two plans can be set side by side."""
    axes.images[0].set_clim(0, largest)
    for text in axes.texts:
        rank = int(text.get_text()) if text.get_text().isdigit() else 0
        text.set_color("white" if rank > 0.6 * largest else "black")
    axes.spines[:].set_visible(False)


def draw_task(number, task, name):
    """Draw the figure of one task from its two plans."""
    description = f"Rank pattern of {name}: two plans."
    arguments = read_arguments(description, plans=INPUTS / "rank_patterns")
    plans = {kind: RankPlan.load(arguments.plans / f"{task}-{kind}.json") for kind in PLANS}
    tables = {kind: probabilities(plan) for kind, plan in plans.items()}
    largest = max(int(table["rank"][(table >= LEAST).any("block")].max()) for table in tables.values())
    known = plans["paper"]
    uncertainty, date = known.uncertainty, known.provenance["origin"]["date"]
    origin = (
        f"all-MiniLM-L6-v2 (6 blocks), not the paper's DeBERTaV3-base (12); {uncertainty.n_examples:,} train "
        f"rows of {name}, mean pooling, at most 128 tokens. Above: the ranks; below: probability of each rank of a "
        f"block, from {uncertainty.n_replicates} estimates on halves of the rows. Stability: probability that "
        f"another draw gives the same plan. {date}."
    )
    with new_figure(arguments.output, f"gelora-{number}-{task}", size=(PAGE, 3.6), made_from=origin) as figure:
        axes = figure.subplots(2, 2, sharex="col")
        for column, (kind, label) in enumerate(PLANS.items()):
            plan = plans[kind]
            plot_ranks(plan, axes[0, column])
            title = f"{label}\n{plan.n_parameters:,} parameters, stability {plan.stability:.2f}"
            axes[0, column].set_title(title, loc="left", fontsize=7.5)
            axes[0, column].set_xlabel("")
            set_scale(axes[0, column], max(module.rank for one in plans.values() for module in one.modules))
            draw_probabilities(axes[1, column], tables[kind], largest)
