"""What the theory of GeoLoRA promises, on matrices small enough to know the answer."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gelora.finetuning.geolora import GeoLoRALinear, GeoLoRAOptimizer

OUT, IN = 40, 30


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matrix(singular: list[float], seed: int = 5) -> Tensor:
    left = torch.linalg.qr(draw(OUT, len(singular), seed=seed))[0]
    right = torch.linalg.qr(draw(IN, len(singular), seed=seed + 1))[0]
    return left @ torch.tensor(singular, dtype=torch.float64).diag() @ right.T


PLANTED = matrix([3.0, 2.5, 2.0, 1.5, 1.0])
Loss = Callable[[Tensor], Tensor]


def quadratic(target: Tensor) -> Loss:
    """½ ‖X − target‖²: its gradient is X − target."""
    return lambda X: 0.5 * (X - target).square().sum()


class Matrix(nn.Module):
    """A layer whose update X = U S Vᵀ is read by feeding it the identity."""

    def __init__(self, rank: int, max_rank: int = 20, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        base = nn.Linear(IN, OUT, bias=False, dtype=dtype)
        nn.init.zeros_(base.weight)
        generator = torch.Generator().manual_seed(3)
        self.layer = GeoLoRALinear(base, rank, max_rank, scale=1.0, generator=generator)

    def forward(self) -> Tensor:
        return self.layer(torch.eye(IN, dtype=self.layer.geolora_S.dtype)).T

    def put(self, X: Tensor, rank: int) -> "Matrix":
        """Make the layer hold the best approximation of X of that rank."""
        U, sigma, Vt = torch.linalg.svd(X)
        for name, value in (("U", U[:, :rank]), ("V", Vt[:rank].T)):
            getattr(self.layer, f"geolora_{name}").zero_()[:, :rank] = value
        self.layer.geolora_S.data.zero_()[:rank, :rank] = sigma[:rank].diag()
        self.layer.set_rank(rank)
        return self


def train(model: Matrix, loss: Loss, rate: float, steps: int, **options: Any) -> tuple[list[float], list[int]]:
    options = {"tolerance": 0.02, "min_rank": 1, "interval": 1, "method": "sgd", "truncation": "at_once"} | options
    optimizer = GeoLoRAOptimizer(model, rate, **options)
    losses, ranks = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model())
        value.backward()
        optimizer.step()
        losses.append(value.item())
        ranks.append(model.layer.kept_rank)
    return losses, ranks


@pytest.mark.parametrize("start", [2, 5, 9, 20])
@pytest.mark.parametrize("truncation", ["at_once", "on_trial"])
def test_a_planted_matrix_is_recovered_with_its_own_rank_from_any_starting_rank(start: int, truncation: str) -> None:
    model = Matrix(start)
    losses, ranks = train(model, quadratic(PLANTED), 0.3, 150, truncation=truncation)
    assert ranks[-1] == 5
    assert losses[-1] < 1e-20
    torch.testing.assert_close(model().detach(), PLANTED, rtol=0, atol=1e-9)


@pytest.mark.parametrize("start", [1, 2, 5, 12, 20])
@pytest.mark.parametrize("interval", [1, 10])
def test_adamw_recovers_the_planted_rank_from_any_starting_rank(start: int, interval: int) -> None:
    options = {"method": "adamw", "interval": interval, "truncation": "on_trial"}
    model = Matrix(start)
    losses, ranks = train(model, quadratic(PLANTED), 0.02, 1500, **options)
    assert ranks[-1] == 5
    assert losses[-1] < 1e-3 * losses[0]


@pytest.mark.parametrize("ceiling", [1, 2, 4, 8])
@pytest.mark.parametrize("interval", [1, 10])
def test_a_target_of_the_ceiling_s_rank_is_recovered_at_the_ceiling(ceiling: int, interval: int) -> None:
    """The new directions on trial have room beside those that are kept."""
    target = matrix([3.0 - 0.2 * place for place in range(ceiling)], seed=40)
    options = {"method": "adamw", "interval": interval, "truncation": "on_trial", "min_rank": 1}
    model = Matrix(ceiling, ceiling)
    losses, ranks = train(model, quadratic(target), 0.02, 2000, **options)
    assert max(ranks) <= ceiling
    assert ranks[-1] == ceiling
    assert losses[-1] < 1e-2 * losses[0]
    assert model.layer.rank <= 2 * ceiling


def test_a_stationary_point_of_too_small_a_rank_is_left_on_trial_only() -> None:
    """Where G is normal to the matrices of that rank, G V and GᵀU vanish: neither tells where to grow."""
    final = []
    for truncation in ("at_once", "on_trial"):
        _, ranks = train(Matrix(2).put(PLANTED, 2), quadratic(PLANTED), 0.2, 100, truncation=truncation)
        final.append(ranks[-1])
    assert final == [2, 5]


def test_no_rank_exceeds_twice_the_one_before_or_the_ceiling() -> None:
    _, ranks = train(Matrix(1, 4), quadratic(matrix([1.0] * 12)), 0.2, 30, tolerance=0.0)
    assert ranks[0] == 2
    assert all(new <= 2 * old for old, new in itertools.pairwise(ranks))
    assert max(ranks) == 4


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01])
def test_the_loss_falls_at_every_small_step(rate: float) -> None:
    """Without truncation a step of rate λ ≤ 1/L lowers the loss: descent on the tangent space."""
    losses, _ = train(Matrix(3, 3).put(draw(OUT, IN, seed=8), 3), quadratic(PLANTED), rate, 60, tolerance=0.0)
    assert all(new < old for old, new in itertools.pairwise(losses))


@pytest.mark.parametrize("rate", [0.2, 0.05])
def test_with_truncation_the_loss_rises_by_its_error_at_most(rate: float) -> None:
    tolerance = 0.1
    model = Matrix(8)
    options = {"truncation": "at_once", "method": "sgd"}
    optimizer = GeoLoRAOptimizer(model, rate, tolerance=tolerance, min_rank=1, interval=1, **options)
    for _ in range(60):
        before = model().detach()
        optimizer.zero_grad()
        loss = quadratic(PLANTED)(model())
        loss.backward()
        optimizer.step()
        after = model().detach()
        error = tolerance * float(after.norm()) / (1 - tolerance**2) ** 0.5
        distance = float((before - PLANTED).norm()) + error
        assert float(quadratic(PLANTED)(after)) <= loss.item() + error * distance + 1e-12


def truncation_error(tolerance: float) -> float:
    """One step, with and without truncation."""
    found = []
    for allowed in (tolerance, 0.0):
        model = Matrix(6).put(matrix([2.0, 1.0, 0.5, 0.2, 0.1, 0.05], seed=20), 6)
        train(model, quadratic(PLANTED), 0.1, 1, tolerance=allowed)
        found.append(model().detach())
    return float((found[0] - found[1]).norm() / found[1].norm())


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.2, 0.5])
def test_the_error_of_a_step_is_bounded_by_the_tolerance(tolerance: float) -> None:
    assert truncation_error(tolerance) <= tolerance + 1e-12


def tangent(X: Tensor, G: Tensor, rank: int) -> Tensor:
    """Orthogonal projection of G on the tangent space of the matrices of that rank at X."""
    U, _, Vt = torch.linalg.svd(X)
    left, right = U[:, :rank] @ U[:, :rank].T, Vt[:rank].T @ Vt[:rank]
    return left @ G + G @ right - left @ G @ right


def flow(X: Tensor, rank: int, time: float, steps: int = 2000) -> Tensor:
    """The projected gradient flow X' = −P(X) ∇L, by Runge and Kutta with a retraction after every small step."""

    def slope(Y: Tensor) -> Tensor:
        return -tangent(Y, Y - PLANTED, rank)

    h = time / steps
    for _ in range(steps):
        k1 = slope(X)
        k2 = slope(X + h / 2 * k1)
        k3 = slope(X + h / 2 * k2)
        k4 = slope(X + h * k3)
        U, sigma, Vt = torch.linalg.svd(X + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), full_matrices=False)
        X = U[:, :rank] @ sigma[:rank].diag() @ Vt[:rank]
    return X


def distances_to_flow(start: Tensor, rank: int) -> list[float]:
    exact = flow(start, rank, 1.0)
    found = []
    for steps in (20, 40, 80, 160):
        model = Matrix(rank, rank).put(start, rank)
        train(model, quadratic(PLANTED), 1.0 / steps, steps, tolerance=0.0)
        found.append(float((model().detach() - exact).norm() / exact.norm()))
    return found


def test_small_steps_follow_the_projected_gradient_flow_with_an_error_in_proportion_to_the_rate() -> None:
    errors = distances_to_flow(matrix([2.0, 1.5, 1.0], seed=20), 3)
    assert errors[-1] < 0.01
    ratios = [old / new for old, new in itertools.pairwise(errors)]
    assert all(1.7 < ratio < 2.4 for ratio in ratios)  # halving the rate halves the error


def test_tiny_singular_values_do_not_spoil_the_step() -> None:
    """The naive K step divides by them: gradients of the factors times the inverse of S."""
    left, right = torch.linalg.qr(draw(OUT, 4, seed=30))[0], torch.linalg.qr(draw(IN, 4, seed=31))[0]
    sizes = torch.tensor([2.0, 1.5, 1e-10], dtype=torch.float64)
    start = left[:, :3] @ sizes.diag() @ right[:, :3].T  # its third direction is a wrong one, too
    target = left[:, [0, 1, 3]] @ torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64).diag() @ right[:, [0, 1, 3]].T
    exact = start * math.exp(-1.0) + target * (1.0 - math.exp(-1.0))  # of rank 3 but for 1e-10: the projected flow
    errors = []
    for steps in (20, 40, 80, 160):
        model = Matrix(3, 3).put(start, 3)
        train(model, quadratic(target), 1.0 / steps, steps, tolerance=0.0)
        errors.append(float((model().detach() - exact).norm() / exact.norm()))
    assert errors[-1] < 0.01
    assert all(1.7 < old / new < 2.4 for old, new in itertools.pairwise(errors))


def test_bases_stay_orthonormal_in_float32_over_thousands_of_moves() -> None:
    model = Matrix(6, dtype=torch.float32)
    optimizer = GeoLoRAOptimizer(model, 0.01, tolerance=0.05, interval=1)
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(2000):
        optimizer.zero_grad()
        noise = torch.randn(OUT, IN, generator=generator)
        quadratic(PLANTED.float() + noise)(model()).backward()
        optimizer.step()
        rank = model.layer.rank
        for basis in (model.layer.geolora_U[:, :rank], model.layer.geolora_V[:, :rank]):
            worst = max(worst, float((basis.T @ basis - torch.eye(rank)).abs().max()))
    assert worst < 1e-5


def test_a_budget_goes_to_the_matrices_with_the_largest_singular_values() -> None:
    model = nn.ModuleList([Matrix(4), Matrix(4)])
    targets = [matrix([5.0, 4.0, 3.0, 2.0, 1.5], seed=5), matrix([1.0, 0.5], seed=9)]
    optimizer = GeoLoRAOptimizer(model, 0.2, budget=7, min_rank=2, interval=1, method="sgd")
    for _ in range(120):
        optimizer.zero_grad()
        sum(quadratic(target)(one()) for one, target in zip(model, targets, strict=True)).backward()  # type: ignore[union-attr]
        optimizer.step()
        assert sum(layer.kept_rank for layer in optimizer.layers.values()) <= 7
    assert [layer.kept_rank for layer in optimizer.layers.values()] == [5, 2]
    for one, target in zip(model, targets, strict=True):
        torch.testing.assert_close(one().detach(), target, rtol=0, atol=1e-6)


def test_on_a_diagonal_problem_the_moments_of_s_are_those_of_adam() -> None:
    """Where the bases do not move, S goes where torch's AdamW takes it."""
    model = Matrix(3, 3)
    optimizer = GeoLoRAOptimizer(model, 0.05, interval=10_000, weight_decay=0.1)
    optimizer.param_groups[0]["countdown"] = 10_000
    U, V = model.layer.geolora_U[:, :3].clone(), model.layer.geolora_V[:, :3].clone()
    S = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    reference = torch.optim.AdamW([S], lr=0.05, weight_decay=0.1)
    for _ in range(50):
        for one, X in ((optimizer, model), (reference, None)):
            one.zero_grad()
            quadratic(PLANTED)(U @ S @ V.T if X is None else X()).backward()
            one.step()
    torch.testing.assert_close(model.layer.geolora_S.detach()[:3, :3], S.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_under_adamw_k_and_l_move_no_further_than_s_can(size: float) -> None:
    model = Matrix(3)
    optimizer = GeoLoRAOptimizer(model, 0.01, tolerance=0.0, interval=1)
    quadratic(size * PLANTED)(model()).backward()
    optimizer.step()
    kept, rank = model.layer.kept_rank, model.layer.rank
    assert (kept, rank) == (3, 6)
    S = model.layer.geolora_S.detach()
    longest = 3 * 0.01
    for moved in (S[kept:rank, :kept], S[:kept, kept:rank]):
        assert 0 < float(moved.norm()) <= longest * (1 + 1e-9)
    assert float(S[:kept, :kept].norm()) == pytest.approx(
        longest, rel=1e-2
    )  # AdamW's first step: the rate for each entry


def test_a_constant_effective_scale_when_the_rank_moves() -> None:
    """The same update before and after a move of the bases that changes no singular value."""
    model = Matrix(6).put(PLANTED, 6)  # one singular value is zero
    before = model().detach()
    options = {"truncation": "at_once", "method": "sgd"}
    optimizer = GeoLoRAOptimizer(model, 1e-12, tolerance=1e-6, min_rank=1, interval=1, **options)
    quadratic(torch.zeros(OUT, IN, dtype=torch.float64))(model()).backward()
    optimizer.step()
    assert model.layer.rank == 5
    torch.testing.assert_close(model().detach(), before, rtol=0, atol=1e-9)
