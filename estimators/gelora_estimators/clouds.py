"""Random point clouds whose intrinsic dimension is known.

Each function takes the number of points, the dimension, the ambient dimension and a generator, and
places its cloud in a random orthonormal frame of the ambient space, so that no coordinate is special.
"""

import numpy as np

from gelora_estimators.protocol import FloatArray


def ball(n: int, d: int, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return points uniform in the unit ball of dimension d.

    Raises
    ------
    ValueError
        For ``ambient`` below d.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators.clouds import ball
    >>> ball(100, 2, 5, np.random.default_rng(0)).shape
    (100, 5)
    """
    directions = _directions(n, d, rng)
    return _embed(directions * rng.random((n, 1)) ** (1.0 / d), ambient, rng)


def sphere(n: int, d: int, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return points uniform on the unit sphere of dimension d, which needs d + 1 coordinates.

    Raises
    ------
    ValueError
        For ``ambient`` below d + 1.
    """
    return _embed(_directions(n, d + 1, rng), ambient, rng)


def flat_torus(n: int, d: int, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return points uniform on the product of d unit circles, which needs 2d coordinates.

    It has no edge, and no curvature of its own; but distances are chords, shorter than the way along
    the circles, so wide neighbourhoods read high (MLE gives 6.9 for d = 6 and n = 1,500).

    Raises
    ------
    ValueError
        For ``ambient`` below 2d.
    """
    angles = rng.uniform(0.0, 2.0 * np.pi, size=(n, d))
    return _embed(np.concatenate([np.cos(angles), np.sin(angles)], axis=1), ambient, rng)


def gaussian(n: int, d: int, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return standard normal points in a linear subspace of dimension d.

    Raises
    ------
    ValueError
        For ``ambient`` below d.
    """
    return _embed(rng.standard_normal((n, d)), ambient, rng)


def subspace(n: int, d: int, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return points uniform in the unit cube of a linear subspace of dimension d.

    Raises
    ------
    ValueError
        For ``ambient`` below d.
    """
    return _embed(rng.random((n, d)), ambient, rng)


def swiss_roll(n: int, d: int, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return points uniform on a rolled-up sheet: a spiral times a cube of dimension d − 1.

    Uniform in arc length along r = t, t from 1.5π to 4.5π; d + 1 coordinates, scaled to size about 1.

    Raises
    ------
    ValueError
        For ``ambient`` below d + 1.
    """
    grid = np.linspace(1.5 * np.pi, 4.5 * np.pi, 4096)
    arc = 0.5 * (grid * np.hypot(1.0, grid) + np.arcsinh(grid))
    turn = np.interp(rng.uniform(arc[0], arc[-1], size=n), arc, grid)
    spiral = np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=1) / (4.5 * np.pi)
    return _embed(np.concatenate([spiral, rng.random((n, d - 1))], axis=1), ambient, rng)


def random_rotation(ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return a random orthogonal (ambient, ambient) matrix."""
    return np.asarray(np.linalg.qr(rng.standard_normal((ambient, ambient)))[0])


def _directions(n: int, d: int, rng: np.random.Generator) -> FloatArray:
    """Return points uniform on the unit sphere of R^d."""
    normal = rng.standard_normal((n, d))
    return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))


def _embed(points: FloatArray, ambient: int, rng: np.random.Generator) -> FloatArray:
    """Return the points in a random orthonormal frame of R^ambient."""
    needed = points.shape[1]
    if ambient < needed:
        raise ValueError(
            f"`ambient` must be at least the {needed} coordinates of this cloud, got {ambient}: "
            f"pass ambient={needed} or more."
        )
    frame = np.linalg.qr(rng.standard_normal((ambient, needed)))[0]
    return np.asarray(points @ frame.T)
