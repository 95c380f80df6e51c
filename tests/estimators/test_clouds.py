"""Clouds of known dimension are what they say."""

import numpy as np
import pytest

from gelora_estimators import MLE
from gelora_estimators.testing import ball, flat_torus, gaussian, random_rotation, sphere, subspace, swiss_roll

COORDINATES = {ball: 0, sphere: 1, flat_torus: 3, gaussian: 0, subspace: 0, swiss_roll: 1}  # beyond d = 3


@pytest.mark.parametrize("make_cloud", COORDINATES, ids=lambda make_cloud: make_cloud.__name__)
def test_a_cloud_has_its_dimension_its_linear_span_and_its_shape(make_cloud):
    cloud = make_cloud(1200, 3, 9, np.random.default_rng(0))
    assert cloud.shape == (1200, 9)
    assert np.linalg.matrix_rank(cloud) == 3 + COORDINATES[make_cloud]
    assert MLE()(cloud, rng=np.random.default_rng(0)).dimension == pytest.approx(3.0, abs=0.35)
    np.testing.assert_array_equal(cloud, make_cloud(1200, 3, 9, np.random.default_rng(0)))


@pytest.mark.parametrize("make_cloud", COORDINATES, ids=lambda make_cloud: make_cloud.__name__)
def test_too_small_a_space_is_refused(make_cloud):
    with pytest.raises(ValueError, match=r"`ambient` must be at least the .* coordinates of this cloud, got 2"):
        make_cloud(10, 3, 2, np.random.default_rng(0))


def test_spheres_tori_and_balls_have_the_radii_of_their_definition():
    rng = np.random.default_rng(1)
    np.testing.assert_allclose(np.linalg.norm(sphere(50, 4, 8, rng), axis=1), 1.0)
    np.testing.assert_allclose(np.linalg.norm(flat_torus(50, 4, 8, rng), axis=1), 2.0)
    radii = np.linalg.norm(ball(2000, 4, 8, rng), axis=1)
    assert radii.max() <= 1.0
    assert np.mean(radii**4) == pytest.approx(0.5, abs=0.03)  # uniform in volume


def test_a_random_rotation_is_orthogonal():
    rotation = random_rotation(7, np.random.default_rng(2))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(7), atol=1e-12)
