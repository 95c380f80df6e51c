"""
From a profile to a trained adapter
===================================

**At the end** you have planned ranks, trained a LoRA adapter with them in an ordinary
PyTorch loop and again in one call, saved it, and loaded it back with PEFT alone.

**Time**: ten minutes to read, a minute to run on two cores of a CPU. The training is short:
it shows the steps, not what the model can reach.
"""

# %%
# Data
# ----
#
# The built-in corpus is a labelled task: which of eight libraries does a sentence document?
# Names of libraries are masked. ``label_names`` are the classes; guessing gets one sentence
# in eight right.

import tempfile
from pathlib import Path

import gelora
from gelora.builtin_corpus import builtin_corpus, write_builtin_corpus
from gelora.demo import demo_model

model = demo_model()
corpus = builtin_corpus(n_train=320, n_validation=80)
print(corpus.label_names)
print(corpus.label_names[corpus.train.labels[0]], "←", corpus.train.texts[0])

# %%
# Profile and plan
# ----------------
#
# The texts of the profile are those that the model will be tuned on. ``mle`` is asked for,
# and rounding to the nearest integer in place of the default, up: both make ranks
# that depend less on the draw of the texts.

profile = gelora.estimate(
    model, corpus.train.texts, estimator=["twonn", "mle"], progress=False
)
paper = gelora.plan_ranks(profile, model, estimator="twonn")
steady = gelora.plan_ranks(profile, model, estimator="mle", rounding="round")
for name, plan in {"default rule": paper, "steadier": steady}.items():
    print(
        f"{name}: ranks {list(plan.block_ranks.values())}, {plan.n_parameters:,} parameters"
    )

# %%
# The two rules need not agree; :doc:`/ranks` says how far either can be trusted. From
# here on that of the default rule is used. A plan with one rank for all, at the same
# cost, is the comparison to make:

uniform = gelora.plan_ranks(None, model, "uniform", budget=paper.n_parameters)
ax = gelora.plots.plot_ranks({"geometric": paper, "uniform": uniform})

# %%
# ``budget=`` counts trained parameters and is never exceeded. What is left over by a
# uniform rank goes to blocks drawn by the seed.
#
# A plan is one JSON file. It names matrices by stack, block and role, so that it fits the
# same model under any head; for another architecture, depth or width it is refused.

work = tempfile.TemporaryDirectory()
folder = Path(work.name)
paper.save(folder / "plan.json")
plan = gelora.RankPlan.load(folder / "plan.json")
print(plan == paper)

# %%
# Adapt with PEFT
# ---------------
#
# ``check`` proves, before anything is trained, that every key of the configuration matches
# exactly one module and that PEFT adapts exactly the planned matrices with their ranks. The
# seed is set because the new head and the adapter are drawn at random.

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(model)


def new_classifier():
    """Return the encoder under a head of eight classes."""
    return AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(corpus.label_names)
    )


classifier = new_classifier()
checked = plan.check(classifier)
print(f"{len(checked.modules)} matrices checked, {checked.n_parameters:,} parameters")
adapted = get_peft_model(classifier, plan.to_lora_config("SEQ_CLS", model=classifier))

# %%
# Train
# -----
#
# Nothing here is gelora's: it is the loop you have, or a ``transformers.Trainer``. Twenty
# steps of 16 sentences.

optimizer = torch.optim.AdamW(
    (weights for weights in adapted.parameters() if weights.requires_grad), lr=5e-3
)
losses = []
adapted.train()
for step in range(20):
    rows = slice(16 * step % 320, 16 * step % 320 + 16)
    batch = tokenizer(
        corpus.train.texts[rows],
        padding=True,
        truncation=True,
        max_length=40,
        return_tensors="pt",
    )
    loss = adapted(**batch, labels=torch.tensor(corpus.train.labels[rows])).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(
    "loss of a batch:",
    " ".join(f"{value:.2f}" for value in losses[::4]),
    f"… {losses[-1]:.2f}",
)

# %%
# Guessing among eight classes costs log 8 = 2.08; what falls below has been learnt.

import matplotlib.pyplot as plt
import numpy as np

figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
axes.plot(
    range(1, 21),
    losses,
    color=gelora.plots.COLORS[0],
    marker="o",
    label="loss of the batch",
)
axes.axhline(np.log(8), color="0.5", linestyle=":", label="guessing")
axes.set(xlabel="step", ylabel="cross-entropy, nats", xticks=range(0, 21, 5))
axes.legend(frameon=False)
figure.show()

# %%
# Save, load, predict
# -------------------
#
# ``save_pretrained`` writes the adapter and the head. To load them, only PEFT is needed:
# whoever serves the model need not have gelora.

adapted.save_pretrained(folder / "adapter")
print(sorted(path.name for path in (folder / "adapter").iterdir()))
loaded = PeftModel.from_pretrained(new_classifier(), folder / "adapter").eval()
adapted.eval()
batch = tokenizer(
    corpus.validation.texts,
    padding=True,
    truncation=True,
    max_length=40,
    return_tensors="pt",
)
with torch.no_grad():
    before, after = adapted(**batch).logits, loaded(**batch).logits
accuracy = (after.argmax(-1) == torch.tensor(corpus.validation.labels)).float().mean()
print(f"accuracy on 80 held-out sentences: {accuracy:.2f}; guessing has {1 / 8:.2f}")
print(
    "largest difference of the loaded model's outputs:", (before - after).abs().max().item()
)

# %%
# Accuracy from 80 sentences has a standard error of about 0.05.
#
# The same in one call
# --------------------
#
# ``gelora.finetune`` does all of this on Hugging Face's Trainer, for eleven adapters, and
# keeps a record: loss, scores, times, the number of trained parameters, versions. A run
# that is cut off goes on when it is called again.

from gelora.finetuning.tasks import Task

write_builtin_corpus(corpus, folder / "corpus")
task = Task(name="docstrings", text=("sentence",), label="label")
record = gelora.finetune(
    model,
    task,
    plan,
    data_dir=folder / "corpus",
    output_dir=folder / "run",
    max_steps=12,
    batch_size=16,
    learning_rate=5e-3,
    max_length=40,
    progress=False,
)
print(
    f"score {float(record['score']):.2f} after {record.sizes['step']} steps",
    f"and {float(record['seconds']):.0f} s of training",
)
print(
    "trained parameters:",
    dict(
        zip(
            record["part"].values.tolist(),
            record["trainable_parameters"].values.tolist(),
            strict=True,
        )
    ),
)

# %%
# ``gelora.finetuning.loading.load_adapter`` gives back the tuned model with its tokenizer,
# whatever the adapter was:

from gelora.finetuning.loading import load_adapter

tuned, its_tokenizer = load_adapter(folder / "run" / "adapter")
with torch.no_grad():
    logits = tuned(
        **its_tokenizer([corpus.validation.texts[0]], return_tensors="pt")
    ).logits
print(
    "predicted:",
    corpus.label_names[int(logits.argmax())],
    "– true:",
    corpus.label_names[corpus.validation.labels[0]],
)
work.cleanup()

# %%
# Next: :doc:`comparing_fairly` asks whether the geometric ranks were better than others of
# the same cost, and :doc:`/adapters` describes the other adapters, GeoLoRA among them,
# whose ranks move while it trains.
