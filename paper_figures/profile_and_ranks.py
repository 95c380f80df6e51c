"""Draw a profile, the map of a rank plan and the comparison of several plans, from their files.

Usage: python paper_figures/profile_and_ranks.py profile.nc plan.json [more plans.json] --output folder
"""

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from gelora import RankPlan, open_profile
from gelora.plots import plot_profile, plot_ranks

STYLE = Path(__file__).with_name("paper.mplstyle")
COLUMN = 5.5  # inches, the text width of most conference styles


def main() -> None:
    """Read the files named on the command line and write the figures as PDF and PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", type=Path, help="a profile (.nc)")
    parser.add_argument("plans", type=Path, nargs="+", help="rank plans (.json)")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder to write to")
    arguments = parser.parse_args()

    profile = open_profile(arguments.profile)
    plans = {path.stem.removeprefix("plan-"): RankPlan.load(path) for path in arguments.plans}
    if len(plans) < len(arguments.plans):
        parser.error("two plans have one file name, which names their figures: rename one")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(fname=STYLE):
        draw(arguments.output / "profile", lambda ax: plot_profile(profile, ax), height=2.8)
        for name, plan in plans.items():
            draw(arguments.output / f"ranks-{name}", lambda ax, plan=plan: plot_ranks(plan, ax), height=1.7)
        if len(plans) > 1:
            draw(arguments.output / "ranks-compared", lambda ax: plot_ranks(plans, ax), height=2.4)


def draw(path, plot, *, height):
    """Write one figure in both formats, without a date, so that the same data give the same file."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    plot(figure.subplots())
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(path.with_suffix(".png"))
    print(f"written: {path}.pdf, {path}.png")


if __name__ == "__main__":
    main()
