"""Local dimensionality of losses that can be written down."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gelora.theory import local_dimensionality


def half_square(theta: torch.Tensor, _: Any) -> torch.Tensor:
    return theta[0] ** 2 / 2


def noisy_square(theta: torch.Tensor, noise: float) -> torch.Tensor:
    return (theta[0] - noise) ** 2 / 2


def regression(theta: torch.Tensor, example: tuple[Any, float]) -> torch.Tensor:
    x, y = example
    return (torch.as_tensor(x) @ theta - y) ** 2 / 2


def product(theta: torch.Tensor, target: float) -> torch.Tensor:
    return (theta[0] * theta[1] - target) ** 2 / 2


@pytest.mark.parametrize("point", [[1.0, 0.0], [-2.0, 5.0]])
def test_the_loss_of_figure_1_has_one_direction_that_is_not_flat(point: list[float]) -> None:
    assert local_dimensionality(half_square, point) == 1
    assert local_dimensionality(half_square, point, curvature="hessian") == 1


def test_at_the_minimum_only_the_second_derivative_or_noise_sees_the_direction() -> None:
    assert local_dimensionality(half_square, [0.0, 3.0]) == 0
    assert local_dimensionality(half_square, [0.0, 3.0], curvature="hessian") == 1
    assert local_dimensionality(noisy_square, [0.0, 3.0], [0.1, -0.2, 0.3]) == 1


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_regression_has_the_rank_of_its_design_by_both_curvatures(rank: int) -> None:
    rng = np.random.default_rng(rank)
    design = rng.normal(size=(20, rank)) @ rng.normal(size=(rank, 6))
    data = list(zip(design, rng.normal(size=20), strict=True))
    for curvature in ("fisher", "hessian"):
        assert local_dimensionality(regression, rng.normal(size=6), data, curvature=curvature) == rank


def test_a_product_of_two_parameters_has_one_direction_off_its_minimum_by_gradients() -> None:
    assert local_dimensionality(product, [2.0, 3.0], [1.0, 2.0]) == 1
    # At the minimum the second derivative is the outer product of (3, 2) with itself.
    assert local_dimensionality(product, [2.0, 3.0], [6.0], curvature="hessian") == 1


def test_it_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert local_dimensionality(half_square, torch.tensor([1.0, 1.0])) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: local_dimensionality(half_square, [1.0], curvature="flat"), "`curvature` must be one of fisher, hess"),
        (lambda: local_dimensionality(half_square, [[1.0]]), r"`parameters` must be a vector, got shape \(1, 1\)"),
        (lambda: local_dimensionality(half_square, [1.0], []), "`data` must hold at least one example, got none"),
    ],
)
def test_a_wrong_call_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
