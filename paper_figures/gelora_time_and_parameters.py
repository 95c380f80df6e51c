"""What each method costs: trained parameters, seconds of estimation and training, and the time of a step.

Usage: python paper_figures/gelora_time_and_parameters.py [--comparison file] [--adapters file] [--output folder]
"""

import json

import numpy as np
from drawing import PAGE, RESULTS, new_figure, read_arguments

from gelora.palette import COLORS, HATCHES
from gelora.scores import open_comparison


def draw_parameters(axes, comparison):
    """Draw the mean number of parameters over tasks and seeds as points, on a logarithmic axis."""
    methods = comparison["method"].values
    parameters = comparison["trainable_parameters"]
    mean, low, high = (getattr(parameters, name)(("task", "seed")).values for name in ("mean", "min", "max"))
    place = np.arange(len(methods))
    axes.hlines(place, low, high, color=COLORS[0], linewidth=3, alpha=0.4)
    axes.plot(mean, place, "|", color=COLORS[0], markersize=7, markeredgewidth=1.5)
    axes.set(xscale="log", xlim=(1e4, 1e8), yticks=place, yticklabels=methods, xlabel="trained parameters (log)")
    axes.grid(axis="x", color="0.9")
    axes.invert_yaxis()


def draw_seconds(axes, comparison):
    """Draw seconds of estimation and of training, one upon the other, the error of their sum over tasks and seeds."""
    place = np.arange(comparison.sizes["method"])
    parts = {name: comparison[f"{name}_seconds"].mean("task") for name in ("training", "estimation")}
    start = np.zeros(len(place))
    for index, (name, seconds) in enumerate(parts.items()):
        length = seconds.mean("seed").values
        style = {"color": COLORS[index], "hatch": HATCHES[index], "edgecolor": "white"}
        axes.barh(place, length, left=start, height=0.7, label=name, **style)
        start = start + length
    total = parts["training"] + parts["estimation"]
    error = (total.std("seed", ddof=1) / np.sqrt(comparison.sizes["seed"])).values
    axes.errorbar(start, place, xerr=error, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
    axes.set(xlabel="seconds a task", xlim=(0, None))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1)


def draw_steps(axes, steps):
    """Draw the time of a step relative to plain LoRA's, with the range over pairs of blocks of steps."""
    names = {"sora": "sora", "geolora": "geolora", "geolora, truncated at once": "geolora¹", "adalora": "adalora"}
    place = np.arange(len(names))
    ratio, low, high = (np.array([steps[name][key] for name in names]) for key in ("ratio", "ratio_low", "ratio_high"))
    axes.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
    bars = {"color": COLORS[2], "marker": "|", "markersize": 7, "capsize": 2, "linestyle": "none"}
    axes.errorbar(ratio, place, xerr=[ratio - low, high - ratio], **bars)
    axes.set(yticks=place, yticklabels=names.values(), xlabel="step, relative to LoRA", xlim=(0, 1.6))
    axes.set_ylim(len(names) - 0.5, -0.5)


def main():
    """Draw the three costs beside each other."""
    files = {"comparison": RESULTS / "comparison" / "comparison.nc", "adapters": RESULTS / "adapters.json"}
    arguments = read_arguments(__doc__, **files)
    comparison = open_comparison(arguments.comparison)
    steps = json.loads(arguments.adapters.read_text(encoding="utf-8"))["steps"]
    dates = " and ".join(sorted({comparison.attrs["created"][:10], steps["machine"]["date"]}))
    tasks, seeds = comparison.sizes["task"], comparison.sizes["seed"]
    origin = (
        f"all-MiniLM-L6-v2, not the paper's DeBERTaV3-base. Left, middle: means over {tasks} GLUE tasks (80–200 "
        f"steps of 8 rows) and {seeds} seeds; pale: range over them; error bars: ± standard error over the seeds. "
        f"Right: rank {steps['rank']}, batches of {steps['batch_size']} of SST-2, median and range of "
        f"{steps['pairs']} pairs of blocks of {steps['steps_a_block']} steps; ¹ truncated at once. "
        f"2 shared cores, one thread: times are indicative. {dates}."
    )
    with new_figure(arguments.output, "gelora-time-and-parameters", size=(PAGE, 3.1), made_from=origin) as figure:
        grid = figure.add_gridspec(1, 3, width_ratios=[1, 1.1, 0.8])
        first = figure.add_subplot(grid[0])
        draw_parameters(first, comparison)
        second = figure.add_subplot(grid[1], sharey=first)
        draw_seconds(second, comparison)
        second.tick_params(labelleft=False)
        draw_steps(figure.add_subplot(grid[2]), steps)


if __name__ == "__main__":
    main()
