"""AdaLoRA and GeoLoRA at higher and higher learning rates: who still learns.

Usage: python paper_figures/geolora_2_learning_rates.py [--rates file] [--output folder]

The paper (arXiv 2410.18720) claims that GeoLoRA trains where AdaLoRA diverges. The committed runs, short ones on a
small model, do not show that: at 0.01 and 0.03 AdaLoRA learns and GeoLoRA does not.
"""

import json
import math

import numpy as np
from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora.palette import COLORS, MARKERS

NAMES = {"adalora": "AdaLoRA", "geolora": "GeoLoRA"}
CHANCE = math.log(2)  # loss of even odds on two classes


def draw_series(axes, rows, value):
    """Draw each seed's run, hollow where it predicts one class, and the mean over them; count runs that broke off."""
    rates = sorted({row["learning_rate"] for row in rows})
    for index, (adapter, name) in enumerate(NAMES.items()):
        color, marker, shift = COLORS[index], MARKERS[index], (0.95, 1.05)[index]
        means = []
        for rate in rates:
            runs = [row for row in rows if (row["adapter"], row["learning_rate"]) == (adapter, rate)]
            ended = [row for row in runs if "failed" not in row]
            means.append(np.mean([value(row) for row in ended]) if ended else np.nan)
            for row in ended:
                face = "white" if row["one_class"] else color
                axes.plot(rate * shift, value(row), marker, color=color, markerfacecolor=face, zorder=3)
            if len(ended) < len(runs):
                text = f"{len(runs) - len(ended)} broke off"
                axes.text(rate, 0.02 + 0.07 * index, text, color=color, transform=axes.get_xaxis_transform())
        style = ("--", "-")[index]
        axes.plot(np.array(rates) * shift, means, color=color, linestyle=style)
        axes.plot([], [], color=color, linestyle=style, marker=marker, label=f"{name}: seeds and their mean")
    axes.set(xscale="log", xlabel="learning rate (log)")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()


def main():
    """Draw accuracy and loss on the validation rows."""
    arguments = read_arguments(__doc__, rates=INPUTS / "learning_rates.json")
    found = json.loads(arguments.rates.read_text(encoding="utf-8"))
    rows, setting = found["rows"], found["setting"]
    seeds = len({row["seed"] for row in rows})
    failed = sum("failed" in row for row in rows)
    origin = (
        f"all-MiniLM-L6-v2, not the papers' DeBERTaV3-base; SST-2, {setting['steps']} steps of {setting['batch_size']} "
        f"rows, from rank {setting['rank']}, {setting['n_validation']} validation rows drawn by each of "
        f"{seeds} seeds: a marker is hollow where all rows are given one class; dotted: chance. "
        f"{failed} of {len(rows)} runs broke off with a loss that is not finite. {found['origin']['date']}."
    )
    with new_figure(arguments.output, "geolora-2-learning-rates", size=(PAGE, 2.7), made_from=origin) as figure:
        accuracy, loss = figure.subplots(1, 2)
        draw_series(accuracy, rows, lambda row: 100 * row["score"])
        accuracy.axhline(50, color="0.5", linewidth=0.8, linestyle=":")
        accuracy.set(ylabel="accuracy, %", ylim=(0, 100))
        draw_series(loss, rows, lambda row: row["cross_entropy"])
        loss.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=":")
        loss.set(ylabel="validation loss", ylim=(0, 1.05 * loss.get_ylim()[1]))
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=2)


if __name__ == "__main__":
    main()
