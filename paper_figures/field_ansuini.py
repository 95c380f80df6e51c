"""Dimension against depth as in Ansuini2019: TwoNN, and the principal components for 90 % of the variance.

Usage: python paper_figures/field_ansuini.py [--measured file.nc] [--output folder]
"""

import numpy as np
from drawing import COLUMN, INPUTS, new_figure, read_arguments

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, MARKERS

NAMES = {"sst2": "SST-2", "cola": "CoLA"}
PANELS = {"twonn": "(a) TwoNN, lowest 90 % of the ratios", "pca": "(b) PCA, 90 % of the variance"}
MADE_FROM = (
    "MiniLM, not the convolutional networks of the paper; {data} ({n} distinct). Mean ± standard deviation over "
    "{resamples} resamples of 90 %: less than the error, as resamples share points. Measured {date}."
)


def main() -> None:
    """Draw one panel a measure, one line a task."""
    arguments = read_arguments(__doc__, measured=INPUTS / "field_ansuini.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/field_ansuini.py --data FOLDER")
    made_from = MADE_FROM.format(
        data=found.attrs["data"],
        n=" and ".join(f"{n:,}" for n in found["n_points"].values),
        resamples=found.sizes["resample"],
        date=found.attrs["created"][:10],
    )
    depth = np.linspace(0, 1, found.sizes["layer"])
    with new_figure(arguments.output, "field-ansuini", size=(COLUMN, 3.6), made_from=made_from) as figure:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, (estimator, title) in zip(panels, PANELS.items(), strict=True):
            for place, task in enumerate(map(str, found["task"].values)):
                values = found["dimension"].sel(task=task, estimator=estimator).values
                mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
                axes.plot(depth, mean, color=COLORS[place], marker=MARKERS[place], label=NAMES[task])
                axes.fill_between(depth, mean - spread, mean + spread, color=COLORS[place], alpha=0.25, linewidth=0)
            axes.set_title(title, loc="left")
            axes.set(ylim=(0, 1.1 * axes.dataLim.y1))
            axes.grid(axis="y", color="0.92", linewidth=0.5)
        panels[0].set_ylabel("intrinsic dimension")
        panels[1].set_ylabel("components")
        panels[1].set_xlabel("relative depth (0: input of the first block)")
        panels[0].legend(frameon=False, ncols=2)


if __name__ == "__main__":
    main()
