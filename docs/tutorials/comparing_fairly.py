"""
Comparing methods fairly
========================

**At the end** you have run a small comparison of your own and read a large one: scores with
errors, paired tests, and what a comparison must hold equal before its numbers mean
anything.

**Time**: fifteen minutes to read, a minute to run on two cores of a CPU.
"""

# %%
# What is fair
# ------------
#
# A method is an adapter *and* a rule for its ranks. Two methods differ in many ways at
# once: number of parameters, learning rate that suits them, time for estimation, luck of
# the seed. ``gelora.compare`` holds equal what can be held equal: LoRA-like methods get as
# many parameters as the task's geometric plan, all see the same rows in the same order by
# seed, and each may search its own learning rate with equally many trials.
#
# The control that matters most is ``random``: the same budget, divided among the blocks by
# a die. If geometric ranks do not beat random ones, the geometry did not help.
#
# A study
# -------
#
# A study is a mapping, or the same as a YAML file. This one is tiny: one task, the built-in
# corpus, two seeds, eight steps each, and three methods: geometric ranks, uniform ranks at
# the same cost, and all weights of the model with a learning rate of their own.

import tempfile
from pathlib import Path

import pandas as pd

import gelora
from gelora.builtin_corpus import builtin_corpus, write_builtin_corpus
from gelora.demo import demo_model
from gelora.scores import compare_scores, open_comparison, summarise_scores
from gelora.study import list_runs

work = tempfile.TemporaryDirectory()
folder = Path(work.name)
write_builtin_corpus(builtin_corpus(n_train=240, n_validation=64), folder / "corpus")
study = {
    "model": str(demo_model()),
    "tasks": [
        {
            "name": "docstrings",
            "text": "sentence",
            "label": "label",
            "data_dir": str(folder / "corpus"),
        }
    ],
    "methods": ["gelora", "lora", "full"],
    "seeds": [0, 1],
    "training": {
        "max_steps": 8,
        "batch_size": 16,
        "learning_rate": {"default": 5.0e-3, "full": 5.0e-4},
        "max_length": 40,
    },
    "output": str(folder / "results"),
}

# %%
# A dry run first: what would be trained? Nothing is trained and no dimension estimated, so
# the parameters of adapters that follow from the profile are not known yet.

list_runs(study)

# %%
# On the command line this is ``gelora compare study.yaml --dry-run``. Now the study itself.
# A kill at any moment would lose nothing: what has ended is not made again at the next
# call.

comparison = gelora.compare(study, progress=False)
pd.DataFrame(
    {
        "parameters": comparison["trainable_parameters"].mean(("task", "seed")).to_series(),
        "mean accuracy": comparison["score"].mean(("task", "seed")).to_series(),
        "seed 0": comparison["score"].isel(task=0, seed=0).to_series(),
        "seed 1": comparison["score"].isel(task=0, seed=1).to_series(),
    }
).round(3)

# %%
# ``lora`` and ``gelora`` cost the same, or nearly: ranks are integers. After so few steps
# methods whose ranks differ in a block or two can predict the same, and then their scores
# are equal. The scores say nothing yet: with 64 validation sentences an accuracy moves by ±
# 0.05 from the choice of sentences alone, guessing has 0.125, and two seeds are no sample.
# The folder also holds tables in Markdown and LaTeX, and the plots.

print(sorted(path.name for path in (folder / "results").iterdir()))
work.cleanup()

# %%
# A larger comparison, read from its file
# ---------------------------------------
#
# The repository holds the results of a study of MiniLM on five GLUE tasks: 12 methods,
# three seeds, 80 to 200 steps on a CPU, each method with its own search of the learning
# rate. :doc:`/benchmarks/comparison` describes it. This works in a clone of the repository:

root = next(
    place
    for place in [Path.cwd(), *Path.cwd().parents]
    if (place / "docs/benchmarks/comparison").is_dir()
)
measured = open_comparison(root / "docs/benchmarks/comparison/comparison.nc")
summary = 100 * summarise_scores(measured)[["mean", "standard_error"]]
mean = summary["mean"].transpose("method", "task").to_pandas()
error = summary["standard_error"].transpose("method", "task").to_pandas()
mean.map("{:.1f}".format) + " ± " + error.map("{:.1f}".format)

# %%
# Scores times 100, mean ± standard error over three seeds. Read the errors before the
# means. CoLA is 0.0 for everybody and MRPC the same for most: after so few steps the
# models predict one class. On RTE nobody is better than that. So only SST-2 and STS-B
# say anything about methods. A table like this without errors would let you pick
# winners from noise.
#
# Does geometry pay here?
# -----------------------
#
# The seeds are shared, so methods are compared in pairs: the difference of each seed, its
# mean, its error, and a t test. ``q_value`` is the p-value adjusted for testing many
# methods on many tasks.

tests = compare_scores(measured, reference="gelora").sel(task="average")
table = tests[["difference", "standard_error", "p_value", "q_value"]].to_dataframe()
table = table[["difference", "standard_error", "p_value", "q_value"]].drop(index="gelora")
table[["difference", "standard_error"]] *= 100
table.round(2)

# %%
# Each row is *that method minus gelora*, in points, averaged over the tasks. Where
# ``q_value`` is above 0.05 the data do not tell the two apart. With three seeds the test
# has two degrees of freedom and sees only differences of several standard errors: a large
# q-value is no proof of equality either.
#
# Cost against score
# ------------------
#
# Bars are ± one standard error. The dotted line joins the methods that no other beats in
# both.

ax = gelora.plots.plot_comparison(measured)

# %%
# No method can be told from ``gelora`` here, and geometric ranks not from uniform,
# random or reversed ones. Some other pairs lie further apart, AdaLoRA and GeoLoRA for
# one, mostly by STS-B alone; with so many pairs and three seeds that is a lead, not a
# result. To find a difference of one point you need more steps, more seeds and all
# validation rows; :doc:`/comparing` shows the study file, and the table of
# :doc:`/benchmarks/comparison` says what the whole run would take.
