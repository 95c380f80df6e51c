"""The charts, tables and sentences of a report say what the profile and the plan hold, and no more."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from examples import example_plan, example_profile, uncertain
from gelora import estimate_representations
from gelora.profile import drawn_interval
from gelora.report import rises_section
from gelora.report.charts import probabilities_chart, profile_chart
from gelora.report.contents import contents_of
from gelora.report.plan_section import probabilities_table
from gelora.report.wording import what_was_measured


def test_the_points_of_a_fact_are_those_of_the_estimator_it_names_and_a_range_where_layers_differ() -> None:
    profile = example_profile([[5.0, 7.0, 6.0], [4.5, 8.0, 6.0]])
    profile["n_points"][0] = [900, 1994, 1200]
    facts = {words: value for value, words in contents_of(profile, {}, None, {}).facts}
    assert facts["points in each of 3 layers"] == "900 – 1,994"
    profile["n_points"][0] = 700
    facts = {words: value for value, words in contents_of(profile, {}, None, {}).facts}
    assert facts["points in each of 3 layers"] == "700"


def test_of_point_clouds_without_a_model_nothing_is_said_of_texts_layers_or_blocks() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4))
    profile = estimate_representations([points[:, :2], points, points[:50]], progress=False)
    said = " ".join(what_was_measured(profile))
    assert said.startswith("3 point clouds were given. Each has 50 to 60 distinct points.")
    assert not [word for word in ("model", "layer", "block", "examples") if word in said]
    alone = " ".join(what_was_measured(estimate_representations([points], progress=False)))
    assert alone.startswith("One point cloud was given. It has 60 distinct points.")


def test_matrices_of_a_block_with_other_ranks_or_probabilities_stand_apart_in_chart_and_table() -> None:
    plan = uncertain(example_plan([2, 1], key_rank=3), 0.4)
    assert plan.uncertainty is not None
    rows = ((0.7, 0.3),) * 4 + ((0.9, 0.1), *((0.6, 0.4),) * 3)
    plan = replace(plan, uncertainty=replace(plan.uncertainty, probabilities=rows))
    made = probabilities_chart(plan)
    assert made is not None
    names = ["1, query, value, output", "1, key", "2, query", "2, key", "2, value, output"]
    bars = {trace["name"]: trace for trace in made["data"]}
    assert all(trace["x"] == [name.replace(", ", "<br>") for name in names] for trace in bars.values())
    assert bars["rank 1"]["y"] == [0.7, 0.7, 0.9, 0.6, 0.6]
    assert bars["rank 1"]["text"] == ["1", "1", "1 ✓", "1", "1 ✓"]
    # A chosen rank that has no probability has one of 0, and its tick above the block.
    assert bars["rank 3"]["y"] == [0.0] * 5
    assert bars["rank 3"]["text"] == ["3", "3 ✓", "3", "3 ✓", "3"]
    ticks = [(one["x"], one["text"]) for one in made["layout"]["annotations"]]
    assert ticks == [("1<br>key", "3 ✓"), ("2<br>key", "3 ✓")]
    table = probabilities_table(plan)
    assert table is not None
    assert [cells[0].text for cells in table.rows] == names
    assert table.head[3:6] == ["rank 1", "rank 2", "rank 3"]
    assert [cell.text for cell in table.rows[1][1:6]] == ["3", "1.30", "0.70", "0.30", "0.00"]


def test_an_error_that_is_not_finite_is_no_bar() -> None:
    profile = example_profile([[5.0, 7.0]], intervals=False)
    profile["standard_error"][0, 1] = float("inf")
    low, high = drawn_interval(profile.sel(estimator="mle"))
    np.testing.assert_allclose([low, high], [[4.8, np.nan], [5.2, np.nan]])
    (line,) = profile_chart(profile)["data"]
    np.testing.assert_allclose(line["error_y"]["array"], [0.2, 0.0])


def test_a_rise_without_an_interval_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    values = {"rise": [2.0, -1.0], "standard_error": [0.1, nan], "ci_low": [1.8, nan], "ci_high": [2.3, nan]}
    rises = xr.Dataset(
        {name: ("block", value) for name, value in values.items()} | {"stack": ("block", ["encoder"] * 2)},
        coords={"block": [1, 2]},
    )
    monkeypatch.setattr(rises_section, "_rises", lambda profile, label: rises)
    chart = rises_section.rises_chart(example_profile([[5.0, 7.0, 6.0]]), ["mle"])
    assert chart is not None
    bars = chart.figures["mle"]["data"][0]["error_y"]
    np.testing.assert_allclose([bars["array"], bars["arrayminus"]], [[0.3, 0.0], [0.2, 0.0]])
