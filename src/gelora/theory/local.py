"""The local dimensionality of a loss given as a function: definition 3.1 on examples small enough to write down."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from gelora.theory.block_jacobian import numerical_rank

CURVATURES = ("fisher", "hessian")


def local_dimensionality(
    loss: Callable[[torch.Tensor, Any], torch.Tensor],
    parameters: Any,
    data: Iterable[Any] = (None,),
    *,
    curvature: str = "fisher",
) -> int:
    r"""Return the number of directions of parameter space along which ``loss`` is not flat.

    Parameters
    ----------
    loss : callable
        ``(parameters, example) -> scalar tensor``, differentiable; of the negative logarithm of a likelihood the
        curvature is the Fisher information.
    parameters : array_like of shape (n_parameters,)
        Where to look; taken in float64.
    data : iterable
        The examples; one without content where left out.
    curvature : {"fisher", "hessian"}
        ``"fisher"``: the rank of :math:`\frac1N \sum_n g_n g_n^\top` with the gradients of the single examples. At a
        minimum of noise-free data all gradients vanish and so does this matrix; ``"hessian"``, the rank of the mean
        second derivative, then still sees the curvature.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``parameters`` is no vector, there is no example, or ``curvature`` is unknown.

    Notes
    -----
    EdDib2024, definition 3.1. In its figure 1, :math:`L = \frac12 \theta_1^2`, the parameter :math:`\theta_2` is free
    and the local dimensionality is 1.

    Examples
    --------
    >>> local_dimensionality(lambda theta, _: theta[0] ** 2 / 2, [0.0, 3.0], curvature="hessian")
    1
    """
    if curvature not in CURVATURES:
        raise ValueError(f"`curvature` must be one of {', '.join(CURVATURES)}, got {curvature!r}")
    point = torch.as_tensor(parameters).detach().double().clone()
    if point.ndim != 1:
        raise ValueError(f"`parameters` must be a vector, got shape {tuple(point.shape)}: flatten them")
    examples = list(data)
    if not examples:
        raise ValueError("`data` must hold at least one example, got none")
    with torch.inference_mode(False), torch.enable_grad():
        if curvature == "hessian":
            matrix = torch.stack([_hessian(loss, point, example) for example in examples]).mean(0)
        else:
            matrix = torch.stack([_gradient(loss, point, example) for example in examples])
    return numerical_rank(np.linalg.svd(matrix.numpy(), compute_uv=False), matrix.shape[1])


def _gradient(loss: Callable[[torch.Tensor, Any], torch.Tensor], point: torch.Tensor, example: Any) -> torch.Tensor:
    leaf = point.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, example), leaf)
    return found


def _hessian(loss: Callable[[torch.Tensor, Any], torch.Tensor], point: torch.Tensor, example: Any) -> torch.Tensor:
    # Without strict, torch gives zeros where a second derivative does not depend on the parameters.
    found: Any = torch.autograd.functional.hessian(lambda theta: loss(theta, example), point)  # type: ignore[no-untyped-call]
    matrix: torch.Tensor = found.detach()
    return matrix
