"""Three statements of GeLoRA held against MiniLM: the rank bound, its corollary, and the gap over a training.

The bound d_i ≤ rank(T_i) and the corollary max(d_i − d_{i−1}, 0) ≤ N_i hold with so much room that they say little: the
figure is on log scales, and shows the room. The conjecture is about the gap of rank and dimension while tuning.

Usage: python paper_figures/ours_theorems.py [--report docs/benchmarks/theory_report.json] [--output folder]
"""

import json

import numpy as np
from drawing import PAGE, RESULTS, new_figure, read_arguments
from matplotlib.ticker import FuncFormatter

from gelora.palette import COLORS, MARKERS

NAMES = {"sst2": "SST-2", "cola": "CoLA"}
MADE_FROM = (
    "MiniLM (6 blocks, width 384), not the paper's DeBERTaV3; mean over tokens; dimensions by MLE, k = 10…20, on "
    "2,000 train rows; rank of the Jacobian: largest at {n_points} rows, float64; 90 %: singular values that hold "
    "90 % of its energy. (c) SST-2, {n_train:,} train rows, read on the validation texts; the conjecture, as we "
    "read it, is that the gap shrinks; here it does not. Bars ± one standard error of the dimension. Measured "
    "{date}."
)


def main() -> None:
    """Draw the three panels."""
    arguments = read_arguments(__doc__, report=RESULTS / "theory_report.json")
    report = json.loads(arguments.report.read_text(encoding="utf-8"))
    training = report["training"]
    made_from = MADE_FROM.format(n_points=report["n_points"], n_train=training["n_train"], date=report["date"])
    with new_figure(arguments.output, "ours-theorems", size=(PAGE, 2.9), made_from=made_from) as figure:
        panels = figure.subplots(1, 3)
        draw_bound(panels[0], report["tasks"])
        draw_corollary(panels[1], report["tasks"])
        draw_gap(panels[2], training)
        for axes, letter in zip(panels, "abc", strict=True):
            axes.set_title(f"({letter}) {axes.get_title(loc='left')}", loc="left")
            axes.grid(axis="y", color="0.92", linewidth=0.5)
            axes.set_axisbelow(True)


def draw_bound(axes, tasks):
    """Draw dimension and Jacobian rank of every block, on a log scale."""
    for place, (task, found) in enumerate(tasks.items()):
        entry, blocks = found["mle"], np.arange(1, len(found["mle"]["dimension"]) + 1)
        style = {"color": COLORS[place], "marker": MARKERS[place]}
        axes.errorbar(blocks, entry["dimension"], yerr=entry["standard_error"], label=f"$d_i$, {NAMES[task]}", **style)
        axes.plot(
            blocks,
            entry["jacobian_energy_rank_90"]["both"],
            linestyle=":",
            markerfacecolor="white",
            label=f"90 %, {NAMES[task]}",
            **style,
        )
    axes.plot(blocks, entry["jacobian_rank"]["both"], color="black", marker="_", linestyle="--", label="rank of $T_i$")
    axes.set_title("$d_i$ and rank of $T_i$", loc="left")
    axes.set(xlabel="block $i$", ylabel="rank, dimension (log)")
    axes.set_yscale("log")
    axes.set_ylim(1, 2e4)
    axes.set_xticks(blocks)
    axes.legend(frameon=False, loc="upper left", ncols=2, fontsize=6, columnspacing=0.8, handlelength=1.6)


def draw_corollary(axes, tasks):
    """Draw the rise of the dimension and the number of adapted parameters, on a log scale."""
    for place, (task, found) in enumerate(tasks.items()):
        entry = found["mle"]
        blocks = np.arange(1, len(entry["rise"]) + 1) + 0.16 * (2 * place - 1)
        rise = np.array(entry["rise"])
        style = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": "none"}
        axes.plot(blocks, np.where(rise > 0, rise, np.nan), label=f"$d_i-d_{{i-1}}$, {NAMES[task]}", **style)
        axes.plot(blocks, entry["n_adapted"], markerfacecolor="white", label=f"$N_i$, {NAMES[task]}", **style)
        falls = blocks[rise <= 0]
        axes.plot(falls, np.full(len(falls), 0.02), color=COLORS[place], marker="v", linestyle="none", markersize=3)
    axes.plot([], [], color="0.3", marker="v", linestyle="none", markersize=3, label="no rise")
    axes.set_title("rise of $d_i$ and $N_i$", loc="left")
    axes.set(xlabel="block $i$", ylabel="rise, parameters (log)")
    axes.set_yscale("log")
    axes.set_ylim(0.012, 3e7)
    axes.set_xticks(range(1, len(rise) + 1))
    axes.legend(frameon=False, loc="upper left", ncols=2, fontsize=6, columnspacing=0.8, handletextpad=0.3)


def draw_gap(axes, training):
    """Draw the gap of rank and dimension over the steps, one line a block."""
    gap, error = np.array(training["gap"]), np.array(training["standard_error"])
    for block in range(gap.shape[1]):
        style = {"color": COLORS[block % len(COLORS)], "marker": MARKERS[block % len(MARKERS)]}
        axes.errorbar(training["step"], gap[:, block], yerr=error[:, block], label=f"{block + 1}", **style)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("rank of $T_i$ minus $d_i$", loc="left")
    axes.set(xlabel="step of tuning", ylabel="gap (axis starts at 350)")
    axes.set_ylim(350, 361)
    axes.set_xticks(training["step"])
    axes.legend(
        frameon=False,
        title="block",
        title_fontsize=6,
        fontsize=6,
        ncols=6,
        loc="upper center",
        columnspacing=0.6,
        handlelength=1,
        handletextpad=0.3,
    )


if __name__ == "__main__":
    main()
