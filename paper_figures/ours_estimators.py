"""The same hidden states read by eight estimators.

Usage: python paper_figures/ours_estimators.py [--profile file.nc] [--output folder]
"""

from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora import open_profile
from gelora.plots import plot_profile

LINEAR = ["participation ratio", "PCA, 90 %"]  # directions of the linear span, not the dimension of a curved set
MADE_FROM = (
    "MiniLM, not the paper's DeBERTaV3; {n:,} distinct texts, train rows of SST-2, mean over tokens. Bars: "
    "intervals of 95 % for chance alone, not for bias. Measured {date}."
)


def main() -> None:
    """Draw nearest-neighbour and topological estimators beside linear ones, which need an axis of their own."""
    arguments = read_arguments(__doc__, profile=INPUTS / "ours_estimators.nc")
    profile = open_profile(arguments.profile)
    curved = [str(name) for name in profile["estimator"].values if name not in LINEAR]
    made_from = MADE_FROM.format(n=int(profile["n_points"].values[0, 0]), date=profile.attrs["created"][:10])
    with new_figure(arguments.output, "ours-estimators", size=(PAGE, 2.8), made_from=made_from) as figure:
        panels = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for axes, names in zip(panels, (curved, LINEAR), strict=True):
            plot_profile(profile, axes, estimator=names)
            axes.set(xlabel="relative depth", ylim=(0, 1.35 * axes.get_ylim()[1]))
            axes.legend(frameon=False, loc="upper left", ncols=3, columnspacing=1, fontsize=6.5)
        panels[0].set_title("(a) from distances", loc="left")
        panels[1].set_title("(b) from the covariance", loc="left")
        panels[1].set_ylabel("linear dimension")


if __name__ == "__main__":
    main()
