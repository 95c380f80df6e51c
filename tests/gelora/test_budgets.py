"""A budget is spent to less than one rank, never above, in the proportions asked for."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gelora.budgets import allocate


@given(
    some.lists(some.tuples(some.floats(0, 50), some.integers(1, 40), some.integers(1, 30)), min_size=1, max_size=12),
    some.integers(0, 3000),
    some.integers(0, 2),
    some.integers(1, 3),
)
def test_the_cost_is_never_above_the_budget_and_no_further_rank_fits(entries, extra, base, minimum):
    weights = {place: weight for place, (weight, _, _) in enumerate(entries)}
    costs = {place: cost for place, (_, cost, _) in enumerate(entries)}
    caps = {place: max(cap, minimum) for place, (_, _, cap) in enumerate(entries)}
    budget = minimum * sum(costs.values()) + extra
    ranks = allocate(weights, costs, budget, base=base, minimum=minimum, caps=caps)
    rest = budget - sum(costs[key] * rank for key, rank in ranks.items())
    assert rest >= 0
    assert all(minimum <= ranks[key] <= caps[key] for key in ranks)
    assert all(rest < costs[key] for key in ranks if ranks[key] < caps[key])


def test_whole_proportions_come_out_exactly():
    weights = {"a": 1.0, "b": 0.0, "c": 4.0, "d": 2.0}
    costs = dict.fromkeys(weights, 768)
    assert allocate(weights, costs, 11 * 768, base=1) == {"a": 2, "b": 1, "c": 5, "d": 3}
    assert allocate(weights, costs, 18 * 768, base=1) == {"a": 3, "b": 1, "c": 9, "d": 5}


def test_larger_weights_never_get_less_and_no_weights_are_equal_weights():
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights = dict(enumerate(rng.exponential(size=8)))
        ranks = allocate(weights, dict.fromkeys(weights, 3), 3 * int(rng.integers(8, 200)))
        order = sorted(weights, key=weights.__getitem__)
        assert all(ranks[low] <= ranks[high] for low, high in pairwise(order))
    equal = allocate(dict.fromkeys("abc", 0.0), dict.fromkeys("abc", 2), 16)
    assert sorted(equal.values()) == [2, 3, 3]


def test_a_budget_below_the_minimum_and_a_weight_that_is_none_are_refused():
    with pytest.raises(ValueError, match=r"`budget` must pay for rank 2 in every block, 40 parameters, got 39"):
        allocate({"a": 1.0, "b": 1.0}, {"a": 10, "b": 10}, 39, minimum=2)
    with pytest.raises(ValueError, match="a weight must be a finite number of at least 0, got nan for b"):
        allocate({"a": 1.0, "b": float("nan")}, {"a": 10, "b": 10}, 100)
