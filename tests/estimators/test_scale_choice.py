"""Plateaus of a scan, neighbourhoods of constant density and the binomial dimension in them."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree
from scipy.stats import binom, chi2

from gelora_estimators import DegenerateCloudError, choose_scale, nearest_distances
from gelora_estimators.clouds import flat_torus, gaussian, sphere, swiss_roll
from gelora_estimators.gride import likelihood_dimension
from gelora_estimators.scale_choice import (
    INNER_FRACTION,
    AdaptiveDimension,
    adaptive_dimension,
    binomial_dimension,
    dimensions_of_halves,
    fit_p_value,
    optimal_neighborhoods,
)

THRESHOLD = 23.92812698  # χ² with one degree of freedom at 1e-6


def uniform_balls(n, columns, dimension, rng):
    """Return distances (n, columns) to independent uniform points of a ball around each of n centres."""
    return np.sort(rng.random((n, columns)), axis=1) ** (1.0 / dimension)


def mixture(n, rng):
    """Return half the points on a line and half in an 8-dimensional cube."""
    points = np.zeros((n, 8))
    points[: n // 2, 0] = rng.random(n // 2)
    points[n // 2 :] = 3.0 + rng.random((n - n // 2, 8))
    return points


def adapted(points, columns=128):
    """Return the neighbour lists and the adaptive dimension, started at the scale of two neighbours."""
    lists = nearest_distances(points, columns)
    start = likelihood_dimension(lists.distances, 1, 2)[0]
    return lists, adaptive_dimension(lists.distances, lists.indices, start=start)


def test_equal_dimensions_are_one_plateau():
    found = choose_scale([4.0] * 6, [0.3, 0.2, 0.1, 0.1, 0.05, 0.05])
    assert (found.first, found.last, found.chosen) == (0, 5, 0)
    assert found.dimension == pytest.approx(4.0)
    assert found.p_value == pytest.approx(1.0)


def test_the_p_value_is_that_of_the_stated_chi_square():
    values, errors = np.array([5.2, 5.0, 4.9, 5.3]), np.array([0.2, 0.12, 0.06, 0.04])
    found = choose_scale(values, errors, tolerance=0.03, significance=1e-9)
    weights = 1 / ((1.4 * errors / values) ** 2 + 0.03**2)
    mean = np.average(np.log(values), weights=weights)
    square = float((weights * (np.log(values) - mean) ** 2).sum())
    assert found.p_value == pytest.approx(chi2.sf(square, 3), rel=1e-12)
    assert found.dimension == pytest.approx(np.exp(mean))
    assert found.chosen == int(np.argmin(np.abs(np.log(values) - mean)))


def test_a_run_ends_where_its_p_value_falls_below_the_significance():
    # Two groups of two with a gap at which χ² is the 1 % quantile of 3 degrees of freedom.
    gap = 2 * 0.02 * np.sqrt(chi2.isf(0.01, 3) / 4)
    tiny = [1e-9] * 4
    inside, outside = (np.exp(np.array([0, 0, 1, 1]) * gap * factor) for factor in (0.999, 1.001))
    assert choose_scale(inside, tiny, shortest=4).p_value == pytest.approx(0.01, rel=0.05)
    assert choose_scale(outside, tiny, shortest=4) is None


@pytest.mark.smoke
def test_the_longest_run_wins_and_of_two_the_more_even_one():
    errors = [0.01] * 7
    longest = choose_scale([9.0, 9.1, 9.0, 3.0, 3.05, 3.1, 3.05], errors)
    assert (longest.first, longest.last) == (3, 6)
    more_even = choose_scale([9.0, 9.3, 9.0, 5.0, 3.0, 3.0, 3.0], errors)
    assert (more_even.first, more_even.last) == (4, 6)


def test_a_dimension_that_falls_with_every_scale_has_no_plateau():
    assert choose_scale([16.3, 14.0, 12.3, 11.0, 9.6, 8.3], [0.4, 0.2, 0.1, 0.1, 0.06, 0.03]) is None
    assert choose_scale([3.0, 3.0], [0.1, 0.1]) is None
    assert choose_scale([3.0, 3.0], [0.1, 0.1], shortest=2) is not None


def test_the_choice_does_not_depend_on_the_size_of_the_dimension():
    values, errors = np.array([6.0, 4.1, 3.9, 4.0, 3.7]), np.array([0.2, 0.1, 0.1, 0.05, 0.03])
    one, ten = choose_scale(values, errors), choose_scale(10 * values, 10 * errors)
    assert (one.first, one.last, one.chosen) == (ten.first, ten.last, ten.chosen)
    assert ten.p_value == pytest.approx(one.p_value)


@pytest.mark.parametrize("dimension", [2, 4])
def test_the_chi_square_holds_on_uniform_clouds_without_an_edge(dimension):
    # Periodic cubes: no curvature and no edge, so the whole scan has one dimension; shared neighbours remain.
    p_values = []
    for seed in range(100):
        points = np.random.default_rng(seed).random((400, dimension))
        distances = cKDTree(points, boxsize=1.0).query(points, 33)[0][:, 1:]
        scan = np.array([likelihood_dimension(distances, k // 2, k) for k in (2, 4, 8, 16, 32)])
        found = choose_scale(scan[:, 0], scan[:, 1], tolerance=0.0, significance=1e-300, shortest=5)
        p_values.append(found.p_value)
    assert 0.2 < np.mean(np.array(p_values) < 0.5) < 0.65
    assert np.mean(np.array(p_values) < 0.05) <= 0.1


def test_optimal_neighbourhoods_are_those_of_the_test_written_out():
    rng = np.random.default_rng(0)
    points = np.concatenate([gaussian(150, 2, 3, rng), 0.05 * gaussian(60, 2, 3, rng) + 1.0])
    lists = nearest_distances(points, 60)
    for dimension in (0.7, 2.0, 5.0):
        expected = []
        for row in range(len(points)):
            k = 3
            while k < 60:
                other = lists.indices[row, k]  # the (k + 1)-th neighbour
                log_i, log_j = dimension * np.log(lists.distances[[row, other], k - 1])
                ratio = -2 * k * (log_i + log_j - 2 * np.logaddexp(log_i, log_j) + np.log(4))
                if ratio > THRESHOLD:
                    break
                k += 1
            expected.append(k)
        found = optimal_neighborhoods(lists.distances, lists.indices, dimension)
        assert found.tolist() == expected
        assert len(set(expected)) > 5


def test_neighbourhoods_are_smaller_where_the_density_changes():
    # 20 times as many points per length to the right of 0 as to the left.
    rng = np.random.default_rng(1)
    line = np.sort(np.concatenate([-20 * rng.random(1000), rng.random(1000)]))
    lists = nearest_distances(line[:, None], 128)
    found = optimal_neighborhoods(lists.distances, lists.indices, 1.0)
    jump, sparse, dense = (found[(line > low) & (line < high)] for low, high in ((-0.3, 0), (-15, -5), (0.3, 0.7)))
    assert jump.mean() < 40
    assert (np.median(sparse), np.median(dense)) == (128, 128)


def test_neighbourhoods_shrink_with_the_dimension_and_grow_with_the_level_of_the_test():
    lists = nearest_distances(gaussian(400, 3, 3, np.random.default_rng(2)), 100)
    low, middle, high = (optimal_neighborhoods(lists.distances, lists.indices, d) for d in (1.0, 3.0, 9.0))
    assert (low >= middle).all()
    assert (middle >= high).all()
    assert low.mean() > middle.mean() > high.mean()
    easy = optimal_neighborhoods(lists.distances, lists.indices, 3.0, significance=0.01)
    assert (easy <= middle).all()
    assert easy.mean() < middle.mean()


def test_the_binomial_dimension_counts_what_it_says():
    distances = np.array([[1.0, 2.0, 3.0, 4.0, 9.0], [1.0, 1.9, 2.1, 8.0, 9.0], [0.5, 3.0, 4.0, 4.0, 4.5]])
    dimension, error, inner = binomial_dimension(distances, np.array([4, 5, 4]), 0.5)
    # Within 2, 4.5 and 2 of the centre; the ball is closed, and the neighbour that sets the radius is left out.
    assert inner.tolist() == [2, 3, 1]
    assert dimension == pytest.approx(np.log(6 / 10) / np.log(0.5))
    assert error == pytest.approx(np.sqrt((0.5**-dimension - 1) / (10 * np.log(0.5) ** 2)))


def test_the_binomial_dimension_maximises_its_likelihood():
    rng = np.random.default_rng(3)
    distances, sizes = uniform_balls(200, 60, 4.0, rng), rng.integers(3, 61, 200)
    found, error, inner = binomial_dimension(distances, sizes, 0.7)

    def loss(d):
        return -float(binom.logpmf(inner, sizes - 1, 0.7**d).sum())

    best = minimize_scalar(loss, bounds=(1, 10), method="bounded", options={"xatol": 1e-10})
    assert found == pytest.approx(best.x, rel=1e-6)
    second = (loss(found + 1e-3) - 2 * loss(found) + loss(found - 1e-3)) / 1e-6
    assert error == pytest.approx(1 / np.sqrt(second), rel=1e-3)


@pytest.mark.parametrize("dimension", [1.0, 5.0, 20.0])
def test_the_binomial_error_covers_independent_neighbourhoods(dimension):
    rng = np.random.default_rng(4)
    sizes = rng.integers(3, 41, 200)
    found = np.array(
        [
            binomial_dimension(uniform_balls(200, 40, dimension, rng), sizes, INNER_FRACTION ** (1 / dimension))[:2]
            for _ in range(100)
        ]
    )
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.2)
    assert 90 <= (np.abs(found[:, 0] - dimension) <= 1.96 * found[:, 1]).sum() <= 98


def test_the_ratio_of_the_radii_makes_the_error_smallest():
    best = minimize_scalar(lambda p: (1 / p - 1) / np.log(p) ** 2, bounds=(0.01, 0.9), method="bounded")
    assert pytest.approx(best.x, abs=1e-5) == INNER_FRACTION
    assert pytest.approx(np.exp(-2 * (1 - INNER_FRACTION)), rel=1e-14) == INNER_FRACTION


def test_the_adaptive_dimension_is_a_fixed_point_of_its_two_steps():
    points = gaussian(500, 4, 8, np.random.default_rng(5))
    lists, found = adapted(points)
    again = optimal_neighborhoods(lists.distances, lists.indices, found.dimension)
    ratio = INNER_FRACTION ** (1 / found.dimension)
    dimension, error, _ = binomial_dimension(lists.distances, again, ratio)
    assert dimension == pytest.approx(found.dimension, abs=0.2 * error)
    other = adaptive_dimension(lists.distances, lists.indices, start=20.0)
    assert other.n_steps > 2
    assert other.dimension == pytest.approx(found.dimension, abs=0.3 * error)


def test_rounds_that_run_out_are_reported():
    lists = nearest_distances(gaussian(300, 4, 8, np.random.default_rng(6)), 64)
    with pytest.warns(UserWarning, match="still moves after 1 rounds"):
        adaptive_dimension(lists.distances, lists.indices, start=30.0, most_steps=1)


@pytest.mark.parametrize("seed", [30, 123, 129, 277])
def test_a_dimension_that_jumps_back_and_forth_is_enclosed(seed):
    # Plain steps never settle on these clouds of 10 to 37 points: counts are integers.
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((int(rng.integers(10, 60)), int(rng.integers(1, 9))))
    lists = nearest_distances(points, max(4, len(points) // 4))
    guess = start = likelihood_dimension(lists.distances, 1, 2)[0]
    moves, values = [], []
    for _ in range(200):
        sizes = optimal_neighborhoods(lists.distances, lists.indices, guess)
        dimension, error, _ = binomial_dimension(lists.distances, sizes, INNER_FRACTION ** (1 / guess))
        moves.append(abs(dimension - guess) / error)
        guess = dimension
        values.append(dimension)
    assert min(moves) > 0.1
    found = adaptive_dimension(lists.distances, lists.indices, start=start)
    assert found.n_steps < 30
    assert min(values[100:]) <= found.dimension <= max(values[100:])


@pytest.mark.parametrize(
    ("make", "true", "noise"),
    [(swiss_roll, 2, 0.0), (swiss_roll, 2, 0.01), (gaussian, 3, 0.0), (gaussian, 3, 0.02), (sphere, 4, 0.0)],
)
def test_the_adaptive_dimension_is_near_the_truth_also_under_noise(make, true, noise):
    rng = np.random.default_rng(7)
    points = make(2000, true, 12, rng)
    points = points + noise * rng.standard_normal(points.shape)
    lists, found = adapted(points)
    assert found.dimension == pytest.approx(true, rel=0.08)
    if noise:
        assert likelihood_dimension(lists.distances, 1, 2)[0] > 1.25 * true


def test_the_p_value_is_uniform_where_the_counts_are_binomial():
    # 40 clusters of 21 points; all lists of a cluster name its first point, so one neighbourhood of each is taken.
    rng = np.random.default_rng(8)
    clusters = np.arange(40 * 21).reshape(40, 21)
    indices = np.concatenate([[np.delete(row, place) for place in range(21)] for row in clusters])
    p_values = []
    for _ in range(200):
        sizes = rng.integers(3, 21, 40)
        inner = rng.binomial(sizes - 1, 0.2)
        found = AdaptiveDimension(1.0, 0.1, np.repeat(sizes, 21), np.repeat(inner, 21), 0.2, 1)
        p_value, n_disjoint = fit_p_value(indices, found, rng)
        assert n_disjoint == 40
        p_values.append(p_value)
    assert 0.4 < np.mean(np.array(p_values) < 0.5) < 0.6
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1


@pytest.mark.parametrize("make", [sphere, flat_torus])
def test_the_p_value_accepts_uniform_clouds(make):
    p_values = []
    for seed in range(20):
        lists, found = adapted(make(500, 2, 5, np.random.default_rng(seed)), 40)
        p_values.append(fit_p_value(lists.indices, found, np.random.default_rng(seed))[0])
    assert np.median(p_values) > 0.25
    assert np.mean(np.array(p_values) < 0.05) <= 0.15


def test_the_p_value_sees_a_mixture_that_has_a_plateau():
    points = mixture(2000, np.random.default_rng(9))
    lists, found = adapted(points)
    scan = np.array([likelihood_dimension(lists.distances, k // 2, k) for k in (2, 4, 8, 16, 32, 64)])
    assert choose_scale(scan[:, 0], scan[:, 1]).dimension == pytest.approx(1.8, abs=0.1)
    p_value, n_disjoint = fit_p_value(lists.indices, found, np.random.default_rng(0))
    assert p_value == 0.001
    assert n_disjoint >= 5


def test_the_test_of_fit_rests_on_neighbourhoods_that_share_no_point():
    # Ten clusters of eight points: one neighbourhood fits into each.
    rng = np.random.default_rng(10)
    points = np.repeat(100.0 * np.arange(10), 8)[:, None] * np.ones(2) + rng.random((80, 2))
    lists = nearest_distances(points, 7)
    sizes = np.full(80, 7)
    dimension, error, inner = binomial_dimension(lists.distances, sizes, 0.5)
    found = AdaptiveDimension(dimension, error, sizes, inner, 0.5, 1)
    assert fit_p_value(lists.indices, found, rng)[1] == 10


def test_halves_recount_the_balls_of_the_whole_cloud():
    points = gaussian(61, 2, 4, np.random.default_rng(11))
    lists, found = adapted(points, 30)
    halves = dimensions_of_halves(lists.indices, found, np.random.default_rng(12), 3)
    rng = np.random.default_rng(12)
    for pair in range(3):
        order = rng.permutation(61)
        for side, half in enumerate((set(order[:30].tolist()), set(order[30:].tolist()))):
            inside = trials = 0
            for point in half:
                radius = lists.distances[point, found.neighborhoods[point] - 1]
                for other in half - {point}:
                    distance = float(np.linalg.norm(points[point] - points[other]))
                    trials += distance < radius * (1 - 1e-12)
                    inside += distance <= found.ratio * radius
            assert halves[pair, side] == pytest.approx(np.log(inside / trials) / np.log(found.ratio))


def test_degenerate_counts_and_wrong_input_are_refused():
    lists = nearest_distances(gaussian(60, 2, 3, np.random.default_rng(13)), 10)
    sizes = np.full(60, 10)
    with pytest.raises(DegenerateCloudError, match=r"of the 60 points lie 0 of their 540 neighbours"):
        binomial_dimension(lists.distances, sizes, 1e-6)
    with pytest.raises(DegenerateCloudError, match="lie 18 of their 18 neighbours"):
        binomial_dimension(np.tile([1.0, 1.1, 9.0, 9.5], (9, 1)), np.full(9, 3), 0.5)
    with pytest.raises(ValueError, match=r"`ratio` must be a number in \(0, 1\), got 1.0"):
        binomial_dimension(lists.distances, sizes, 1.0)
    with pytest.raises(ValueError, match="`distances` must have at least 4 columns, got 3"):
        optimal_neighborhoods(lists.distances[:, :3], lists.indices[:, :3], 2.0)
    with pytest.raises(ValueError, match=r"`dimension` must be a number in \(0, inf\), got 0.0"):
        optimal_neighborhoods(lists.distances, lists.indices, 0.0)
    with pytest.raises(ValueError, match=r"`start` must be a number in \(0, inf\), got -1.0"):
        adaptive_dimension(lists.distances, lists.indices, start=-1.0)
    with pytest.raises(ValueError, match="must have one shape"):
        choose_scale([3.0, 3.0], [0.1])
    with pytest.raises(ValueError, match="must be positive"):
        choose_scale([3.0, np.nan, 3.0], [0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="`shortest` must be an integer of at least 2, got 1"):
        choose_scale([3.0, 3.0, 3.0], [0.1, 0.1, 0.1], shortest=1)
