"""What estimators read on balls and spheres of known dimension, and what calibration makes of it.

Usage: python paper_figures/ours_calibration.py [--measured file.nc] [--output folder]
"""

from drawing import INPUTS, PAGE, new_figure, read_arguments
from matplotlib.ticker import ScalarFormatter

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, MARKERS

TICKS = (1, 2, 4, 8, 16, 32, 64)
FAMILIES = {"ball": "-", "sphere": "--"}
MADE_FROM = (
    "Simulated clouds, no model: {data}; n points each. Mean and ± one standard deviation, as bands above, as bars "
    "below. Calibrated: the dimension whose simulated balls and spheres read the same; tested on new clouds of "
    "these two families; numbers: how many of {n_tests} intervals of 95 % held the truth, n = {n:,}. Measured "
    "{date}."
)


def main() -> None:
    """Draw readings above and calibrated ones below, a column an estimator."""
    arguments = read_arguments(__doc__, measured=INPUTS / "ours_calibration.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/ours_calibration.py --data FOLDER")
    made_from = MADE_FROM.format(
        data=found.attrs["data"],
        n_tests=found.sizes["test"],
        n=int(found["n"].values[-1]),
        date=found.attrs["created"][:10],
    )
    with new_figure(arguments.output, "ours-calibration", size=(PAGE, 3.9), made_from=made_from) as figure:
        panels = figure.subplots(2, found.sizes["estimator"], sharex=True, sharey=True)
        for column, estimator in enumerate(map(str, found["estimator"].values)):
            own = found.sel(estimator=estimator)
            draw_raw(panels[0, column], own)
            draw_calibrated(panels[1, column], own)
            panels[0, column].set_title(estimator, loc="left")
            panels[1, column].set_xlabel("true dimension (log)")
        panels[0, 0].set_ylabel("read / true")
        panels[1, 0].set_ylabel("calibrated / true")
        panels[0, 0].legend(frameon=False, loc="lower left", handlelength=2.4)
        for axes in panels.flat:
            axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
            axes.set(xscale="log", xticks=TICKS, ylim=(0, 1.4))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.minorticks_off()


def draw_raw(axes, own):
    """Draw mean and spread of what is read over the truth, by number of points and family."""
    d = own["d"].values
    for place, n in enumerate(own["n"].values):
        for family, line in FAMILIES.items():
            curve = own.sel(n=n, family=family)
            mean, spread = curve["raw_mean"].values / d, curve["raw_spread"].values / d
            color, label = COLORS[place], f"{family}s, n = {n:,}"
            axes.plot(d, mean, color=color, linestyle=line, marker=MARKERS[place], markersize=2, label=label)
            axes.fill_between(d, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)


def draw_calibrated(axes, own):
    """Draw the same of the calibrated dimensions of new clouds, and how often the interval held the truth."""
    d = own["d_tested"].values
    for place, n in enumerate(own["n"].values):
        ratio = own["corrected"].sel(n=n).values / d[:, None]
        axes.errorbar(
            d * 1.12 ** (2 * place - 1),
            ratio.mean(axis=1),
            yerr=ratio.std(axis=1, ddof=1),
            color=COLORS[place],
            marker=MARKERS[place],
            linestyle="none",
            markersize=3,
            capsize=1.5,
        )
    for dimension, times in zip(d, own["held"].isel(n=-1).values.sum(axis=1), strict=True):
        axes.text(dimension, 0.6, f"{times:.0f}", ha="center", fontsize=6, color=COLORS[1])


if __name__ == "__main__":
    main()
