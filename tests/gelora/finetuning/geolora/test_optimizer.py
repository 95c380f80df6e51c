"""The optimizer: when bases move, what is kept, what other parameters get, what a checkpoint brings back."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gelora.finetuning.geolora import GeoLoRALinear, GeoLoRAOptimizer


class Net(nn.Module):
    """Two adapted layers and a head of its own."""

    def __init__(self, rank: int = 3, max_rank: int = 6, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        first, second, head = nn.Linear(12, 16).double(), nn.Linear(16, 12).double(), nn.Linear(12, 2).double()
        generator = torch.Generator().manual_seed(seed)
        self.first = GeoLoRALinear(first, rank, max_rank, scale=2.0, generator=generator)
        self.second = GeoLoRALinear(second, rank, max_rank, scale=2.0, generator=generator)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def batch(seed: int, n: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def loss_of(model: nn.Module, seed: int) -> Tensor:
    x, y = batch(seed)
    return nn.functional.cross_entropy(model(x), y)


def run(model: Net, optimizer: GeoLoRAOptimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def bases(model: Net) -> list[Tensor]:
    return [getattr(one, name).clone() for one in (model.first, model.second) for name in ("geolora_U", "geolora_V")]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("truncation", ["on_trial", "at_once"])
def test_bases_move_at_the_first_step_and_every_interval_after(truncation: str) -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=4, truncation=truncation)
    moved = []
    for step in range(10):
        before = bases(model)
        run(model, optimizer, range(step, step + 1))
        moved.append(not equal(before, bases(model)))
    assert moved == [True, False, False, False, True, False, False, False, True, False]


def test_no_base_moves_at_rate_zero_and_the_move_is_made_up_for() -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 0.0, interval=4)
    before = bases(model)
    run(model, optimizer, range(2))
    assert equal(before, bases(model))
    optimizer.param_groups[0]["lr"] = 1e-2
    run(model, optimizer, range(2, 3))
    assert not equal(before, bases(model))


def test_gradients_of_k_and_l_are_computed_only_where_bases_move() -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=3)
    seen = []
    for step in range(6):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        seen.append(model.first.geolora_K.grad is not None)
        optimizer.step()
    assert seen == [True, False, False, True, False, False]


def test_accumulated_gradients_move_as_those_of_the_whole_batch() -> None:
    whole, parts = Net(), Net()
    optimizers = [GeoLoRAOptimizer(model, 1e-2, interval=2) for model in (whole, parts)]
    for step in range(5):
        x, y = batch(step)
        for model, optimizer, pieces in zip((whole, parts), optimizers, (1, 4), strict=True):
            optimizer.zero_grad()
            for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                (nn.functional.cross_entropy(model(a), b) / pieces).backward()
            optimizer.step()
    x, _ = batch(99)
    torch.testing.assert_close(whole(x), parts(x), rtol=1e-7, atol=1e-9)
    assert [whole.first.rank, whole.second.rank] == [parts.first.rank, parts.second.rank]


def test_k_and_l_stay_zero_and_are_never_decayed_nor_are_the_bases() -> None:
    model = Net()
    run(model, GeoLoRAOptimizer(model, 1e-2, weight_decay=0.9), range(7))
    for layer in (model.first, model.second):
        assert layer.geolora_K.count_nonzero() == layer.geolora_L.count_nonzero() == 0
        for basis in (layer.geolora_U[:, : layer.rank], layer.geolora_V[:, : layer.rank]):
            torch.testing.assert_close(basis.T @ basis, torch.eye(layer.rank, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_gradient_norm_that_clips_hardly_counts_k_and_l() -> None:
    model = Net()
    GeoLoRAOptimizer(model, 1e-2)
    for layer in (model.first, model.second):
        layer.geolora_S.data[:3, :3] = torch.eye(3)
    norms = []
    for collect in (True, False):
        model.zero_grad()
        for layer in (model.first, model.second):
            layer.collect = collect
        loss_of(model, 0).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1e9)))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_other_parameters_go_where_adamw_takes_them() -> None:
    model = Net()
    other = copy.deepcopy(model)
    optimizer = GeoLoRAOptimizer(model, 1e-2, weight_decay=0.3, no_decay=["head.bias"], interval=1000)
    groups = [{"params": [other.head.weight], "weight_decay": 0.3}, {"params": [other.head.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2)
    for step in range(3):
        for one, net in ((optimizer, model), (reference, other)):
            one.zero_grad()
            x, y = batch(step)
            # The head alone, on the same features, so that only its own path is compared.
            features = torch.tanh(net.second.base_layer(torch.tanh(net.first.base_layer(x)))).detach()
            nn.functional.cross_entropy(net.head(features), y).backward()
            one.step()
    assert torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(model.head.bias, other.head.bias)


@pytest.mark.parametrize("truncation", ["on_trial", "at_once"])
@pytest.mark.parametrize("cut", [3, 4, 7])
def test_states_of_model_and_optimizer_bring_back_the_run(truncation: str, cut: int) -> None:
    options: dict[str, Any] = {"interval": 4, "truncation": truncation, "tolerance": 0.05, "last_move": 9}
    whole = Net()
    expected = run(whole, GeoLoRAOptimizer(whole, 1e-2, **options), range(14))
    first = Net()
    optimizer = GeoLoRAOptimizer(first, 1e-2, **options)
    run(first, optimizer, range(cut))
    second = Net(rank=1, seed=5)  # another start: everything comes from the states
    resumed = GeoLoRAOptimizer(second, 1e-2, **options)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert run(second, resumed, range(cut, 14)) == expected[cut:]
    assert [second.first.kept_rank, second.second.kept_rank] == [whole.first.kept_rank, whole.second.kept_rank]


def test_after_the_last_move_nothing_is_on_trial_and_the_bases_stay() -> None:
    model = Net(rank=2, max_rank=12)
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=3, last_move=7, tolerance=0.1)
    run(model, optimizer, range(7))
    assert model.first.rank > model.first.kept_rank
    run(model, optimizer, range(7, 8))
    assert model.first.rank == model.first.kept_rank
    settled = bases(model)
    run(model, optimizer, range(8, 20))
    assert equal(settled, bases(model))


@pytest.mark.parametrize("truncation", ["on_trial", "at_once"])
def test_a_loss_that_is_not_finite_leaves_ranks_and_bases_as_they_are(truncation: str) -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=1, truncation=truncation)
    run(model, optimizer, range(2))
    before, ranks = bases(model), (model.first.rank, model.second.rank)
    optimizer.zero_grad()
    (loss_of(model, 2) * float("nan")).backward()
    optimizer.step()
    assert equal(before, bases(model))
    assert (model.first.rank, model.second.rank) == ranks


def test_a_layer_without_a_gradient_is_left_as_it_is_and_the_others_move() -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=1)
    before = bases(model)
    x, y = batch(0)
    nn.functional.cross_entropy(model.head(model.second(torch.tanh(model.first.base_layer(x)))), y).backward()
    optimizer.step()
    after = bases(model)
    assert equal(before[:2], after[:2])
    assert not equal(before[2:], after[2:])


def test_a_closure_is_evaluated_and_its_loss_returned() -> None:
    model, other = Net(), Net()
    optimizer, reference = GeoLoRAOptimizer(model, 1e-2), GeoLoRAOptimizer(other, 1e-2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    assert [optimizer.step(closure).item()] == run(other, reference, range(1))
    assert torch.equal(model.first.geolora_S, other.first.geolora_S)


def test_schedulers_and_gradient_scaling_take_it_for_an_optimizer() -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    other = Net()
    plain = GeoLoRAOptimizer(other, 1e-2, interval=2)
    steady = torch.optim.lr_scheduler.LinearLR(plain, 1.0, 0.1, total_iters=5)
    for step in range(5):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        run(other, plain, range(step, step + 1))
        steady.step()
    x, _ = batch(77)
    torch.testing.assert_close(model(x), other(x), rtol=1e-7, atol=1e-9)


def test_a_step_that_gradient_scaling_skips_moves_nothing() -> None:
    model = Net()
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=2)
    scaler = torch.amp.GradScaler("cpu")
    before = bases(model)
    scaler.scale(loss_of(model, 0) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert equal(before, bases(model))
    assert optimizer.param_groups[0]["made"] == 0
    assert model.first.collect


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 1.0}, r"`tolerance` must be a number of at least 0 and below 1, got 1.0"),
        ({"tolerance": True}, r"`tolerance` must be a number"),
        ({"budget": 0}, r"`budget` must be an integer of at least 1, or None to truncate by `tolerance`, got 0"),
        ({"budget": 3}, r"`budget` must be at least 4, `min_rank` for each of 2 matrices, got 3"),
        ({"min_rank": 0}, r"`min_rank` must be an integer of at least 1, got 0"),
        ({"interval": 0}, r"`interval` must be an integer of at least 1, got 0"),
        ({"method": "adam"}, r"`method` must be one of adamw, sgd, got 'adam'; did you mean 'adamw'\?"),
        ({"truncation": "once"}, r"`truncation` must be one of on_trial, at_once, got 'once'; did you mean"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeoLoRAOptimizer(Net(), 1e-2, **options)


def test_a_model_without_geolora_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model` has no GeoLoRA layer: put them there by add_geolora"):
        GeoLoRAOptimizer(nn.Linear(3, 3), 1e-2)


PROCESSES = """
import sys

import torch
from torch import nn

sys.path.insert(0, sys.argv[1])
from test_optimizer import Net, batch

from gelora.finetuning.geolora import GeoLoRAOptimizer

torch.set_num_threads(1)
place, folder = int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=place, world_size=2)
model = Net()
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = GeoLoRAOptimizer(model, 1e-2, interval=2, tolerance=0.05)
for step in range(9):
    x, y = (part.chunk(2)[place] for part in batch(step))
    optimizer.zero_grad()
    nn.functional.cross_entropy(wrapped(x), y).backward()
    optimizer.step()
torch.save([model.state_dict(), optimizer.state_dict()], f"{folder}/{place}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_agree_on_ranks_bases_and_moments_and_on_one_process(tmp_path: Any) -> None:
    import subprocess
    import sys
    from pathlib import Path

    arguments = [str(Path(__file__).parent), str(tmp_path)]
    commands = [
        [sys.executable, "-W", "ignore", "-c", PROCESSES, arguments[0], str(place), arguments[1]] for place in (0, 1)
    ]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    (first, moments), (second, others) = (torch.load(tmp_path / f"{place}.pt") for place in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert repr(moments) == repr(others)
    alone = Net()
    optimizer = GeoLoRAOptimizer(alone, 1e-2, interval=2, tolerance=0.05)
    run(alone, optimizer, range(9))
    assert torch.equal(alone.first.geolora_ranks, first["first.geolora_ranks"])
    both = Net()
    both.load_state_dict(first)
    x, _ = batch(55)
    torch.testing.assert_close(both(x), alone(x), rtol=1e-7, atol=1e-9)


@pytest.mark.gpu
def test_on_a_gpu_it_goes_where_it_goes_on_a_cpu() -> None:
    models = [Net(), Net().to("cuda")]
    for model in models:
        device = next(model.parameters()).device
        optimizer = GeoLoRAOptimizer(model, 1e-2, interval=2, tolerance=0.05)
        for step in range(7):
            x, y = (part.to(device) for part in batch(step))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    x, _ = batch(55)
    assert [layer.rank for layer in (models[0].first, models[0].second)] == [
        layer.rank for layer in (models[1].first, models[1].second)
    ]
    torch.testing.assert_close(models[1](x.to("cuda")).cpu(), models[0](x), rtol=1e-6, atol=1e-8)


@pytest.mark.gpu
def test_on_a_gpu_it_trains_in_half_precision_with_gradient_scaling() -> None:
    model = Net().float().to("cuda")
    optimizer = GeoLoRAOptimizer(model, 1e-2, interval=5)
    scaler = torch.amp.GradScaler("cuda")
    losses = []
    for step in range(60):
        x, y = batch(step % 4)
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(x.float().to("cuda")), y.to("cuda"))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
