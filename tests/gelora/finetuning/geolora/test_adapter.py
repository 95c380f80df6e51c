"""GeoLoRA in models: put in, trained by our runner and by a plain Trainer, merged, saved as plain LoRA."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import TrainerCallback

from gelora.finetuning.adapters import make_adapter
from gelora.finetuning.geolora import GeoLoRAOptimizer, add_geolora, lora_factors, merge, ranks_of
from gelora.finetuning.geolora_adapter import GeoLoRA
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.runner import finetune
from runs import predict, predictions

Folder = Callable[[str], Path]
QUICK: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-2, "progress": False}
RUN: dict[str, Any] = QUICK | {"max_steps": 40, "eval_steps": 20, "save_steps": 20}


def classifier(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=pad).eval()


def token_batch() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 12, 3]]), "attention_mask": torch.ones(2, 5).long()}


def filled(model: Any) -> Any:
    """Give every adapter coefficients, as training would."""
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if hasattr(module, "geolora_S"):
            r = module.rank
            module.geolora_S.data[:r, :r] = 0.3 * torch.randn(r, r, generator=generator)
    return model


def with_adapters(folder: Path, plan: Any, **options: Any) -> Any:
    model = classifier(folder)
    add_geolora(model, plan.bind(model), **options)
    return model.eval()


def test_a_model_computes_what_it_did_until_it_is_trained(
    architecture: str, folder_of: Folder, plan_for: Callable[..., Any]
) -> None:
    plain = classifier(folder_of(architecture))
    adapted = with_adapters(folder_of(architecture), plan_for(architecture))
    with torch.no_grad():
        assert torch.equal(plain(**token_batch()).logits, adapted(**token_batch()).logits)
    assert ranks_of(adapted) == {m.name: max(2, m.rank) for m in plan_for(architecture).bind(plain).modules}
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all("geolora_" in name for name in trained)


def test_merged_weights_compute_what_the_adapters_did(
    architecture: str, folder_of: Folder, plan_for: Callable[..., Any]
) -> None:
    model = filled(with_adapters(folder_of(architecture), plan_for(architecture)))
    plain = classifier(folder_of(architecture))
    with torch.no_grad():
        expected, unadapted = model(**token_batch()).logits, plain(**token_batch()).logits
        merged = merge(copy.deepcopy(model))
        torch.testing.assert_close(merged(**token_batch()).logits, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, unadapted, atol=1e-2)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_factors_are_plain_lora_of_the_present_ranks(folder_of: Folder, plan_for: Callable[..., Any]) -> None:
    model = filled(with_adapters(folder_of("bert"), plan_for("bert")))
    layers = dict(model.named_modules())
    for name, (A, B) in lora_factors(model).items():
        assert A.shape[0] == B.shape[1] == ranks_of(model)[name]
        torch.testing.assert_close(2.0 * B @ A, layers[name].delta_weight(), rtol=0, atol=1e-6)


@pytest.fixture(scope="session")
def tuned(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[xr.Dataset, Path]]:
    made: dict[str, tuple[xr.Dataset, Path]] = {}

    def run(architecture: str) -> tuple[xr.Dataset, Path]:
        if architecture not in made:
            output = tmp_path_factory.mktemp("geolora") / architecture
            record = finetune(
                folder_of(architecture),
                sentiment,
                plan_for(architecture),
                "geolora(interval=4, tolerance=0.15)",
                output_dir=output,
                **RUN,
            )
            made[architecture] = record, output
        return made[architecture]

    return run


def test_a_tiny_model_learns_the_task(architecture: str, tuned: Any) -> None:
    assert tuned(architecture)[0]["score"] > 0.8


def test_the_record_tells_how_the_ranks_moved(tuned: Any, plan_for: Callable[..., Any]) -> None:
    record, _ = tuned("bert")
    history = record["rank_history"]
    assert history[0].values.tolist() == [max(2, module.rank) for module in plan_for("bert").modules]
    assert history[-1].values.tolist() == record["rank"].values.tolist()
    assert record.sizes["change"] > 2
    assert record["change_step"][-1] <= 37  # the last tenth is settled
    np.testing.assert_array_equal(record["alpha"], 2.0 * record["rank"])
    assert record["trainable_parameters"].sel(part="adapter") == int((record["rank"] * 64).sum())


def test_the_saved_folder_is_plain_lora_that_predicts_as_the_trained_model(
    architecture: str, tuned: Any, folder_of: Folder, sentiment: Any
) -> None:
    from peft import LoraConfig, PeftModel
    from transformers import AutoTokenizer

    record, output = tuned(architecture)
    config = LoraConfig.from_pretrained(output / "adapter")
    assert config.r == int(record["rank"].max())
    assert config.lora_alpha == 2 * config.r
    model = PeftModel.from_pretrained(classifier(folder_of(architecture)), output / "adapter").eval()
    found = {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and "default" in module.r
    }
    assert found == dict(zip(record["module"].values.tolist(), record["rank"].values.tolist(), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(output / "adapter")
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), predictions(output), rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_it_trains_in_mixed_precision_and_with_accumulated_batches(
    precision: str, folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    options = RUN | {"batch_size": 8, "gradient_accumulation_steps": 2, "precision": precision, "save_steps": 40}
    record = finetune(
        folder_of("bert"),
        sentiment,
        plan_for("bert"),
        "geolora(interval=4)",
        output_dir=tmp_path / "out",
        **options,
    )
    assert record["score"] > 0.8
    assert record.sizes["change"] > 2


@pytest.mark.parametrize("plan_as", ["start", "ceiling"])
def test_a_plan_is_the_start_or_the_ceiling(
    plan_as: str, folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    chosen = GeoLoRA(plan_as=plan_as, interval=2, tolerance=0.0, max_rank=8)
    plan = plan_for("bert", (1, 3))
    options = QUICK | {"max_steps": 8, "eval_steps": 8, "save_steps": 8}
    record = finetune(folder_of("bert"), sentiment, plan, chosen, output_dir=tmp_path / "out", **options)
    planned = np.array([module.rank for module in plan.modules])
    assert record["rank_history"][0].values.tolist() == (np.maximum(planned, 2 if plan_as == "start" else 1)).tolist()
    if plan_as == "ceiling":
        assert (record["rank_history"].values <= planned).all()
    else:
        assert record["rank_history"].values.max() == 8


def test_a_budget_is_kept_in_the_end(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    options = QUICK | {"max_steps": 20, "eval_steps": 20, "save_steps": 20}
    chosen = GeoLoRA(budget=21, interval=3, min_rank=1)
    record = finetune(folder_of("bert"), sentiment, plan_for("bert"), chosen, output_dir=tmp_path / "out", **options)
    assert int(record["rank"].sum()) == 21
    assert record["rank"].values.min() >= 1


class Stop(TrainerCallback):  # type: ignore[misc]
    """Stand for an early stopping."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step == 6


@pytest.mark.parametrize(
    ("settle", "more"),
    [
        (0.0, {}),
        (0.5, {}),
        (0.1, {"callbacks": [Stop()]}),
        (0.1, {"load_best_model_at_end": True, "eval_steps": 2, "save_steps": 2}),
    ],
)
def test_nothing_on_trial_is_saved_however_a_run_ends(
    settle: float, more: dict[str, Any], folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig

    options = QUICK | {"max_steps": 8, "eval_steps": 8, "save_steps": 8} | more
    options |= {"metric_for_best_model": "loss", "greater_is_better": True} if "load_best_model_at_end" in more else {}
    chosen = GeoLoRA(settle=settle, interval=3, tolerance=0.05)
    record = finetune(folder_of("bert"), sentiment, plan_for("bert"), chosen, output_dir=tmp_path / "out", **options)
    config = LoraConfig.from_pretrained(tmp_path / "out" / "adapter")
    assert sorted(config.rank_pattern.values()) == sorted(record["rank"].values.tolist())
    assert record["rank_history"][-1].values.tolist() == record["rank"].values.tolist()
    assert record["trainable_parameters"].sel(part="adapter") == int((record["rank"] * 64).sum())
    model, tokenizer = load_adapter(tmp_path / "out" / "adapter")
    found = predict(model, tokenizer, sentiment)
    np.testing.assert_allclose(found, predictions(tmp_path / "out"), rtol=0, atol=1e-5)


def test_a_plain_trainer_trains_checkpoints_and_resumes_it(
    folder_of: Folder, plan_for: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows = [{"input_ids": [2, 4 + i % 14, 4 + i % 5, 3], "labels": i % 2} for i in range(32)]

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 6

    def train(name: str, callbacks: list[Any], checkpoint: str | None = None) -> Any:
        model = with_adapters(folder_of("bert"), plan_for("bert"))
        for head in (model.classifier, model.bert.pooler):
            head.requires_grad_(True)
        optimizer = GeoLoRAOptimizer(model, 1e-2, interval=3)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / name),
            max_steps=11,
            save_steps=3,
            per_device_train_batch_size=8,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=11)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,  # type: ignore[arg-type]
            optimizers=(optimizer, schedule),
            callbacks=callbacks,
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return model

    whole = train("whole", [])
    train("cut", [Stop()])
    resumed = train("cut", [], str(tmp_path / "cut" / "checkpoint-6"))
    assert ranks_of(whole) == ranks_of(resumed)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("geolora(tolerance=2)", r"`tolerance` must be a number of at least 0 and below 1, got 2"),
        ("geolora(settle=1.0)", r"`settle` must be a share of the run, at least 0 and below 1, got 1.0"),
        ("geolora(plan_as='begin')", r"`plan_as` must be one of start, ceiling, got 'begin'"),
        ("geolora(max_rank=2)", r"`plan` starts '.*' with rank 3, above `max_rank` 2: raise `max_rank`"),
        ("geolora(budget=5)", r"`budget` must be at least 16, `min_rank` for each of 8 matrices, got 5"),
        ("geolora(tau=0.1)", r"`tau` is no option of the adapter 'geolora'.*; it has \['budget'"),
        (
            "gelora",
            r"got 'gelora'; GeLoRA, .* is policy='geometric' .* adapter='lora'; GeoLoRA, .* is adapter='geolora'",
        ),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_written(
    adapter: str, message: str, folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(folder_of("bert"), sentiment, plan_for("bert"), adapter, output_dir=tmp_path / "out", **RUN)
    assert list(tmp_path.iterdir()) == []


def test_an_unbound_plan_is_refused(folder_of: Folder, plan_for: Callable[..., Any]) -> None:
    plan = plan_for("bert")
    wrong = replace(plan, modules=tuple(replace(module, name="there." + module.name) for module in plan.modules))
    with pytest.raises(ValueError, match=r"`model` has no module 'there\..*bind the plan to it first"):
        add_geolora(classifier(folder_of("bert")), wrong)


def test_quantised_weights_are_not_merged_and_nothing_is_changed(
    folder_of: Folder, plan_for: Callable[..., Any]
) -> None:
    model = with_adapters(folder_of("bert"), plan_for("bert"))
    last = list(ranks_of(model))[-1]
    layer = model.get_submodule(last).base_layer
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        TypeError, match=rf"the weight of '{last}' is quantised \(torch.int8\): save the adapter beside"
    ):
        merge(model)
    assert ranks_of(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_name_with_options_makes_the_adapter() -> None:
    assert make_adapter("geolora(tolerance=0.2, max_rank=16)") == GeoLoRA(tolerance=0.2, max_rank=16)


def test_an_adapter_counts_in_the_fingerprint_of_the_weights_once_it_is_trained(
    folder_of: Folder, plan_for: Callable[..., Any]
) -> None:
    from gelora.blocks import find_blocks, weights_fingerprint

    plain = classifier(folder_of("bert"))
    adapted = with_adapters(folder_of("bert"), plan_for("bert"))
    before = weights_fingerprint(plain, find_blocks(plain))
    assert weights_fingerprint(adapted, find_blocks(adapted)) == before
    assert weights_fingerprint(filled(adapted), find_blocks(adapted)) != before
