import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from examples import example_plan, example_profile
from gelora.blocks import Architecture
from gelora.plan import RankPlan
from gelora.plan_uncertainty import PlanUncertainty
from gelora.plots import COLORS, MARKERS, plot_profile, plot_ranks

NAN = float("nan")


def new_axes() -> Axes:
    return Figure().add_subplot()


def legend_texts(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def named_lines(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {str(line.get_label()): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines}


@pytest.mark.smoke
def test_the_lines_of_a_profile_are_its_dimensions_against_relative_depth() -> None:
    profile = example_profile([[5.0, 7.0, 6.0], [4.0, 8.0, 7.0]])
    lines = named_lines(plot_profile(profile, new_axes()))
    for name in ("mle", "twonn"):
        np.testing.assert_array_equal(lines[name][0], [0, 0.5, 1])
        np.testing.assert_array_equal(lines[name][1], profile["dimension"].sel(estimator=name))


def test_layer_numbers_take_the_place_of_depth_when_asked_for() -> None:
    axes = plot_profile(example_profile([[5.0, 7.0, 6.0]]), new_axes(), x="layer")
    np.testing.assert_array_equal(named_lines(axes)["mle"][0], [0, 1, 2])
    assert axes.get_xlabel().startswith("layer")
    assert plot_profile(example_profile([[5.0, 6.0]]), new_axes()).get_xlabel().startswith("relative depth")


def test_error_bars_span_the_confidence_interval() -> None:
    axes = plot_profile(example_profile([[5.0, 7.0, 6.0]]), new_axes())
    (bars,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    spans = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(spans, [[4.6, 5.6], [6.6, 7.6], [5.6, 6.6]])


def test_error_bars_are_one_standard_error_where_no_interval_is_given() -> None:
    axes = plot_profile(example_profile([[5.0, 7.0]], intervals=False), new_axes())
    (bars,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    np.testing.assert_allclose([s[:, 1].tolist() for s in bars.get_segments()], [[4.8, 5.2], [6.8, 7.2]])


def test_no_error_bars_are_drawn_when_they_are_turned_off() -> None:
    axes = plot_profile(example_profile([[5.0, 7.0]]), new_axes(), errors=False)
    assert list(axes.collections) == []


def test_an_undefined_layer_is_a_gap_and_a_cross_at_the_foot_never_a_number() -> None:
    axes = plot_profile(example_profile([[NAN, 7.0, 6.0]]), new_axes())
    lines = named_lines(axes)
    assert np.isnan(lines["mle"][1][0])
    place, height = lines["_undefined"]
    assert place.tolist() == [0.0]
    (cross,) = [line for line in axes.lines if line.get_label() == "_undefined"]
    assert cross.get_transform() == axes.get_xaxis_transform()  # a height of the axes, not a dimension
    assert 0 < height[0] < 0.2
    assert legend_texts(axes) == ["mle", "undefined"]


def test_the_crosses_of_two_estimators_at_one_layer_do_not_hide_each_other() -> None:
    axes = plot_profile(example_profile([[NAN, 7.0], [NAN, 6.0]]), new_axes())
    heights = {float(np.asarray(line.get_ydata())[0]) for line in axes.lines if line.get_label() == "_undefined"}
    assert len(heights) == 2


def test_a_profile_that_is_undefined_throughout_is_drawn_without_a_number() -> None:
    axes = plot_profile(example_profile([[NAN, NAN]]), new_axes())
    assert legend_texts(axes) == ["mle", "undefined"]
    assert "n =" not in axes.get_title(loc="left")


def test_encoder_and_decoder_are_separate_lines() -> None:
    profile = example_profile([[5.0, 7.0, 6.0, 3.0, 4.0]], ["encoder"] * 3 + ["decoder"] * 2)
    axes = plot_profile(profile, new_axes())
    lines = named_lines(axes)
    np.testing.assert_array_equal(lines["mle, encoder"][1], [5, 7, 6])
    np.testing.assert_array_equal(lines["mle, decoder"][1], [3, 4])
    styles = {str(line.get_label()): line.get_linestyle() for line in axes.lines}
    assert styles["mle, encoder"] != styles["mle, decoder"]


@pytest.mark.parametrize(
    ("intervals", "errors", "bars"),
    [(True, True, ", bars: confidence interval"), (False, True, ", bars: ± standard error"), (True, False, "")],
)
def test_the_title_states_model_pooling_texts_points_and_bars(intervals: bool, errors: bool, bars: str) -> None:
    axes = plot_profile(example_profile([[5.0, 7.0]], intervals=intervals), new_axes(), errors=errors)
    assert axes.get_title(loc="left") == f"models/tiny\npooling: mean, 2,000 texts, n = 1,994 points{bars}"


def test_a_changing_number_of_points_is_stated_as_a_range() -> None:
    profile = example_profile([[5.0, 7.0, NAN]])
    profile["n_points"][0] = [1500, 2000, 1]
    assert "n = 1,500 to 2,000 points" in plot_profile(profile, new_axes()).get_title(loc="left")


def test_estimators_are_chosen_by_name() -> None:
    profile = example_profile([[5.0, 7.0], [4.0, 8.0], [3.0, 3.5]])
    assert legend_texts(plot_profile(profile, new_axes(), estimator="twonn")) == ["twonn"]
    assert legend_texts(plot_profile(profile, new_axes(), estimator=["ph", "mle"])) == ["ph", "mle"]


def test_estimators_differ_in_marker_and_in_brightness() -> None:
    assert len(set(MARKERS)) == len(MARKERS)
    brightness = [float(np.dot(to_rgb(color), (0.299, 0.587, 0.114))) for color in COLORS[:2]]
    assert abs(brightness[0] - brightness[1]) > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "gride"}, "`estimator` must be among those of the profile, mle, twonn; got 'gride'"),
        ({"estimator": []}, "`estimator` must name at least one of mle, twonn, got an empty sequence"),
        ({"x": "time"}, "`x` must be one of depth, layer, got 'time'"),
    ],
)
def test_a_bad_choice_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_profile(example_profile([[5.0, 7.0], [4.0, 8.0]]), new_axes(), **arguments)  # type: ignore[arg-type]


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`profile` must be an xarray\.Dataset"):
        plot_profile({"dimension": [1.0]}, new_axes())  # type: ignore[arg-type]


@pytest.mark.smoke
def test_the_map_of_a_plan_writes_the_rank_in_every_cell_and_the_parameters_in_the_title() -> None:
    plan = example_plan([1, 2, 3])
    axes = plot_ranks(plan, new_axes())
    cells = {tuple(round(v) for v in text.get_position()): text.get_text() for text in axes.texts}
    assert cells == {(block, role): str(block + 1) for block in range(3) for role in range(4)}
    assert axes.get_title(loc="left") == f"geometric ranks: {plan.n_parameters} trainable parameters"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["query", "key", "value", "output"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]


def test_the_map_shows_the_ranks_as_its_colours() -> None:
    (image,) = plot_ranks(example_plan([1, 2, 3], key_rank=1), new_axes()).images
    np.testing.assert_array_equal(np.asarray(image.get_array()), [[1, 2, 3], [1, 1, 1], [1, 2, 3], [1, 2, 3]])


def test_a_matrix_without_an_adapter_is_a_dash_in_the_map() -> None:
    axes = plot_ranks(example_plan([1, 0, 3]), new_axes())
    assert [t.get_text() for t in axes.texts if round(t.get_position()[0]) == 1] == ["–"] * 4


@pytest.mark.smoke
def test_plans_are_compared_as_bars_with_their_ranks_and_parameters() -> None:
    plans = [example_plan([1, 4, 2]), example_plan([2, 2, 2], "uniform")]
    axes = plot_ranks(plans, new_axes())
    assert [bar.get_height() for bar in axes.patches] == [1, 4, 2, 2, 2, 2]
    assert [text.get_text() for text in axes.texts] == ["1", "4", "2", "2", "2", "2"]
    assert all(float(tick).is_integer() for tick in axes.get_yticks())
    assert legend_texts(axes) == ["geometric: 448 parameters", "uniform: 384 parameters"]
    assert sum(plan.n_parameters for plan in plans) == 448 + 384


def uncertain_plan() -> RankPlan:
    plan = example_plan([1, 2], key_rank=3)
    rows = {"query": (0.25, 0.75, 0.0), "key": (0.0, 0.004, 0.996)}
    uncertainty = PlanUncertainty(
        ranks=(1, 2, 3),
        probabilities=tuple(rows.get(module.role, rows["query"]) for module in plan.modules),
        expected=(1.0,) * 8,
        module_stability=(0.5,) * 8,
        stability=0.428,
        n_examples=2000,
        n_settling=float("inf"),
        confidence=0.9,
        n_replicates=10,
    )
    return replace(plan, uncertainty=uncertainty)


def test_a_plan_that_knows_its_stability_says_it() -> None:
    plan = uncertain_plan()
    assert plot_ranks(plan, new_axes()).get_title(loc="left").endswith("trainable parameters\nstability 0.43")
    labels = legend_texts(plot_ranks({"a": plan, "b": example_plan([1, 2])}, new_axes()))
    assert [label.rpartition(", ")[2] for label in labels] == ["stability 0.43", "b: 192 parameters"]


def test_probabilities_are_a_map_of_rank_and_block_with_a_column_for_matrices_that_differ() -> None:
    axes = plot_ranks(uncertain_plan(), new_axes(), show="probabilities")
    (image,) = axes.images
    np.testing.assert_allclose(np.asarray(image.get_array()), [[25, 0, 25, 0], [75, 0.4, 75, 0.4], [0, 99.6, 0, 99.6]])
    cells = {tuple(round(v) for v in text.get_position()): text.get_text() for text in axes.texts}
    assert [cells[0, row] for row in range(3)] == ["25", "75", ""]
    assert [cells[1, row] for row in range(3)] == ["", "<1", "100"]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["1 query, value, output", "1 key", "2 query, value, output", "2 key"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
    assert axes.get_ylim() == (-0.5, 2.5)  # ranks rise


def test_the_plans_own_ranks_are_framed_among_the_probabilities() -> None:
    axes = plot_ranks(uncertain_plan(), new_axes(), show="probabilities")
    frames = [(round(frame.get_x() + 0.46), round(frame.get_y() + 0.44)) for frame in axes.patches]
    assert frames == [(0, 0), (1, 2), (2, 1), (3, 2)]
    title = axes.get_title(loc="left")
    assert "probability in %" in title
    assert "stability 0.43" in title
    assert "n = 2,000 examples" in title


def test_blocks_whose_matrices_agree_have_one_column_of_probabilities() -> None:
    plan = example_plan([1, 2])
    rows = [(0.9, 0.1)] * 4 + [(0.2, 0.8)] * 4
    known = replace(uncertain_plan().uncertainty, ranks=(1, 2), probabilities=tuple(rows))  # type: ignore[type-var]
    axes = plot_ranks(replace(plan, uncertainty=known), new_axes(), show="probabilities")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), [[90, 20], [10, 80]])


def test_probabilities_of_what_has_none_are_refused() -> None:
    with pytest.raises(ValueError, match="`plan` has no probabilities of its ranks: estimate the profile with n_repl"):
        plot_ranks(example_plan([1]), new_axes(), show="probabilities")
    with pytest.raises(ValueError, match="`plan` must be one plan where show='probabilities', got 2"):
        plot_ranks([uncertain_plan(), uncertain_plan()], new_axes(), show="probabilities")
    with pytest.raises(ValueError, match="`show` must be one of ranks, probabilities, got 'prob'"):
        plot_ranks(example_plan([1]), new_axes(), show="prob")


def test_the_type_of_a_map_of_many_blocks_fits_its_cells_and_gives_way_to_a_colour_bar() -> None:
    few, many, most = (plot_ranks(example_plan([10] * n), new_axes()) for n in (4, 32, 96))
    assert many.texts[0].get_fontsize() < few.texts[0].get_fontsize()
    room = many.bbox.width / 100 * 72 / 32  # points a cell
    assert many.texts[0].get_fontsize() * 0.6 * 2 <= room
    assert list(most.texts) == []
    assert [bar.get_ylabel() for bar in most.figure.axes[1:]] == ["rank"]
    labels = [label.get_text() for label in most.get_xticklabels()]
    assert len(labels) < 96
    assert [int(label) for label in labels] == [round(tick) + 1 for tick in most.get_xticks()]


def test_no_line_lies_below_the_legend_and_no_word_beyond_the_figure_of_one_column() -> None:
    figure = Figure(figsize=(3.25, 2.5), layout="constrained")
    with mpl.rc_context({"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7}):
        axes = plot_profile(example_profile([[5.0, 7.0, 9.5], [9.0, 9.3, 9.4], [2.0, 3.0, 9.0]]), figure.subplots())
        figure.draw_without_rendering()
    legend = axes.get_legend().get_window_extent()
    highest = max(axes.transData.transform((0, float(np.nanmax(line.get_ydata()))))[1] for line in axes.lines)
    assert highest < legend.y0
    for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label):  # type: ignore[attr-defined]
        if text.get_text():
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1


def test_a_mapping_names_the_plans_and_equal_policies_are_numbered() -> None:
    first, second = example_plan([1, 2]), example_plan([2, 1])
    named = legend_texts(plot_ranks({"before": first, "after": second}, new_axes()))
    assert [text.partition(":")[0] for text in named] == ["before", "after"]
    numbered = legend_texts(plot_ranks([first, second], new_axes()))
    assert [text.partition(":")[0] for text in numbered] == ["geometric 1", "geometric 2"]


def test_blocks_of_two_stacks_are_told_apart() -> None:
    encoder, decoder = example_plan([1, 2]), example_plan([3], stack="decoder")
    both = RankPlan(
        policy="geometric",
        modules=encoder.modules + decoder.modules,
        architecture=Architecture(model_type="tiny", blocks={"encoder": 2, "decoder": 1}, width=8),
        weights_fingerprint="",
        scaling=2.0,
    )
    axes = plot_ranks(both, new_axes())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["E1", "E2", "D1"]
    assert axes.get_xlabel() == "block (E: encoder, D: decoder)"
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines] == [[1.5, 1.5]]


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (3, TypeError, "`plan` must be a RankPlan, or several in a sequence or mapping, got int"),
        ("plan.json", TypeError, "`plan` must hold RankPlans only, got str"),
        ([], ValueError, "`plan` must hold at least one RankPlan, got none"),
        (
            [example_plan([1]), example_plan([1, 2])],
            ValueError,
            "`plan` must hold plans for one architecture, got tiny",
        ),
    ],
)
def test_what_is_no_plan_is_refused(plan: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        plot_ranks(plan, new_axes())  # type: ignore[arg-type]


def test_given_axes_are_returned_and_neither_pyplot_nor_the_settings_are_touched() -> None:
    import matplotlib.pyplot as plt

    plt.close("all")
    settings = dict(mpl.rcParams)
    for draw in (
        lambda ax: plot_profile(example_profile([[5.0, NAN]]), ax),
        lambda ax: plot_ranks(example_plan([1, 2]), ax),
        lambda ax: plot_ranks([example_plan([1, 2]), example_plan([2, 2])], ax),
    ):
        axes = new_axes()
        assert draw(axes) is axes
        assert axes.figure is not None
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_without_axes_a_figure_is_opened() -> None:
    import matplotlib.pyplot as plt

    plt.close("all")
    axes = plot_profile(example_profile([[5.0, 7.0]]))
    assert plt.get_fignums() == [1]
    assert plt.figure(1).axes == [axes]
    plt.close("all")


def test_drawing_does_not_change_the_profile() -> None:
    profile = example_profile([[5.0, NAN, 6.0]])
    before = profile.copy(deep=True)
    plot_profile(profile, new_axes())
    xr.testing.assert_identical(profile, before)


def test_an_interval_that_is_open_above_is_drawn_and_named_as_the_error() -> None:
    profile = example_profile([[5.0, 7.0]])
    profile["ci_high"][:] = np.inf
    axes = plot_profile(profile, new_axes())
    (bars,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    np.testing.assert_allclose([s[:, 1].tolist() for s in bars.get_segments()], [[4.8, 5.2], [6.8, 7.2]])
    assert "bars: ± standard error" in axes.get_title(loc="left").replace("\n", " ")
    profile["standard_error"][:] = np.inf
    assert np.isfinite(plot_profile(profile, new_axes()).get_ylim()).all()
