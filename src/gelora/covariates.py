"""What stands beside a dimension in a profile, so that a reader can judge what drives it.

Rising dimensions have been explained by nearest-neighbour distances and spectral entropy (Schulte and Rügamer,
arXiv 2604.20276): both are recorded with every layer.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Numbers of a block in float64: of clouds that lie on disk no more is held at once.
_BLOCK = 2**22


def mean_norm(points: NDArray[Any]) -> float:
    """Return the mean Euclidean norm of ``points``, of shape (n, d)."""
    return float(sum(np.linalg.norm(block, axis=1).sum() for block in _blocks(points)) / len(points))


def _blocks(points: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield the rows of ``points`` in float64, many at a time."""
    step = max(1, _BLOCK // points.shape[1])
    for start in range(0, len(points), step):
        yield points[start : start + step].astype(np.float64)


def spectrum_covariates(points: NDArray[Any]) -> dict[str, float]:
    r"""Describe the eigenvalues :math:`\lambda_i` of the centred covariance of ``points``.

    Parameters
    ----------
    points : ndarray of shape (n, d)
        A finite cloud.

    Returns
    -------
    dict
        ``spectral_entropy`` :math:`-\sum p_i \log p_i` in nats with :math:`p_i = \lambda_i / \sum \lambda`,
        ``participation_ratio`` :math:`(\sum \lambda)^2 / \sum \lambda^2`, and ``anisotropy``
        :math:`\lambda_1 / \sum \lambda` (Razzhigaev et al., arXiv 2311.05928). NaN for equal points.

    Examples
    --------
    >>> spectrum_covariates(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))["participation_ratio"]
    2.0
    """
    n, d = points.shape
    largest = max((float(np.abs(block).max()) for block in _blocks(points)), default=0.0)
    unit = largest if largest > 0 else 1.0  # squares must neither overflow nor vanish
    mean = sum((block / unit).sum(axis=0) for block in _blocks(points)) / n
    if d <= n:
        gram = np.zeros((d, d))
        for block in _blocks(points):
            centred = block / unit - mean
            gram += centred.T @ centred
    else:
        centred = points.astype(np.float64) / unit - mean
        gram = centred @ centred.T
    eigenvalues = np.clip(np.linalg.eigvalsh(gram), 0.0, None)
    total = float(eigenvalues.sum())
    # Equal points leave only the rounding of their mean.
    if total <= n * d * (8 * np.finfo(np.float64).eps * float(largest > 0)) ** 2:
        return {"spectral_entropy": math.nan, "participation_ratio": math.nan, "anisotropy": math.nan}
    shares = eigenvalues / total
    positive = shares[shares > 0]
    return {
        "spectral_entropy": float(-(positive * np.log(positive)).sum()),
        "participation_ratio": float(1.0 / (shares**2).sum()),
        "anisotropy": float(shares.max()),
    }
