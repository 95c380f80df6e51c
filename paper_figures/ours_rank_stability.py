"""How sure the ranks of a plan are: probability of each rank by block, and of the whole plan, against the sample.

Usage: python paper_figures/ours_rank_stability.py [--results docs/benchmarks/rank_stability.json] [--output folder]
"""

import json

import numpy as np
from drawing import PAGE, RESULTS, new_figure, read_arguments

from gelora.palette import COLORS, MARKERS

TASKS = {"cola": "CoLA", "rte": "RTE"}
ESTIMATORS = {"twonn": "TwoNN", "mle": "MLE", "ph": "H0, α = 1"}
SHOWN = ("twonn", "mle")
RANKS = range(1, 6)
MADE_FROM = (
    "MiniLM, not the paper's DeBERTaV3; train rows, mean over tokens; MLE with k = 10…20; ranks by rounding up. "
    "(a–d) CoLA: probability of each rank, from halves of the rows; frame: the rank of the plan; below 0.05 no "
    "number. (e) Probability that another draw of n rows gives the same rank in all six blocks. Measured {date}."
)


def main() -> None:
    """Draw the maps of two estimators at two sizes, and the stability of whole plans."""
    arguments = read_arguments(__doc__, results=RESULTS / "rank_stability.json")
    results = json.loads(arguments.results.read_text(encoding="utf-8"))["probabilities"]
    sizes = results["cola"]["sizes"]
    made_from = MADE_FROM.format(date=results["date"])
    with new_figure(arguments.output, "ours-rank-stability", size=(PAGE, 3.5), made_from=made_from) as figure:
        maps, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
        panels = maps.subplots(2, 2, sharex=True, sharey=True)
        for row, estimator in enumerate(SHOWN):
            for place, n in enumerate((sizes[0], sizes[-1])):
                axes = panels[row, place]
                image = draw_map(axes, results["cola"]["plans"][f"{estimator} {n}"])
                axes.set_title(f"({'abcd'[2 * row + place]}) {ESTIMATORS[estimator]}, n = {n:,}", loc="left")
        for axes in panels[:, 0]:
            axes.set_ylabel("rank")
        for axes in panels[-1]:
            axes.set_xlabel("block")
        maps.colorbar(image, ax=panels, label="probability of the rank", shrink=0.8)
        draw_stability(right.subplots(), results)


def draw_map(axes, plan):
    """Draw the probability of each rank in each block; ranks beyond the last row are added to it."""
    table = np.zeros((len(RANKS), len(plan["ranks"])))
    for block, shares in enumerate(plan["probabilities"]):
        for rank, share in zip(plan["rank_values"], shares, strict=True):
            table[min(rank, RANKS[-1]) - 1, block] += share
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    for (rank, block), share in np.ndenumerate(table):
        if share >= 0.05:
            axes.text(
                block,
                rank,
                f"{share:.2f}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if share > 0.6 else "black",
            )
    for block, rank in enumerate(plan["ranks"]):
        place = min(rank, RANKS[-1]) - 1
        axes.plot(
            block + np.array([-0.5, 0.5, 0.5, -0.5, -0.5]) * 0.94,
            place + np.array([-0.5, -0.5, 0.5, 0.5, -0.5]) * 0.94,
            color=COLORS[1],
            linewidth=1,
        )
    axes.set_xticks(range(len(plan["ranks"])), range(1, len(plan["ranks"]) + 1))
    axes.set_yticks(range(len(RANKS)), [*map(str, RANKS[:-1]), f"{RANKS[-1]}+"])
    return image


def draw_stability(axes, results):
    """Draw the probability of the whole plan against the number of rows."""
    for place, (estimator, name) in enumerate(ESTIMATORS.items()):
        for task, line in zip(TASKS, ("-", "--"), strict=True):
            sizes = results[task]["sizes"]
            values = [results[task]["plans"][f"{estimator} {n}"]["stability"] for n in sizes]
            axes.plot(
                sizes,
                values,
                color=COLORS[place],
                marker=MARKERS[place],
                linestyle=line,
                label=name if line == "-" else None,
            )
    axes.set(xscale="log", ylim=(0, 1), xlabel="rows n (log)", ylabel="probability of the whole plan")
    axes.set_title("(e) all six ranks", loc="left")
    axes.set_xticks([500, 1000, 2000, 4000, 8000], ["500", "1,000", "2,000", "4,000", "8,000"], rotation=45)
    axes.minorticks_off()
    axes.grid(axis="y", color="0.92", linewidth=0.5)
    for task, line in zip(TASKS.values(), ("-", "--"), strict=True):
        axes.plot([], [], color="0.4", linestyle=line, label=task)
    axes.legend(frameon=False, loc="upper left")


if __name__ == "__main__":
    main()
