"""AdaLoRA: it starts from the plan, follows its schedule, ends at its target, resumes and saves plain LoRA."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from gelora.finetuning.adalora import AdaLoRA
from gelora.finetuning.adalora_allocation import make_schedule
from gelora.finetuning.runner import finetune
from runs import adapt, make_setting

QUICK: dict[str, Any] = {
    "max_steps": 24,
    "eval_steps": 24,
    "save_steps": 5,
    "batch_size": 8,
    "learning_rate": 2e-2,
    "warmup_ratio": 0.0,
    "progress": False,
}
EARLY = AdaLoRA(warmup=0.2, final=0.25, interval=2, target=0.5)  # falls from step 6 to step 18
Quick = Callable[..., xr.Dataset]


@pytest.fixture
def quick(folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path) -> Quick:
    """Give a run of 24 steps on the tiny BERT into ``tmp_path / name``."""

    def run(name: str, adapter: Any = EARLY, **changes: Any) -> xr.Dataset:
        options = QUICK | {"output_dir": tmp_path / name} | changes
        return finetune(folder_of("bert"), sentiment, plan_for("bert"), adapter, **options)

    return run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the steps at which ranks are allocated, with gradients checked to be there."""
    from peft.tuners.adalora import AdaLoraModel

    seen: list[int] = []
    original = AdaLoraModel.update_and_allocate

    def update(self: Any, step: int) -> None:
        seen.append(step)
        found = [p.grad for name, p in self.model.named_parameters() if "lora_" in name and p.requires_grad]
        assert found
        assert all(gradient is not None for gradient in found)
        original(self, step)

    monkeypatch.setattr(AdaLoraModel, "update_and_allocate", update)
    return seen


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_the_starting_ranks_and_scales_are_the_plans(
    architecture: str, folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    plan = plan_for(architecture)
    adapted, layers = adapt(AdaLoRA(), make_setting(folder_of(architecture), sentiment, plan, dropout=0.1))
    for (name, layer), module in zip(layers.items(), plan.modules, strict=True):
        assert name.endswith(module.name)
        assert layer.lora_A["default"].shape == (module.rank, module.in_features)
        assert layer.lora_B["default"].shape == (module.out_features, module.rank)
        assert layer.scaling["default"] / layer.ranknum["default"].item() == 2.0
        assert layer.lora_dropout["default"].p == 0.1
        assert layer.lora_A["default"].requires_grad
    allocator = adapted.model.base_model.rankallocator
    total = sum(module.rank for module in plan.modules)
    assert (allocator.init_bgt, allocator.target_bgt) == (total, round(total * 2 / 3))
    assert adapted.ranks() == {name: len(layer.lora_A["default"]) for name, layer in layers.items()}


def test_ranks_move_and_end_at_the_target_total(quick: Quick) -> None:
    record = quick("out")
    assert record["change_step"][0] == 0
    assert record["rank_history"][0].values.tolist() == [2, 2, 2, 2, 3, 3, 3, 3]
    assert int(record["rank"].sum()) == 10
    assert record.sizes["change"] > 2
    assert int(record["trainable_parameters"].sel(part="adapter")) == 10 * 64


def test_the_total_follows_the_cubic_schedule(quick: Quick) -> None:
    record = quick("out")
    # Zhang et al. 2023, eq. 12, with 5 steps before, 6 after, and an allocation at every even step between
    budget = {t: 10 + int(10 * (1 - (t - 5) / (24 - 5 - 6)) ** 3) for t in range(6, 19) if t % 2 == 0}
    expected, last = {0: 20}, 20
    for step, total in budget.items():
        if total != last:
            expected[step] = last = total
    found = dict(zip(record["change_step"].values.tolist(), record["rank_history"].sum("module").values, strict=True))
    changed = {step: total for step, total in found.items() if step in expected}
    assert changed == expected
    assert set(found.values()) == set(expected.values())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_importance_is_updated_once_a_step_of_the_optimiser(accumulated: int, quick: Quick, calls: list[int]) -> None:
    quick("out", gradient_accumulation_steps=accumulated)
    assert calls == list(range(1, 25))


def test_a_step_that_gradient_scaling_skipped_says_nothing_of_importance(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, calls: list[int]
) -> None:
    class Optimizer:
        step_was_skipped = True

    class State:
        max_steps, global_step = 24, 3

    adapted, _ = adapt(EARLY, make_setting(folder_of("bert"), sentiment, plan_for("bert"), dropout=0.1))
    allocation = adapted.callbacks[0]
    allocation.on_train_begin(None, State, None)
    allocation.on_optimizer_step(None, State, None, optimizer=Optimizer())
    assert calls == []


def test_the_saved_folder_predicts_as_the_trained_model_also_where_a_rank_is_zero(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    adapted, layers = adapt(AdaLoRA(), make_setting(folder_of("bert"), sentiment, plan_for("bert"), dropout=0.1))
    torch.manual_seed(7)
    with torch.no_grad():
        for index, layer in enumerate(layers.values()):
            for part in "ABE":
                torch.nn.init.normal_(getattr(layer, f"lora_{part}")["default"], std=0.4)
            layer.lora_E["default"][: index % 4] = 0.0
    adapted.save(tmp_path)
    tokens = torch.tensor([[2, 5, 9, 13, 3], [2, 7, 12, 8, 3]])
    base = AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=2)
    with torch.no_grad():
        plain = base(tokens).logits
        loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()(tokens).logits
        own = adapted.model.eval()(tokens).logits
    torch.testing.assert_close(loaded, own, rtol=0, atol=1e-5)
    assert (own - plain).abs().max() > 1e-2


def test_the_penalty_is_in_the_training_loss_alone(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    tokens, labels = torch.tensor([[2, 5, 9, 13, 3]]), torch.tensor([1])
    losses = {}
    for weight in (0.0, 0.5):
        adapted, _ = adapt(
            AdaLoRA(orthogonality=weight), make_setting(folder_of("bert"), sentiment, plan_for("bert"), dropout=0.1)
        )
        model = adapted.model
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        for mode in (True, False, True):
            losses[weight, mode] = model.train(mode)(tokens, labels=labels).loss.item()
    assert losses[0.0, True] == losses[0.0, False] == losses[0.5, False]
    # rows of A are near 0 at the start: ‖AAᵀ − I‖ is near √r
    expected = 0.5 * np.mean([math.sqrt(2), math.sqrt(3)])
    assert losses[0.5, True] - losses[0.5, False] == pytest.approx(expected, rel=0.05)


def test_the_ranks_of_the_best_checkpoint_are_those_that_are_saved(quick: Quick, tmp_path: Path) -> None:
    from peft import PeftConfig

    record = quick("out", eval_steps=5, load_best_model_at_end=True, metric_for_best_model="score", save_steps=5)
    config: Any = PeftConfig.from_pretrained(str(tmp_path / "out" / "adapter"))
    assert sorted(config.rank_pattern.values()) == sorted(rank for rank in record["rank"].values.tolist() if rank)


@pytest.mark.parametrize("total", [2, 3, 5, 8, 100, 1234])
@pytest.mark.parametrize(("warmup", "final"), [(0.12, 0.5), (0.0, 0.0), (0.9, 0.09), (0.01, 0.98)])
def test_every_run_of_two_steps_has_a_step_to_learn_from_and_a_step_to_allocate(
    total: int, warmup: float, final: float
) -> None:
    schedule = make_schedule(total, warmup, final, None)
    last = schedule.total - schedule.tail
    assert 2 <= last <= total
    assert 0 <= schedule.start < last
    assert schedule.interval == max(1, total // 100)


def test_a_run_of_one_step_is_refused(quick: Quick) -> None:
    with pytest.raises(ValueError, match=r"adapter='adalora' needs at least 2 steps .* got 1: raise `epochs` or"):
        quick("out", max_steps=1)


def test_a_plan_with_nothing_to_give_up_is_refused(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    from dataclasses import replace

    plan = plan_for("bert", (1, 1))
    with pytest.raises(ValueError, match=r"`plan` must have ranks to give up for adapter='adalora', got a total of 1"):
        adapt(AdaLoRA(), make_setting(folder_of("bert"), sentiment, replace(plan, modules=plan.modules[:1])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.0}, r"`target` must be a number above 0 and below 1, got 1.0"),
        ({"target": 0.0}, r"`target` must be a number above 0 and below 1, got 0.0"),
        ({"beta1": "x"}, r"`beta1` must be a number above 0 and below 1, got 'x'"),
        ({"beta2": 1}, r"`beta2` must be a number above 0 and below 1, got 1"),
        ({"warmup": -0.1}, r"`warmup` must be a share of the run, at least 0 and below 1, got -0.1"),
        ({"final": 1.0}, r"`final` must be a share of the run, at least 0 and below 1, got 1.0"),
        ({"warmup": 0.5}, r"`warmup` and `final` must leave a part of the run .* got 0.5 and 0.5: give shares"),
        ({"interval": 0}, r"`interval` must be .*, or None for a hundredth of the run"),
        ({"orthogonality": -1}, r"`orthogonality` must be a number of at least 0, got -1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaLoRA(**options)
