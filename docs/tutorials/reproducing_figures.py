"""
Reproducing the figures
=======================

**At the end** you have drawn figures of ``paper_figures/`` from the result files in the
repository, looked into the numbers behind one of them, and drawn one of your own in the
same style.

**Time**: ten minutes to read, some seconds to run. No model is loaded: figures are drawn
from files.

This works in a clone of the repository.
"""

# %%
# One short script a figure
# -------------------------
#
# Each script reads committed results and computes nothing; ``paper_figures/README.md`` says
# which file, and which command made it. ``make figures`` draws all of them as PDF and PNG.
# The scripts that follow the two papers:

import ast
import contextlib
import io
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

import gelora

root = next(
    place
    for place in [Path.cwd(), *Path.cwd().parents]
    if (place / "paper_figures").is_dir()
)
figures = root / "paper_figures"
for script in sorted(figures.glob("ge*ora_*.py")):
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    print(f"{script.name}: {docstring.splitlines()[0]}")

# %%
# Draw two of them
# ----------------
#
# On the command line: ``python paper_figures/NAME.py --output FOLDER``. Here the
# scripts are run in this process, as ``draw_all.py`` does: profiles before and after
# tuning on an intermediate task (the experiment of figure 3 of GeLoRA's paper), and
# GeoLoRA's ranks over training from several starting ranks. The small print under each
# figure says what was measured. Model and data are not the paper's, so compare shapes,
# not numbers.


def draw(script):
    """Run one script of paper_figures/ and show the pictures it wrote, pixel by pixel."""
    with tempfile.TemporaryDirectory() as folder:
        given, sys.argv = sys.argv, [str(script), "--output", folder]
        sys.path.insert(0, str(figures))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where it writes to
            runpy.run_path(str(script), run_name="__main__")
        sys.path.remove(str(figures))
        sys.argv = given
        for file in sorted(Path(folder).glob("*.png")):
            pixels = plt.imread(file)
            size = (pixels.shape[1] / 150, pixels.shape[0] / 150)
            axes = plt.figure(figsize=size, dpi=150).add_axes((0, 0, 1, 1))
            axes.imshow(pixels, interpolation="none")
            axes.set_axis_off()


for script in figures.glob("gelora_3_*.py"):
    draw(script)

# %%
# And GeoLoRA's:

for script in figures.glob("geolora_1_*.py"):
    draw(script)

# %%
# The numbers behind a figure
# ---------------------------
#
# Inputs are ordinary profiles. Those of RTE before and after the model was tuned on MRPC
# lie in ``paper_figures/profiles/intermediate``:

inputs = figures / "profiles" / "intermediate"
before, after = (
    gelora.open_profile(inputs / f"rte-{moment}.nc") for moment in ("before", "after")
)
print(
    {
        name: str(before.attrs[name])
        for name in ("model_class", "pooling", "n_texts", "n_replicates", "created")
    }
)

# %%
# ``compare_profiles`` gives the change of each layer with its error. Both profiles saw the
# same texts, so the error is that of the paired difference, which is smaller than the two
# errors added.

change = gelora.compare_profiles(before, after)
estimator = str(change["estimator"].values[0])
columns = ["difference", "standard_error", "ci_low", "ci_high"]
print(estimator)
change.sel(estimator=estimator)[columns].to_dataframe()[columns].round(2)

# %%
# Where the interval does not hold 0, tuning changed the dimension of that layer.
#
# A figure of your own in the same style
# --------------------------------------
#
# The style is one matplotlib file, and a profile is an ``xarray.Dataset``: any plotting
# library can draw it. The functions of ``gelora.plots`` take axes to draw into, and change
# nothing else.

with mpl.rc_context(fname=figures / "paper.mplstyle"):
    figure, axes = plt.subplots(figsize=(3.25, 2.4), dpi=200, layout="constrained")
    for place, (moment, profile) in enumerate({"before": before, "after": after}.items()):
        row = profile.sel(estimator=estimator)
        axes.errorbar(
            row["layer"] + 0.12 * place,  # apart, so that the bars do not cover each other
            row["dimension"],
            yerr=row["standard_error"],
            color=gelora.plots.COLORS[place],
            marker=gelora.plots.MARKERS[place],
            capsize=2,
            label=f"{moment} tuning on MRPC",
        )
    axes.set(
        xlabel="layer (0: input of the first block)",
        ylabel=f"dimension of RTE ({estimator})",
        ylim=(0, None),
    )
    axes.legend(frameon=False)
figure.show()

# %%
# Bars are ± one standard error.
#
# To measure anew instead of drawing what is committed, the scripts in
# ``paper_figures/measure/`` and ``make bench-…`` make the inputs from data on your disk;
# :doc:`/figures` shows all figures with the command that makes each.
