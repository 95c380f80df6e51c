"""Write the page ``docs/benchmarks/adapters.md`` from the numbers in ``adapters.json`` beside it."""

# ruff: noqa: E501 (the sentences of the page)

import argparse
import json
from pathlib import Path
from typing import Any

from gelora.files import atomic_path

# What was asked of the step times, and of whom.
LIMITS = {"sora": 1.1, "geolora": 1.5, "geolora, truncated at once": 1.5, "adalora": None, "runner": 1.03}
NAMES = {"runner": "our runner, against plain Trainer and peft"}


def machine(part: dict[str, Any]) -> str:
    """Say where and with what a part was measured."""
    found = part["machine"]
    wanted = ("gelora", "torch", "transformers", "peft")
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in wanted if name in found["versions"])
    return (
        f"{found['cores']} cores, {found['threads']} thread(s), Python {found['python']}, {versions}; {found['date']}."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def steps(part: dict[str, Any]) -> str:
    """Write the section on step times."""
    rows = []
    for label, limit in LIMITS.items():
        one = part[label]
        rows.append(
            [
                NAMES.get(label, f"`{label}`" if "," not in label else label),
                f"{1000 * one['seconds']:.0f} ms",
                f"{1000 * one['seconds_base']:.0f} ms",
                f"{one['ratio']:.3f}",
                f"{one['ratio_low']:.2f} – {one['ratio_high']:.2f}",
                "for the record" if limit is None else f"≤ {limit}",
            ]
        )
    return "\n\n".join(
        [
            "## Time of a step",
            f"MiniLM, attention matrices, rank {part['rank']}, batches of {part['batch_size']} sentences of SST-2. Blocks of "
            f"{part['steps_a_block']} steps of the adapter and of plain LoRA take turns in one process; the ratio is the "
            f"median over {part['pairs']} pairs of blocks, the range that of all pairs. GeoLoRA keeps as many singular values "
            "as LoRA has ranks, and tries as many more; each block holds one move of its bases. The runner is timed over "
            f"{part['runner']['pairs']} pairs of whole trainings of {part['runner']['steps']} steps.",
            table(["", "step", "plain", "ratio", "range", "asked"], rows),
            machine(part),
        ]
    )


def scores(part: dict[str, Any]) -> str:
    """Write the table of all adapters."""
    rows = [
        [
            label,
            f"{one['learning_rate']:g}",
            f"{100 * one['score']:.1f}",
            f"{one['parameters'][0]:,}",
            "" if one["mean_rank"] is None else f"{one['mean_rank']:.1f}",
            f"{1000 * one['seconds_per_step']:.0f} ms",
            f"{one['peak_memory'] / 2**20:,.0f} MiB",
            f"{one['largest_difference']:.0e}",
            "yes" if one["same_predictions"] else "**no**",
        ]
        for label, one in part["rows"].items()
    ]
    ranks = ", ".join(map(str, part["geometric_ranks"]))
    return "\n\n".join(
        [
            "## Every adapter on the same sentences",
            f"{part['n_train']:,} sentences of SST-2, {part['epochs']:g} epochs, batch 32, one seed, MiniLM; accuracy on the "
            "validation rows. Uniform plans have rank 8; the geometric one, from TwoNN on as many sentences, has the ranks "
            f"{ranks} by block. Parameters are those of the adapter as saved, without the head; the rank is the mean over the "
            "matrices at the end. Peak memory is the resident set of the process, libraries and data included. The last two "
            "columns load the saved folder again: largest difference of a logit, and whether all predictions are the same. "
            "Learning rates are usual ones, those of AdaLoRA and GeoLoRA from the section on rates: the table shows that each adapter works and what it costs, not which is "
            "best.",
            table(
                [
                    "adapter",
                    "rate",
                    "accuracy",
                    "parameters",
                    "rank",
                    "step",
                    "peak memory",
                    "difference",
                    "same predictions",
                ],
                rows,
            ),
            machine(part),
        ]
    )


def rates(part: dict[str, Any]) -> str:
    """Write the section on learning rates."""
    adapters = list(dict.fromkeys(row["adapter"] for row in part["rows"]))
    found = {(row["adapter"], row["learning_rate"]): row for row in part["rows"]}
    values = list(dict.fromkeys(row["learning_rate"] for row in part["rows"]))

    def cell(adapter: str, rate: float) -> str:
        row = found[adapter, rate]
        return "not finite" if "failed" in row else f"{100 * row['score']:.1f} ({row['loss']:.2f})"

    rows = [[f"`{adapter}`", *(cell(adapter, rate) for rate in values)] for adapter in adapters]
    return "\n\n".join(
        [
            "## High learning rates",
            f"Accuracy (mean training loss of the last 20 steps) on SST-2 after {part['steps']} steps at each learning rate, "
            "rank 8; a loss of 0.69 and an accuracy of 50.9 are those of a constant.",
            table(["", *(f"{rate:g}" for rate in values)], rows),
            machine(part),
        ]
    )


def ranks(part: dict[str, Any]) -> str:
    """Write the section on ranks that move."""
    means = [one["mean_rank"] for one in part["rows"].values()]
    smallest, largest = min(means), max(means)
    rows = [
        [
            name,
            f"{one['mean_rank']:.2f}",
            f"{one['smallest']} – {one['largest']}",
            f"{one['loss']:.3f}",
            f"{100 * one['score']:.1f}",
        ]
        for name, one in part["rows"].items()
    ]
    return "\n\n".join(
        [
            "## GeoLoRA's ranks from three starting ranks",
            f"CoLA, {part['steps']} steps of 16 sentences, τ = {part['tolerance']:g}, learning rate "
            f"{part['learning_rate']:g}. Line: mean rank over the 24 matrices; band: the middle half of them. Drawn by "
            "`gelora.plots.plot_rank_history` from `geolora_ranks.nc`. A Matthews correlation of 0 is that of a constant: "
            "where it stands the run was too short to learn the task, and the figure is about the ranks alone. The largest "
            f"mean rank at the end is {largest / smallest:.1f} times the smallest.",
            "![Mean rank over the steps from the starting ranks 2, 8 and 24](geolora_ranks.png)",
            table(["", "mean rank at the end", "smallest – largest", "loss, last 50 steps", "Matthews × 100"], rows),
            machine(part),
        ]
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    folder = parser.parse_args().output
    results = json.loads((folder / "adapters.json").read_text(encoding="utf-8"))
    sections = {"steps": steps, "table": scores, "rates": rates, "ranks": ranks}
    parts = [write(results[name]) for name, write in sections.items() if name in results]
    head = (
        "# Adapters, measured\n\nWritten by `make bench-adapters DATA=FOLDER`, with a folder of GLUE files. What each "
        "adapter is: [Adapters](../adapters.md). Other work ran on the second core: times are indicative, ratios are of runs "
        "that took turns. GeoLoRA's room for directions on trial was widened since: its rows are from before."
    )
    with atomic_path(folder / "adapters.md") as temporary:
        temporary.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
