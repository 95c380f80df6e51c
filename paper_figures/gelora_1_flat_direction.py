"""A loss with a free direction: ½ θ₁² does not depend on θ₂, and its local dimensionality is 1.

Usage: python paper_figures/gelora_1_flat_direction.py [--output folder]

As figure 1 of GeLoRA (arXiv 2412.09250). Local dimensionality is the rank of the Fisher information. Here ½ (θ₁ − y)²
is the negative log-likelihood of an observation y of mean θ₁ and variance 1, whose score is (y − θ₁, 0): Fisher
information and Hessian are both diag(1, 0).
"""

import numpy as np
from drawing import PAGE, new_figure, read_arguments

from gelora.palette import COLORS

FISHER = np.diag([1.0, 0.0])  # E[score scoreᵀ] = diag(Var y, 0), at every θ


def draw_surface(axes):
    """Draw the loss over both parameters, and the valley of its minima."""
    first, second = np.meshgrid(np.linspace(-1.5, 1.5, 41), np.linspace(-1.5, 1.5, 41))
    axes.plot_surface(first, second, first**2 / 2, cmap="cividis", linewidth=0, alpha=0.75, rstride=2, cstride=2)
    axes.plot([0, 0], [-1.5, 1.5], [0, 0], color=COLORS[1], linewidth=2, zorder=10)
    axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[0, 0.5, 1])
    axes.set_xlabel("θ₁", labelpad=-6)
    axes.set_ylabel("θ₂", labelpad=-6)
    axes.set_zlabel("loss ½ θ₁²", labelpad=-4)
    axes.tick_params(pad=-2)
    axes.view_init(elev=28, azim=-55)
    axes.set_box_aspect(None, zoom=1.15)


def draw_contours(axes):
    """Draw the levels of the loss, the line of its minima and the eigenvectors of the Fisher information."""
    values, vectors = np.linalg.eigh(FISHER)
    first, second = np.meshgrid(np.linspace(-1.5, 1.5, 121), np.linspace(-1.5, 1.5, 121))
    levels = axes.contour(first, second, first**2 / 2, levels=[0.05, 0.2, 0.45, 0.8], colors="0.6", linewidths=0.8)
    axes.clabel(levels, fontsize=6, fmt="%g", colors="0.3", manual=[(x, -1.1) for x in (0.316, 0.632, 0.949, 1.265)])
    axes.axvline(0, color=COLORS[1], linewidth=2)
    for value, vector in zip(values, vectors.T, strict=True):
        axes.annotate("", 0.55 * np.abs(vector), (0, 0), arrowprops={"arrowstyle": "-|>", "linewidth": 1.3}, zorder=5)
        x, y = (0.06, 0.6) if value == 0 else (0.62, -0.05)
        axes.text(x, y, f"eigenvalue {value:.0f}", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.text(0, 1.53, "θ₁ = 0: loss 0, θ₂ is free", color=COLORS[1], ha="center", va="bottom", fontsize=7)
    rank = np.linalg.matrix_rank(FISHER)
    axes.set_title(f"Fisher information: rank {rank} of {len(FISHER)}", pad=16)
    axes.set(xlabel="θ₁", ylabel="θ₂", xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")


def main():
    """Draw surface and levels beside each other."""
    arguments = read_arguments(__doc__)
    origin = "A formula, no data: loss ½ θ₁²; Fisher information diag(1, 0) at every θ. Arrows: its eigenvectors."
    with new_figure(arguments.output, "gelora-1-flat-direction", size=(PAGE, 2.9), made_from=origin) as figure:
        draw_surface(figure.add_subplot(1, 2, 1, projection="3d"))
        draw_contours(figure.add_subplot(1, 2, 2))


if __name__ == "__main__":
    main()
