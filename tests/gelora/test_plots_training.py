from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drawable import rank_record, training_record
from gelora.plots import COLORS, plot_rank_history, plot_training


def new_axes() -> Axes:
    return Figure().add_subplot()


def legend_texts(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


@pytest.fixture
def noisy(rng: np.random.Generator) -> xr.Dataset:
    losses = 2 * np.exp(-np.arange(300) / 100) + rng.normal(0, 0.2, 300)
    return training_record(losses.tolist(), {100: (1.2, 0.6), 300: (0.9, 0.7)})


@pytest.mark.smoke
def test_a_loss_is_drawn_faintly_with_its_running_median_over_it(noisy: xr.Dataset) -> None:
    axes = plot_training(noisy, new_axes())
    faint, strong, points = axes.lines
    assert faint.get_xydata().tolist() == np.stack([noisy["step"], noisy["loss"]], axis=1).tolist()
    assert faint.get_alpha() < 0.5
    losses = noisy["loss"].values
    assert strong.get_ydata()[150] == np.median(losses[143:158])  # a window of 15
    assert strong.get_ydata()[0] == np.median(losses[:8])
    assert np.abs(np.diff(strong.get_ydata())).mean() < 0.2 * np.abs(np.diff(losses)).mean()
    assert legend_texts(axes) == ["training, median of 15 steps", "validation"]
    assert points.get_xydata().tolist() == [[100, 1.2], [300, 0.9]]
    assert points.get_linestyle() == "None"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step of the optimiser", "loss")


def test_a_loss_that_is_not_finite_is_a_gap_and_the_median_is_that_of_the_others() -> None:
    record = training_record([1.0, float("inf"), float("nan"), 3.0, 5.0], {5: (1.0, 0.5)})
    _, strong, _ = plot_training(record, new_axes()).lines
    assert np.isfinite(strong.get_ydata()).all()
    assert strong.get_ydata()[2] == 3.0


def test_scores_are_points_at_the_steps_of_their_evaluations(noisy: xr.Dataset) -> None:
    axes = plot_training(noisy, new_axes(), show="score")
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[100, 0.6], [300, 0.7]]
    assert line.get_marker() != "None"
    assert axes.get_ylabel() == "validation score on rte"
    less = plot_training(noisy.assign_attrs(greater_is_better="false"), new_axes(), show="score")
    assert less.get_ylabel() == "validation score on rte (less is better)"


def test_learning_rates_are_drawn_from_zero(noisy: xr.Dataset) -> None:
    axes = plot_training(noisy, new_axes(), show="learning_rate")
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), noisy["learning_rate"])
    assert axes.get_ylim()[0] == 0


def test_several_runs_are_told_apart_in_colour_and_dashes_and_explained_once(noisy: xr.Dataset) -> None:
    axes = plot_training({"one": noisy, "other": noisy.assign(loss=noisy["loss"] + 1)}, new_axes())
    assert legend_texts(axes) == ["one", "other", "training, median of 15 steps", "validation"]
    medians = [line for line in axes.lines if line.get_label() in ("one", "other")]
    assert [line.get_color() for line in medians] == list(COLORS[:2])
    assert len({line.get_linestyle() for line in medians}) == 2
    short = noisy.isel(step=slice(40))
    mixed = legend_texts(plot_training([noisy, short], new_axes()))
    assert mixed == ["lora 1", "lora 2", "training, running median", "validation"]
    scores = plot_training([noisy, short.assign_attrs(task="cola")], new_axes(), show="score")
    assert scores.get_ylabel() == "validation score"


def test_a_run_without_evaluations_has_no_points_of_the_validation() -> None:
    record = training_record([1.0, 2.0], {})
    axes = plot_training(record, new_axes())
    assert [line.get_label() for line in axes.lines] == ["_every step", "training, median of 11 steps"]
    with pytest.raises(ValueError, match="`record` '' has no score on validation rows"):
        plot_training(record, new_axes(), show="score")


def test_what_is_no_record_is_refused(noisy: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"`record` 'x' has no loss by step: give training records as `gelora\.finet"):
        plot_training({"x": xr.Dataset()}, new_axes())
    with pytest.raises(ValueError, match="`show` must be one of loss, score, learning_rate, rank, got 'los'; did you"):
        plot_training(noisy, new_axes(), show="los")
    with pytest.raises(ValueError, match="`record` must hold at least one training record, got none"):
        plot_training([], new_axes())
    wrong: Any = "record.nc"
    with pytest.raises(TypeError, match="`record` must be a Dataset, or several in a sequence or mapping, got str"):
        plot_training(wrong, new_axes())
    with pytest.raises(TypeError, match=r"`record` 'a' must be an xarray\.Dataset, got str"):
        plot_training({"a": wrong}, new_axes())


def test_a_rank_history_is_drawn_as_steps_to_the_end_of_the_run() -> None:
    record = rank_record([[2, 4], [4, 8], [3, 3]], [0, 2, 10], 20)
    axes = plot_rank_history(record)
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[0, 3], [2, 6], [10, 3], [20, 3]]
    assert line.get_drawstyle() == "steps-post"
    assert axes.get_legend() is None


def test_several_rank_histories_are_told_apart_by_their_keys_or_adapters() -> None:
    records = [rank_record([[2, 4]], [0], 5), rank_record([[8, 8]], [0], 5, "sora")]
    by_key = plot_rank_history({"from 2": records[0], "from 8": records[1]}, Figure().subplots())
    by_adapter = plot_rank_history(records, Figure().subplots())
    assert [text.get_text() for text in by_key.get_legend().get_texts()] == ["from 2", "from 8"]
    assert [text.get_text() for text in by_adapter.get_legend().get_texts()] == ["geolora 1", "sora 2"]
    assert len({line.get_linestyle() for line in by_key.get_lines()}) == 2


def test_a_record_without_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`record` 'full' has no ranks: give records of an adapter with ranks"):
        plot_rank_history({"full": xr.Dataset({"loss": ("step", [1.0])})})
    with pytest.raises(ValueError, match=r"`record` must hold at least one training record, got none"):
        plot_rank_history([])


def test_ranks_are_drawn_as_a_rank_history() -> None:
    record = rank_record([[2, 4], [4, 8]], [0, 2], 20)
    one, other = plot_training(record, new_axes(), show="rank"), plot_rank_history(record, new_axes())
    assert one.lines[0].get_xydata().tolist() == other.lines[0].get_xydata().tolist()


def test_records_without_what_is_asked_for_are_named(noisy: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="`record` '' has no metric 'score'"):
        plot_training(noisy.assign_coords(metric=["f1", "accuracy"]), new_axes(), show="score")
    with pytest.raises(ValueError, match="`record` '' has no ranks"):
        plot_rank_history(rank_record([[4, 4]], [0], 10).isel(change=slice(0)), new_axes())
