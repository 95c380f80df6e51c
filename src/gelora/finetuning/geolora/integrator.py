r"""The geometry of a GeoLoRA step on one matrix: augment the bases, take the singular values, truncate, rotate.

Notation of Schotthöfer et al. 2025 (arXiv 2410.18720): X = U S Vᵀ with U (out × r) and V (in × r) orthonormal,
G = ∂L/∂X. Pure functions of tensors; the optimizer decides when and with which rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Decomposed:
    r"""A matrix :math:`U P Σ Qᵀ Vᵀ`, the coefficients in its bases by their singular values.

    Parameters
    ----------
    U, V : Tensor of shape (out, k) and (in, k)
        Orthonormal bases.
    P, Q : Tensor of shape (k, k)
        Singular vectors of the coefficients.
    sigma : Tensor of shape (k,)
        Singular values, falling.
    """

    U: Tensor
    V: Tensor
    P: Tensor
    Q: Tensor
    sigma: Tensor


def extend_basis(basis: Tensor, directions: Tensor) -> Tensor:
    """Return an orthonormal basis of ``basis`` and ``directions``, ``basis`` first.

    Parameters
    ----------
    basis : Tensor of shape (n, r)
        Orthonormal columns.
    directions : Tensor of shape (n, k)
        Any; dependent or zero columns are filled up by arbitrary orthonormal ones.

    Returns
    -------
    Tensor of shape (n, min(n, r + k))
        Its first r columns are ``basis`` to rounding. One Householder factorisation: orthonormal whatever the
        condition of the columns, so that the rounding of many steps does not add up.
    """
    rank = basis.shape[1]
    Q, R = torch.linalg.qr(torch.cat([basis, directions], dim=1))
    signs = torch.where(R.diagonal()[:rank] < 0, -1.0, 1.0).to(Q.dtype)  # Householder vectors may flip the columns
    return torch.cat([Q[:, :rank] * signs, Q[:, rank:]], dim=1)


def extend(
    U: Tensor, S: Tensor, V: Tensor, GV: Tensor, GtU: Tensor, rate: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Make the K and the L step of ``rate`` and return the bases and coefficients that they reach.

    :math:`K = U S - λ G V` and :math:`L = V Sᵀ - λ Gᵀ U` enter by their components outside the old bases; inside
    stand the coefficients ``S``, which have made their own step. The new directions are those of G V and GᵀU, which
    span with U and V the same as K and L but are defined for S = 0 and for any rate, too.

    Parameters
    ----------
    U, V : Tensor of shape (out, r) and (in, r)
        Orthonormal.
    S : Tensor of shape (r, r)
        After its step; may be singular: it is not inverted.
    GV, GtU : Tensor of shape (out, r) and (in, r)
        G V and GᵀU.
    rate : float
        λ.
    most : int
        Columns at most. Where not all new directions fit, those of the first columns of U and V do.

    Returns
    -------
    U, S, V : Tensor of shape (out, k), (k, k) and (in, k)
        r ≤ k ≤ min(2 r, ``most``, out, in).
    """
    rank = len(S)
    new = max(0, min(rank, most - rank, len(U) - rank, len(V) - rank))
    left, right = extend_basis(U, GV[:, :new]), extend_basis(V, GtU[:, :new])
    core = S.new_zeros(rank + new, rank + new)
    core[:rank, :rank] = S
    core[rank:, :rank] = -rate * (left[:, rank:].T @ GV)
    core[:rank, rank:] = -rate * (GtU.T @ right[:, rank:])
    return left, core, right


def decompose(U: Tensor, S: Tensor, V: Tensor) -> Decomposed:
    """Return the matrix U S Vᵀ by the singular values and vectors of S."""
    P, sigma, Qt = torch.linalg.svd(S)
    return Decomposed(U, V, P, Qt.T, sigma)


def truncate(whole: Decomposed, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, the singular values and V of the best approximation of that rank."""
    U = whole.U @ whole.P[:, :rank]
    V = whole.V @ whole.Q[:, :rank]
    return U, whole.sigma[:rank], V


def choose_rank(sigma: Sequence[float], tolerance: float, least: int, most: int) -> int:
    r"""Return the smallest rank whose truncation error is within ``tolerance``.

    :math:`\min\{j : \sqrt{\sum_{k>j} σ_k²} ≤ τ \|Σ\|_F\}`, within [``least``, ``most``] and at most ``len(sigma)``.

    Examples
    --------
    >>> choose_rank([2.0, 1.0, 0.1, 0.01], tolerance=0.1, least=1, most=8)
    2
    """
    squares = [value * value for value in sigma]
    allowed = (tolerance**2) * math.fsum(squares)
    rank = len(squares)
    while rank > 0 and math.fsum(squares[rank - 1 :]) <= allowed:
        rank -= 1
    return max(min(rank, most, len(squares)), min(least, len(squares)))


def share_budget(
    spectra: Sequence[Sequence[float]], budget: int, least: Sequence[int], most: Sequence[int]
) -> list[int]:
    """Return how many singular values each matrix keeps, ``budget`` in all: the largest of all matrices together.

    Parameters
    ----------
    spectra : sequence of sequences of float
        Singular values of each matrix, falling.
    budget : int
        At least ``sum(least)``.
    least, most : sequence of int
        Bounds of each matrix.

    Examples
    --------
    >>> share_budget([[3.0, 2.0, 0.1], [1.0, 0.5]], budget=3, least=[1, 1], most=[3, 2])
    [2, 1]
    """
    bounds = [(min(low, len(one)), min(high, len(one))) for one, low, high in zip(spectra, least, most, strict=True)]
    ranks = [low for low, _ in bounds]
    pool = sorted(
        (
            (one[place], index)
            for index, (one, (low, high)) in enumerate(zip(spectra, bounds, strict=True))
            for place in range(low, high)
        ),
        key=lambda entry: -entry[0],
    )
    for _, index in pool[: max(0, budget - sum(ranks))]:
        ranks[index] += 1
    return ranks


def rotate(
    first: Tensor, second: Tensor, weight: Tensor, whole: Decomposed, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the moments of the coefficients in the truncated bases.

    The gradient of the coefficients turns with the bases, :math:`G_S → Pᵀ G_S Q`, and so does its mean, exactly. Of
    its squares the squares of P and Q make the convex combination that is exact for uncorrelated entries. New
    directions have seen no gradient: their moments are zero.

    Parameters
    ----------
    first, second, weight : Tensor of shape (r, r)
        Moving mean of the gradient, of its square, and the sum of the weights in the latter.
    whole : Decomposed
        What the coefficients became, new directions last.
    rank : int
        What was kept.

    Returns
    -------
    tuple of three Tensors of shape (rank, rank)
    """
    old = first.shape[0]
    P, Q = whole.P[:old, :rank], whole.Q[:old, :rank]  # the other rows meet zeros
    return P.T @ first @ Q, (P * P).T @ second @ (Q * Q), (P * P).T @ weight @ (Q * Q)
