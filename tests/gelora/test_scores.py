"""Means, errors and paired tests of a comparison against plain NumPy and SciPy, and its tables and drawings."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
import xarray as xr

from comparisons import example_comparison
from gelora.plots import plot_comparison
from gelora.plots_comparison import pareto_front
from gelora.scores import (
    AVERAGE,
    check_comparison,
    compare_scores,
    mean_cost,
    open_comparison,
    save_comparison,
    summarise_scores,
    total_seconds,
)
from gelora.study.tables import comparison_table, table_rows, to_latex, to_markdown

NAN = float("nan")


@pytest.fixture
def scores(rng: np.random.Generator) -> Any:
    """Scores of three tasks, four methods and five seeds; one run of the last method failed."""
    values = rng.normal(0.7, 0.05, (3, 4, 5))
    values[1, 3, 2] = NAN
    return values


def test_means_and_errors_are_numpys(scores: Any) -> None:
    found = summarise_scores(example_comparison(scores))
    np.testing.assert_allclose(found["mean"][:3, :3], scores[:, :3].mean(axis=2))
    np.testing.assert_allclose(found["standard_error"][:3, :3], scores[:, :3].std(axis=2, ddof=1) / np.sqrt(5))
    one = scores[1, 3][~np.isnan(scores[1, 3])]
    assert float(found["mean"][1, 3]) == pytest.approx(one.mean())
    assert int(found["n"][1, 3]) == 4


def test_the_average_is_over_the_tasks_of_each_seed_that_has_them_all(scores: Any) -> None:
    found = summarise_scores(example_comparison(scores)).sel(task=AVERAGE)
    by_seed = scores[:, 0].mean(axis=0)
    assert float(found["mean"][0]) == pytest.approx(by_seed.mean())
    assert float(found["standard_error"][0]) == pytest.approx(by_seed.std(ddof=1) / np.sqrt(5))
    assert found["n"].values.tolist() == [5, 5, 5, 4]


def test_one_seed_has_no_error() -> None:
    found = summarise_scores(example_comparison(np.full((1, 2, 1), 0.5)))
    assert found["standard_error"].isnull().all()
    assert (found["mean"] == 0.5).all()


def test_paired_tests_are_scipys(scores: Any) -> None:
    found = compare_scores(example_comparison(scores), "method1")
    for method in (0, 2):
        own = found.isel(method=method)
        for task in range(3):
            first, second = scores[task, method], scores[task, 1]
            expected = scipy.stats.ttest_rel(first, second)
            assert float(own["p_value"][task]) == pytest.approx(expected.pvalue)
            assert float(own["difference"][task]) == pytest.approx((first - second).mean())
            assert float(own["difference"][task] / own["standard_error"][task]) == pytest.approx(expected.statistic)
    assert found["p_value"].sel({"method": "method1"}).isnull().all()
    tested = found["p_value"][:3].values.ravel()
    expected_q = scipy.stats.false_discovery_control(tested[~np.isnan(tested)])
    np.testing.assert_allclose(found["q_value"][:3].values.ravel()[~np.isnan(tested)], expected_q)


def test_equal_scores_do_not_differ_and_constant_differences_do() -> None:
    values = np.array([[[0.5, 0.6, 0.7], [0.5, 0.6, 0.7], [0.75, 0.85, 0.95]]])
    found = compare_scores(example_comparison(values.round(2)))
    assert found["p_value"][0].values.tolist()[1] == 1.0
    assert np.isnan(found["p_value"][0, 2])  # no noise was seen: nothing can be said of it
    assert float(found["difference"][0, 2]) == pytest.approx(0.25)


def test_scores_that_shift_alike_for_every_seed_are_told_apart_only_paired(rng: np.random.Generator) -> None:
    base = rng.normal(0.7, 0.1, 5)
    values = np.stack([base, base + 0.01 + rng.normal(0, 0.001, 5)])[None]
    assert float(compare_scores(example_comparison(values))["p_value"][0, 1]) < 0.001
    assert scipy.stats.ttest_ind(values[0, 0], values[0, 1]).pvalue > 0.5


def test_a_reference_must_be_a_method(scores: Any) -> None:
    with pytest.raises(ValueError, match="`reference` must be one of method0, .* did you mean 'method1'"):
        compare_scores(example_comparison(scores), "method11")
    with pytest.raises(ValueError, match="`variable` must be one of score"):
        summarise_scores(example_comparison(scores), "scores")


def test_a_comparison_is_read_as_it_was_written_and_others_are_refused(scores: Any, tmp_path: Path) -> None:
    comparison = example_comparison(scores)
    save_comparison(comparison, tmp_path / "c.nc")
    xr.testing.assert_identical(open_comparison(tmp_path / "c.nc"), comparison)
    with pytest.raises(ValueError, match="has no variable 'step_seconds'"):
        check_comparison(comparison.drop_vars("step_seconds"))
    with pytest.raises(ValueError, match="is not a gelora comparison"):
        check_comparison(comparison.assign_attrs(schema="gelora-profile"))
    wrong: Any = {}
    with pytest.raises(TypeError, match="`comparison` must be an xarray Dataset"):
        check_comparison(wrong)


def test_seconds_are_of_estimation_and_training(scores: Any) -> None:
    assert (total_seconds(example_comparison(scores)) == 2).all()


@pytest.fixture
def two_tasks() -> xr.Dataset:
    values = np.array([[[0.50, 0.52], [0.61, 0.632]], [[0.80, 0.84], [0.70, 0.70]]])
    return example_comparison(values, tasks=["co_la", "rte"], methods=["lora", "full"], parameters=[12288, 22_713_216])


def test_the_markdown_table_is_as_printed(two_tasks: xr.Dataset) -> None:
    lines = to_markdown(two_tasks).splitlines()
    assert lines[:4] == [
        "| method | parameters | co_la | rte | average | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| lora | 12,288 | 51.0 ± 1.0 | **82.0** ± 2.0 | **66.5** ± 1.5 | 2.0 |",
        "| full | 22,713,216 | **62.1** ± 1.1* | 70.0 ± 0.0 | 66.0 ± 0.5 | 2.0 |",
    ]
    assert "standard error over 2 seeds" in lines[5]


def test_the_latex_table_escapes_and_marks(two_tasks: xr.Dataset) -> None:
    text = to_latex(two_tasks)
    assert r"co\_la" in text
    assert r"lora & 12,288 & $51.0 \pm 1.0$ & $\mathbf{82.0} \pm 2.0$ & $\mathbf{66.5} \pm 1.5$ & 2.0 \\" in text
    assert text.count(r"\begin{tabular}{lrrrrr}") == text.count(r"\end{tabular}") == 1


def test_the_latex_table_is_latex(two_tasks: xr.Dataset) -> None:
    text = to_latex(two_tasks)
    assert text.startswith("% ")
    body = text.splitlines()[1:]
    assert all(line.count("&") == 5 for line in body if line.endswith(r"\\"))
    assert not any("%" in line for line in body)


def test_of_losses_the_smallest_is_best(two_tasks: xr.Dataset) -> None:
    losses = example_comparison(two_tasks["score"].values, greater_is_better=False)
    _, rows = table_rows(losses)
    assert [cell.best for cell in rows[0].cells] == [True, False, False]
    assert rows[0].cells[0].mean == pytest.approx(0.51)


def test_what_did_not_end_is_a_dash() -> None:
    values = np.array([[[0.5, 0.6], [NAN, NAN]]])
    comparison = example_comparison(values)
    assert "| method1 | 2 | – | 2.0 |" in to_markdown(comparison)
    assert "Where runs failed" in to_markdown(comparison)
    assert "method1 & 2 & -- & 2.0" in to_latex(comparison)
    assert len(comparison_table(comparison).rows) == 2


def test_where_all_are_equal_none_is_the_best() -> None:
    scores = np.stack([np.full((3, 2), 0.5), np.arange(6.0).reshape(3, 2)])
    _, rows = table_rows(example_comparison(scores))
    assert [[cell.best for cell in row.cells] for row in rows] == [
        [False, False, False],
        [False, False, False],
        [False, True, True],
    ]


def test_the_mean_of_fewer_runs_says_so_and_is_not_the_best() -> None:
    comparison = example_comparison(np.array([[[0.5, 0.6], [0.9, NAN]]]))
    lines = to_markdown(comparison).splitlines()
    assert "| method0 | 1 | **55.0** ± 5.0 |" in lines[2]
    assert "| method1 | 2 | 90.0 (n=1) |" in lines[3]


def test_scores_of_opposite_directions_have_no_average(two_tasks: xr.Dataset) -> None:
    mixed = two_tasks.assign_attrs(greater_is_better=json.dumps({"co_la": True, "rte": False}))
    assert summarise_scores(mixed)["mean"].sel(task=AVERAGE).isnull().all()
    assert summarise_scores(mixed)["mean"].sel(task="rte").notnull().all()
    assert summarise_scores(mixed, "step_seconds")["mean"].sel(task=AVERAGE).notnull().all()
    assert "| lora | 12,288 | 51.0 ± 1.0 | 0.8200 ± 0.0200 | 2.0 |" in to_markdown(mixed)


def test_the_front_of_losses_is_that_of_the_smallest(two_tasks: xr.Dataset) -> None:
    losses = two_tasks.assign_attrs(greater_is_better=json.dumps({"co_la": False, "rte": False}))
    axes = plot_comparison(losses, task="rte")
    front = axes.lines[-1].get_xydata()
    assert front.tolist() == [[12288, pytest.approx(0.82)], [22713216, pytest.approx(0.70)]]
    assert axes.get_ylabel() == "score on rte, less is better"
    plt.close("all")


def test_the_front_holds_whom_nobody_beats_in_both(rng: np.random.Generator) -> None:
    costs, scores = rng.random(40), rng.random(40)
    scores[3] = NAN
    front = set(pareto_front(costs, scores).tolist())
    known = [i for i in range(40) if np.isfinite(scores[i])]
    beaten = {i for i in known for j in known if costs[j] <= costs[i] and scores[j] >= scores[i] and j != i}
    assert front == set(known) - beaten


def test_methods_of_like_cost_stand_side_by_side_around_a_mark_at_their_cost() -> None:
    scores = np.linspace(0.3, 0.6, 15)[None, :, None] + np.array([0.0, 0.1])
    parameters = [1000.0, 1001.0, 1050.0, *np.geomspace(5e3, 1e6, 12)]
    axes = plot_comparison(example_comparison(scores, parameters=parameters), plt.figure().subplots())
    places = [float(container.lines[0].get_xdata()[0]) for container in axes.containers]
    assert places[3:] == pytest.approx(parameters[3:])
    ratios = np.diff(np.log(places[:3]))
    assert ratios[0] == pytest.approx(ratios[1])
    assert 1.05 < places[1] / places[0] < 1.5
    assert axes.get_xlabel().replace("\n", " ") == "trained parameters without the head (▲: of those side by side)"
    assert axes.lines[-1].get_xdata().tolist() == parameters[:3]
    shapes = {
        (one.lines[0].get_marker(), str(one.lines[0].get_markerfacecolor()) == "white") for one in axes.containers
    }
    assert len(shapes) == 14  # seven markers, filled and hollow: the fifteenth repeats
    plt.close("all")


def test_a_legend_of_many_methods_stands_above_where_the_axes_are_narrow(two_tasks: xr.Dataset) -> None:
    narrow, wide = (plt.figure(figsize=(width, 3), layout="constrained") for width in (3.25, 7))
    for figure in (narrow, wide):
        plot_comparison(two_tasks, figure.subplots())
        figure.draw_without_rendering()
    (above,), (beside,) = narrow.axes, wide.axes
    assert above.get_legend().get_window_extent().y0 >= above.bbox.y1
    assert beside.get_legend().get_window_extent().x0 >= beside.bbox.x1
    plt.close("all")


def test_the_drawing_has_a_point_and_an_error_bar_for_each_method(two_tasks: xr.Dataset) -> None:
    _, axes = plt.subplots()
    assert plot_comparison(two_tasks, axes) is axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["lora", "full"]
    points = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
    assert points == [[12288, pytest.approx(0.665)], [22713216, pytest.approx(0.6605)]]
    assert axes.get_xscale() == "log"
    other = plot_comparison(two_tasks, cost="seconds", task="rte")
    assert other.get_ylabel() == "score on rte"
    assert other.get_xlabel() == "seconds of estimation and training"
    with pytest.raises(ValueError, match="`cost` must be one of parameters, seconds"):
        plot_comparison(two_tasks, axes, cost="euros")
    with pytest.raises(ValueError, match="`task` must be one of co_la, rte, average"):
        plot_comparison(two_tasks, axes, task="sst2")
    plt.close("all")


def test_the_cost_of_an_average_does_not_forget_the_task_whose_run_failed() -> None:
    comparison = example_comparison(np.full((2, 1, 2), 0.5))
    comparison["training_seconds"][:] = np.array([[[10.0, 10.0]], [[100.0, NAN]]])
    comparison["estimation_seconds"][:] = 0.0
    assert mean_cost(comparison, "seconds").values.tolist() == [55.0]
    comparison["training_seconds"][1] = NAN
    assert np.isnan(mean_cost(comparison, "seconds").values).all()
    with pytest.raises(ValueError, match="`cost` must be one of"):
        mean_cost(comparison, "euros")


def test_an_average_of_opposite_directions_is_not_drawn(two_tasks: xr.Dataset) -> None:
    mixed = two_tasks.assign_attrs(greater_is_better=json.dumps({"co_la": True, "rte": False}))
    with pytest.raises(ValueError, match="`task` must be one of co_la, rte, got 'average': scores of which some"):
        plot_comparison(mixed)
