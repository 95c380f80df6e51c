"""What every figure script shares: the style, the sizes, where a figure goes and the line that says what it shows."""

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gelora.files import atomic_path

HERE = Path(__file__).parent
STYLE = HERE / "paper.mplstyle"
INPUTS = HERE / "profiles"  # committed results that the figures are drawn from
RESULTS = HERE.parent / "docs" / "benchmarks"  # results of the benchmarks
# What predictions of one class, or one number, score by the labels of the validation sets.
ONE_CLASS = {
    "cola": 0.0,
    "sst2": 444 / 872,
    "stsb": 0.0,
    "mrpc": (279 / 408 + 2 * 279 / (408 + 279)) / 2,  # mean of accuracy and F1
    "rte": 146 / 277,
}
OUTPUT = HERE / "output"
COLUMN = 3.25  # inches, one column of a two-column page
PAGE = 6.75  # inches, both columns


def read_arguments(description: str, **inputs: Path | Sequence[Path]) -> argparse.Namespace:
    """Read the command line of a figure script: one option for each of its inputs, and ``--output``."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, default in inputs.items():
        several = not isinstance(default, Path)
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, default=default, nargs="+" if several else None)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    return parser.parse_args()


@contextmanager
def new_figure(folder: Path, name: str, *, size: tuple[float, float], made_from: str) -> Iterator[Figure]:
    """Give an empty figure of ``size`` inches in the paper's style; write it as PDF and PNG when the block ends.

    ``made_from`` says, in small type below the figure, what was measured: model, data, number of points. A figure
    of a small or untrained model is never to be taken for that of a paper.
    """
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        wrapped = textwrap.fill(made_from, width=round(22 * size[0]))  # as much as fits in a line of 6 points
        figure.supxlabel(wrapped, fontsize=6, color="0.35", x=0.01, ha="left")
        folder.mkdir(parents=True, exist_ok=True)
        # Without a date, so that the same data give the same file.
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", None)):
            with atomic_path(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
    print(f"written: {folder / name}.pdf, .png")


def draw_band(axes, x, values, *, color, **style):
    """Draw the mean over the first axis, and a band of one standard deviation."""
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
    shown = np.isfinite(mean)
    axes.plot(x[shown], mean[shown], color=color, **style)
    axes.fill_between(x[shown], (mean - spread)[shown], (mean + spread)[shown], color=color, alpha=0.25, linewidth=0)


def error_from_halves(halves):
    """Return the standard error of each layer, (layer,), from values on halves of the rows, (layer, replicate).

    Replicates 2s and 2s + 1 are disjoint: the variance of their difference is four times that of the whole.
    """
    return np.sqrt(np.nanmean(((halves[:, 0::2] - halves[:, 1::2]) / 2) ** 2, axis=1))
