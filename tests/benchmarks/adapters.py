"""Every adapter beside the others on MiniLM: step time, scores, robustness to the rate, and ranks that move.

Run by ``python tests/benchmarks/adapters.py --data FOLDER``, with a folder of GLUE files (``sst2/train.parquet`` …);
writes ``adapters.json``, ``geolora_ranks.nc`` and ``geolora_ranks.png`` to ``docs/benchmarks``; the page
``adapters.md`` is written from them by ``adapters_page.py``. ``--part`` measures one part and leaves the others.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gelora import estimate, finetune, plan_ranks
from gelora.demo import demo_model
from gelora.files import atomic_path, make_folder, to_json
from gelora.provenance import package_versions

PARTS = ("steps", "table", "rates", "ranks")
N_TRAIN = 1500
RANK = 8
# Adapter, what plan it gets, and its learning rate: usual ones, scaled up to a small model and few steps; those of
# AdaLoRA and GeoLoRA are the best of the part `rates`, as their coefficients start at zero in bases that have norm 1.
TABLE: dict[str, tuple[str, str, float]] = {
    "full": ("full", "none", 1e-4),
    "bitfit": ("bitfit", "none", 3e-3),
    "houlsby": ("houlsby(width=8)", "none", 2e-3),
    "pfeiffer": ("pfeiffer(width=8)", "none", 2e-3),
    "lora": ("lora", "uniform", 2e-3),
    "gelora (geometric × lora)": ("lora", "geometric", 2e-3),
    "rslora": ("rslora(alpha=8)", "uniform", 2e-3),
    "dora": ("dora", "uniform", 2e-3),
    "adalora": ("adalora", "uniform", 3e-2),
    "eva": ("eva", "uniform", 2e-3),
    "sora": ("sora", "uniform", 2e-3),
    "geolora": ("geolora", "uniform", 1e-2),
    "geolora from the geometric plan": ("geolora", "geometric", 1e-2),
    "geolora under the geometric plan": ("geolora(plan_as='ceiling')", "geometric", 1e-2),
}
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
STARTS = (2, 8, 24)
RUN: dict[str, Any] = {"batch_size": 32, "max_length": 64, "weight_decay": 0.0, "progress": False, "device": "cpu"}


def measure_steps(data: Path, pairs: int, block: int) -> dict[str, Any]:
    """Time blocks of steps of each adapter and of LoRA in turn, on the same batches, in this process."""
    found: dict[str, Any] = {"rank": RANK, "batch_size": 32, "steps_a_block": block, "pairs": pairs}
    rivals = {
        "sora": "sora",
        "adalora": "adalora",
        # As much rank kept as LoRA has, and as much again on trial: what it costs in the middle of a run.
        "geolora": f"geolora(budget={24 * RANK})",
        "geolora, truncated at once": f"geolora(budget={24 * RANK}, truncation='at_once')",
    }
    for label, adapter in rivals.items():
        found[label] = _paired(Stepper("lora", data), Stepper(adapter, data), pairs, block)
        say(label, found[label])
    found["runner"] = _paired_runs(data, pairs=max(3, pairs // 2), steps=40)
    say("runner", found["runner"])
    return found


class Stepper:
    """An adapted MiniLM, its optimizer as the runner makes it, and a batch after the other."""

    def __init__(self, adapter: str, data: Path) -> None:
        import torch
        from transformers import TrainerState, TrainingArguments
        from transformers.trainer_callback import TrainerControl

        setting = make_setting(data)
        from gelora.finetuning.adapters import make_adapter

        self.adapted = make_adapter(adapter)(setting)
        self.model: Any = self.adapted.model.train()
        self.batches = [batch for _, batch in zip(range(16), setting.batches(), strict=False)]
        arguments = TrainingArguments(output_dir=tempfile.gettempdir(), use_cpu=True, learning_rate=1e-3)
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        make = self.adapted.make_optimizer
        self.optimizer = torch.optim.AdamW(named.values(), lr=1e-3) if make is None else make(arguments, set(named))
        self.arguments, self.state, self.control = arguments, TrainerState(max_steps=4000), TrainerControl()
        self.tell("on_train_begin")

    def tell(self, event: str) -> None:
        """Call the adapter's callbacks."""
        for callback in self.adapted.callbacks:
            act = getattr(callback, event)
            act(self.arguments, self.state, self.control, model=self.model, optimizer=self.optimizer)

    def step(self) -> None:
        """Make one step, with what an adapter does between the steps."""
        batch = self.batches[self.state.global_step % len(self.batches)]
        self.model(**batch).loss.backward()
        self.tell("on_pre_optimizer_step")
        self.optimizer.step()
        self.tell("on_optimizer_step")
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.tell("on_step_end")


def make_setting(data: Path) -> Any:
    """Return what adapters are given: MiniLM with a head, a uniform plan and batches of SST-2."""
    import torch

    from gelora.finetuning.adaptation import Setting
    from gelora.finetuning.classifiers import load_classifier
    from gelora.finetuning.encoded import make_inputs
    from gelora.finetuning.run import bind_plan
    from gelora.finetuning.tasks import load_task

    torch.manual_seed(0)
    task = load_task("sst2", data / "sst2", n_train=N_TRAIN, n_validation=8)
    classifier = load_classifier(demo_model(), task)
    inputs = make_inputs(classifier, task, 64)
    plan = bind_plan(plan_ranks(None, classifier.model, "uniform", rank=RANK), classifier)
    return Setting(classifier=classifier, plan=plan, dropout=0.0188, seed=0, batches=lambda: inputs.batches(32, 0))


def _paired(first: Stepper, second: Stepper, pairs: int, block: int) -> dict[str, Any]:
    """Time blocks of both in turn, the one or the other first; ratios are of a block to its partner."""
    times: dict[Stepper, list[float]] = {first: [], second: []}
    for pair in range(pairs + 1):
        for stepper in (first, second) if pair % 2 else (second, first):
            started = time.perf_counter()
            for _ in range(block):
                stepper.step()
            times[stepper].append((time.perf_counter() - started) / block)
    mine, base = times[second][1:], times[first][1:]  # the first pair warms up
    return _ratio(mine, base)


def _ratio(mine: list[float], base: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(mine, base, strict=True)]
    return {
        "seconds": statistics.median(mine),
        "seconds_base": statistics.median(base),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def _paired_runs(data: Path, pairs: int, steps: int) -> dict[str, Any]:
    """Time whole trainings by our runner's trainer and by a plain one on the same peft model, in turn."""
    mine, base = [], []
    for pair in range(pairs):
        for ours in (True, False) if pair % 2 else (False, True):
            (mine if ours else base).append(_train_seconds(data, steps, ours=ours) / steps)
    return _ratio(mine, base) | {"steps": steps, "pairs": pairs}


def _train_seconds(data: Path, steps: int, *, ours: bool) -> float:
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from gelora.finetuning.adapters import make_adapter
    from gelora.finetuning.callbacks import History
    from gelora.finetuning.encoded import make_inputs
    from gelora.finetuning.tasks import load_task
    from gelora.finetuning.training import make_trainer

    setting = make_setting(data)
    inputs = make_inputs(setting.classifier, load_task("sst2", data / "sst2", n_train=N_TRAIN, n_validation=8), 64)
    adapted = make_adapter("lora")(setting)
    with tempfile.TemporaryDirectory() as folder:
        plain = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=32, use_cpu=True, seed=0, **plain
        )
        if ours:
            history = History(ranks=adapted.ranks)
            trainer: Any = make_trainer(adapted, arguments, inputs, history=history, progress=False)
        else:
            trainer = Trainer(
                model=adapted.model,
                args=arguments,
                train_dataset=inputs.train,
                data_collator=inputs.collate,
                processing_class=inputs.processor,
            )
            trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def measure_table(data: Path, epochs: float, n_validation: int | None, labels: list[str]) -> dict[str, Any]:
    """Train each adapter on the same sentences, in a process of its own so that its peak memory is its own."""
    profile = estimate(
        demo_model(),
        data / "sst2" / "train.parquet",
        text_column="sentence",
        estimator="twonn",
        n_samples=N_TRAIN,
        progress=False,
    )
    rows: dict[str, Any] = {"epochs": epochs, "n_train": N_TRAIN, "rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        geometric = plan_ranks(profile, demo_model(), "geometric")
        uniform = plan_ranks(None, demo_model(), "uniform", rank=RANK)
        files = {"geometric": geometric.save(Path(folder) / "geometric.json")}
        files["uniform"] = uniform.save(Path(folder) / "uniform.json")
        rows["geometric_ranks"] = list(geometric.block_ranks.values())
        for label, (adapter, plan, rate) in ((label, TABLE[label]) for label in labels):
            job = {
                "adapter": adapter,
                "plan": str(files[plan]) if plan in files else None,
                "data_dir": str(data / "sst2"),
                "output_dir": str(Path(folder) / f"run-{len(rows['rows'])}"),
                "epochs": epochs,
                "n_train": N_TRAIN,
                "n_validation": n_validation,
                "learning_rate": rate,
            }
            done = subprocess.run(
                [sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{label}: {done.stderr[-2000:]}")
            rows["rows"][label] = {"learning_rate": rate, "plan": plan} | json.loads(done.stdout.splitlines()[-1])
            say(label, rows["rows"][label])
    return rows


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train, save, load again, and say whether the predictions are the same."""
    import pandas as pd
    import torch

    from gelora.finetuning.classifiers import load_classifier
    from gelora.finetuning.encoded import make_inputs
    from gelora.finetuning.loading import load_adapter
    from gelora.finetuning.tasks import load_task

    record = finetune(demo_model(), "sst2", **job, **RUN)
    output = Path(job["output_dir"])
    model, _ = load_adapter(output / "adapter")
    task = load_task("sst2", job["data_dir"], n_train=8, n_validation=job["n_validation"])
    inputs = make_inputs(load_classifier(demo_model(), task), task, RUN["max_length"])
    saved = pd.read_parquet(output / "predictions.parquet")
    logits = []
    with torch.no_grad():
        for start in range(0, len(inputs.validation), 32):
            batch = inputs.collate([dict(row) for row in inputs.validation[start : start + 32]])
            logits.append(model(**{name: value for name, value in batch.items() if name != "labels"}).logits)
    reloaded = torch.cat(logits).numpy()
    kept = saved[[f"logit_{place}" for place in range(reloaded.shape[1])]].to_numpy()
    return {
        "score": float(record["score"]),
        "loss": float(record["loss"][-20:].mean()),
        "parameters": record["trainable_parameters"].values.tolist(),
        "mean_rank": float(record["rank"].mean()) if record.sizes["module"] else None,
        "seconds_per_step": float(record["seconds_per_step"]),
        "peak_memory": float(record["peak_memory"]),
        "largest_difference": float(np.abs(reloaded - kept).max()),
        "same_predictions": bool((reloaded.argmax(-1) == saved["prediction"].to_numpy()).all()),
    }


def measure_rates(data: Path, steps: int) -> dict[str, Any]:
    """Train at higher and higher rates: who still learns?"""
    plan = plan_ranks(None, demo_model(), "uniform", rank=RANK)
    found: dict[str, Any] = {"steps": steps, "rows": []}
    for adapter in ("lora", "adalora", "geolora"):
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder:
                entry: dict[str, Any] = {"adapter": adapter, "learning_rate": rate}
                try:
                    record = finetune(
                        demo_model(),
                        "sst2",
                        plan,
                        adapter,
                        data_dir=data / "sst2",
                        output_dir=Path(folder) / "run",
                        n_train=N_TRAIN,
                        max_steps=steps,
                        eval_steps=steps,
                        save_steps=steps,
                        learning_rate=rate,
                        **RUN,
                    )
                    entry |= {"score": float(record["score"]), "loss": float(record["loss"][-20:].mean())}
                except (FloatingPointError, ValueError) as error:
                    entry |= {"failed": str(error)[:120]}
            found["rows"].append(entry)
            say("rates", entry)
    return found


def measure_ranks(data: Path, steps: int, output: Path) -> dict[str, Any]:
    """Train GeoLoRA on CoLA from several starting ranks; keep how the ranks moved, and draw it."""
    import xarray as xr
    from matplotlib.figure import Figure

    from gelora.plots import plot_rank_history

    records = {}
    for start in STARTS:
        plan = plan_ranks(None, demo_model(), "uniform", rank=start)
        with tempfile.TemporaryDirectory() as folder:
            records[f"start {start}"] = finetune(
                demo_model(),
                "cola",
                plan,
                "geolora(tolerance=0.2)",
                data_dir=data / "cola",
                output_dir=Path(folder) / "run",
                max_steps=steps,
                eval_steps=steps,
                save_steps=steps,
                learning_rate=3e-3,
                **RUN | {"batch_size": 16, "max_length": 32},
            )
        say("ranks", {"start": start, "score": float(records[f"start {start}"]["score"])})
    figure = Figure(figsize=(5.5, 3.0), layout="constrained")
    plot_rank_history(records, figure.subplots())
    with atomic_path(output / "geolora_ranks.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    kept = {name: one[["rank_history", "loss"]].drop_vars(["block", "role"]) for name, one in records.items()}
    tree = xr.DataTree.from_dict({f"/{name.replace(' ', '_')}": one for name, one in kept.items()})
    with atomic_path(output / "geolora_ranks.nc") as temporary:
        tree.to_netcdf(temporary, engine="h5netcdf")
    return {
        "steps": steps,
        "tolerance": 0.2,
        "learning_rate": 3e-3,
        "rows": {
            name: {
                "mean_rank": float(one["rank"].mean()),
                "smallest": int(one["rank"].min()),
                "largest": int(one["rank"].max()),
                "score": float(one["score"]),
                "loss": float(one["loss"][-50:].mean()),
                "history": [
                    [int(step), float(row.mean())]
                    for step, row in zip(one["change_step"].values, one["rank_history"].values, strict=True)
                ],
            }
            for name, one in records.items()
        },
    }


def say(label: str, values: dict[str, Any]) -> None:
    """Tell how far the measurement is."""
    sys.stdout.write(f"{label}: {json.dumps(values)}\n")
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    """Describe where and with what this ran."""
    import torch

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": package_versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    """Measure what is asked for and merge it into the results that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of GLUE files")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this part alone; may be repeated")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of blocks of steps")
    parser.add_argument("--steps", type=int, default=800, help="steps of each run on CoLA")
    parser.add_argument("--rate-steps", type=int, default=100, help="steps of each run over the rates")
    parser.add_argument("--epochs", type=float, default=3.0, help="of each run of the table")
    parser.add_argument("--adapter", choices=list(TABLE), action="append", help="rows of the table; all if left out")
    parser.add_argument("--n-validation", type=int, help="validation rows of the table; all where left out")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        sys.stdout.write(json.dumps(run_job(json.loads(arguments.job))) + "\n")
        return
    if arguments.data is None:
        parser.error("--data must be given: a folder of GLUE files")
    file = make_folder(arguments.output) / "adapters.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    measures = {
        "steps": lambda: measure_steps(arguments.data, arguments.pairs, 10),
        "table": lambda: measure_table(
            arguments.data, arguments.epochs, arguments.n_validation, arguments.adapter or list(TABLE)
        ),
        "rates": lambda: measure_rates(arguments.data, arguments.rate_steps),
        "ranks": lambda: measure_ranks(arguments.data, arguments.steps, arguments.output),
    }
    for part in arguments.part or PARTS:
        started = time.perf_counter()
        earlier = results.get(part, {})
        results[part] = measures[part]() | {"seconds_in_all": None, "machine": machine()}
        results[part]["seconds_in_all"] = round(time.perf_counter() - started, 1)
        if part == "table" and arguments.adapter:  # the other rows stay as they were measured
            results[part]["rows"] = earlier.get("rows", {}) | results[part]["rows"]
        with atomic_path(file) as temporary:
            temporary.write_text(to_json(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
