"""Dimension over scales and layers at the last token, real texts against the same words shuffled, after Cheng2025.

Usage: python paper_figures/field_cheng.py [--measured file.nc] [--output folder]
"""

from drawing import INPUTS, PAGE, draw_band, new_figure, read_arguments
from matplotlib import colormaps
from matplotlib.ticker import ScalarFormatter

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, MARKERS

SCALE = 16  # of panel (c)
TITLES = {"real": "(a) texts", "shuffled": "(b) the same words, shuffled"}
LINES = ({"marker": "o"}, {"marker": "s", "markerfacecolor": "white", "linestyle": "--"})
MADE_FROM = (
    "MiniLM, an encoder, not the decoders of the paper; vector of the last attended token, [SEP]; {data}. Mean ± "
    "standard deviation over the sets, as bands. Gride with n1 = n2/2. Layer 0, the input of the first block, has "
    "no dimension: there the token differs by its position alone. Here shuffling changes little. Measured {date}."
)


def main() -> None:
    """Draw the scans of both kinds of text, and their profiles at one scale."""
    arguments = read_arguments(__doc__, measured=INPUTS / "field_cheng.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/field_cheng.py --data FOLDER")
    made_from = MADE_FROM.format(data=found.attrs["data"], date=found.attrs["created"][:10])
    with new_figure(arguments.output, "field-cheng", size=(PAGE, 2.9), made_from=made_from) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (text, title) in zip(panels, TITLES.items(), strict=False):
            draw_scan(axes, found["dimension"].sel(text=text))
            axes.set_title(title, loc="left")
        draw_profiles(panels[2], found)
        panels[0].legend(frameon=False, title="layer", title_fontsize=6, fontsize=6, ncols=3)
        panels[0].set_ylabel("intrinsic dimension")
        for axes in panels:
            axes.set_ylim(0, None)
            axes.grid(axis="y", color="0.92", linewidth=0.5)


def draw_scan(axes, dimension):
    """Draw dimension against scale, one line a layer, darker with depth."""
    scales = dimension["scale"].values
    for layer in range(1, dimension.sizes["layer"]):
        values = dimension.isel(layer=layer).values
        color = colormaps["viridis_r"](layer / (dimension.sizes["layer"] - 1))
        draw_band(axes, scales, values, color=color, marker=MARKERS[layer - 1], markersize=3, label=str(layer))
    axes.set(xscale="log", xticks=scales, xlabel="n2, order of the neighbour (log)")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()


def draw_profiles(axes, found):
    """Draw dimension against depth at one scale, both kinds of text."""
    for place, text in enumerate(TITLES):
        values = found["dimension"].sel(text=text, scale=SCALE).values
        draw_band(axes, found["depth"].values, values, color=COLORS[place], label=text, **LINES[place])
    axes.set_title(f"(c) at n2 = {SCALE}", loc="left")
    axes.set(xlim=(-0.03, 1.03), xlabel="relative depth")
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
