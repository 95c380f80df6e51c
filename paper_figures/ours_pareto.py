"""Score against trained parameters of twelve ways to tune MiniLM, by task and on average.

Usage: python paper_figures/ours_pareto.py [--comparison docs/benchmarks/comparison/comparison.nc] [--output folder]
"""

import numpy as np
from drawing import ONE_CLASS, PAGE, RESULTS, new_figure, read_arguments

from gelora.netcdf import read_dataset
from gelora.plots import plot_comparison

NAMES = {"cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B", "mrpc": "MRPC", "rte": "RTE", "average": "mean of the five"}
LINE = {"color": "0.3", "linewidth": 0.8, "linestyle": "--", "zorder": 0}
RING = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 7,
    "markerfacecolor": "none",
    "color": "black",
    "markeredgewidth": 0.7,
}
SPAN = 0.1  # of score, at least, so that small differences look small
MADE_FROM = (
    "MiniLM (22.7 M parameters), not the paper's DeBERTaV3; GLUE validation splits after 80 to 200 steps, far less "
    "than in any paper. Dashed: one class, or one number, for every row; on CoLA, MRPC and RTE no method beats it "
    "by two standard errors. Bars ± one standard error over {n} seeds. Parameters on a log scale; methods of about "
    "equal cost stand side by side, ▲ marks their cost. Score axes do not start at 0. Ring: no other beats the method "
    "in both. "
    "Measured {date}."
)


def main() -> None:
    """Draw one panel a task and one for the mean, with one legend for all."""
    arguments = read_arguments(__doc__, comparison=RESULTS / "comparison" / "comparison.nc")
    comparison = read_dataset(arguments.comparison, made_by="make bench-comparison DATA=FOLDER")
    tasks = [*map(str, comparison["task"].values), "average"]
    made_from = MADE_FROM.format(n=comparison.sizes["seed"], date=comparison.attrs["created"][:10])
    with new_figure(arguments.output, "ours-pareto", size=(PAGE, 6.2), made_from=made_from) as figure:
        panels = figure.subplots(3, 2, sharex=True)
        for axes, task in zip(panels.flat, tasks, strict=True):
            plot_comparison(comparison, axes, task=task)
            axes.get_legend().remove()
            ring_front(axes)
            axes.axhline(ONE_CLASS.get(task, sum(ONE_CLASS.values()) / len(ONE_CLASS)), **LINE)
            axes.set_title(NAMES.get(task, task), loc="left")
            axes.set(xlabel="", ylabel="", xlim=(7e3, 6e7))
            axes.grid(color="0.92", linewidth=0.5)
            axes.set_axisbelow(True)
            low, high = axes.get_ylim()
            room = max(0.0, SPAN - (high - low)) / 2
            axes.set_ylim(low - room, high + room)
            scores = np.concatenate([one.lines[0].get_ydata() for one in axes.containers])
            if np.ptp(scores) == 0:
                axes.text(0.5, 0.8, f"every method: {scores[0]:.2f}", transform=axes.transAxes, ha="center", fontsize=7)
        figure.supylabel("validation score", fontsize=8)
        for axes in panels[-1]:
            axes.set_xlabel("trained parameters without the head")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)


def ring_front(axes):
    """Ring the points of the front instead of joining them: methods of equal cost stand side by side."""
    front = next(line for line in axes.lines if line.get_label() == "_front")
    axes.plot(*front.get_data(), **RING)
    front.remove()
    for container in axes.containers:
        container.lines[0].set_markersize(3.2)


if __name__ == "__main__":
    main()
