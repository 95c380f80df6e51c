"""Bars of degree 0 and spanning trees: four implementations that must agree, also on real hidden states."""

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree
from scipy.spatial.distance import pdist, squareform

from gelora_estimators import clouds, distinct_points, spanning_tree_lengths
from required import absent

TOLERANCE = 1e-6


def by_scipy(points):
    """Kruskal's algorithm on the dense matrix of subtracted float64 coordinates."""
    return np.sort(scipy_tree(squareform(pdist(points))).data)


def by_ripser(points):
    """Persistent homology of the Vietoris–Rips complex, from our float64 distances in ripser's float32."""
    try:
        from ripser import ripser
    except ImportError:
        absent("needs ripser")
    bars = ripser(squareform(pdist(points)), maxdim=0, distance_matrix=True)["dgms"][0]
    return np.sort(bars[np.isfinite(bars[:, 1]), 1].astype(np.float64))


def by_giotto(points):
    """The same through giotto-ph."""
    try:
        from gph import ripser_parallel
    except ImportError:
        absent("needs giotto-ph")
    bars = ripser_parallel(squareform(pdist(points)), maxdim=0, metric="precomputed")["dgms"][0]
    return np.sort(bars[np.isfinite(bars[:, 1]), 1].astype(np.float64))


ORACLES = {"scipy": by_scipy, "ripser": by_ripser, "giotto-ph": by_giotto}


def generator():
    return np.random.default_rng(20_261_122)


CLOUDS = {
    "sphere in 768 coordinates": lambda: clouds.sphere(600, 5, 768, generator()),
    "flat torus": lambda: clouds.flat_torus(600, 3, 20, generator()),
    "Gaussian of 40 dimensions": lambda: clouds.gaussian(500, 40, 384, generator()),
    "swiss roll": lambda: clouds.swiss_roll(600, 2, 10, generator()),
    "float32 far from the origin": lambda: (clouds.ball(400, 4, 64, generator()) + 500.0).astype(np.float32),
    "half precision": lambda: clouds.ball(400, 4, 64, generator()).astype(np.float16),
    "one point in ten copied": lambda: np.concatenate([c := clouds.ball(400, 4, 64, generator()), c[:40]]),
}


def agree(points, oracle):
    """Compare on the distinct points, which the oracles get centred: they have no rule for offsets."""
    cloud = distinct_points(points).points
    found = spanning_tree_lengths(points)
    assert len(found) == len(cloud) - 1
    np.testing.assert_allclose(found, ORACLES[oracle](cloud), rtol=TOLERANCE)


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("name", CLOUDS)
def test_the_bars_of_a_cloud_equal_those_of_the_oracle(name, oracle):
    agree(CLOUDS[name](), oracle)


@pytest.mark.parametrize("oracle", ORACLES)
def test_the_bars_of_hidden_states_equal_those_of_the_oracle(hidden_states, oracle):
    assert sorted(hidden_states) == list(range(7))
    for states in hidden_states.values():
        assert states.dtype == np.float32
        assert states.shape[1] == 384
        agree(states, oracle)


@pytest.mark.parametrize("layer", [0, 6])
def test_the_bars_of_shifted_hidden_states_are_those_of_the_same_stored_numbers(hidden_states, layer):
    # 1e4 times the size of the cloud away from the origin, in float32: the stored numbers are the truth.
    states = hidden_states[layer]
    size = np.abs(states - states.mean(axis=0)).max()
    stored = (states + np.float32(1e4 * size)).astype(np.float32)
    agree(stored, "scipy")
