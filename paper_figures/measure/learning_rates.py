"""Train AdaLoRA and GeoLoRA at higher and higher learning rates, several seeds each: who still learns?

Usage: python paper_figures/measure/learning_rates.py --data FOLDER

MiniLM on SST-2, uniform ranks to start from, scored on validation rows that the seed draws. Writes
``learning_rates.json``, anew after each run; runs that stand there already are not repeated.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _origin import MODEL, make_parser, origin, write_json
from scipy.special import logsumexp
from tqdm import tqdm

from gelora import RankPlan, finetune, plan_ranks
from gelora.demo import demo_model

ADAPTERS = ("adalora", "geolora")
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SEEDS = (0, 1, 2)
RANK = 8
RUN: dict[str, Any] = {
    "n_train": 1500,
    "n_validation": 300,
    "batch_size": 8,
    "eval_batch_size": 64,
    "max_length": 32,
    "weight_decay": 0.0,
    "train_sampling_strategy": "group_by_length",
    "progress": False,
    "device": "cpu",
}


def train(data: Path, plan: RankPlan, adapter: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """Return score and loss on the validation rows of one run, or what ended it."""
    entry: dict[str, Any] = {"adapter": adapter, "learning_rate": rate, "seed": seed}
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        try:
            record = finetune(
                demo_model(),
                "sst2",
                plan,
                adapter,
                data_dir=data / "sst2",
                output_dir=run,
                max_steps=steps,
                eval_steps=steps,
                save_steps=steps,
                learning_rate=rate,
                seed=seed,
                **RUN,
            )
        except FloatingPointError as error:
            return entry | {"failed": str(error).splitlines()[0][:120]}
        predictions = pd.read_parquet(run / "predictions.parquet")
    logits, labels = predictions[["logit_0", "logit_1"]].to_numpy(np.float64), predictions["label"].to_numpy()
    return entry | {
        "score": float(record["score"]),
        "one_class": bool(predictions["prediction"].nunique() == 1),
        # From the logits: the loss that AdaLoRA trains on has a penalty in it.
        "cross_entropy": float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])),
        "mean_rank": float(record["rank"].mean()),
    }


def read_rows(path: Path, setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that stand in the file, if they were made with this setting."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows: list[dict[str, Any]] = found["rows"] if found.get("setting") == setting else []
    return rows


def is_done(rows: list[dict[str, Any]], wanted: tuple[str, float, int]) -> bool:
    """Return whether a run stands among the rows."""
    return any((row["adapter"], row["learning_rate"], row["seed"]) == wanted for row in rows)


def main() -> None:
    """Make the runs that are missing."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=100, help="steps of each run")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="this one alone")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data must be given: a folder with sst2/")
    path = arguments.output / "learning_rates.json"
    setting = {"model": MODEL, "task": "sst2", "rank": RANK, "steps": arguments.steps} | RUN
    plan = plan_ranks(None, demo_model(), "uniform", rank=RANK)
    seeds = SEEDS if arguments.seed is None else (arguments.seed,)
    arguments.seed = None  # the file is of all seeds, whatever the order they came in
    wanted = [(adapter, rate, seed) for seed in seeds for rate in RATES for adapter in ADAPTERS]
    for one in tqdm(wanted, desc="runs"):
        if not is_done(read_rows(path, setting), one):
            row = train(arguments.data, plan, *one, arguments.steps)
            rows = [*read_rows(path, setting), row]  # read again: another seed may be running
            write_json(path, {"setting": setting, "rows": rows, "origin": origin(arguments)})


if __name__ == "__main__":
    main()
