"""Arithmetic of the rank rule: what errors of dimensions do to ranks, against closed forms."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from gelora.geometry import (
    agreement,
    block_columns,
    deviations,
    geometric_ranks,
    geometric_rule,
    redraw_stability,
    rises,
    settling_factor,
    standard_draws,
    to_ranks,
)

LAYERS = [("encoder", 0), ("encoder", 1), ("encoder", 2), ("decoder", 0), ("decoder", 1)]


def test_the_rule_on_arrays_is_the_rule_on_single_numbers():
    rng = np.random.default_rng(0)
    for rounding in ("ceil", "round", "floor"):
        dimensions = rng.uniform(2, 9, size=(50, 5))
        ranks = geometric_rule(LAYERS, rounding=rounding, offset=2)(dimensions)
        for row, found in zip(dimensions, ranks, strict=True):
            single = geometric_ranks(dict(zip(LAYERS, row, strict=True)), rounding=rounding, offset=2)
            assert list(single.values()) == found.tolist()
            assert list(single) == list(block_columns(LAYERS)[0])


def test_falls_count_as_nothing_and_differences_never_cross_stacks():
    assert rises(dict(zip(LAYERS, [5.0, 4.0, 6.5, 9.0, 9.25], strict=True))) == {
        ("encoder", 1): -1.0,
        ("encoder", 2): 2.5,
        ("decoder", 1): 0.25,
    }
    assert to_ranks(np.array([-3.0, 0.0, 0.25, 1.0])).tolist() == [1, 1, 2, 2]


def test_deviations_are_centred_on_each_split_and_bring_a_mean_to_its_own_error():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 2))
    replicates = []
    for _ in range(3000):
        order = rng.permutation(400)
        replicates += [values[order[:200]].mean(axis=0), values[order[200:]].mean(axis=0)]
    table = np.array(replicates) + np.repeat(
        rng.normal(size=(3000, 1)), 2, axis=0
    )  # a shift of both halves is no spread
    found = deviations(table, 400, 200)
    assert np.allclose(found.reshape(-1, 2, 2).sum(axis=1), 0.0)
    assert np.sqrt((found**2).mean(axis=0)) == pytest.approx(values.std(axis=0, ddof=1) / 20, rel=0.05)


def test_a_split_without_a_dimension_in_one_half_is_left_out():
    table = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, math.nan], [2.0, 2.0]])
    assert deviations(table, 10, 5).tolist() == [[-1.0, -1.0], [1.0, 1.0]]


def test_draws_have_the_covariance_of_the_deviations_and_students_tails():
    rng = np.random.default_rng(2)
    spread = rng.normal(size=(60, 4)) @ np.diag([1.0, 2.0, 0.5, 3.0])
    draws = standard_draws(60, rng, 200_000) @ spread
    # Student's variance is that of the scale times ν / (ν − 2), with 30 splits.
    assert np.cov(draws.T) == pytest.approx(spread.T @ spread / 60 * 30 / 28, rel=0.05, abs=0.1)


@pytest.mark.parametrize("rise", [0.5, 0.9, 1.02])
def test_stability_is_the_probability_that_two_draws_fall_into_one_step(rise):
    error = 0.2
    half = np.tile([[1.0], [-1.0]], (2000, 1)) * error / math.sqrt(2)
    spread = np.hstack([-half, half])  # two layers that move apart: the rise has the error
    weights = standard_draws(len(spread), np.random.default_rng(0), 40_000)
    rule = geometric_rule([("encoder", 0), ("encoder", 1)])
    total, single = redraw_stability(np.array([3.0, 3.0 + rise]), spread, weights, rule)
    low, high = math.floor(rise), math.floor(rise) + 1
    scale = math.sqrt(2) * error * math.sqrt(2)  # of the difference of two draws; the layers share the error
    expected = norm.cdf((high - rise) / scale) - norm.cdf((low - rise) / scale)
    assert total == pytest.approx(expected, abs=0.015)
    assert single.tolist() == [total]


def test_the_settling_factor_makes_the_ranks_stable_and_not_much_less_does():
    rng = np.random.default_rng(3)
    spread = np.repeat(rng.normal(scale=0.3, size=(40, 3)), 2, axis=0) * np.tile([[1.0], [-1.0]], (40, 1))
    weights = standard_draws(80, rng, 4000)
    rule = geometric_rule([("encoder", 0), ("encoder", 1), ("encoder", 2)])
    dimensions = np.array([4.0, 5.4, 5.9])
    factor = settling_factor(dimensions, spread, weights, rule, 0.9)
    assert factor > 1.2
    assert redraw_stability(dimensions, spread / math.sqrt(factor), weights, rule)[0] >= 0.9
    assert redraw_stability(dimensions, spread / math.sqrt(0.8 * factor), weights, rule)[0] < 0.9
    assert settling_factor(dimensions, 0.01 * spread, weights, rule, 0.9) == 1.0
    assert settling_factor(np.array([4.0, 5.0, 5.5]), spread, weights, rule, 0.9) == math.inf  # a rise of exactly 1


def test_agreement_counts_whole_plans_and_single_ranks():
    total, single = agreement(np.array([[1, 2], [1, 2], [1, 3], [2, 2]]), np.array([1, 2]))
    assert total == 0.5
    assert single.tolist() == [0.75, 0.75]
