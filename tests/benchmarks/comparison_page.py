"""Write the page ``docs/benchmarks/comparison.md`` from the comparisons and profiles that were measured."""

# ruff: noqa: E501 (the sentences of the page)

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gelora.files import atomic_path
from gelora.profile import open_profile
from gelora.scores import AVERAGE, compare_scores, open_comparison, summarise_scores, total_seconds
from gelora.study.tables import SIGNIFICANT, to_markdown

RIVALS = ("lora", "random", "reversed")
# Rows of the complete train sets, for what a whole run would take.
TRAIN_ROWS = {"cola": 8551, "sst2": 67349, "stsb": 5749, "mrpc": 3668, "rte": 2490}
EPOCHS, SEEDS = 3, 5
# What predictions of one class, or one number, score by the labels of the validation sets.
ONE_CLASS = {
    "cola": [0.0],
    "sst2": [444 / 872, 428 / 872],
    "stsb": [0.0],
    "mrpc": [(279 / 408 + 2 * 279 / (408 + 279)) / 2],
    "rte": [146 / 277, 131 / 277],
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def number(value: float, error: float, p: float = float("nan")) -> str:
    """Return a difference of scores times 100 with its error; a star where it exceeds its noise."""
    if np.isnan(value):
        return "–"
    star = "*" if p < SIGNIFICANT else ""
    return f"{100 * value:+.1f} ± {100 * error:.1f}{star}"


def head(comparison: xr.Dataset) -> str:
    """Say what was compared, where and with what."""
    study = json.loads(comparison.attrs["study"])
    training, search = study["training"], study["search"]
    versions = json.loads(comparison.attrs["versions"])
    wanted = ", ".join(
        f"{name} {versions[name]}" for name in ("gelora", "torch", "transformers", "peft") if name in versions
    )
    status = comparison["status"].values
    return "\n\n".join(
        [
            "# Comparison of methods",
            f"all-MiniLM-L6-v2 (6 blocks of width 384), {len(study['tasks'])} GLUE tasks, {len(study['methods'])} methods, "
            f"{len(study['seeds'])} seeds; {_steps(study)} steps of {training['batch_size']} rows of at most "
            f"{training['max_length']} tokens, scored on the complete validation sets. Train rows are drawn from the complete "
            "train sets, of SST-2 from 10,000 of its 67,349 rows. The learning rate of each method and "
            f"task is the best of three on {search['holdout']:.0%} of the train rows, held out, after {search['training']['max_steps']} "
            "steps on the others. LoRA-like methods have as many parameters as the geometric plan of the task (TwoNN, rounded "
            "up), but for `lora-r8`, and SoRA and GeoLoRA, which start from rank 8.",
            f"This is far less training than in any paper: the scores say how methods compare early on. "
            f"{int((status == 'finished').sum())} of {status.size} runs have ended, {int((status == 'failed').sum())} of them failed.",
            "Made by `make bench-comparison DATA=FOLDER` from [study.yaml](comparison/study.yaml) into "
            f"`docs/benchmarks/comparison/comparison.nc`; 2 cores of a shared machine without a GPU, one thread, other work "
            f"beside it: times are indicative. {wanted}; {comparison.attrs['created'][:10]}.",
        ]
    )


def _steps(study: dict[str, Any]) -> str:
    return ", ".join(
        f"{({**study['training'], **task['training']})['max_steps']} ({task['name']})" for task in study["tasks"]
    )


def evidence(comparison: xr.Dataset) -> str:
    """Say whether the geometric ranks beat uniform, random and reversed ones at the same budget."""
    parts = ["## Does geometry pay?"]
    names = [str(method) for method in comparison["method"].values]
    for own in ("gelora", "gelora-recommended"):
        rows = []
        for rival in RIVALS:
            if own not in names or rival not in names:
                continue
            tests = compare_scores(comparison, rival).sel({"method": own})
            cells = [
                number(float(one["difference"]), float(one["standard_error"]), float(one["p_value"]))
                for one in (tests.sel(task=task) for task in tests["task"].values)
            ]
            rows.append([f"{own} − {rival}", *cells])
        parts.append(table(["difference, points", *[str(task) for task in comparison["task"].values], AVERAGE], rows))
    parts.append(untaught(comparison))
    parts.append(
        "Differences paired by seed ± standard error over the seeds; * p < 0.05 by a paired t test with two degrees of "
        f"freedom, not adjusted for the number of tests. {_verdict(comparison, names)}"
    )
    return "\n\n".join(part for part in parts if part)


def untaught(comparison: xr.Dataset) -> str:
    """Say how many runs predict one class for all rows, and on which tasks nobody does better."""
    parts, silent = [], []
    summary = summarise_scores(comparison)
    for task in (str(name) for name in comparison["task"].values):
        own = summary.sel({"task": task})
        known = ONE_CLASS[task]
        better = (own["mean"] - 2.0 * own["standard_error"] > max(known) + 1e-6).values
        beyond = [str(method) for method, yes in zip(own["method"].values, better, strict=True) if yes]
        scores = comparison["score"].sel({"task": task}).values.ravel()
        n_alike = int(np.isclose(scores[:, None], known, atol=1e-6, rtol=0).any(axis=1).sum())
        if n_alike and task != "stsb":
            parts.append(f"{task} {n_alike} of {len(scores)}")
        if len(beyond) <= 1:
            silent.append(f"{task} ({100 * max(known):.1f})" + (f" but for `{beyond[0]}`" if beyond else ""))
    text = f"Runs that predict one class for every row: {', '.join(parts) or 'none'}."
    if silent:
        text += (
            f" On {', '.join(silent)} no method is better by two standard errors than such a prediction: they have not begun "
            "to learn there, and nothing can be said of their ranks."
        )
    return text


def _verdict(comparison: xr.Dataset, names: list[str]) -> str:
    sentences = []
    for rival in RIVALS:
        if rival not in names or "gelora" not in names:
            continue
        tests = compare_scores(comparison, rival).sel({"method": "gelora"})
        beyond = [
            f"{task} ({100 * float(tests['difference'].sel(task=task)):+.1f})"
            for task in comparison["task"].values
            if float(tests["p_value"].sel(task=task)) < SIGNIFICANT
        ]
        adjusted = [str(t) for t in comparison["task"].values if float(tests["q_value"].sel(task=t)) < SIGNIFICANT]
        mean = tests.sel(task=AVERAGE)
        text = f"Against {'uniform' if rival == 'lora' else rival} ranks at the same budget the geometric ones differ by {100 * float(mean['difference']):+.2f} ± {100 * float(mean['standard_error']):.2f} points on average (p = {float(mean['p_value']):.2f}); "
        text += (
            f"beyond the noise of the seeds on {', '.join(beyond)}"
            if beyond
            else "on no task beyond the noise of the seeds"
        )
        text += f", after adjusting for all tests on {', '.join(adjusted) or 'none'}." if beyond else "."
        sentences.append(text)
    return " ".join(sentences)


def ranks(comparison: xr.Dataset) -> str:
    """Show the ranks of the plans by block, and where two of them are the same."""
    shown = [
        m for m in ("lora", "gelora", "reversed", "gelora-recommended", "random") if m in comparison["method"].values
    ]
    names = [str(name) for name in comparison["module"].values]
    blocks = [int(re.findall(r"\.(\d+)\.", name)[0]) for name in names]
    rows, same = [], []
    for task in comparison["task"].values:
        plans = {}
        for method in shown:
            seeds = comparison["rank"].sel({"task": task, "method": method})
            by_seed = []
            for seed in seeds["seed"].values:
                values = seeds.sel(seed=seed).values
                found = [sorted({int(v) for v, b in zip(values, blocks, strict=True) if b == block and v == v and v > 0})
                         for block in sorted(set(blocks))]  # fmt: skip
                by_seed.append(
                    " ".join("–".join(map(str, (one[0], one[-1])[: len(one)])) if one else "0" for one in found)
                )
            plans[method] = "; ".join(dict.fromkeys(by_seed))
        rows.append([str(task), *plans.values()])
        twins = [m for m in shown if m != "gelora" and "gelora" in plans and plans[m] == plans["gelora"]]
        same += [f"on {task} those of {' and '.join(twins)}"] if twins else []
    text = "Blocks from the first to the last; all matrices of a block share its rank where one number stands; of `random` the plans of the seeds."
    if same:
        text += f" The geometric ranks equal {'; '.join(same)}: there a difference of scores says nothing."
    return "\n\n".join(["## Ranks", table(["task", *(f"`{m}`" for m in shown)], rows), text])


def costs(comparison: xr.Dataset) -> str:
    """Show what each method cost, and the learning rates that were chosen."""
    rows = []
    step = comparison["step_seconds"].mean("seed")
    base = step.sel({"method": "lora"}, drop=True)
    ratio = (step / base).mean("task")
    for method in comparison["method"].values:
        own = comparison.sel({"method": method})
        rates = []
        for task in comparison["task"].values:
            options = json.loads(str(own["options"].sel(task=task).values[0]))
            rates.append(f"{options['learning_rate']:g}" if "learning_rate" in options else "–")
        rows.append(
            [
                f"`{method}`",
                f"{float(own['trainable_parameters'].mean()):,.0f}",
                f"{float(own['estimation_seconds'].mean()):.0f}",
                f"{float(own['training_seconds'].mean()):.0f}",
                f"{float(ratio.sel({'method': method})):.2f}",
                f"{float(own['peak_memory'].mean()) / 2**20:,.0f}",
                ", ".join(rates),
            ]
        )
    columns = [
        "",
        "parameters",
        "estimation, s",
        "training, s",
        "step, against lora",
        "peak MiB",
        f"rates ({', '.join(map(str, comparison['task'].values))})",
    ]
    return "\n\n".join(
        [
            "## Costs",
            table(columns, rows),
            f"{_savings(comparison)} Means over tasks and seeds. Estimation: hidden states of up to 5,000 rows and the estimator, once a "
            "task, the gradients of `fisher`, or the pass of `eva` over train rows. Steps were timed while other work ran; the [page on adapters](adapters.md) has ratios of "
            "runs that took turns. Peak: resident set of the process.",
        ]
    )


def _savings(comparison: xr.Dataset) -> str:
    """Say how much less time geometric ranks took than the adaptive methods."""
    mean = comparison[["training_seconds", "estimation_seconds"]].mean(("task", "seed"))
    own = mean.sel({"method": "gelora"})
    saved = {
        rival: 1.0 - float(own["training_seconds"]) / float(mean["training_seconds"].sel({"method": rival}))
        for rival in ("adalora", "sora", "geolora")
        if rival in mean["method"].values
    }
    told = ", ".join(f"{100 * share:+.0f} % against `{rival}`" for rival, share in saved.items())
    return (
        f"Time saved by `gelora` in training: {told} (the paper: 13.5–64.2 % against SoRA and AdaLoRA); its ranks cost "
        f"{float(own['estimation_seconds']):.0f} s once a task, which runs as short as these do not earn back."
    )


def whole_run(comparison: xr.Dataset) -> str:
    """Say what complete train sets would take on this machine."""
    study = json.loads(comparison.attrs["study"])
    batch = int(study["training"]["batch_size"])
    step = comparison["step_seconds"].mean("seed")
    hours = 0.0
    for task, n_rows in TRAIN_ROWS.items():
        if task in step["task"].values:
            hours += EPOCHS * n_rows / batch * float(step.sel(task=task).sum()) / 3600
    runs, trials = hours * SEEDS, hours * 3
    return "\n\n".join(
        [
            "## What the whole run would take",
            f"Complete train sets, {EPOCHS} epochs, {SEEDS} seeds and three trials as long as a run, from the measured seconds a "
            f"step: {runs:,.0f} hours for the runs and {trials:,.0f} for the trials on one such core, evaluations not counted. The "
            "study file is the same but for `epochs: 3` in place of `max_steps`, and `seeds: [0, 1, 2, 3, 4]`. It was not run "
            "here, nor on a GPU.",
        ]
    )


def published() -> str:
    """Set the papers' claims beside, clearly apart."""
    return "\n\n".join(
        [
            "## What the papers report",
            "Another model, complete train sets and tuned settings: not to be compared with the numbers here, but with their "
            "direction.",
            table(
                ["claim", "model", "source"],
                [
                    [
                        "GLUE average 87.92 with 0.10–0.13 M parameters; LoRA at best 86.95 (+0.97), AdaLoRA with 0.22 M",
                        "DeBERTaV3-base",
                        "GeLoRA, arXiv 2412.09250",
                    ],
                    [
                        "training time 13.5–64.2 % below adaptive methods (SoRA, AdaLoRA)",
                        "DeBERTaV3-base",
                        "GeLoRA, arXiv 2412.09250",
                    ],
                    ["SQuAD v1.1 EM/F1 86.72/92.84, v2.0 83.15/86.25", "DeBERTaV3-base", "GeLoRA, arXiv 2412.09250"],
                ],
            ),
        ]
    )


def squad(comparison: xr.Dataset) -> str:
    """Show exact match and F1 on SQuAD."""
    study = json.loads(comparison.attrs["study"])
    task = study["tasks"][0]["training"]
    rows = []
    for method in comparison["method"].values:
        own = comparison.sel({"method": method}).isel(task=0, seed=0)
        values = [f"{100 * float(own['validation'].sel(metric=name)):.1f}" for name in ("exact_match", "f1")]
        cost = (
            f"{float(own['trainable_parameters']):,.0f}",
            f"{float(total_seconds(comparison).sel({'method': method}).isel(task=0, seed=0)):.0f}",
        )
        rows.append([f"`{method}`", *cost, *values])
    training = study["training"]
    return "\n\n".join(
        [
            "## SQuAD v1.1",
            f"{training['max_steps']} steps of {training['batch_size']} windows of {training['max_length']} tokens from {task['n_train']:,} questions of "
            f"the official train articles at hand, scored on {task['n_validation']} questions of the official dev set, drawn by the seed; one "
            "seed. From [squad.yaml](comparison/squad.yaml). MiniLM was trained to embed sentences, and this is a small part of an "
            "epoch: the scores show that the path works, not what it can reach.",
            table(["", "parameters", "seconds", "exact match", "F1"], rows),
        ]
    )


def intermediate(folder: Path) -> str:
    """Show the profiles of RTE and STS-B before and after tuning on MRPC."""
    facts = json.loads((folder / "intermediate.json").read_text(encoding="utf-8"))
    tuning = facts["tuning"]
    rows = []
    for task in ("rte", "stsb"):
        profiles = [open_profile(folder / f"{task}-{when}.nc") for when in ("before", "after")]
        for label in profiles[0]["estimator"].values:
            for when, profile in zip(("before", "after"), profiles, strict=True):
                one = profile.sel(estimator=label)
                cells = [
                    f"{value:.1f} ± {error:.1f}"
                    for value, error in zip(one["dimension"].values, one["standard_error"].values, strict=True)
                ]
                rows.append([task, f"`{label}`", when, *cells])
    n_layers = len(rows[0]) - 3
    return "\n\n".join(
        [
            "## Intermediate-task tuning",
            f"Dimensions of the hidden states of RTE and STS-B before and after MiniLM was tuned on MRPC ({tuning['steps']} steps of "
            f"{tuning['batch_size']} pairs, all parameters; MRPC score {100 * tuning['score']:.1f}), ± standard error; layer 0 is the input of the first "
            "block. Profiles: `paper_figures/profiles/intermediate`, made by `tests/benchmarks/intermediate_tuning.py`; "
            f"{facts['date']}.",
            table(["task", "estimator", "tuning", *[str(layer) for layer in range(n_layers)]], rows),
        ]
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks/comparison"))
    parser.add_argument("--intermediate", type=Path, default=Path("paper_figures/profiles/intermediate"))
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/comparison.md"))
    arguments = parser.parse_args()
    measured = arguments.folder / "comparison.nc"
    parts: list[Any] = [
        "# Comparison of methods",
        "The comparison on GLUE tasks has not been made yet: see `make bench-comparison`.",
    ]
    if measured.exists():
        comparison = open_comparison(measured)
        parts = [head(comparison), "## Scores", to_markdown(comparison).strip(), evidence(comparison)]
        parts += [ranks(comparison), costs(comparison), whole_run(comparison)]
    parts.append(published())
    if (arguments.folder / "squad.nc").exists():
        parts.append(squad(open_comparison(arguments.folder / "squad.nc")))
    parts.append(intermediate(arguments.intermediate))
    with atomic_path(arguments.output) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
