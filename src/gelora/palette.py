"""What all drawings share: colours, markers, dashes, hatches, and new axes where none are given."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

# Okabe and Ito's colours: told apart by colour-blind readers; markers and dashes tell them apart in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
STACK_LINES = {"encoder": "-", "decoder": "--"}
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")


def new_axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """Return ``ax``, or the axes of a new figure of ``size`` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def shades(low: float = 0.0, high: float = 0.88, *, reverse: bool = False, name: str = "viridis") -> "ListedColormap":
    """Return a part of a map of matplotlib that is uniform to the eye, in grey too, without what fades on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    ends = (high, low) if reverse else (low, high)
    return ListedColormap(colormaps[name](np.linspace(*ends, 256)), name="gelora")
