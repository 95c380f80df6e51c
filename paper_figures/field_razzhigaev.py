"""Anisotropy and dimension of every token: by depth, and while a small decoder is trained, after Razzhigaev2024.

Usage: python paper_figures/field_razzhigaev.py [--measured file.nc] [--output folder]
"""

import numpy as np
from drawing import INPUTS, PAGE, draw_band, new_figure, read_arguments
from matplotlib import colormaps

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, MARKERS

MADE_FROM = (
    "(a) MiniLM, an encoder; (b–d) a decoder of GPT-2's shape, {parameters:.1f} M parameters, trained here from "
    "random weights, {steps} steps ({training} tokens): neither is a model of the paper. {n_tokens:,} tokens of "
    "WikiText-2 a set, mean ± standard deviation over {n_parts} sets of texts. Anisotropy: share of the largest "
    "eigenvalue of the centred covariance. TwoNN on the smallest 20 % of the ratios. Measured {date}."
)


def main() -> None:
    """Draw MiniLM by depth, and the decoder's anisotropy, dimension and loss over the steps."""
    arguments = read_arguments(__doc__, measured=INPUTS / "field_razzhigaev.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/field_razzhigaev.py --data FOLDER")
    steps = found["step"].values
    made_from = MADE_FROM.format(
        parameters=found.attrs["decoder_parameters"] / 1e6,
        steps=steps[-1],
        training=found.attrs["training"],
        n_tokens=int(found.attrs["n_tokens"]),
        n_parts=int(found.attrs["n_parts"]),
        date=found.attrs["created"][:10],
    )
    with new_figure(arguments.output, "field-razzhigaev", size=(PAGE, 4.2), made_from=made_from) as figure:
        panels = figure.subplots(2, 2)
        draw_depth(panels[0, 0], found)
        draw_training(panels[0, 1], steps, found["decoder_anisotropy"].values)
        draw_training(panels[1, 0], steps, found["decoder_dimension"].values)
        panels[1, 1].plot(steps, found["decoder_test_loss"].values, color=COLORS[0], marker=MARKERS[0])
        panels[0, 1].set_title("(b) decoder: anisotropy", loc="left")
        panels[1, 0].set_title("(c) decoder: intrinsic dimension", loc="left")
        panels[1, 1].set_title("(d) decoder: loss on the test split", loc="left")
        panels[0, 1].set_ylim(0, 1)
        panels[0, 1].set_ylabel("anisotropy")
        panels[1, 0].set_ylim(0, None)
        panels[1, 0].set_ylabel("intrinsic dimension")
        panels[1, 1].set(ylim=(0, 1.1 * found["decoder_test_loss"].max()), ylabel="nats a token")
        panels[0, 1].legend(frameon=False, title="block (0: input)", title_fontsize=6, fontsize=6, loc="upper left")
        for axes in panels.flat[1:]:
            axes.set_xscale("symlog", linthresh=5, linscale=0.4)
            axes.set_xticks(steps, [str(step) for step in steps])
            axes.minorticks_off()
            axes.set_xlim(-1, 1.15 * steps[-1])
            axes.set_xlabel("step (log from 5)")
        for axes in panels.flat:
            axes.grid(axis="y", color="0.92", linewidth=0.5)


def draw_depth(axes, found):
    """Draw MiniLM's anisotropy on the left axis, its dimension on the right one."""
    depth = np.linspace(0, 1, found.sizes["layer"])
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    for place, (side, name) in enumerate(((axes, "anisotropy"), (right, "dimension"))):
        draw_band(side, depth, found[f"encoder_{name}"].values, color=COLORS[place], marker=MARKERS[place])
        side.tick_params(axis="y", colors=COLORS[place])
    axes.set_title("(a) MiniLM by depth", loc="left")
    axes.set(ylim=(0, None), xlabel="relative depth")
    axes.set_ylabel("anisotropy (circles)", color=COLORS[0])
    right.set_ylim(0, None)
    right.set_ylabel("dimension (squares)", color=COLORS[1])


def draw_training(axes, steps, values):
    """Draw a measure over the steps, one line a layer, darker with depth."""
    last = values.shape[2] - 1
    for block in range(values.shape[2]):
        color = colormaps["viridis_r"]((block + 1) / (last + 1))
        draw_band(
            axes, steps, values[:, :, block].T, color=color, marker=MARKERS[block], markersize=3, label=str(block)
        )


if __name__ == "__main__":
    main()
