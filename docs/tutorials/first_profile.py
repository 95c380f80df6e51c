"""
A first profile, read properly
==============================

**At the end** you can say what a profile shows and what it does not: the dimension of every
layer by three estimators, its error, what else changes with depth, which layers have no
dimension, and how probable each rank is.

**Time**: ten minutes to read, a minute to run on two cores of a CPU.
"""

# %%
# Several estimators at once
# --------------------------
#
# Estimators differ in what they look at, so one alone proves little. Three are asked
# for here: ``twonn`` (two nearest neighbours), ``mle`` (the growth of 10 to 20
# neighbours' distances) and ``ph`` (how the length of the minimum spanning tree grows
# with the number of points). The model is run once, and one neighbour search serves
# ``twonn`` and ``mle``.
#
# ``n_replicates=20`` also estimates on 20 random halves of the texts. That is what the
# errors of ranks come from, below.

import warnings

import pandas as pd

import gelora
from gelora.builtin_corpus import builtin_corpus
from gelora.demo import demo_model
from gelora.evidence import rise_intervals

model = demo_model()
texts = builtin_corpus(n_train=600, n_validation=0).train.texts
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    profile = gelora.estimate(
        model, texts, estimator=["twonn", "mle", "ph"], n_replicates=20, progress=False
    )
profile["dimension"].to_series().unstack("estimator").round(1)

# %%
# The profile is an ``xarray.Dataset``, estimator by layer. Here is the same with errors, as
# intervals:

ax = gelora.plots.plot_profile(profile, x="layer")

# %%
# Bars are 95 % confidence intervals. What the estimators had to say besides was kept above
# instead of being printed:

for warning in told:
    print(warning.message)

# %%
# ``ph`` fits a line to the growth of the spanning tree and says where that line bends: its
# number moves with the number of texts there, so read it as a rough one.
#
# The curves differ in height, and in block 1 even in direction: ``twonn`` rises,
# ``mle`` and ``ph`` fall. That is the rule, not an accident: each estimator reads the
# cloud at another scale (``mle`` looks at neighbours further away than ``twonn``, and
# on texts, unlike on balls, the coarser scale may read the higher number), and with
# some hundred points all of them read low where the dimension is above 10 or 15. So
# compare layers within one estimator, at one number of points, and state both with
# every number.
#
# What else changes with depth
# ----------------------------
#
# A dimension can rise because the geometry changes, or because something simpler does. The
# covariates stand in every profile for that reason:

covariates = [
    "mean_norm",
    "mean_nearest_distance",
    "spectral_entropy",
    "participation_ratio",
    "anisotropy",
]
profile[covariates].to_dataframe()[covariates].round(2)

# %%
# * ``mean_norm``: how long the vectors are;
# * ``mean_nearest_distance``: how far the nearest other point is, on average;
# * ``spectral_entropy`` and ``participation_ratio``: over how many principal axes the
#   variance is spread. The second is a count of axes, a linear dimension, and much larger
#   than the intrinsic one where a curved cloud winds through many axes;
# * ``anisotropy``: the share of the variance on the first principal axis, 1 where all of it
#   lies on one line.
#
# If a covariate rises exactly where the dimension does, the rise may be its doing;
# :doc:`/concepts` tell of the dispute.
#
# Rises and ranks, with errors
# ----------------------------
#
# A rank is made from the *rise* over a block, :math:`d_i - d_{i-1}`. Both layers saw the
# same texts, so part of their errors cancels, and the error of a rise is taken from the
# halves, where the same rows stand in both layers:

rises = rise_intervals(profile, "twonn")
rises[["rise", "standard_error", "ci_low", "ci_high"]].to_dataframe()[
    ["rise", "standard_error", "ci_low", "ci_high"]
].round(2)

# %%
# Where an interval holds 0, the data do not say whether the dimension rises. The plan turns
# these errors into probabilities. It warns where another draw of as many texts would likely
# give other ranks; the warning is kept here to show it:

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    plan = gelora.plan_ranks(profile, model, estimator="twonn")
for warning in told:
    print("warned:", warning.message)
print(f"stability of the whole plan: {plan.stability:.2f}")

# %%
# ``stability`` is the probability that another draw of as many texts gives the same plan.
# By block (the four matrices of a block share their rank, so one of them stands for all):

first = [position for position, module in enumerate(plan.modules) if module.role == "query"]
pd.DataFrame(
    plan.probabilities.values[first].round(2),
    index=[
        f"block {plan.modules[position].block}: rank {plan.modules[position].rank}"
        for position in first
    ],
    columns=[f"P(rank {rank})" for rank in plan.probabilities["rank"].values],
)

# %%
# A plan whose rows are spread over several ranks is mostly noise at this number of texts.
# What helps, in this order: more texts (``n_samples="auto"`` draws until the plan is
# stable), estimators that look at more neighbours, and rounding to the nearest integer;
# :doc:`/ranks` has the measurements.
#
# A layer without a dimension
# ---------------------------
#
# ``pooling="cls"`` takes the vector of the first token alone. Before the first block this
# is the same vector for every text: one point, which has no dimension. The profile says so
# instead of making a number up.

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the warning says what is shown next
    by_cls = gelora.estimate(model, texts[:150], pooling="cls", progress=False)
print(by_cls["dimension"].sel(estimator="twonn").values.round(1))
print(by_cls["undefined"].sel(estimator="twonn").values[0])

# %%
# Keep it
# -------
#
# A profile is one small netCDF file. It carries where it comes from: model, texts, pooling,
# seed, versions and the options of every estimator. The file is enough to draw figures and
# plan ranks on a machine without a GPU.

import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    file = gelora.save_profile(profile, Path(folder) / "profile.nc")
    print(f"{file.stat().st_size / 1000:.0f} kB")
    again = gelora.open_profile(file)
print(
    {
        name: again.attrs[name]
        for name in ("model_class", "pooling", "n_texts", "text_copies_removed", "seed")
    }
)

# %%
# Point clouds of your own
# ------------------------
#
# Hidden states need not come from gelora: one array of shape (points, width) a layer is
# enough. Two clouds of known dimension show that the estimator finds it:

import numpy as np

rng = np.random.default_rng(0)
clouds = {
    "three directions": rng.normal(size=(1000, 3)),
    "nine directions": rng.normal(size=(1000, 9)),
}
own = gelora.estimate_representations(clouds, estimator="mle", progress=False)
for name, value in zip(clouds, own["dimension"].values[0], strict=True):
    print(f"{name}: {value:.1f}")

# %%
# Cite what you used
# ------------------
#
# ``gelora.citation`` gives the BibTeX entries of the methods behind a profile.

print(gelora.citation(again)[:320], "…")
