"""
Your own estimator in 30 lines
==============================

**At the end** you have an estimator of your own that keeps gelora's contract, stands in a
profile beside the built-in ones, and can be called by name from the command line.

**Time**: ten minutes to read, half a minute to run on two cores of a CPU.
"""

# %%
# An estimator is a callable
# --------------------------
#
# It is called with points of shape (n, d) and a random generator, and returns a
# ``DimensionEstimate``. That is the whole interface. The example rests on one thought: in
# *d* dimensions the number of points within a distance *r* grows as :math:`r^d`. So compare
# how far the *k*-th and the *2k*-th neighbour are:
#
# .. math::
#
#    d = \frac{\frac{1}{k} + \frac{1}{k+1} + \cdots + \frac{1}{2k-1}}
#        {\text{mean of } \log(r_{2k} / r_k)}
#
# The numerator is what the logarithm is on average in one dimension.

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gelora
from gelora_estimators import (
    DegenerateCloudError,
    DimensionEstimate,
    check_estimator,
    nearest_distances,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubling:
    """How the distance grows from the k-th to the 2k-th neighbour.

    Parameters
    ----------
    start : int
        The k: neighbours up to the first of the two distances, at least 1.
    """

    start: int = 8

    def __post_init__(self):
        if self.start < 1:
            raise ValueError(f"`start` must be at least 1, got {self.start}: give more")

    def __call__(self, points, *, rng):
        # Checks the points, removes copies, searches exactly.
        found = nearest_distances(points, 2 * self.start)
        growth = np.log(found.distances[:, -1] / found.distances[:, self.start - 1])
        if growth.mean() < 1e-9:  # all neighbours equally far, up to rounding
            raise DegenerateCloudError(
                f"the dimension is undefined: {len(growth)} points, neighbours equally far"
            )
        expected = sum(1 / j for j in range(self.start, 2 * self.start))
        return DimensionEstimate(
            dimension=float(expected / growth.mean()), n_points=len(growth)
        )


# %%
# What makes it a good citizen:
#
# * **A frozen dataclass**: options are fixed when it is made, and checked there. Nothing is
#   remembered between calls.
# * **All randomness from** ``rng``. This one needs none: it takes the argument and leaves
#   it.
# * ``nearest_distances`` does the chores: it takes NumPy arrays, torch tensors and lists,
#   refuses NaN, removes exact copies, and finds neighbours exactly also for clouds far from
#   the origin, where hidden states lie.
# * **An undefined dimension is an error, not a number**: ``DegenerateCloudError``. A
#   profile then records the reason for that layer and goes on.
#
# Does it keep the contract?
# --------------------------
#
# ``check_estimator`` tries it on clouds of known dimension: the right number up to a factor
# of 1.4; the same number for shuffled, shifted, rotated and rescaled points, for copies,
# for float32 and for lists; an error for clouds without a dimension; no trace left in the
# input or in global state. It says nothing when all is well.

check_estimator(Doubling())

# %%
# When something is wrong, it names the check and what it saw. The same formula on distances
# computed without these checks is refused, because it answers NaN where it should raise:

from scipy.spatial.distance import cdist

from gelora_estimators import EstimatorContractError


def naive(points, *, rng):
    """Return the same formula of distances taken without care."""
    distances = np.sort(cdist(points, points), axis=1)[:, 1:17]
    growth = np.log(distances[:, 15] / distances[:, 7])
    return DimensionEstimate(
        dimension=float(sum(1 / j for j in range(8, 16)) / growth.mean()),
        n_points=len(growth),
    )


try:
    check_estimator(naive)
except EstimatorContractError as error:
    print(error)

# %%
# On clouds of known dimension
# ----------------------------

from gelora_estimators.clouds import ball

rng = np.random.default_rng(0)
truths = [2, 5, 10, 20]
pd.DataFrame(
    {
        str(truth): [
            Doubling(start=k)(ball(1000, truth, 50, rng), rng=rng).dimension
            for k in (2, 8, 32)
        ]
        for truth in truths
    },
    index=["start=2", "start=8", "start=32"],
).rename_axis(columns="true dimension").round(1)

# %%
# Right for low dimensions, low for high ones, and lower the further out it looks: as all
# estimators of this kind (:doc:`choosing_an_estimator` shows the built-in ones).
#
# In a profile
# ------------
#
# A callable is handed over as it is, beside names; a mapping gives it the name it has in
# the profile.

from gelora.builtin_corpus import builtin_corpus
from gelora.demo import demo_model

texts = builtin_corpus(n_train=250, n_validation=0).train.texts
profile = gelora.estimate(
    demo_model(),
    texts,
    estimator={"doubling": Doubling(), "twonn": "twonn"},
    progress=False,
)
profile["dimension"].to_series().unstack("estimator").round(1)

# %%
# In the picture it has no bars:

ax = gelora.plots.plot_profile(profile, x="layer")

# %%
# It carries no error of its own, so none is made up: ``standard_error`` is NaN. With
# ``n_replicates=`` the spread over halves of the texts gives its ranks an error all the
# same.
#
# By name, for everybody
# ----------------------
#
# gelora's own estimators are known by name through an entry point of Python packaging, and
# yours can be as well. Put the class into a package, here ``my_estimators``, with these
# lines in its ``pyproject.toml``:
#
# .. code-block:: toml
#
#    [project]
#    name = "my-estimators"
#    version = "0.1.0"
#    dependencies = ["gelora", "numpy"]
#
#    [project.entry-points."gelora.estimators"]
#    doubling = "my_estimators:Doubling"
#
# After ``pip install -e .`` the name is there, with options, in Python and on the command
# line:
#
# .. code-block:: console
#
#    $ gelora estimate --model DIR --data texts.txt \
#        --estimator 'doubling(start=4)' --output profile.nc
#
# Names are listed without importing your code, and your code need import neither torch nor
# transformers (pip installs both with gelora). The names of this installation:

print(
    len(gelora.available_estimators()),
    "names, among them",
    gelora.available_estimators()[:6],
)

# %%
# To share one neighbour search with the other estimators of a profile, offer
# ``from_distances``; :doc:`/howto` has a complete package with a test, and the list of what
# an estimator may offer.
