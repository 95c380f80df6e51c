"""Spectral: closed forms of a known spectrum, agreement with scikit-dimension, the error, degenerate clouds."""

import warnings

import numpy as np
import pytest
import torch

import gelora_estimators.spectral
from gelora_estimators import DegenerateCloudError, ScikitDimension, Spectral, check_estimator
from gelora_estimators.clouds import flat_torus, gaussian, random_rotation, sphere
from gelora_estimators.spectral import (
    _halves_by_groups,
    _halves_by_pairs,
    dimension_of_shares,
    mean_cosine,
    spectral_shares,
)

METHODS = ("participation", "variance", "entropy")
BARE = {method: Spectral(method=method, interval="none") for method in METHODS}


def rng(seed=0):
    return np.random.default_rng(seed)


def cloud_of_spectrum(eigenvalues, n, ambient):
    """Return n points whose covariance has exactly these eigenvalues, in a random frame, off the origin."""
    # With a constant first column the others of Q are centred and orthonormal.
    columns = np.concatenate([np.ones((n, 1)), rng(1).standard_normal((n, len(eigenvalues)))], axis=1)
    scores = np.linalg.qr(columns)[0]
    points = scores[:, 1:] * np.sqrt(np.asarray(eigenvalues) * n)
    return np.pad(points, ((0, 0), (0, ambient - points.shape[1]))) @ random_rotation(ambient, rng(2)) + 7.0


@pytest.mark.smoke
@pytest.mark.parametrize("ambient", [6, 90])  # more and fewer coordinates than points
def test_a_known_spectrum_gives_the_closed_forms(ambient):
    shares = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    cloud = cloud_of_spectrum(3.0 * shares, 60, ambient)
    expected = {
        "participation": 1 / np.square(shares).sum(),
        "variance": 4.0,  # 0.4 + 0.3 + 0.15 = 0.85 is less than 0.9
        "entropy": np.prod(shares**-shares),
    }
    for method, estimator in BARE.items():
        found = estimator(cloud, rng=rng())
        assert found.dimension == pytest.approx(expected[method], rel=1e-10)
        assert np.isnan([found.standard_error, *found.interval]).all()
        names = ("participation_ratio", "n_components", "effective_rank")
        np.testing.assert_allclose([found.diagnostics[name] for name in names], list(expected.values()), rtol=1e-10)
        assert found.diagnostics["anisotropy"] == pytest.approx(0.4)
        np.testing.assert_allclose(found.diagnostics["shares"][:5], shares, rtol=1e-10)
        assert found.diagnostics["shares"].shape == (min(60, ambient),)


@pytest.mark.parametrize(("threshold", "expected"), [(0.1, 1), (0.101, 2), (0.5, 5), (0.899, 9), (0.9, 9), (0.901, 10)])
def test_equal_eigenvalues_reach_a_threshold_with_their_share_of_the_components(threshold, expected):
    cloud = cloud_of_spectrum(np.ones(10), 80, 10)
    assert Spectral(method="variance", threshold=threshold, interval="none")(cloud, rng=rng()).dimension == expected
    assert BARE["participation"](cloud, rng=rng()).dimension == pytest.approx(10.0)
    assert BARE["entropy"](cloud, rng=rng()).dimension == pytest.approx(10.0)


def test_participation_ratio_effective_rank_and_rank_are_in_this_order():
    for seed in range(5):
        shares = rng(seed).dirichlet(np.full(12, 0.3))
        ratio, rank = (dimension_of_shares(np.sort(shares)[::-1], name, 0.9) for name in ("participation", "entropy"))
        assert 1.0 <= ratio <= rank <= 12.0


def test_covariance_and_gram_matrix_give_the_same_shares():
    points = rng().standard_normal((30, 50))
    points -= points.mean(axis=0)
    few, many = spectral_shares(points @ points.T), spectral_shares(points.T @ points)
    np.testing.assert_allclose(many[:30], few, atol=1e-14)
    np.testing.assert_allclose(many[30:], 0.0, atol=1e-14)


def test_scikit_dimension_finds_the_same_participation_ratio_and_components():
    cloud = gaussian(300, 8, 12, rng()) * np.linspace(1, 4, 12)
    ratio = ScikitDimension(estimator="lPCA", options={"ver": "participation_ratio"})(cloud, rng=rng()).dimension
    assert BARE["participation"](cloud, rng=rng()).dimension == pytest.approx(ratio, rel=1e-9)
    for threshold in (0.5, 0.8, 0.95):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"ver": "ratio", "alphaRatio": threshold}
            expected = ScikitDimension(estimator="lPCA", options=options)(cloud, rng=rng()).dimension
        found = Spectral(method="variance", threshold=threshold, interval="none")(cloud, rng=rng()).dimension
        assert found == expected


def test_curved_manifolds_read_the_dimension_of_their_linear_span():
    for method, estimator in BARE.items():
        assert estimator(sphere(2000, 2, 9, rng()), rng=rng()).dimension == pytest.approx(3.0, abs=0.05), method
        assert estimator(flat_torus(2000, 3, 9, rng()), rng=rng()).dimension == pytest.approx(6.0, abs=0.1), method


def test_the_mean_cosine_is_that_of_all_pairs_as_they_are():
    points = rng().standard_normal((40, 5)) + np.array([3, 0, 0, 0, 0])
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = cosines[~np.eye(40, dtype=bool)].mean()
    assert mean_cosine(points) == pytest.approx(expected, rel=1e-12)
    assert BARE["entropy"](points, rng=rng()).diagnostics["mean_cosine"] == pytest.approx(expected, rel=1e-12)
    assert mean_cosine(points * 1e-200) == pytest.approx(expected, rel=1e-12)
    assert mean_cosine(np.concatenate([points, np.zeros((3, 5))])) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(mean_cosine(np.array([[1.0, 2.0], [0.0, 0.0]])))


def test_only_256_shares_are_kept():
    found = BARE["participation"](rng().standard_normal((400, 300)), rng=rng()).diagnostics["shares"]
    assert found.shape == (256,)
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("halves", "n_parts"), [(_halves_by_pairs, 101), (_halves_by_groups, 64)])
def test_a_half_has_the_spectrum_of_its_points_about_their_own_mean(method, halves, n_parts):
    cloud = rng().standard_normal((101, 8))
    cloud -= cloud.mean(axis=0)
    again = rng(3)
    parts = np.array_split(again.permutation(101) if n_parts == 64 else np.arange(101), n_parts)
    for product, m in halves(cloud, 3, rng(3)):
        chosen = again.choice(n_parts, size=n_parts // 2, replace=False, shuffle=False)
        inside = cloud[np.concatenate([parts[number] for number in chosen])]
        assert len(inside) == m
        expected = BARE[method](inside, rng=rng()).dimension
        assert Spectral(method=method)._from_product(product) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "ambient"), [(40, 30), (200, 30)])
def test_replicates_are_recentred_and_their_spread_is_the_error(n, ambient):
    cloud = rng().standard_normal((n, ambient))
    found = Spectral(n_subsamples=30)(cloud, rng=rng())
    replicates = found.diagnostics["replicates"]
    assert replicates.shape == (30,)
    assert replicates.mean() == pytest.approx(found.dimension)
    assert found.standard_error == pytest.approx(replicates.std(ddof=1))
    assert found.interval[0] < found.dimension < found.interval[1]
    assert found.dimension == BARE["participation"](cloud, rng=rng()).dimension


@pytest.mark.parametrize("method", ["participation", "entropy"])
def test_the_error_is_the_spread_over_new_clouds(method):
    scale = np.arange(1, 16) ** -0.5
    clouds = [rng(seed).standard_normal((600, 15)) * scale for seed in range(60)]
    found = [Spectral(method=method)(cloud, rng=rng(seed)) for seed, cloud in enumerate(clouds)]
    spread = np.std([estimate.dimension for estimate in found], ddof=1)
    assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_it_keeps_the_contract_but_counts_linear_directions(method):
    check_estimator(Spectral(method=method, n_subsamples=10), n=300, skip=("accuracy",))


def test_single_precision_and_a_far_offset_change_nothing():
    clean = gaussian(1000, 5, 64, rng())
    spoilt = clean.copy()
    spoilt[:, :2] += [300.0, -1000.0]
    for method, estimator in BARE.items():
        found = estimator(torch.from_numpy(spoilt).float(), rng=rng()).dimension
        assert found == pytest.approx(estimator(clean, rng=rng()).dimension, rel=1e-3), method


@pytest.mark.parametrize("size", [1e-290, 1e290])
def test_extreme_units_neither_overflow_nor_vanish(size):
    cloud = gaussian(60, 4, 6, rng())
    found = BARE["entropy"](cloud * size, rng=rng())
    expected = BARE["entropy"](cloud, rng=rng())
    assert found.dimension == pytest.approx(expected.dimension, rel=1e-9)
    assert found.diagnostics["mean_cosine"] == pytest.approx(expected.diagnostics["mean_cosine"], rel=1e-9)


def test_the_search_for_repeated_vectors_is_spared_unless_the_coordinates_leave_it_open(monkeypatch):
    searches = []
    search = gelora_estimators.spectral.nearest_distances
    monkeypatch.setattr(
        gelora_estimators.spectral, "nearest_distances", lambda *a, **k: searches.append(1) or search(*a, **k)
    )
    cloud = rng().standard_normal((2000, 40))
    for kind in (np.float64, np.float32):
        BARE["participation"](cloud.astype(kind), rng=rng())
    assert not searches
    BARE["participation"](cloud.astype(np.float16), rng=rng())  # so coarse that every coordinate repeats
    assert len(searches) == 1
    atoms = cloud[np.arange(600) % 200] * (1 + rng().integers(-1, 2, (600, 40)) * 2.0**-52)
    with pytest.raises(DegenerateCloudError, match="600 of 600 distinct points have their nearest neighbour within"):
        BARE["participation"](atoms, rng=rng())
    assert len(searches) == 2
    alone = np.concatenate([atoms, cloud[200:]])  # a quarter of the points is repeated
    assert BARE["participation"](alone, rng=rng()).n_points == 2400
    assert len(searches) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rank"}, "`method` must be one of 'participation', 'variance', 'entropy', got 'rank'"),
        ({"threshold": 1.0}, r"`threshold` must be a number in \(0, 1\), got 1.0"),
        ({"interval": "chi2"}, "`interval` must be one of 'subsampling', 'none', got 'chi2'"),
        ({"confidence": 0.0}, r"`confidence` must be a number in \(0, 1\), got 0.0"),
        ({"n_subsamples": 1}, "`n_subsamples` must be an integer of at least 2, got 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Spectral(**options)
