"""Persistent homology dimension of single texts of three kinds, as Tulchinskii2023 draw it for people and machines.

Usage: python paper_figures/field_tulchinskii.py [--measured file.nc] [--output folder]
"""

import numpy as np
from drawing import COLUMN, INPUTS, new_figure, read_arguments

from gelora.netcdf import read_dataset
from gelora.palette import COLORS, HATCHES

KINDS = {
    "paragraph": "paragraphs of an encyclopedia",
    "shuffled": "the same words, shuffled",
    "sentences": "linguists' examples, joined",
}
LARGEST = 24  # dimension on the axis; what lies beyond is written there
MADE_FROM = (
    "MiniLM, not the paper's RoBERTa, and no text is by a machine. All {n_tokens} tokens of a text, last layer; "
    "degree 0, α = 1, the settings of the paper but for the sizes. Texts: {data}. In the titles mean ± standard "
    "deviation over texts; lines: means. Measured {date}."
)


def main() -> None:
    """Draw one histogram a kind, on common bins and axes."""
    arguments = read_arguments(__doc__, measured=INPUTS / "field_tulchinskii.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/field_tulchinskii.py --data FOLDER")
    values = {kind: found[kind].values[np.isfinite(found[kind].values)] for kind in KINDS}
    bins = np.arange(4, LARGEST + 1)
    made_from = MADE_FROM.format(
        n_tokens=int(found.attrs["n_tokens"]), data=found.attrs["data"], date=found.attrs["created"][:10]
    )
    with new_figure(arguments.output, "field-tulchinskii", size=(COLUMN, 3.6), made_from=made_from) as figure:
        panels = figure.subplots(3, 1, sharex=True, sharey=True)
        for place, (axes, (kind, name)) in enumerate(zip(panels, KINDS.items(), strict=True)):
            own = values[kind]
            axes.hist(own, bins, color=COLORS[place], hatch=HATCHES[place], edgecolor="white", linewidth=0.3)
            axes.set_xticks(range(5, LARGEST, 5))
            axes.axvline(own.mean(), color="black", linewidth=0.9)
            beyond = ", ".join(f"{value:.0f}" for value in np.sort(own[own > LARGEST]))
            if beyond:
                axes.text(1, 0.3, f"beyond: {beyond} →", transform=axes.transAxes, ha="right", fontsize=6)
            undefined = len(found[kind]) - len(own)
            title = f"{name}: {own.mean():.1f} ± {own.std(ddof=1):.1f}, {len(own)} texts"
            axes.set_title(title + (f", {undefined} without" if undefined else ""), loc="left", fontsize=7)
        panels[1].set_ylabel("texts")
        panels[-1].set_xlabel("intrinsic dimension of a text")


if __name__ == "__main__":
    main()
