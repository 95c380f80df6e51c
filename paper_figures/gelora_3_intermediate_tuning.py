"""Intermediate-task tuning: dimensions of RTE and STS-B before and after the model is tuned on MRPC.

Usage: python paper_figures/gelora_3_intermediate_tuning.py [--profiles folder] [--output folder]

The experiment of figure 3 of GeLoRA (arXiv 2412.09250), on another model. Bands are ± one standard error, from
replicates on disjoint halves of the rows.
"""

import json

from drawing import INPUTS, PAGE, error_from_halves, new_figure, read_arguments

from gelora import open_profile
from gelora.palette import COLORS, MARKERS

TASKS = {"rte": "RTE", "stsb": "STS-B"}
ESTIMATORS = {"twonn": "TwoNN", "minibatch:mle(batch_size=1000)": "MLE, batches of 1,000"}


def draw_panel(axes, folder, task, estimator):
    """Draw both profiles of a task."""
    for place, when in enumerate(("before", "after")):
        profile = open_profile(folder / f"{task}-{when}.nc").sel(estimator=estimator)
        layer, value, error = (
            profile["layer"].values,
            profile["dimension"].values,
            error_from_halves(profile["dimension_replicates"].values),
        )
        axes.fill_between(layer, value - error, value + error, color=COLORS[place], alpha=0.25, linewidth=0)
        style = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": ("--", "-")[place]}
        axes.plot(layer, value, label=f"{when} tuning on MRPC", **style)
    axes.set_title(f"{TASKS[task]}, {profile.attrs['n_rows']:,} pairs: {ESTIMATORS[estimator]}", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")


def main():
    """Draw a panel for each task and estimator."""
    arguments = read_arguments(__doc__, profiles=INPUTS / "intermediate")
    facts = json.loads((arguments.profiles / "intermediate.json").read_text(encoding="utf-8"))
    tuning = facts["tuning"]
    origin = (
        f"all-MiniLM-L6-v2, not the paper's DeBERTaV3-base; GLUE train pairs, mean pooling; all weights tuned on MRPC, "
        f"{tuning['steps']} steps of {tuning['batch_size']} (MRPC score {100 * tuning['score']:.1f}). "
        f"Bands: ± one standard error, from {facts['estimation']['n_replicates']} halves of the rows. {facts['date']}."
    )
    with new_figure(arguments.output, "gelora-3-intermediate-tuning", size=(PAGE, 3.9), made_from=origin) as figure:
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        for row, estimator in enumerate(ESTIMATORS):
            for column, task in enumerate(TASKS):
                draw_panel(axes[row, column], arguments.profiles, task, estimator)
            axes[row, 0].set_ylabel("intrinsic dimension")
        for column in range(2):
            axes[1, column].set_xlabel("layer (0: input of the first block)")
        axes[0, 0].legend(loc="lower left")


if __name__ == "__main__":
    main()
