"""Pooling: hidden states of tokens → vectors of examples."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.messages import check_integer

IntArray = NDArray[np.int64]
# Draws held at once beside those that are kept.
_PIECE = 2**20

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


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """The tokens of each example that become points.

    Parameters
    ----------
    positions : ndarray of shape (n_points,)
        Counted over the attended tokens of their example, example after example, ascending.
    ends : ndarray of shape (n_examples + 1,)
        Where those of each example begin, with their number at the end.
    """

    positions: IntArray
    ends: IntArray

    def __getitem__(self, example: int) -> IntArray:
        """Return the kept positions of one example."""
        return self.positions[self.ends[example] : self.ends[example + 1]]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.ends) - 1


def choose_tokens(lengths: IntArray, n_tokens: int | None, rng: np.random.Generator) -> KeptTokens:
    """Choose tokens uniformly from all texts, before any is computed: no dependence on batches.

    A reservoir: every token draws a number in its turn, and those with the smallest are kept, so that memory is that
    of the kept tokens and not of all (Efraimidis and Spirakis 2006, equal weights).

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
    KeptTokens

    References
    ----------
    Efraimidis, P. S. and Spirakis, P. G. (2006). Weighted random sampling with a reservoir. Information Processing
    Letters 97, 181–185.
    """
    if n_tokens is not None:
        check_integer("n_tokens", n_tokens, 1, ", or None for all")
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    total = int(starts[-1])
    everything = n_tokens is None or n_tokens >= total
    chosen = np.arange(total) if everything else _smallest(total, int(n_tokens or 0), rng)
    ends = np.searchsorted(chosen, starts)
    return KeptTokens(chosen - np.repeat(starts[:-1], np.diff(ends)), ends)


def _smallest(total: int, n: int, rng: np.random.Generator) -> IntArray:
    """Return which ``n`` of ``total`` draws are the smallest, ascending, holding few of them at a time."""
    numbers, places = np.empty(0), np.empty(0, dtype=np.int64)
    for start in range(0, total, _PIECE):
        size = min(_PIECE, total - start)
        numbers = np.concatenate([numbers, rng.random(size)])
        places = np.concatenate([places, np.arange(start, start + size)])
        if len(numbers) > n:
            kept = np.argpartition(numbers, n - 1)[:n]
            numbers, places = numbers[kept], places[kept]
    return np.sort(places)
