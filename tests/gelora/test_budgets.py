"""A budget is spent to less than one rank, never above, in the proportions asked for."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gelora.budgets import allocate, rank_cost


@given(
    some.lists(
        some.tuples(
            some.floats(0, 50),
            some.lists(some.tuples(some.integers(1, 30), some.integers(1, 40)), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=12,
    ),
    some.integers(0, 3000),
    some.integers(0, 2),
    some.integers(1, 3),
)
def test_the_cost_is_never_above_the_budget_and_no_further_rank_fits(entries, extra, base, minimum):
    weights = {place: weight for place, (weight, _) in enumerate(entries)}
    pieces = {place: matrices for place, (_, matrices) in enumerate(entries)}
    budget = sum(rank_cost(matrices, minimum) for matrices in pieces.values()) + extra
    ranks = allocate(weights, pieces, budget, base=base, minimum=minimum)
    rest = budget - sum(rank_cost(pieces[key], rank) for key, rank in ranks.items())
    assert rest >= 0
    for key, rank in ranks.items():
        largest = max(minimum, *(limit for limit, _ in pieces[key]))
        assert minimum <= rank <= largest
        assert rank == largest or rest < rank_cost(pieces[key], rank + 1) - rank_cost(pieces[key], rank)


def test_whole_proportions_come_out_exactly():
    weights = {"a": 1.0, "b": 0.0, "c": 4.0, "d": 2.0}
    costs = {key: [(999, 768)] for key in weights}
    assert allocate(weights, costs, 11 * 768, base=1) == {"a": 2, "b": 1, "c": 5, "d": 3}
    assert allocate(weights, costs, 18 * 768, base=1) == {"a": 3, "b": 1, "c": 9, "d": 5}


def test_larger_weights_never_get_less_and_no_weights_are_equal_weights():
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights = dict(enumerate(rng.exponential(size=8)))
        ranks = allocate(weights, {key: [(999, 3)] for key in weights}, 3 * int(rng.integers(8, 200)))
        order = sorted(weights, key=weights.__getitem__)
        assert all(ranks[low] <= ranks[high] for low, high in pairwise(order))
    equal = allocate(dict.fromkeys("abc", 0.0), {key: [(999, 2)] for key in "abc"}, 16)
    assert sorted(equal.values()) == [2, 3, 3]


def test_a_budget_below_the_minimum_and_a_weight_that_is_none_are_refused():
    with pytest.raises(ValueError, match=r"`budget` must pay for rank 2 in every block, 40 parameters, got 39"):
        allocate({"a": 1.0, "b": 1.0}, {"a": [(99, 10)], "b": [(99, 10)]}, 39, minimum=2)
    with pytest.raises(ValueError, match="a weight must be a finite number of at least 0, got nan for b"):
        allocate({"a": 1.0, "b": float("nan")}, {"a": [(99, 10)], "b": [(99, 10)]}, 100)
