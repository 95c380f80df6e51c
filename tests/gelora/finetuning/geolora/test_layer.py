"""The layer: its product and gradients, its start, its shapes, its factors."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gelora.finetuning.geolora import GeoLoRALinear
from gelora.finetuning.geolora.layer import DIRECTION_SCALE


def make_layer(kind: str = "linear", rank: int = 3, max_rank: int = 5, **options: Any) -> GeoLoRALinear:
    torch.manual_seed(0)
    base: Any = nn.Linear(7, 9) if kind == "linear" else Conv1D(9, 7)
    options = {"scale": 1.5, "generator": torch.Generator().manual_seed(1)} | options
    return GeoLoRALinear(base.double(), rank, max_rank, **options)


def fill(layer: GeoLoRALinear) -> GeoLoRALinear:
    torch.manual_seed(2)
    layer.geolora_S.data[: layer.rank, : layer.rank] = torch.randn(layer.rank, layer.rank, dtype=torch.float64)
    return layer


def written_out(layer: GeoLoRALinear, x: Tensor, S: Tensor, K: Tensor, L: Tensor) -> Tensor:
    """s · ((U S + K) Vᵀ + U Lᵀ) x by autograd."""
    U, V = layer.geolora_U[:, : layer.rank], layer.geolora_V[:, : layer.rank]
    return layer.base_layer(x) + layer.scale * (x @ ((U @ S + K) @ V.T + U @ L.T).T)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_it_starts_as_the_base_layer(kind: str) -> None:
    layer = make_layer(kind)
    x = torch.randn(4, 2, 7, dtype=torch.float64)
    assert torch.equal(layer(x), layer.base_layer(x))
    assert layer.geolora_S.count_nonzero() == layer.geolora_K.count_nonzero() == layer.geolora_L.count_nonzero() == 0


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("collect", [True, False])
def test_values_and_gradients_are_those_of_the_formula_written_out(kind: str, collect: bool) -> None:
    layer = fill(make_layer(kind))
    layer.collect = collect
    x = torch.randn(4, 2, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 2, 9, dtype=torch.float64)
    (layer(x) * weights).sum().backward()
    r = layer.rank
    S = layer.geolora_S.detach()[:r, :r].requires_grad_()
    K, L = torch.zeros(9, r).double().requires_grad_(), torch.zeros(7, r).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    expected = written_out(layer, y, S, K, L)
    torch.testing.assert_close(layer(x), expected)
    to_S, to_K, to_L, to_x = torch.autograd.grad((expected * weights).sum(), (S, K, L, y))
    torch.testing.assert_close(x.grad, to_x)
    torch.testing.assert_close(layer.geolora_S.grad[:r, :r], to_S)
    assert layer.geolora_S.grad.count_nonzero() == to_S.count_nonzero()
    if collect:
        torch.testing.assert_close(layer.geolora_K.grad[:, :r], DIRECTION_SCALE * to_K, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(layer.geolora_L.grad[:, :r], DIRECTION_SCALE * to_L, rtol=1e-12, atol=1e-15)
        assert layer.geolora_K.grad[:, r:].count_nonzero() == layer.geolora_L.grad[:, r:].count_nonzero() == 0
    else:
        assert layer.geolora_K.grad is layer.geolora_L.grad is None


def test_the_gradients_of_zero_k_and_l_are_the_gradient_times_the_bases() -> None:
    layer = fill(make_layer())
    x = torch.randn(6, 7, dtype=torch.float64)
    target = torch.randn(6, 9, dtype=torch.float64)
    (layer(x) - target).square().sum().backward()
    G = layer.scale * 2 * (layer(x).detach() - target).T @ x  # ∂L/∂X of X in base + s X
    r = layer.rank
    torch.testing.assert_close(layer.geolora_K.grad[:, :r] / DIRECTION_SCALE, G @ layer.geolora_V[:, :r])
    torch.testing.assert_close(layer.geolora_L.grad[:, :r] / DIRECTION_SCALE, G.T @ layer.geolora_U[:, :r])


def test_gradients_are_finite_for_singular_coefficients() -> None:
    layer = make_layer()
    layer.geolora_S.data[0, 0] = 1e-300
    layer(torch.randn(6, 7, dtype=torch.float64)).sum().backward()
    for parameter in (layer.geolora_S, layer.geolora_K, layer.geolora_L):
        assert torch.isfinite(parameter.grad).all()
    assert layer.geolora_K.grad.count_nonzero() > 0


def test_only_the_adapter_requires_gradients() -> None:
    trained = {name for name, parameter in make_layer().named_parameters() if parameter.requires_grad}
    assert trained == {"geolora_S", "geolora_K", "geolora_L"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_float32_gradients_near_those_of_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = GeoLoRALinear(nn.Linear(32, 24), 4, 8, scale=1.0, generator=torch.Generator().manual_seed(1))
    layer.geolora_S.data[:4, :4] = torch.randn(4, 4)
    x = torch.randn(16, 32)
    found = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            y = layer(x)
        y.float().square().mean().backward()
        found.append([parameter.grad.clone() for parameter in (layer.geolora_S, layer.geolora_K, layer.geolora_L)])
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert float((exact - rounded).norm() / exact.norm()) < 0.02


def test_half_precision_weights_get_an_adapter_in_float32_and_keep_their_type() -> None:
    layer = GeoLoRALinear(nn.Linear(8, 8).bfloat16(), 2, 4, scale=1.0)
    y = layer(torch.randn(3, 8).bfloat16())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.geolora_S.dtype == layer.geolora_S.grad.dtype == layer.geolora_U.dtype == torch.float32


def test_dropout_acts_on_the_input_of_the_adapter_in_training_alone() -> None:
    layer, plain = fill(make_layer(dropout=0.5)), fill(make_layer())
    x = torch.randn(7, dtype=torch.float64)
    assert torch.equal(layer.eval()(x), plain(x))
    torch.manual_seed(0)
    drawn = torch.stack([layer.train()(x) for _ in range(4000)]).detach()
    assert len(drawn.unique(dim=0)) == 2**7  # every input is dropped or not
    added = plain(x).detach() - plain.base_layer(x).detach()
    spread = drawn.std(0) / 4000**0.5
    assert ((drawn.mean(0) - plain.base_layer(x) - added).abs() < 4 * spread).all()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_factors_and_delta_weight_are_the_update(kind: str) -> None:
    layer = fill(make_layer(kind))
    A, B = layer.factors()
    x = torch.randn(6, 7, dtype=torch.float64)
    assert A.shape == (3, 7)
    assert B.shape == (9, 3)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + layer.scale * x @ A.T @ B.T)
    torch.testing.assert_close(A @ A.T, B.T @ B)  # balanced
    merged = copy.deepcopy(layer.base_layer)
    merged.weight.data += layer.delta_weight()
    torch.testing.assert_close(merged(x), layer(x))


def test_a_state_of_another_rank_brings_its_rank() -> None:
    source, target = fill(make_layer(rank=5)), make_layer(rank=2)
    target.load_state_dict(source.state_dict())
    assert target.rank == 5
    x = torch.randn(6, 7, dtype=torch.float64)
    assert torch.equal(target(x), source(x))
    assert copy.deepcopy(target).rank == 5


@pytest.mark.parametrize(("rank", "max_rank"), [(0, 3), (4, 3), (3, 8)])
def test_ranks_outside_the_matrix_are_refused(rank: int, max_rank: int) -> None:
    with pytest.raises(
        ValueError, match=rf"must be 1 ≤ rank ≤ max_rank ≤ 7, the smaller side .* got {rank} and {max_rank}"
    ):
        make_layer(rank=rank, max_rank=max_rank)


def test_the_same_generator_gives_the_same_orthonormal_bases() -> None:
    first, second = make_layer(), make_layer()
    for name in ("geolora_U", "geolora_V"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        used = getattr(first, name)[:, :3]
        torch.testing.assert_close(used.T @ used, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-13)
        assert getattr(first, name)[:, 3:].count_nonzero() == 0


def test_one_forward_pass_adds_no_product_for_k_and_l() -> None:
    """Two thin products and the small one, whether the bases will move or not."""
    from torch.utils.flop_counter import FlopCounterMode

    layer = fill(make_layer())
    x = torch.randn(10, 7, dtype=torch.float64)
    counted = []
    for collect in (True, False):
        layer.collect = collect
        with FlopCounterMode(display=False) as counter:
            layer(x)
        counted.append(counter.get_total_flops())
    base = 2 * 10 * 7 * 9
    assert counted == [base + 2 * 10 * (7 * 3 + 3 * 3 + 3 * 9)] * 2
