"""
Large models and large data
===========================

**At the end** you know what an extraction will take before you start it, how it goes on
after it was cut off, how to keep only the layers you need, and how to load a model that
does not fit on one device.

**Time**: ten minutes to read, half a minute to run on two cores of a CPU. The model is
small here; every call is the one that you would make for a large one. The extras ``demo``,
``scale`` and ``quantized`` are needed.
"""

# %%
# What will it take?
# ------------------
#
# ``estimate_cost`` counts operations and bytes from the configuration alone: no weights are
# read, nothing is run. These are the sizes of a LLaMA of 8 billion parameters; a name on
# the hub does as well. 100,000 texts of 128 tokens:

import tempfile
import time
from pathlib import Path

import pandas as pd
from transformers import LlamaConfig

import gelora
from gelora.builtin_corpus import builtin_corpus
from gelora.cost import Rates, estimate_cost
from gelora.demo import demo_model

llama = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
)
plans = {
    "all 33 layers": estimate_cost(llama, 100_000, 128, dtype="bfloat16"),
    "layers 0, 16, 32": estimate_cost(
        llama, 100_000, 128, dtype="bfloat16", layers=[0, 16, 32]
    ),
    "10,000 texts": estimate_cost(llama, 10_000, 128, dtype="bfloat16"),
}
rates = Rates(flops=2e14, write_bytes=1e9, read_bytes=2e9, search_flops=1e13)
pd.DataFrame(
    {
        name: {
            "operations of the forward passes": f"{cost.forward_flops:.1e}",
            "on disk, GB": f"{cost.store_bytes / 1e9:.1f}",
            "in memory while extracting, GB": f"{cost.extraction_memory / 1e9:.1f}",
            "hours at the rates below": f"{cost.seconds(rates)['total'] / 3600:.2f}",
        }
        for name, cost in plans.items()
    }
)

# %%
# The rates are round numbers for one GPU: 2·10¹⁴ operations a second for the model, 10¹³
# for the neighbour search, 1 and 2 GB a second to and from disk. Put in what you measured
# on yours. The lesson is in the columns: the number of texts is what costs, and the store
# is what is large. :doc:`/benchmarks/cost_model` has measured rates of a CPU and the same
# for 70 billion parameters.
#
# Hidden states on disk
# ---------------------
#
# With ``store=`` the hidden states stream into a folder while the model runs, so memory
# does not grow with the data. Here every token is a point (``pooling="tokens"``), 3,000 of
# them.

model = demo_model()
texts = builtin_corpus(n_train=160, n_validation=0).train.texts
work = tempfile.TemporaryDirectory()
store = Path(work.name) / "activations"
options = {"pooling": "tokens", "n_tokens": 3000, "store": store, "progress": False}

began = time.perf_counter()
profile = gelora.estimate(model, texts, estimator="twonn", **options)
print(f"first call: {time.perf_counter() - began:.1f} s")

# %%
# The same call again does not run the model: it checks the checksum of everything that is
# there, and reads. Another estimator costs that estimator and its search, no more.

began = time.perf_counter()
profile = gelora.estimate(model, texts, estimator=["twonn", "mle"], **options)
print(f"second call, one estimator more: {time.perf_counter() - began:.1f} s")
profile["dimension"].to_series().unstack("estimator").round(1)

# %%
# In the picture:

ax = gelora.plots.plot_profile(profile, x="layer")

# %%
# Read such a profile with care. Exact copies are removed, and at layer 0 the same token at
# the same place is one point: the title says how many distinct points are left. Tokens of
# one text belong together, so they are fewer independent points than their number.
#
# After a crash
# -------------
#
# The points lie in windows, files of 1,024 points each (of width 384). What was written
# whole before a crash is kept, the rest is made at the next call. To see it, one window is
# damaged here:

from gelora.store import open_store

opened = open_store(store)
print(opened.n_windows, "windows")
victim = opened.files_of(1)[0]
content = bytearray(victim.read_bytes())
content[len(content) // 2] ^= 0xFF
victim.write_bytes(content)
print("damaged:", opened.damaged())

began = time.perf_counter()
again = gelora.estimate(model, texts, estimator=["twonn", "mle"], **options)
print(f"third call: {time.perf_counter() - began:.1f} s")
print("the same bits:", again["dimension"].equals(profile["dimension"]))
print("damaged:", open_store(store).damaged())

# %%
# One byte was changed; that window alone was made again, and the numbers are the same to
# the bit. After ``kill -9``, a full disk or Ctrl-C it is the same call:
# :doc:`/benchmarks/faults` has the measurements.
#
# Only the layers you need
# ------------------------
#
# ``layers=`` keeps some of them and leaves the model after the last: half of the blocks,
# half of the time.

some = gelora.estimate(model, texts, layers=[0, 1, 2, 3], progress=False)
print(dict(some.sizes), some["name"].values.tolist())

# %%
# GeLoRA's ranks need the differences of neighbouring layers, so keep these together; a plan
# needs the layers of every block that it ranks.
#
# A model that does not fit
# -------------------------
#
# ``device_map="auto"`` spreads the blocks over GPUs, memory and disk, and a mapping says
# which goes where. The numbers are those of the whole model. Here all blocks stay on disk,
# and each is read when its turn comes:

whole = gelora.estimate(model, texts, estimator="mle", progress=False)
places = {"embeddings": "cpu", "encoder": "disk", "pooler": "cpu"}
spread = gelora.estimate(model, texts, estimator="mle", device_map=places, progress=False)
print("the same bits:", spread["dimension"].equals(whole["dimension"]))
print("recorded:", spread.attrs["device_map"])

# %%
# ``quantization="nf4"`` or ``"int8"`` holds the weights in 4 or 8 bits (needs
# ``gelora[quantized]``). These are other weights, so the hidden states are others. How much
# does the profile move?

quantised = gelora.estimate(
    model, texts, quantization="nf4", device="cpu", estimator="mle", progress=False
)
pd.DataFrame(
    {
        "whole weights": whole["dimension"].values[0],
        "4 bits": quantised["dimension"].values[0],
        "standard error": whole["standard_error"].values[0],
    },
    index=whole["layer"].to_index(),
).round(2)

# %%
# Compare the difference of the columns with the standard error: that is how much
# quantisation matters beside the draw of the texts. For an honest answer on your model, do
# the same with some hundred of your texts.

work.cleanup()

# %%
# Several machines
# ----------------
#
# Started by ``torchrun`` or ``accelerate launch``, the processes divide the extraction;
# ``scheduler=`` or an active dask client divides the estimation. Both work on the same
# store:
#
# .. code-block:: console
#
#    $ gelora estimate --model DIR --data texts.parquet --text-column text \
#        --store activations --output profile.nc
#
# :doc:`/large` has the scripts for clusters, and says what is and is not equal to the bit.
