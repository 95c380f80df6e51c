"""A helix has dimension 1: what each estimator reads, against the number of points and against noise.

Usage: python paper_figures/gelora_4_helix.py [--helix file] [--output folder]
"""

import json

import numpy as np
from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora.palette import COLORS, MARKERS

OWN = ("twonn", "mle", "gride", "ph", "corrint", "spectral")
NOISY = 0.03


def summary(rows, estimator, n, noise):
    """Return mean and standard deviation over the draws, NaN where a draw is undefined."""
    case = next(r for r in rows if (r["estimator"], r["n"], r["noise"]) == (estimator, n, noise))
    values = np.array([np.nan if value is None else value for value in case["dimension"]])
    return values.mean(), values.std(ddof=1)


def draw_curve(axes, points):
    """Draw the helix itself."""
    axes.scatter(*np.array(points).T, s=2, color=COLORS[0], depthshade=False)
    axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[0, 1, 2])
    axes.set_title(f"{len(points)} points")
    axes.tick_params(pad=-2, labelsize=6)
    axes.set_box_aspect((1, 1, 1.2), zoom=1.1)


def draw_lines(axes, rows, cases, places):
    """Draw what this library's own estimators read over several cases."""
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    for index, name in enumerate(OWN):
        mean, spread = np.array([summary(rows, name, n, noise) for n, noise in cases]).T
        style = {"color": COLORS[index], "marker": MARKERS[index], "capsize": 1.5, "elinewidth": 0.8}
        axes.errorbar(places, mean, yerr=spread, label=name, **style)
    axes.set_ylim(0, 3.2)
    axes.grid(axis="y", color="0.9")


def draw_list(axes, rows, estimators, n):
    """Draw mean and spread of every estimator, without noise and with some, and the errors in numbers."""
    place = np.arange(len(estimators))
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle="--")
    for index, noise in enumerate((0.0, NOISY)):
        mean, spread = np.array([summary(rows, name, n, noise) for name in estimators]).T
        style = {"color": COLORS[index], "marker": MARKERS[index], "linestyle": "none", "markersize": 3.5}
        axes.errorbar(mean, place, xerr=spread, capsize=1.5, **style)
        axes.text(3.3 + 0.55 * index, -0.9, f"noise {noise:g}", color=COLORS[index], fontsize=7, ha="center")
        for height, value in zip(place, mean, strict=True):
            text = "–" if np.isnan(value) else f"{round(100 * (value - 1)):+d} %".replace("-", "−")
            axes.text(3.3 + 0.55 * index, height, text, color=COLORS[index], fontsize=7, ha="center", va="center")
    axes.set(xlim=(0, 4.2), ylim=(len(estimators) - 0.4, -1.3), xticks=[0, 1, 2, 3])
    axes.set_yticks(place, estimators)
    axes.set_xlabel(f"estimated dimension, n = {n:,}; in numbers: relative error of the mean")
    axes.grid(axis="y", color="0.93")


def main():
    """Draw the helix, the two series and the list of all estimators."""
    arguments = read_arguments(__doc__, helix=INPUTS / "helix.json")
    found = json.loads(arguments.helix.read_text(encoding="utf-8"))
    rows, setting = found["rows"], found["setting"]
    n_fixed = setting["n_fixed"]
    sizes = sorted({row["n"] for row in rows if row["noise"] == 0})
    noises = sorted({row["noise"] for row in rows if row["n"] == n_fixed})
    origin = (
        f"Simulated: helix of radius 1, {setting['turns']} turns of height {setting['pitch']}, in three dimensions; "
        f"true dimension 1 (dashed). Noise: standard deviation in every coordinate, at n = {n_fixed:,}. Points and "
        f"bars: mean ± standard deviation over {setting['n_draws']} draws, every estimator with its defaults or as "
        f"named. {found['origin']['date']}."
    )
    with new_figure(arguments.output, "gelora-4-helix", size=(PAGE, 5.3), made_from=origin) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=[1, 1.25])
        grid = above.add_gridspec(1, 3, width_ratios=[0.8, 1, 1])
        draw_curve(above.add_subplot(grid[0], projection="3d"), found["points"])
        by_size, by_noise = above.add_subplot(grid[1]), above.add_subplot(grid[2])
        draw_lines(by_size, rows, [(n, 0.0) for n in sizes], sizes)
        by_size.set(xscale="log", xlabel="points n (log), no noise", ylabel="estimated dimension")
        by_size.set_xticks(sizes, sizes)
        by_size.minorticks_off()
        draw_lines(by_noise, rows, [(n_fixed, noise) for noise in noises], np.arange(len(noises)))
        by_noise.set(xlabel="noise (not to scale)")
        by_noise.set_xticks(np.arange(len(noises)), [f"{noise:g}" for noise in noises])
        above.legend(*by_size.get_legend_handles_labels(), loc="outside upper right", ncols=len(OWN), columnspacing=1)
        estimators = list(dict.fromkeys(row["estimator"] for row in rows))
        draw_list(below.subplots(), rows, estimators, n_fixed)


if __name__ == "__main__":
    main()
