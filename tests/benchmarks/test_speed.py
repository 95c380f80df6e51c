"""Time of the pieces on MiniLM's width: run by ``make bench``, once each as tests by ``make test``."""

import numpy as np
import pytest

from gelora.models import load_pretrained
from gelora.ranks import plan_ranks
from gelora.registry import make_estimator
from gelora.representations import extract_representations
from tiny_models import tiny_texts


@pytest.fixture(scope="module")
def manifold():
    """2,000 points on a 12-dimensional linear image of a Gaussian, in 384 coordinates."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(2000, 12)) @ rng.normal(size=(12, 384))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(minilm):
    return load_pretrained(minilm)


@pytest.mark.parametrize("name", ["twonn", "gride", "mle", "ph"])
def test_the_time_of_an_estimate(benchmark, manifold, name):
    estimator = make_estimator(name)
    found = benchmark.pedantic(
        lambda: estimator(manifold, rng=np.random.default_rng(0)), rounds=3, iterations=1, warmup_rounds=1
    )
    assert 9 < found.dimension < 13


def test_the_time_of_extracting_hidden_states(benchmark, encoder, minilm):
    texts = tiny_texts(64, longest=20)
    found = benchmark.pedantic(
        lambda: extract_representations(encoder, texts, tokenizer=minilm, progress=False), rounds=2, iterations=1
    )
    assert len(found) == 7


def test_the_time_of_a_plan(benchmark, encoder):
    plan = benchmark(lambda: plan_ranks(None, encoder, "uniform", rank=2))
    assert plan.n_parameters == 2 * 6 * 4 * 768
