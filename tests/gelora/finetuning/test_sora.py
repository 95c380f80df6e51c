"""SoRA: the proximal step is exact, gates close and reopen as the method says, what is pruned was zero."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from transformers import TrainerCallback

from gelora.finetuning.runner import finetune
from gelora.finetuning.sora import SoRA, open_factors
from gelora.finetuning.sora_layers import GatedLinear, Shrinkage, make_optimizer, shrink
from runs import adapt, make_setting

QUICK: dict[str, Any] = {
    "max_steps": 11,
    "eval_steps": 4,
    "save_steps": 3,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "progress": False,
}


@pytest.fixture
def adapted(folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any) -> tuple[Any, Any]:
    """Give the adapted tiny BERT and its layers."""
    return adapt(SoRA(), make_setting(folder_of("bert"), sentiment, plan_for("bert")))


@pytest.fixture
def quick(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> Callable[..., xr.Dataset]:
    """Give a few steps on the tiny BERT into ``tmp_path / name``."""

    def run(name: str, adapter: Any = "sora(sparsity=12)", **changes: Any) -> xr.Dataset:
        options = QUICK | {"output_dir": tmp_path / name} | changes
        return finetune(folder_of("bert"), sentiment, plan_for("bert"), adapter, **options)

    return run


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.7])
def test_shrinking_minimises_the_proximal_objective(threshold: float) -> None:
    before = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gate = before.clone()
    shrink([gate], threshold)
    # argmin over a fine grid of ½(x − g)² + t|x|, entry by entry
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    objective = 0.5 * (grid[:, None] - before) ** 2 + threshold * grid.abs()[:, None]
    torch.testing.assert_close(gate, grid[objective.argmin(0)], rtol=0, atol=1e-4)
    assert torch.equal(gate == 0, before.abs() <= threshold)
    torch.testing.assert_close(gate, torch.sign(before) * (before.abs() - threshold).clamp(min=0), rtol=0, atol=0)


def test_the_threshold_is_the_rate_of_the_step_times_sparsity_and_a_skipped_step_shrinks_nothing() -> None:
    class Optimizer:
        param_groups = ({"lr": 0.25}, {"lr": 0.25})
        step_was_skipped = False

    gate = torch.tensor([1.0, -1.0, 0.25])
    optimizer = Optimizer()
    shrinkage = Shrinkage([gate], sparsity=2.0)
    shrinkage.on_optimizer_step(None, None, None, optimizer=optimizer)
    assert gate.tolist() == [0.5, -0.5, 0.0]
    optimizer.step_was_skipped = True
    shrinkage.on_optimizer_step(None, None, None, optimizer=optimizer)
    assert gate.tolist() == [0.5, -0.5, 0.0]


def test_a_closed_gate_reopens_only_where_a_step_moves_it_by_more_than_the_threshold() -> None:
    gate = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([gate], lr=0.5)
    gate.grad = torch.tensor([-1.0, 0.25, 1.0])  # moves by 0.5, −0.125, −0.5
    optimizer.step()
    Shrinkage([gate], sparsity=0.5).on_optimizer_step(None, None, None, optimizer=optimizer)
    assert gate.tolist() == [0.25, 0.0, -0.25]


def test_a_closed_gate_still_has_a_gradient() -> None:
    first = GatedLinear(torch.nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        first.gate.zero_()
    first(torch.ones(1, 4)).sum().backward()
    torch.testing.assert_close(first.gate.grad, first.weight.detach().sum(1))
    assert first.weight.grad is not None
    assert (first.weight.grad == 0).all()


def test_the_gated_layer_is_lora_with_the_gate_between_its_factors(adapted: tuple[Any, Any]) -> None:
    _, layers = adapted
    layer = next(iter(layers.values()))
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    inputs = torch.randn(5, 32)
    gate, a, b = layer.lora_A["default"].gate, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    by_hand = layer.base_layer(inputs) + 2.0 * (gate * (inputs @ a.T)) @ b.T
    torch.testing.assert_close(layer(inputs), by_hand, rtol=1e-5, atol=1e-5)


def test_gates_start_as_standard_normal_draws_of_the_seed(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    draws = []
    for _ in range(2):
        _, layers = adapt(SoRA(), make_setting(folder_of("bert"), sentiment, plan_for("bert", (16, 24))))
        draws.append(torch.cat([layer.lora_A["default"].gate.detach() for layer in layers.values()]))
    assert torch.equal(draws[0], draws[1])
    assert len(draws[0]) == 160
    assert abs(float(draws[0].mean())) < 0.25
    assert 0.8 < float(draws[0].std()) < 1.2


def test_gates_are_trained_without_weight_decay_and_the_rest_as_trainer_would(
    adapted: tuple[Any, Any], tmp_path: Path
) -> None:
    from transformers import Trainer, TrainingArguments

    model, layers = adapted[0].model, adapted[1]
    arguments = TrainingArguments(output_dir=str(tmp_path), weight_decay=0.3, learning_rate=1e-3, report_to=[])
    decayed = Trainer(model=model, args=arguments).get_decay_parameter_names(model)
    gates = [layer.lora_A["default"].gate for layer in layers.values()]
    optimizer = make_optimizer(model, gates, arguments, decayed)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[id(gate)] == 0.0 for gate in gates)
    others = {name: p for name, p in model.named_parameters() if p.requires_grad and "gate" not in name}
    assert {name: decay[id(p)] for name, p in others.items()} == {
        name: 0.3 if name in decayed else 0.0 for name in others
    }
    assert isinstance(optimizer, torch.optim.AdamW)


class GateLog(TrainerCallback):  # type: ignore[misc]
    """Keep the gates after every step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gates = [p.detach() for name, p in kwargs["model"].named_parameters() if name.endswith(".gate")]
        self.seen.append(torch.cat(gates).tolist())


def test_ranks_count_the_open_gates_and_are_recorded_when_they_change(quick: Callable[..., xr.Dataset]) -> None:
    log = GateLog()
    record = quick("out", callbacks=[log])
    open_gates = [sum(gate != 0 for gate in gates) for gates in log.seen]
    history = dict(zip(record["change_step"].values.tolist(), record["rank_history"].sum("module").values, strict=True))
    assert history.pop(0) == 20
    assert len(history) > 1
    assert all(open_gates[step - 1] == total for step, total in history.items())
    assert int(record["rank"].sum()) == open_gates[-1] < 20
    assert int(record["trainable_parameters"].sel(part="adapter")) == open_gates[-1] * 64


def test_more_sparsity_leaves_no_more_rank_and_none_leaves_all(quick: Callable[..., xr.Dataset]) -> None:
    totals = [int(quick(f"{value}", SoRA(sparsity=value))["rank"].sum()) for value in (0.0, 6.0, 20.0, 200.0)]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == 20
    assert 0 < totals[1] < 20
    assert totals[-1] == 0


def test_the_pruned_folder_predicts_as_the_trained_model(
    adapted: tuple[Any, Any], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    found, layers = adapted
    torch.manual_seed(8)
    for index, layer in enumerate(layers.values()):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
        with torch.no_grad():
            layer.lora_A["default"].gate[: index % 4] = 0.0
    assert {len(a) for a, _ in open_factors(layers).values()} == {0, 1, 2, 3}
    tokens = torch.tensor([[2, 5, 9, 13, 3], [2, 7, 12, 8, 3]])
    found.save(tmp_path)
    model = found.model.eval()
    base = AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=2)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=1e-6)


def test_with_gates_of_one_a_step_is_that_of_lora(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    from gelora.finetuning.lora import LoRA

    losses, gradients = [], []
    for adapter in (LoRA(), SoRA()):
        found, layers = adapt(adapter, make_setting(folder_of("bert"), sentiment, plan_for("bert")))  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(4)
        for layer in layers.values():
            with torch.no_grad():
                for matrix in (layer.lora_A["default"], layer.lora_B["default"]):
                    matrix.weight.copy_(torch.randn(matrix.weight.shape, generator=generator) * 0.1)
                if hasattr(layer.lora_A["default"], "gate"):
                    layer.lora_A["default"].gate.fill_(1.0)
        for name, parameter in found.model.named_parameters():
            if "modules_to_save" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        loss = found.model.train()(torch.tensor([[2, 5, 9, 13, 3]]), labels=torch.tensor([1])).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([layer.lora_A["default"].weight.grad for layer in layers.values()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for plain, gated in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, gated, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sparsity", [-0.1, float("inf"), float("nan"), True, "1"])
def test_a_sparsity_that_is_no_number_of_at_least_0_is_refused(sparsity: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`sparsity` must be a number of at least 0, which leaves all gates open, got"
    ):
        SoRA(sparsity=sparsity)
