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
MADE_FROM = (
    "MiniLM, not the paper's RoBERTa, and no text is by a machine. All {n_tokens} tokens of a text, last layer; degree "
    "0, α = 1, the paper's settings. Texts: {data}. In the titles mean ± standard deviation over texts; lines: means. "
    "Measured {date}."
)


def main() -> None:
    """Draw one histogram a kind, on common bins and axes."""
    arguments = read_arguments(__doc__, measured=INPUTS / "field_tulchinskii.nc")
    found = read_dataset(arguments.measured, made_by="python paper_figures/measure/field_tulchinskii.py --data FOLDER")
    values = {kind: found[kind].values[np.isfinite(found[kind].values)] for kind in KINDS}
    every = np.concatenate(list(values.values()))
    bins = np.arange(np.floor(every.min()), np.ceil(every.max()) + 0.5, 0.5)
    made_from = MADE_FROM.format(
        n_tokens=int(found.attrs["n_tokens"]), data=found.attrs["data"], date=found.attrs["created"][:10]
    )
    with new_figure(arguments.output, "field-tulchinskii", size=(COLUMN, 3.6), made_from=made_from) as figure:
        panels = figure.subplots(3, 1, sharex=True, sharey=True)
        for place, (axes, (kind, name)) in enumerate(zip(panels, KINDS.items(), strict=True)):
            own = values[kind]
            axes.hist(own, bins, color=COLORS[place], hatch=HATCHES[place], edgecolor="white", linewidth=0.3)
            axes.axvline(own.mean(), color="black", linewidth=0.9)
            undefined = len(found[kind]) - len(own)
            title = f"{name}: {own.mean():.1f} ± {own.std(ddof=1):.1f}, {len(own)} texts"
            axes.set_title(title + (f", {undefined} without" if undefined else ""), loc="left", fontsize=7)
        panels[1].set_ylabel("texts")
        panels[-1].set_xlabel("intrinsic dimension of a text")


if __name__ == "__main__":
    main()
