"""What holds for every estimator under the entry points: degenerate clouds, state, citations."""

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch

from gelora_estimators import DegenerateCloudError, DimensionEstimate
from gelora_estimators.clouds import gaussian

CLOUD = gaussian(60, 3, 4, np.random.default_rng(0))
LARGE = gaussian(200, 3, 4, np.random.default_rng(0))


def changed(cloud, row, value):
    result = cloud.copy()
    result[row] = value
    return result


DEGENERATE = {
    "one NaN": (changed(LARGE, (3, 1), np.nan), "1 of 200 points hold NaN"),
    "two infinities": (changed(LARGE, ([3, 9], [1, 2]), np.inf), "2 of 200 points hold NaN or infinite"),
    "constant": (np.full((200, 4), 2.5), "all 200 points are equal"),
    "constant float16": (np.full((200, 4), 2.5, dtype=np.float16), "all 200 points are equal"),
    "no point": (LARGE[:0], "0 distinct points"),
    "one point": (LARGE[:1], "1 distinct points"),
    "two points": (LARGE[:2], "2 distinct points"),
    "three points": (LARGE[:3], "3 distinct points"),
    "two atoms": (LARGE[np.arange(200) % 2], "200 points take only 2 distinct values"),
    "few copied points": (LARGE[np.arange(90) % 3], r"3 distinct points \(90 points, 87 of them copies\)"),
    "nineteen atoms": (LARGE[np.arange(200) % 19], "200 points take only 19 distinct values"),
    "rounding noise": (1.0 + np.random.default_rng(1).integers(0, 3, (200, 9)) * 2.0**-52, "constant up to rounding"),
    "repeated with noise": (
        LARGE[np.arange(200) % 5] * (1 + np.random.default_rng(2).integers(-1, 2, (200, 4)) * 2.0**-52),
        "have their nearest neighbour within the rounding",
    ),
    "bfloat16 NaN": (torch.full((200, 4), float("nan"), dtype=torch.bfloat16), "200 of 200 points hold NaN"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", DEGENERATE)
def test_a_cloud_without_a_dimension_is_refused_with_the_reason(registered, name):
    points, reason = DEGENERATE[name]
    with pytest.raises(DegenerateCloudError, match=reason):
        registered(points, rng=np.random.default_rng(0))


def test_a_wrong_shape_is_refused(registered):
    with pytest.raises(ValueError, match=r"`points` must have shape \(n, d\)"):
        registered(np.zeros(5), rng=np.random.default_rng(0))


def test_a_healthy_cloud_gives_the_same_number_twice_and_counts_its_copies(registered):
    cloud = LARGE if getattr(registered, "name", "") == "ph" else CLOUD
    repeated = np.concatenate([cloud, cloud[:7]])
    first, second = (registered(repeated, rng=np.random.default_rng(0)) for _ in range(2))
    assert isinstance(first, DimensionEstimate)
    assert 0.9 < first.dimension < 6.0
    assert first.dimension == second.dimension
    assert (first.n_points, first.diagnostics["n_copies"]) == (len(cloud), 7)


def test_every_estimator_has_a_name_and_cites_a_paper(registered):
    assert registered.name in {point.name for point in entry_points(group="gelora.estimators")}
    assert registered.citation.startswith("@")
    assert registered.citation.count("{") == registered.citation.count("}")
    assert "year = {" in registered.citation


def test_the_installed_entry_points_are_those_of_pyproject():
    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = table["project"]["entry-points"]["gelora.estimators"]
    found = {point.name: point.value for point in entry_points(group="gelora.estimators")}
    assert {name: found.get(name) for name in declared} == declared
