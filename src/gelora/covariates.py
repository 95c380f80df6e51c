"""What stands beside a dimension in a profile, so that a reader can judge what drives it.

Rising dimensions have been explained by nearest-neighbour distances and spectral entropy (Schulte and Rügamer,
arXiv 2604.20276): both are recorded with every layer.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_norm(points: NDArray[Any]) -> float:
    """Return the mean Euclidean norm of ``points``, of shape (n, d)."""
    return float(np.linalg.norm(points.astype(np.float64), axis=1).mean())


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
    wide = points.astype(np.float64)
    largest = float(np.abs(wide).max(initial=0.0))
    wide = wide / largest if largest > 0 else wide  # squares must neither overflow nor vanish
    centred = wide - wide.mean(axis=0)
    n, d = centred.shape
    gram = centred.T @ centred if d <= n else centred @ centred.T
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
