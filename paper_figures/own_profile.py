"""A profile of one's own, the rank map of each plan, and the plans compared.

Usage: python paper_figures/own_profile.py [--profile profile.nc] [--plans plan.json ...] [--output folder]

Without files of one's own it draws those committed for CoLA.
"""

from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora import RankPlan, open_profile
from gelora.plots import plot_profile, plot_ranks


def name_plans(paths):
    """Return the plans by the names of their files, which name their figures."""
    plans = {path.stem.removeprefix("plan-"): RankPlan.load(path) for path in paths}
    if len(plans) < len(paths):
        raise SystemExit("two plans have one file name, which names their figures: rename one")
    return plans


def describe(profile):
    """Return the line that says what was measured."""
    attributes = profile.attrs
    model = str(attributes.get("model", "")).rstrip("/").split("/")[-1]
    parts = [f"model: {model}", f"data: {attributes.get('task') or attributes.get('data')}"]
    parts += [f"{int(attributes['n_rows']):,} rows"] if "n_rows" in attributes else []
    return ", ".join([*parts, f"pooling: {attributes.get('pooling')}", f"{attributes.get('created', '')[:10]}"]) + "."


def main():
    """Draw the files named on the command line."""
    folder = INPUTS / "rank_patterns"
    committed = [folder / f"cola-{kind}.json" for kind in ("paper", "recommended")]
    arguments = read_arguments(__doc__, profile=folder / "cola.nc", plans=committed)
    profile, plans = open_profile(arguments.profile), name_plans(arguments.plans)
    made_from = describe(profile)
    with new_figure(arguments.output, "own-profile", size=(PAGE, 3.0), made_from=made_from) as figure:
        axes = plot_profile(profile, figure.subplots())
        axes.get_legend().remove()  # it would lie on the bars
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    for name, plan in plans.items():
        with new_figure(arguments.output, f"own-ranks-{name}", size=(PAGE, 2.0), made_from=made_from) as figure:
            plot_ranks(plan, figure.subplots())
    if len(plans) > 1:
        with new_figure(arguments.output, "own-ranks-compared", size=(PAGE, 2.6), made_from=made_from) as figure:
            plot_ranks(plans, figure.subplots())


if __name__ == "__main__":
    main()
