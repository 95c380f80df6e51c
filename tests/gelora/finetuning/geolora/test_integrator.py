"""The geometry of one step against dense linear algebra."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gelora.finetuning.geolora.integrator import (
    Decomposed,
    choose_rank,
    decompose,
    extend,
    extend_basis,
    rotate,
    share_budget,
    truncate,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def augment(*arguments: Any) -> Decomposed:
    """K and L step, augmentation and singular values, as the paper's truncation at once takes them."""
    return decompose(*extend(*arguments, most=99))


def basis(n: int, r: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(draw(n, r, seed=seed))[0]


def identity(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


@pytest.fixture
def point() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U, S, V and a full gradient G of a 20 × 15 matrix of rank 4."""
    return basis(20, 4, 1), draw(4, 4, seed=2), basis(15, 4, 3), draw(20, 15, seed=4)


@pytest.mark.parametrize("directions", [draw(20, 4, seed=7), torch.zeros(20, 4).double(), draw(20, 1).expand(20, 4)])
def test_an_extended_basis_is_orthonormal_and_starts_with_the_old_one(directions: Tensor) -> None:
    old = basis(20, 4, 1)
    new = extend_basis(old, directions)
    torch.testing.assert_close(new[:, :4], old, rtol=0, atol=1e-13)
    torch.testing.assert_close(new.T @ new, identity(8), rtol=0, atol=1e-13)
    torch.testing.assert_close(new @ (new.T @ directions), directions, rtol=0, atol=1e-12)


def test_a_basis_is_extended_to_the_side_of_the_matrix_at_most() -> None:
    assert extend_basis(basis(6, 4), draw(6, 4)).shape == (6, 6)


def test_the_augmented_matrix_is_that_of_the_parallel_integrator(point: tuple[Tensor, ...]) -> None:
    U, S, V, G = point
    rate = 0.3
    found = augment(U, S - rate * U.T @ G @ V, V, G @ V, G.T @ U, rate)
    # The same by its definition: K, L and S steps, projected on the bases of [U | K] and [V | L].
    K, L = U @ S - rate * G @ V, V @ S.T - rate * G.T @ U
    left, right = torch.linalg.qr(torch.cat([U, K], 1))[0], torch.linalg.qr(torch.cat([V, L], 1))[0]
    outer_left, outer_right = left @ left.T - U @ U.T, right @ right.T - V @ V.T
    expected = U @ (S - rate * U.T @ G @ V) @ V.T + outer_left @ K @ V.T + U @ (outer_right @ L).T
    rebuilt = found.U @ found.P @ found.sigma.diag() @ found.Q.T @ found.V.T
    torch.testing.assert_close(rebuilt, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 1e-300, 1.0])
def test_singular_coefficients_and_any_rate_leave_bases_orthonormal_and_finite(
    rate: float, point: tuple[Tensor, ...]
) -> None:
    U, _, V, G = point
    found = augment(U, torch.zeros(4, 4).double(), V, G @ V, G.T @ U, rate)
    for matrix in (found.U, found.V, found.P, found.Q):
        torch.testing.assert_close(matrix.T @ matrix, identity(matrix.shape[1]), rtol=0, atol=1e-12)
    assert torch.isfinite(found.sigma).all()


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.2, 0.7])
def test_the_truncation_error_is_within_the_tolerance_and_no_smaller_rank_s_is(
    tolerance: float, point: tuple[Tensor, ...]
) -> None:
    U, S, V, G = point
    found = augment(U, S, V, G @ V, G.T @ U, 0.5)
    whole = found.U @ found.P @ found.sigma.diag() @ found.Q.T @ found.V.T
    rank = choose_rank(found.sigma.tolist(), tolerance, 1, 8)

    def error(kept: int) -> float:
        left, sigma, right = truncate(found, kept)
        return float((whole - left @ sigma.diag() @ right.T).norm() / whole.norm())

    assert error(rank) <= tolerance + 1e-14
    assert rank == 1 or error(rank - 1) > tolerance


@pytest.mark.parametrize(
    ("sigma", "tolerance", "least", "most", "rank"),
    [
        ([4.0, 3.0], 0.0, 1, 8, 2),
        ([4.0, 3.0], 0.6, 1, 8, 1),  # 3 / 5
        ([4.0, 3.0], 0.5999, 1, 8, 2),
        ([4.0, 1e-9, 1e-9], 0.1, 2, 8, 2),
        ([4.0, 3.0, 2.0], 0.0, 1, 2, 2),
        ([4.0], 0.0, 2, 8, 1),
        ([0.0, 0.0], 0.1, 1, 8, 1),
    ],
)
def test_the_rank_is_the_smallest_within_the_tolerance_and_the_bounds(
    sigma: list[float], tolerance: float, least: int, most: int, rank: int
) -> None:
    assert choose_rank(sigma, tolerance, least, most) == rank


@pytest.mark.parametrize(("most", "expected"), [(4, 4), (6, 6), (99, 8)])
def test_as_many_new_directions_are_taken_as_fit_and_the_matrix_in_the_old_bases_stays(
    most: int, expected: int, point: tuple[Tensor, ...]
) -> None:
    U, S, V, G = point
    left, core, right = extend(U, S, V, G @ V, G.T @ U, 0.3, most)
    assert left.shape == (20, expected)
    assert core.shape == (expected, expected)
    assert right.shape == (15, expected)
    torch.testing.assert_close(U.T @ left @ core @ right.T @ V, S, rtol=0, atol=1e-12)
    assert core[4:, 4:].count_nonzero() == 0


def test_no_more_directions_are_taken_than_the_smaller_side_has() -> None:
    U, V = basis(20, 4, 1), basis(6, 4, 3)
    left, core, right = extend(U, draw(4, 4), V, draw(20, 4), draw(6, 4), 0.1, 99)
    assert (left.shape, core.shape, right.shape) == ((20, 6), (6, 6), (6, 6))


def test_a_budget_keeps_the_largest_singular_values_of_all_matrices() -> None:
    spectra = [sorted(draw(6, seed=seed).abs().tolist(), reverse=True) for seed in range(5)]
    for budget in (10, 17, 30, 99):
        ranks = share_budget(spectra, budget, [2] * 5, [6] * 5)
        assert sum(ranks) == min(budget, 30)
        kept = [value for one, rank in zip(spectra, ranks, strict=True) for value in one[2:rank]]
        left = [value for one, rank in zip(spectra, ranks, strict=True) for value in one[rank:]]
        assert min(ranks) >= 2
        assert not kept or not left or min(kept) >= max(left)


def test_a_budget_respects_the_bounds_of_each_matrix() -> None:
    assert share_budget([[9.0, 8.0, 7.0], [1.0, 0.5]], 4, [1, 1], [2, 2]) == [2, 2]


def test_the_rotated_mean_is_the_mean_of_the_rotated_gradients(point: tuple[Tensor, ...]) -> None:
    U, S, V, G = point
    found = augment(U, S, V, G @ V, G.T @ U, 0.2)
    gradients = [draw(4, 4, seed=seed) for seed in range(40)]
    first, turned = torch.zeros(4, 4).double(), torch.zeros(5, 5).double()
    P, Q = found.P[:4, :5], found.Q[:4, :5]
    for g in gradients:
        first, turned = 0.9 * first + 0.1 * g, 0.9 * turned + 0.1 * (P.T @ g @ Q)
    rotated, _, _ = rotate(first, first.square(), torch.ones(4, 4).double(), found, 5)
    torch.testing.assert_close(rotated, turned, rtol=0, atol=1e-14)


def test_on_bases_that_only_swap_and_flip_the_rotated_squares_are_exact_too() -> None:
    # Diagonal coefficients of mixed signs and no gradient: the singular vectors are signed permutations.
    S = torch.tensor([0.5, -3.0, 2.0, -1.0], dtype=torch.float64).diag()
    U, V = basis(20, 4, 1), basis(15, 4, 3)
    found = augment(U, S, V, torch.zeros(20, 4).double(), torch.zeros(15, 4).double(), 0.1)
    P, Q = found.P[:4, :4], found.Q[:4, :4]
    second, turned = torch.zeros(4, 4).double(), torch.zeros(4, 4).double()
    for seed in range(40):
        g = draw(4, 4, seed=seed)
        second, turned = 0.99 * second + 0.01 * g.square(), 0.99 * turned + 0.01 * (P.T @ g @ Q).square()
    rotated = rotate(second, second, torch.ones(4, 4).double(), found, 4)
    torch.testing.assert_close(rotated[1], turned, rtol=0, atol=1e-14)
    torch.testing.assert_close(rotated[2], torch.ones(4, 4).double(), rtol=0, atol=1e-14)


def test_for_uncorrelated_entries_the_rotated_squares_are_right_in_the_mean(point: tuple[Tensor, ...]) -> None:
    U, S, V, G = point
    found = augment(U, S, V, G @ V, G.T @ U, 0.2)
    spread = draw(4, 4, seed=9).abs() + 0.1
    draws = draw(40_000, 4, 4, seed=10) * spread
    P, Q = found.P[:4, :6], found.Q[:4, :6]
    observed = (P.T @ draws @ Q).square().mean(0)
    _, rotated, _ = rotate(spread, spread.square(), torch.ones(4, 4).double(), found, 6)
    assert float(((observed - rotated) / rotated).abs().max()) < 5 * math.sqrt(2 / 40_000)


def test_new_directions_start_without_moments(point: tuple[Tensor, ...]) -> None:
    U, _, V, G = point
    # No coefficients yet: what is kept lies outside the old bases on one side.
    found = augment(U, torch.zeros(4, 4).double(), V, G @ V, G.T @ U, 1.0)
    ones = torch.ones(4, 4).double()
    _, _, weight = rotate(ones, ones, ones, found, 8)
    expected = (found.P[:4].square().sum(0)[:, None] * found.Q[:4].square().sum(0)[None, :])[:8, :8]
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-13)
    assert float(weight.max()) <= 1 + 1e-12
