"""One set of hidden states reads many dimensions: against the number of points, and against the scale.

Usage: python paper_figures/ours_n_and_scale.py [--measured file.nc] [--output folder]
"""

import numpy as np
from drawing import INPUTS, PAGE, new_figure, read_arguments
from matplotlib import colormaps
from matplotlib.ticker import FixedFormatter, FixedLocator

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, MARKERS

LAYERS = (1, 6)
FEWEST = 250  # points in the upper panels: below, H0 has too few to draw from
MADE_FROM = (
    "MiniLM, not the paper's DeBERTaV3; {data}. (a, b) Mean ± standard deviation over {draws}. Without n = {first}, "
    "where H0 reads {few}. (c, d) Gride with n1 = n2/2, one draw of each n; n2/n is the share of the cloud that the "
    "neighbourhood holds. Measured {date}."
)


def main() -> None:
    """Draw dimension against n above and against scale below, the first and the last block."""
    arguments = read_arguments(__doc__, measured=INPUTS / "ours_n_and_scale.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/ours_n_and_scale.py --data FOLDER")
    sizes = found["n"].values
    few = found["dimension"].sel(n=sizes[0], estimator="H0, α = 1").isel(layer=list(LAYERS)).values
    made_from = MADE_FROM.format(
        first=sizes[0],
        data=found.attrs["data"],
        draws=", ".join(f"{min(found.sizes['draw'], sizes[-1] // n)} at n = {n:,}" for n in sizes if n >= FEWEST),
        few=f"{np.nanmin(few):.0f} to {np.nanmax(few):.0f}, undefined in {np.isnan(few).sum()} of {few.size}",
        date=found.attrs["created"][:10],
    )
    with new_figure(arguments.output, "ours-n-and-scale", size=(PAGE, 4.6), made_from=made_from) as figure:
        panels = figure.subplots(2, 2, sharey=True)
        for column, layer in enumerate(LAYERS):
            above, below = panels[:, column]
            draw_n(above, found.isel(layer=layer))
            draw_scale(below, found.isel(layer=layer))
            above.set_title(f"({'ab'[column]}) output of block {layer}, against n", loc="left")
            below.set_title(f"({'cd'[column]}) output of block {layer}, against scale", loc="left")
        for axes in panels[:, 0]:
            axes.set_ylabel("intrinsic dimension")
        panels[0, 0].legend(frameon=False, ncols=2, loc="upper right")
        panels[1, 0].legend(frameon=False, ncols=3, loc="upper right", title="n", title_fontsize=7)
        for axes in panels.flat:
            axes.set_ylim(0, 75)
            axes.grid(axis="y", color="0.92", linewidth=0.5)


def draw_n(axes, found):
    """Draw the estimates against n."""
    found = found.sel(n=slice(FEWEST, None))
    sizes = found["n"].values
    for place, estimator in enumerate(map(str, found["estimator"].values)):
        values = found["dimension"].sel(estimator=estimator).values
        known = np.isfinite(values).sum(axis=1)
        mean = np.array([row[np.isfinite(row)].mean() if n else np.nan for row, n in zip(values, known, strict=True)])
        spread = np.array(
            [row[np.isfinite(row)].std(ddof=1) if n > 1 else 0.0 for row, n in zip(values, known, strict=True)]
        )
        style = {"color": COLORS[place], "marker": MARKERS[place], "capsize": 1.5, "label": estimator}
        axes.errorbar(sizes * 1.04 ** (place - 1.5), mean, yerr=spread, **style)
    axes.set(xscale="log", xlabel="points n (log)")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{n:,}" for n in sizes]))
    axes.minorticks_off()


def draw_scale(axes, found):
    """Draw the scans against the share of the points in the neighbourhood, one line a number of points."""
    scales = found["scale"].values
    for place, n in enumerate(found["n"].values):
        values = found["scan"].sel(n=n).values
        shown = np.isfinite(values) & (scales < n / 4)
        color = colormaps["viridis_r"]((place + 1) / found.sizes["n"])
        axes.plot(scales[shown] / n, values[shown], color=color, marker=MARKERS[place], markersize=3, label=f"{n:,}")
    axes.set(xscale="log", xlabel="n2/n (log)")


if __name__ == "__main__":
    main()
