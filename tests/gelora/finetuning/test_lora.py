"""LoRA and all adapters that end as LoRA learn a task, and peft alone loads what they save."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from gelora.finetuning.lora import RsLoRA
from gelora.finetuning.runner import finetune

ADAPTERS = ("lora", "rslora", "dora", "adalora", "eva", "sora")
LONGER: dict[str, Any] = {
    "max_steps": 80,
    "eval_steps": 80,
    "save_steps": 80,
    "batch_size": 16,
    "learning_rate": 2e-2,
    "progress": False,
}
Tuned = Callable[[str], tuple[xr.Dataset, Path]]


@pytest.fixture(scope="module")
def tuned(
    folder_of: Callable[[str], Path],
    plan_for: Callable[..., Any],
    sentiment: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tuned:
    """Give the run of an adapter on the tiny BERT."""
    made: dict[str, tuple[xr.Dataset, Path]] = {}

    def run(adapter: str) -> tuple[xr.Dataset, Path]:
        if adapter not in made:
            output = tmp_path_factory.mktemp("tuned") / "out"
            record = finetune(folder_of("bert"), sentiment, plan_for("bert"), adapter, output_dir=output, **LONGER)
            made[adapter] = record, output
        return made[adapter]

    return run


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_learns_the_task(adapter: str, tuned: Tuned) -> None:
    record, _ = tuned(adapter)
    assert record["score"] > 0.8
    assert record["loss"][-5:].mean() < record["loss"][:5].mean()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_peft_alone_loads_what_was_saved_to_the_predictions_of_the_run(
    adapter: str, tuned: Tuned, folder_of: Callable[[str], Path], sentiment: Any
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    record, output = tuned(adapter)
    base = AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=2)
    model = PeftModel.from_pretrained(base, str(output / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(output / "adapter")
    texts = [row["sentence"] for row in sentiment.validation]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    saved = pd.read_parquet(output / "predictions.parquet")
    np.testing.assert_allclose(logits, saved[["logit_0", "logit_1"]], rtol=0, atol=1e-5)
    n_adapter = sum(
        value.numel() for name, value in model.named_parameters() if "lora_" in name and "modules_to_save" not in name
    )
    assert record["trainable_parameters"].sel(part="adapter") == n_adapter
    ranks = {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    recorded = dict(zip(record["module"].values.tolist(), record["rank"].values.tolist(), strict=True))
    assert ranks == {name: rank for name, rank in recorded.items() if rank}


def test_rslora_scales_by_alpha_over_the_root_of_the_rank(tuned: Tuned) -> None:
    record, output = tuned("rslora")
    alpha = 2.0 * math.sqrt(3)  # the plan's scaling times the root of its largest rank
    np.testing.assert_allclose(record["alpha"] / record["rank"], alpha / np.sqrt(record["rank"]))
    config = json.loads((output / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["use_rslora"] is True
    assert config["lora_alpha"] == pytest.approx(alpha)


def test_an_alpha_of_rslora_takes_the_place_of_the_plans(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    quick = LONGER | {"max_steps": 2, "eval_steps": 2, "save_steps": 2}
    record = finetune(
        folder_of("bert"), sentiment, plan_for("bert"), "rslora(alpha=5)", output_dir=tmp_path / "out", **quick
    )
    np.testing.assert_allclose(record["alpha"], 5 * np.sqrt(record["rank"]))


@pytest.mark.parametrize("alpha", [0, -1.0, math.inf, "8"])
def test_an_alpha_of_rslora_that_is_no_positive_number_is_refused(alpha: Any) -> None:
    with pytest.raises(ValueError, match=r"`alpha` must be a positive number, or None for the plan's own, got "):
        RsLoRA(alpha=alpha)


def test_dora_trains_and_counts_a_magnitude_for_each_output(tuned: Tuned) -> None:
    record, output = tuned("dora")
    plain, _ = tuned("lora")
    counts = [int(found["trainable_parameters"].sel(part="adapter")) for found in (record, plain)]
    assert counts[0] - counts[1] == 32 * record.sizes["module"]
    config = json.loads((output / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["use_dora"] is True
