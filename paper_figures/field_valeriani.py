"""Dimension over scales and neighbours kept from layer to layer, as Valeriani2023 follow them through a transformer.

Usage: python paper_figures/field_valeriani.py [--measured file.nc] [--output folder]
"""

import numpy as np
from drawing import COLUMN, INPUTS, error_from_halves, new_figure, read_arguments

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, MARKERS

SCALES = (2, 4, 64)
MADE_FROM = (
    "MiniLM, not the paper's models; {data} ({n:,} distinct). (a) Gride with n1 = n2/2, bars ± one standard error "
    "from halves of the rows. {plateau} (b) Mean share of the {k} nearest neighbours, bars ± one standard error. "
    "Measured {date}."
)


def main() -> None:
    """Draw the dimension above, the overlap of consecutive layers below."""
    arguments = read_arguments(__doc__, measured=INPUTS / "field_valeriani.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/field_valeriani.py --data FOLDER")
    depth = found["depth"].values
    without = int(found.attrs["layers_without_plateau"])
    chosen = found["scale"].values[np.abs(found["dimension_scales"] - found["plateau"]).values.argmin(axis=1)]
    plateau = (
        f"Plateau: the longest run of scales that agree, found in {len(depth) - without} of {len(depth)} layers, "
        f"read at n2 = {chosen.min():.0f} to {chosen.max():.0f}."
    )
    made_from = MADE_FROM.format(
        data=found.attrs["data"],
        n=int(found.attrs["n_points"]),
        k=int(found.attrs["k"]),
        plateau=plateau,
        date=found.attrs["created"][:10],
    )
    with new_figure(arguments.output, "field-valeriani", size=(COLUMN, 3.8), made_from=made_from) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        for place, scale in enumerate(SCALES):
            style = {"color": COLORS[place], "marker": MARKERS[place], "capsize": 1.5}
            values = found["dimension_scales"].sel(scale=scale).values
            above.errorbar(
                depth,
                values,
                yerr=error_from_halves(found["dimension_scale_replicates"].sel(scale=scale).values),
                label=f"n2 = {scale}",
                **style,
            )
        style = {"color": "black", "marker": "x", "linewidth": 0.9, "zorder": 5}
        above.plot(depth, found["plateau"].values, label="plateau", **style)
        above.set_title("(a) dimension by Gride", loc="left")
        above.set(ylim=(0, None), ylabel="intrinsic dimension")
        above.legend(frameon=False, ncols=4, loc="lower center", columnspacing=0.8, handlelength=1.5, fontsize=6.5)
        middle = (depth[1:] + depth[:-1]) / 2
        style = {"color": COLORS[0], "marker": MARKERS[0], "capsize": 1.5}
        below.errorbar(middle, found["overlap"].values, yerr=found["overlap_error"].values, **style)
        chance = found.attrs["overlap_by_chance"]
        below.axhline(chance, color="0.5", linestyle=":")
        below.text(1, chance + 0.03, f"by chance: {chance:.3f}", ha="right", fontsize=6, color="0.3")
        below.set_title("(b) neighbours shared by a layer and the next", loc="left")
        below.set(ylim=(0, 1), ylabel="overlap", xlabel="relative depth (0: input of the first block)")
        for axes in (above, below):
            axes.grid(axis="y", color="0.92", linewidth=0.5)


if __name__ == "__main__":
    main()
