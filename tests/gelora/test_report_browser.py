"""A report as a browser shows it: charts, toggles, copies, colours; and nothing asked of the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from browsers import Visit, chromium
from comparisons import example_comparison
from examples import example_plan, example_profile, uncertain
from gelora.report import write_report

VISIBLE = """() => document.querySelector('figure[data-chart=profile] .plot').data
    .filter((one) => one.visible !== false).map((one) => one.name)"""
COLOURS = """() => {
    const axis = document.querySelector('figure[data-chart=profile] .plot').layout;
    return [getComputedStyle(document.body).backgroundColor, axis.font.color];
}"""


def example() -> xr.Dataset:
    profile = example_profile([[5.0, 7.0, float("nan")], [4.5, 8.0, 6.0]])
    values = np.array([[[5.0, 6.0, 7.0]] * 3, [[np.nan] * 3] * 3])
    found = profile.assign_coords(scale=[2.0, 4.0, 8.0])
    return found.assign(dimension_scales=(("estimator", "layer", "scale"), values))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = np.random.default_rng(0).normal(0.7, 0.05, size=(2, 12, 3))
    return write_report(
        example(),
        tmp_path_factory.mktemp("report") / "report.html",
        plan={"geometric": uncertain(example_plan([2, 3]), 0.4), "uniform": example_plan([2, 2], "uniform")},
        comparison=example_comparison(scores),
    )


@pytest.fixture(scope="module")
def wide(browser: Any, file: Path) -> Iterator[Visit]:
    visit = Visit(
        browser,
        file,
        viewport={"width": 1280, "height": 900},
        color_scheme="light",
        permissions=["clipboard-read", "clipboard-write"],
    )
    visit.wait_until_drawn()
    yield visit
    visit.context.close()


def test_the_page_is_drawn_without_a_complaint_and_asks_for_itself_alone(wide: Visit, file: Path) -> None:
    assert wide.complaints == []
    assert wide.requests == [file.as_uri()]
    assert wide.page.locator("#notice").count() == 0


def test_a_box_hides_the_lines_of_its_estimator_and_shows_them_again(wide: Visit) -> None:
    figure = wide.page.locator("figure[data-chart=profile]")
    assert wide.page.evaluate(VISIBLE) == ["mle", "mle: undefined", "twonn"]
    figure.get_by_label("mle", exact=True).uncheck()
    assert wide.page.evaluate(VISIBLE) == ["twonn"]
    assert figure.locator(".scatterlayer .trace").count() == 1
    figure.get_by_label("mle", exact=True).focus()
    wide.page.keyboard.press("Space")
    assert wide.page.evaluate(VISIBLE) == ["mle", "mle: undefined", "twonn"]
    assert figure.locator(".scatterlayer .trace").count() == 3


def test_error_bars_can_be_hidden(wide: Visit) -> None:
    figure = wide.page.locator("figure[data-chart=profile]")
    bars = figure.locator(".errorbar")
    assert bars.count() > 0
    figure.get_by_label("error bars").uncheck()
    assert bars.count() == 0
    figure.get_by_label("error bars").check()


def test_the_task_and_what_scores_are_set_against_can_be_chosen(wide: Visit) -> None:
    figure = wide.page.locator("figure[data-chart=pareto]")
    titles = figure.locator(".xtitle")
    assert titles.text_content() == "trained parameters without the head"
    figure.get_by_role("combobox", name="Against").select_option("seconds")
    assert titles.text_content() == "seconds of estimation and training"
    figure.get_by_role("combobox", name="Task").select_option("task1")
    figure.get_by_role("combobox", name="Against").select_option("nothing")
    assert figure.locator(".ytick").count() == 12


def test_of_one_task_what_scores_are_set_against_can_be_chosen(browser: Any, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(0.7, 0.05, size=(1, 3, 3))
    visit = Visit(browser, write_report(None, tmp_path / "r.html", comparison=example_comparison(scores)))
    visit.wait_until_drawn()
    figure = visit.page.locator("figure[data-chart=pareto]")
    titles = figure.locator(".xtitle")
    assert figure.get_by_role("combobox").count() == 1
    assert titles.text_content() == "trained parameters without the head"
    for against, title in (("seconds", "seconds of estimation and training"), ("nothing", "score")):
        figure.get_by_role("combobox", name="Against").select_option(against)
        assert titles.text_content() == title
    assert visit.complaints == []
    visit.context.close()


def test_a_chosen_rank_without_a_probability_is_ticked_above_its_block(browser: Any, tmp_path: Path) -> None:
    plan = uncertain(example_plan([2, 1], key_rank=3), 0.4)
    visit = Visit(browser, write_report(None, tmp_path / "r.html", plan=plan))
    visit.wait_until_drawn()
    figure = visit.page.locator("figure[data-chart=probabilities-1]")
    assert figure.locator(".annotation-text").all_text_contents() == ["3 ✓", "3 ✓"]
    assert "2 ✓" in figure.locator(".bartext").all_text_contents()
    visit.context.close()


def test_the_button_gives_the_other_colours_to_page_and_charts(wide: Visit) -> None:
    light = wide.page.evaluate(COLOURS)
    wide.page.get_by_role("button", name="Use dark colours").click()
    dark = wide.page.evaluate(COLOURS)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    wide.page.reload()
    wide.wait_until_drawn()
    assert wide.page.evaluate(COLOURS) == dark  # kept
    wide.page.get_by_role("button", name="Use light colours").click()
    assert wide.page.evaluate(COLOURS) == light


@pytest.mark.parametrize("name", ["config-1", "bibtex"])
def test_a_button_copies_the_text_to_the_letter(wide: Visit, name: str) -> None:
    button = wide.page.locator(f"button[data-copy={name}]")
    button.click()
    button.get_by_text("Copied").wait_for()
    copied = wide.page.evaluate("navigator.clipboard.readText()")
    assert copied == wide.page.locator(f"#{name}").text_content()
    assert copied.strip()


def test_no_button_of_a_chart_sends_it_anywhere(wide: Visit) -> None:
    buttons = "[...document.querySelectorAll('.modebar-btn')].map((one) => one.dataset.title)"
    assert set(wide.page.evaluate(buttons)) == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}


def test_print_is_light_and_opens_every_table(wide: Visit) -> None:
    closed = "document.querySelectorAll('details:not([open])').length"
    before = wide.page.evaluate(closed)
    assert before > 0
    wide.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert wide.page.evaluate(closed) == 0
    wide.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert wide.page.evaluate(closed) == before


def test_a_narrow_dark_screen_gets_a_dark_page_that_does_not_scroll_sideways(browser: Any, file: Path) -> None:
    visit = Visit(browser, file, viewport={"width": 390, "height": 800}, color_scheme="dark")
    visit.wait_until_drawn()
    background, ink = visit.page.evaluate(COLOURS)
    assert sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 150
    assert ink == "#e8edf2"
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []
    assert visit.requests == [file.as_uri()]
    visit.context.close()


def test_without_scripts_the_tables_are_there_and_open(browser: Any, file: Path) -> None:
    visit = Visit(browser, file, java_script_enabled=False)
    assert visit.page.get_by_text("Charts need JavaScript").is_visible()
    assert visit.page.get_by_role("cell", name="8.0 [7.6, 8.6]").is_visible()
    covariates = visit.page.locator("#covariates details")
    covariates.locator("summary").click()
    assert covariates.get_by_role("columnheader", name="anisotropy").is_visible()
    assert visit.page.locator("button:visible").count() == 0
    visit.context.close()


def test_names_with_markup_are_shown_to_the_letter_and_run_nothing(browser: Any, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)><b>bold</b>"
    profile = example().assign_coords(estimator=np.array([name, "twonn"], dtype=object))
    file = write_report(profile.assign_attrs(model=f"a/{name}"), tmp_path / "report.html")
    visit = Visit(browser, file)
    visit.page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
    visit.wait_until_drawn()
    assert name in visit.page.locator(".legendtext").all_text_contents()
    assert name in visit.page.locator("figure[data-chart=profile] label").first.text_content()
    assert visit.complaints == []
    assert visit.requests == [file.as_uri()]
    visit.context.close()
