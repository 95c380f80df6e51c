"""
Choosing an estimator
=====================

**At the end** you know which estimators there are, how each behaves on clouds whose
dimension is known, and which one to take for what: before you ask a model, where nobody
knows the answer.

**Time**: ten minutes to read, half a minute to run. No model is needed.
"""

# %%
# What there is
# -------------
#
# Names are listed without importing anything. Options stand in parentheses after a name, as
# in ``"mle(k1=5, k2=10)"``, or are given to ``make_estimator``. A mistyped name or option
# is answered with the nearest match.

import time

import numpy as np
import pandas as pd

import gelora
from gelora_estimators.clouds import ball, sphere, swiss_roll

names = gelora.available_estimators()
print([name for name in names if ":" not in name])
print([name for name in names if ":" in name])

# %%
# On clouds of known dimension
# ----------------------------
#
# 1,000 points each, in 100 coordinates, uniform in a ball of dimension 2, 5, 10, 20 and 40.
# Each estimator gets the same clouds.

choices = ["twonn", "mle", "gride(n1=8, n2=16)", "ph", "corrint"]
estimators = {name: gelora.make_estimator(name) for name in choices}
rng = np.random.default_rng(0)
truths = [2, 5, 10, 20, 40]
balls = [ball(1000, dimension, 100, rng) for dimension in truths]
rows, seconds = {}, {}
for name, estimator in estimators.items():
    began = time.perf_counter()
    rows[name] = [
        estimator(cloud, rng=np.random.default_rng(0)).dimension for cloud in balls
    ]
    seconds[name] = time.perf_counter() - began
pd.DataFrame(rows, index=pd.Index(truths, name="true dimension")).T.round(1)

# %%
# At 2 they agree with the truth. At 5 they read 6 to 12 % low, at 10 12 to 19 %, above
# that far more, and the more neighbours they look at, mostly the lower: 1,000 points in
# 20 dimensions are so sparse that the nearest ones are not near, and most of them lie
# at the edge of the ball. This is no fault of one estimator, it is what that many
# points can show. **A dimension of 15 from 1,000 points may be 20 in truth**;
# differences between layers shrink with it.

import matplotlib.pyplot as plt

from gelora.plots import COLORS, MARKERS

figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
axes.plot([2, 40], [2, 40], color="0.6", linestyle=":", label="truth")
for place, (name, values) in enumerate(rows.items()):
    axes.plot(truths, values, color=COLORS[place], marker=MARKERS[place], label=name)
axes.set(
    xscale="log", yscale="log", xlabel="true dimension", ylabel="estimate from 1,000 points"
)
axes.set_xticks(truths, truths)
axes.set_yticks(truths, truths)
axes.minorticks_off()
axes.legend(frameon=False)
figure.show()

# %%
# How noisy each is
# -----------------
#
# Ten other draws of the ball of dimension 10: mean, and spread from draw to draw. The
# spread is what the error of a rank comes from.

draws = [ball(1000, 10, 100, rng) for _ in range(10)]
found = {
    name: [estimator(cloud, rng=np.random.default_rng(0)).dimension for cloud in draws]
    for name, estimator in estimators.items()
}
pd.DataFrame(
    {
        "mean of 10 draws": {name: np.mean(values) for name, values in found.items()},
        "standard deviation": {
            name: np.std(values, ddof=1) for name, values in found.items()
        },
        "seconds": seconds,
    }
).round(2)

# %%
# ``twonn`` uses two neighbours of each point and is the noisiest; ``mle`` averages over k =
# 10 … 20 and is several times quieter, at the price of looking further out, where curvature
# and edges show. ``seconds`` are those of all five clouds of the first table, on the
# machine that built this page.
#
# Scale
# -----
#
# A dimension belongs to a scale. This sheet has dimension 2, rolled up in 3 coordinates,
# with a little noise of 20 dimensions on top: close up one sees the noise, further out the
# sheet. ``gride`` with ``scan_to`` reads one cloud at several numbers of neighbours.

sheet = swiss_roll(2000, 2, 50, rng) + 0.015 * sphere(2000, 20, 50, rng)
scan = gelora.make_estimator("gride(scan_to=128)")(sheet, rng=np.random.default_rng(0))
pd.DataFrame(
    {"neighbours": scan.scales, "dimension": scan.dimension_by_scale.round(2)},
).set_index("neighbours").T

# %%
# The number to report is that of a plateau, where the dimension does not move with the
# scale. Without a plateau, say at which scale the number was read. ``gelora.plots`` and
# ``plan.ranks_by_scale`` show the same for profiles and ranks.
#
# Copies and far-off clouds
# -------------------------
#
# Two things in hidden states ruin a careless estimator: texts that occur twice (distance
# zero), and clouds that lie far from the origin (lost digits). Copies are removed and
# counted, distances are exact on the stored numbers:

clean = ball(1000, 5, 50, rng).astype(np.float32)
copies = np.concatenate([clean, clean[:100]])
shifted = clean.copy()
shifted[:, :2] += np.float32(3000.0)
for name in ("twonn", "mle"):
    values = [
        estimators[name](cloud, rng=np.random.default_rng(0)).dimension
        for cloud in (clean, copies)
    ]
    print(f"{name}: clean {values[0]:.2f}, with 100 copies {values[1]:.2f}")
far_off = estimators["twonn"](shifted, rng=np.random.default_rng(0))
print(f"twonn, shifted by 3000 in float32: {far_off.dimension:.2f}")

# %%
# The copies change nothing. The shift costs float32 its last digits before any estimator
# sees the points, and the number moves by no more than that.
#
# Errors and intervals
# --------------------
#
# What an estimator returns besides the dimension: a standard error, a 95 % interval, the
# number of distinct points, and diagnostics of its own.

estimate = estimators["mle"](balls[1], rng=np.random.default_rng(0))
print(f"{estimate.dimension:.2f} ± {estimate.standard_error:.2f}")
print("interval:", np.round(estimate.interval, 2))
print(sorted(estimate.diagnostics))

# %%
# The interval holds noise, not bias: the truth here is 5, and the interval ends below it.
# ``gelora_estimators.calibrated`` wraps any estimator and corrects the bias by simulating
# clouds of known dimension; it takes some seconds to minutes, and :doc:`/concepts` say what
# it assumes.
#
# Which one, then?
# ----------------
#
# .. list-table::
#    :header-rows: 1
#    :widths: 45 55
#
#    * - you want
#      - take
#    * - the paper's numbers, GeLoRA as published
#      - ``twonn``
#    * - ranks that move less with the draw of texts, block by block
#      - ``mle``; with their number, ``minibatch:mle(batch_size=1000)``. Both with
#        ``rounding="round"``
#    * - to see at which scale a number holds
#      - ``gride(scan_to=64)``
#    * - a check that shares nothing with neighbour ratios
#      - ``ph``, which measures the minimum spanning tree
#    * - the dimension of one text, or around one point
#      - ``local:mle`` and the others of that family
#    * - to compare with another paper's estimator
#      - ``skdim:…``, scikit-dimension's
#
# Whatever you take, ask for two. Where they disagree about a rise, the rise is not
# established. :doc:`/reference` lists every option and :doc:`/validation` what was
# measured.
