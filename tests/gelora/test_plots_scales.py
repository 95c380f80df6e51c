import re

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from drawable import SCALES, scale_profile
from examples import example_profile
from gelora.plots import plot_scales

NAN = float("nan")


def new_axes() -> Axes:
    return Figure().add_subplot()


@pytest.mark.smoke
def test_the_lines_are_the_dimensions_of_the_layers_at_the_scales_that_there_are() -> None:
    axes = plot_scales(scale_profile(), new_axes())
    assert [line.get_label() for line in axes.lines] == ["layer 0", "layer 1", "layer 2"]
    for layer, line in enumerate(axes.lines):
        assert np.asarray(line.get_xydata()).tolist() == [[s, 3.0 + layer + i] for i, s in enumerate(SCALES)]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "order of the outer neighbour (logarithmic)"
    assert axes.get_ylabel() == "intrinsic dimension"
    assert axes.get_ylim()[0] == 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4", "8", "16"]


def test_a_scale_of_a_plug_in_goes_by_the_name_of_its_estimator() -> None:
    profile = scale_profile()
    profile["dimension_scales"] = (
        profile["dimension_scales"].isel(estimator=[1, 0]).assign_coords(estimator=profile["estimator"])
    )
    assert plot_scales(profile, new_axes()).get_xlabel() == "scale of twonn (logarithmic)"


def test_bands_are_one_standard_error_on_all_rows_to_either_side() -> None:
    axes = plot_scales(scale_profile(), new_axes())
    bands = [artist for artist in axes.collections if isinstance(artist, FillBetweenPolyCollection)]
    assert len(bands) == 3
    for layer, band in enumerate(bands):
        at_first = band.get_paths()[0].vertices[:, 1][np.isclose(band.get_paths()[0].vertices[:, 0], 2.0)]
        # Halves lie half of (1 + layer) from their mean; the factor from halves to all rows is 1.
        middle, error = 3.0 + layer, 0.5 * (1 + layer)
        assert [at_first.min(), at_first.max()] == pytest.approx([middle - error, middle + error])
    assert "bands: ± standard error" in axes.get_title(loc="left")


@pytest.mark.parametrize(("replicates", "errors"), [(False, True), (True, False)])
def test_without_replicates_or_when_turned_off_no_band_is_told_of(replicates: bool, errors: bool) -> None:
    axes = plot_scales(scale_profile(replicates=replicates), new_axes(), errors=errors)
    assert "bands" not in axes.get_title(loc="left")
    drawn = [band.get_paths() for band in axes.collections if isinstance(band, FillBetweenPolyCollection)]
    assert not any(path.vertices.size for paths in drawn for path in paths)


def test_few_layers_have_a_legend_and_markers_many_a_colour_bar() -> None:
    few = plot_scales(scale_profile(), new_axes())
    assert [text.get_text() for text in few.get_legend().get_texts()] == ["layer 0", "layer 1", "layer 2"]
    assert len({line.get_marker() for line in few.lines}) == 3
    assert len(few.figure.axes) == 1
    many = plot_scales(scale_profile(7), new_axes())
    assert many.get_legend() is None
    bar = many.figure.axes[1]
    assert bar.get_ylabel() == "layer"
    assert [label.get_text() for label in bar.get_yticklabels()] == [str(layer) for layer in range(7)]


def test_colours_brighten_evenly_with_depth() -> None:
    lines = plot_scales(scale_profile(9), new_axes()).lines
    brightness = [float(np.dot(to_rgb(line.get_color()), (0.299, 0.587, 0.114))) for line in lines]
    assert (np.diff(brightness) > 0.03).all()
    assert brightness[-1] < 0.85  # seen on white


def test_layers_are_chosen_by_number() -> None:
    axes = plot_scales(scale_profile(7), new_axes(), layers=[1, 5])
    assert [line.get_label() for line in axes.lines] == ["layer 1", "layer 5"]


def test_stacks_differ_in_dashes_and_share_the_colours_of_depth() -> None:
    axes = plot_scales(scale_profile(6, stacks=["encoder"] * 3 + ["decoder"] * 3), new_axes())
    assert len({line.get_linestyle() for line in axes.lines}) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["encoder", "decoder"]
    assert axes.lines[0].get_color() == axes.lines[3].get_color()
    assert axes.figure.axes[1].get_ylabel() == "relative depth"


def test_a_layer_without_a_dimension_is_named_in_the_title() -> None:
    profile = scale_profile()
    profile["dimension_scales"][0, 1] = NAN
    axes = plot_scales(profile, new_axes())
    assert axes.get_title(loc="left").endswith("undefined: layer 1")


def test_what_cannot_be_drawn_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"`profile` has no dimensions by scale: estimate it with .*gride\(scan_to=64\)"
    ):
        plot_scales(example_profile([[5.0, 6.0]]), new_axes())
    for name in ("twonn", "mla"):
        with pytest.raises(ValueError, match=f"`estimator` must be one of those with scales, mle; got '{name}'"):
            plot_scales(scale_profile(), new_axes(), estimator=name)
    both = scale_profile()
    both["dimension_scales"][1] = both["dimension_scales"][0].values
    with pytest.raises(ValueError, match="`estimator` must be one of those with scales, mle, twonn; got None"):
        plot_scales(both, new_axes())
    with pytest.raises(ValueError, match=re.escape("`layers` must be among those of the profile, [0, 1, 2], got 9")):
        plot_scales(scale_profile(), new_axes(), layers=[0, 9])
    with pytest.raises(ValueError, match="`layers` must name at least one"):
        plot_scales(scale_profile(), new_axes(), layers=[])


def test_drawing_scales_changes_neither_the_profile_nor_the_settings() -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    plt.close("all")
    profile, settings = scale_profile(7), dict(mpl.rcParams)
    before = profile.copy(deep=True)
    axes = new_axes()
    assert plot_scales(profile, axes) is axes
    xr.testing.assert_identical(profile, before)
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == []


def test_a_layer_that_is_undefined_at_every_scale_is_named() -> None:
    profile = scale_profile()
    profile["dimension_scales"][:, 0] = NAN
    with pytest.raises(ValueError, match=r"`layers` must hold one whose dimension is defined at some scale, got \[0\]"):
        plot_scales(profile, new_axes(), layers=[0])
