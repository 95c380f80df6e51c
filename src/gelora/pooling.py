"""Pooling: hidden states of tokens → vectors of examples."""

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.messages import check_integer

POOLINGS = ("mean", "last", "cls", "max", "tokens")


def check_pooling(pooling: str) -> None:
    """Raise ValueError unless ``pooling`` is known."""
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {', '.join(POOLINGS)}, got {pooling!r}")


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Pool hidden states over the attended tokens, wherever the padding stands.

    Parameters
    ----------
    hidden : Tensor of shape (n_examples, n_tokens, width)
        Hidden states of one layer.
    mask : Tensor of shape (n_examples, n_tokens)
        True where a token is attended.
    pooling : str
        ``"mean"``, ``"max"``; ``"cls"``, the first attended token; ``"last"``, the last attended token;
        ``"tokens"``, every attended token.
    keep : Tensor of shape (n_examples, n_tokens), optional
        With ``"tokens"``: take these tokens only.

    Returns
    -------
    Tensor of shape (n_points, width)
        In float32, or float64 where the model computes in float64.

    Examples
    --------
    >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> pool(hidden, torch.tensor([[True, True, False]]), "mean")
    tensor([[2.]])
    """
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    if pooling == "tokens":
        return wide[mask if keep is None else keep]
    if pooling == "mean":
        weights = mask.to(wide.dtype)[:, :, None]
        # Where, not a product: a padded position may hold inf or NaN.
        return torch.where(mask[:, :, None], wide, 0.0).sum(1) / weights.sum(1)
    if pooling == "max":
        return torch.where(mask[:, :, None], wide, -torch.inf).amax(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        index = torch.where(mask, positions, mask.shape[1]).amin(1)
    else:
        index = torch.where(mask, positions, -1).amax(1)
    return wide[torch.arange(len(wide), device=wide.device), index]


def choose_tokens(
    lengths: NDArray[np.int64], n_tokens: int | None, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Choose tokens uniformly from all texts, before any is computed: no dependence on batches.

    Parameters
    ----------
    lengths : ndarray of shape (n_examples,)
        Attended tokens of each example.
    n_tokens : int or None
        How many to keep; None keeps all.
    rng : numpy.random.Generator
        What the choice depends on.

    Returns
    -------
    list of ndarray
        For each example the kept positions, counted over its attended tokens, ascending.
    """
    if n_tokens is not None:
        check_integer("n_tokens", n_tokens, 1, ", or None for all")
    total = int(lengths.sum())
    if n_tokens is None or n_tokens >= total:
        chosen = np.arange(total)
    else:
        chosen = np.sort(rng.choice(total, size=n_tokens, replace=False))
    ends = np.cumsum(lengths)
    cuts = np.searchsorted(chosen, ends)
    starts = ends - lengths
    return [part - start for part, start in zip(np.split(chosen, cuts[:-1]), starts, strict=True)]
