"""The page of a report: what stands in it, that nothing in it can do harm, and the command that writes it."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from comparisons import example_comparison
from examples import example_plan, example_profile, uncertain
from gelora import citation
from gelora.naming import named_plans
from gelora.profile import save_profile
from gelora.report import report_files, write_report
from gelora.report.contents import contents_of
from gelora.report.page import content_policy
from gelora.report.sources import open_sources
from gelora.scores import save_comparison
from gelora.topology import save_spanning_tree, spanning_tree
from html_pages import Page

HOSTILE = "</script><script>alert('x')</script><img src=http://example.org/a onerror=alert(1)>"


@pytest.fixture(scope="module")
def profile() -> xr.Dataset:
    found = example_profile([[5.0, 7.25, float("nan")], [4.5, 8.0, 6.0]])
    citations = {"mle": "@article{Levina2004,\n  title = {MLE}\n}"}
    return found.assign_attrs(citations=json.dumps(citations), versions=json.dumps({"gelora": "0.1.0"}), seed=3)


@pytest.fixture(scope="module")
def comparison() -> xr.Dataset:
    return example_comparison(np.random.default_rng(0).normal(0.7, 0.05, size=(2, 3, 4)), methods=["lora", "a", "b"])


@pytest.fixture(scope="module")
def text(profile: xr.Dataset, comparison: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(profile, path, plan=uncertain(example_plan([2, 3]), 0.4), comparison=comparison).read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_element_of_the_page_is_closed_and_ids_are_unique(page: Page) -> None:
    assert not page.unbalanced
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = {
        str(attributes["href"])[1:] for attributes, _ in page.all("a") if str(attributes["href"]).startswith("#")
    }
    assert targets <= set(ids)


def test_nothing_on_the_page_is_loaded_from_anywhere(page: Page, text: str) -> None:
    loading = [
        (tag, name) for tag, attributes in page.elements for name in attributes if name in ("src", "srcset", "data")
    ]
    assert loading == []
    assert not page.all("link")
    (style,) = page.all("style")
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_the_policy_allows_the_scripts_of_the_page_alone(page: Page) -> None:
    ((attributes, _),) = [one for one in page.all("meta") if one[0].get("http-equiv") == "Content-Security-Policy"]
    scripts = [script for attributes, script in page.all("script") if "type" not in attributes]
    assert len(scripts) == 2
    policy = str(attributes["content"])
    assert policy == content_policy(scripts)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_every_dimension_stands_in_a_table_with_its_interval_and_a_dash_where_undefined(page: Page) -> None:
    cells = [cell for _, cell in page.all("td")]
    assert "7.2 [6.8, 7.8]" in cells
    assert "8.0 [7.6, 8.6]" in cells
    assert "–" in cells


def test_the_numbers_of_the_chart_are_those_of_the_profile(page: Page, profile: xr.Dataset) -> None:
    ((_, written),) = page.all("script", id="charts")
    (figure,) = json.loads(written)["profile"]["figures"].values()
    lines = {trace["name"]: trace for trace in figure["data"]}
    assert lines["mle"]["y"] == [5.0, 7.25, None]
    assert lines["mle"]["x"] == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(lines["twonn"]["error_y"]["array"], [0.6] * 3)
    np.testing.assert_allclose(lines["twonn"]["error_y"]["arrayminus"], [0.4] * 3)
    assert lines["mle: undefined"]["x"] == [1.0]
    assert lines["mle"]["legendgroup"] == lines["mle: undefined"]["legendgroup"]


def test_each_chart_has_its_numbers_in_a_table_for_readers_without_scripts(page: Page) -> None:
    ((_, written),) = page.all("script", id="charts")
    figures = {str(attributes["data-chart"]) for attributes, _ in page.all("figure")}
    assert figures == set(json.loads(written))
    assert len(page.all("details")) >= 4
    ((_, notice),) = page.all("p", id="notice")
    assert "table" in notice


def test_the_page_says_in_words_what_was_measured_and_what_is_to_be_minded(page: Page) -> None:
    text = " ".join(" ".join(words.split()) for _, words in page.all("p"))
    assert "All 2,000 examples in the data were run through models/tiny" in text
    assert "averaged into one point" in text
    said = {str(attributes["data-kind"]) for attributes, _ in page.all("li")}
    assert {"undefined", "unstable-ranks", "no-replicates", "few-seeds"} <= said
    for _, finding in page.all("li"):
        assert "What to do." in finding


def test_the_citation_is_that_of_the_profile(page: Page, profile: xr.Dataset) -> None:
    ((_, written),) = page.all("pre", id="bibtex")
    assert written == citation(profile)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_the_configuration_to_copy_runs_and_makes_that_of_the_plan(
    transposed: bool, nested: bool, tmp_path: Path
) -> None:
    from gelora.export import config_fields

    plan = example_plan([2, 3], key_rank=5)
    names = [f"x.{m.name}" if nested and place else m.name for place, m in enumerate(plan.modules)]
    if nested:
        names[0] = plan.modules[1].name  # then one name is the end of another
    modules = tuple(replace(m, name=name, transposed=transposed) for m, name in zip(plan.modules, names, strict=True))
    plan = replace(plan, modules=modules, scaling=0.5)
    page = Page(write_report(None, tmp_path / "r.html", plan=plan).read_text(encoding="utf-8"))
    ((_, code),) = page.all("pre", id="config-1")
    names_made: dict[str, object] = {}
    exec(compile(code, "config", "exec"), names_made)
    assert config_fields(names_made["config"]) == config_fields(plan.to_lora_config())  # type: ignore[arg-type]


def test_whatever_files_say_is_text_on_the_page_and_never_markup(tmp_path: Path) -> None:
    profile = example_profile([[5.0, float("nan")]])
    profile = profile.assign_coords(estimator=np.array([HOSTILE], dtype=object))
    profile["name"][:] = HOSTILE
    profile["undefined"][0, 1] = HOSTILE
    warned = json.dumps({HOSTILE: [{"where": HOSTILE, "category": HOSTILE, "message": HOSTILE}]})
    texts = ("model", "data", "pooling", "tokenizer", "device", "created", "revision", "precision")
    hostile = dict.fromkeys(texts, HOSTILE) | {
        "estimator_warnings": warned,
        "versions": json.dumps({HOSTILE: HOSTILE}),
        "citations": json.dumps({HOSTILE: HOSTILE}),
        "estimators": json.dumps({HOSTILE: {"class": HOSTILE, "options": {HOSTILE: HOSTILE}}}),
    }
    plan = example_plan([2, 3], HOSTILE)
    plan = replace(
        plan,
        modules=tuple(
            replace(m, role=HOSTILE if m.role == "key" else m.role, name=m.name + HOSTILE) for m in plan.modules
        ),
        provenance={"profile": {"estimator": HOSTILE}, "options": {HOSTILE: HOSTILE}, "created": HOSTILE},
    )
    scores = np.random.default_rng(0).normal(size=(1, 2, 3))
    comparison = example_comparison(scores, tasks=[HOSTILE], methods=[HOSTILE, "b"])
    text = write_report(
        profile.assign_attrs(hostile), tmp_path / "r.html", plan={HOSTILE: plan}, comparison=comparison
    ).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.unbalanced
    assert len(page.all("script")) == 3
    assert not page.all("img")
    assert "alert('x')" not in text
    ((_, written),) = page.all("script", id="charts")
    assert "<" not in written
    names = [
        trace["name"] for one in json.loads(written).values() for f in one["figures"].values() for trace in f["data"]
    ]
    assert all("<" not in name for name in names)  # plotly reads tags in names


def complaint(profile: xr.Dataset) -> str:
    """What a report says against a profile; nothing where it can be written."""
    try:
        contents_of(profile, {}, None, {})
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", [3, float("nan"), "text", "[1]", np.array([1, 2])])
def test_attributes_of_a_strange_kind_are_shown_and_do_no_harm(value: object) -> None:
    names = (
        "model",
        "data",
        "pooling",
        "n_texts",
        "n_available",
        "n_truncated",
        "max_length",
        "n_replicates",
        "created",
    )
    profile = example_profile([[5.0, 6.0], [4.0, 5.0]]).assign_attrs(dict.fromkeys(names, value))
    assert complaint(profile) == ""


@pytest.mark.parametrize("value", [3, "text", "[1]", "3"])
def test_an_attribute_that_should_hold_an_object_is_named_where_it_holds_none(value: object) -> None:
    for name in ("n_nonfinite", "architecture", "estimators", "citations", "versions", "estimator_seconds"):
        said = complaint(example_profile([[5.0, 6.0]]).assign_attrs({name: value}))
        assert f"its attribute `{name}` is damaged" in said


def test_a_plan_whose_probabilities_are_not_those_of_its_matrices_is_refused(tmp_path: Path) -> None:
    plan = uncertain(example_plan([2, 3]), 0.4)
    assert plan.uncertainty is not None
    with pytest.raises(ValueError, match="`plan` 'geometric' is damaged: its probabilities or scales"):
        write_report(None, tmp_path / "r.html", plan=replace(plan, modules=plan.modules[1:]))
    short = replace(plan, uncertainty=replace(plan.uncertainty, ranks=(1, 2, 3)))
    with pytest.raises(ValueError, match="is damaged"):
        write_report(None, tmp_path / "r.html", plan=short)


def test_the_rises_of_a_profile_with_replicates_come_with_their_errors(tmp_path: Path) -> None:
    from gelora.evidence import rise_intervals

    replicates = np.random.default_rng(0).normal(6.0, 0.2, size=(2, 3, 8))
    replicates[1, 1] = np.nan  # undefined on halves: nothing is said of this estimator
    profile = example_profile([[5.0, 7.0, 6.0], [4.0, 5.0, 5.5]]).assign_attrs(n_rows=2000, replicate_rows=1000)
    profile = profile.assign(dimension_replicates=(("estimator", "layer", "replicate"), replicates))
    page = Page(write_report(profile, tmp_path / "r.html").read_text(encoding="utf-8"))
    ((_, written),) = page.all("script", id="charts")
    figures = json.loads(written)["rises"]["figures"]
    assert list(figures) == ["mle"]
    (points,) = figures["mle"]["data"]
    assert points["y"] == [2.0, -1.0]
    high = rise_intervals(profile, "mle")["ci_high"].values
    np.testing.assert_allclose(points["error_y"]["array"], high - np.array([2.0, -1.0]))


def test_credentials_in_a_name_are_masked(tmp_path: Path) -> None:
    profile = example_profile([[5.0, 6.0]]).assign_attrs(data="https://me:secret@host/rows.csv")
    comparison = example_comparison(np.full((2, 2, 3), 0.5), tasks=["https://me:secret@host/a", "rte"])
    page = write_report(profile, tmp_path / "r.html", comparison=comparison)
    assert "secret@" not in page.read_text(encoding="utf-8")


def test_several_plans_stand_side_by_side_each_with_its_configuration(tmp_path: Path) -> None:
    plans = [example_plan([2, 3]), example_plan([2, 2], "uniform")]
    page = Page(write_report(None, tmp_path / "r.html", plan=plans).read_text(encoding="utf-8"))
    assert len(page.all("article")) == 2
    ((_, written),) = page.all("script", id="charts")
    (figure,) = json.loads(written)["plans"]["figures"].values()
    assert [(trace["name"], trace["y"]) for trace in figure["data"]] == [("geometric", [2, 3]), ("uniform", [2, 2])]
    assert list(named_plans([plans[0], plans[0]])) == ["geometric 1", "geometric 2"]


def test_a_plan_of_another_architecture_than_the_profile_is_refused(tmp_path: Path) -> None:
    about = {"model_type": "tiny", "blocks": {"encoder": 3}, "width": 8}
    profile = example_profile([[5.0, 6.0, 7.0, 7.5]]).assign_attrs(architecture=json.dumps(about))
    write_report(profile, tmp_path / "r.html", plan=example_plan([2, 3, 1]))
    with pytest.raises(ValueError, match="`plan` 'geometric' is for .* but `profile` is of"):
        write_report(profile, tmp_path / "other.html", plan=example_plan([2, 3]))
    with pytest.raises(ValueError, match="plans for one architecture"):
        write_report(None, tmp_path / "other.html", plan=[example_plan([2, 3]), example_plan([1])])
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


def test_nothing_to_report_on_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to report on"):
        write_report(None, tmp_path / "r.html")
    with pytest.raises(TypeError, match="`plan` must hold RankPlans only, got int"):
        write_report(None, tmp_path / "r.html", plan=[3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="`plan` must be a RankPlan, or several in a sequence or mapping, got int"):
        write_report(None, tmp_path / "r.html", plan=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`record` must be a Dataset, or several in a sequence or mapping, got int"):
        write_report(None, tmp_path / "r.html", record=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`record` 'a' must be an xarray.Dataset, got int"):
        write_report(None, tmp_path / "r.html", record={"a": 3})  # type: ignore[dict-item]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_report(example_profile([[5.0, 6.0]]), tmp_path / "absent" / "r.html")


def test_files_are_told_apart_by_what_they_say_they_are(
    profile: xr.Dataset, comparison: xr.Dataset, tmp_path: Path
) -> None:
    save_profile(profile, tmp_path / "one.nc")
    save_comparison(comparison, tmp_path / "two.nc")
    example_plan([2, 3]).save(tmp_path / "plan.json")
    paths = [tmp_path / name for name in ("two.nc", "plan.json", "one.nc")]
    page = Page(report_files(paths, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert {attributes["id"] for attributes, _ in page.all("section")} >= {"profile", "ranks", "comparison"}


def test_a_file_that_does_not_fit_is_named_with_the_remedy(profile: xr.Dataset, tmp_path: Path) -> None:
    save_profile(profile, tmp_path / "one.nc")
    save_profile(profile, tmp_path / "two.nc")
    with pytest.raises(ValueError, match=r"one profile at most, and '.*two.nc' is another: make a report of each"):
        report_files([tmp_path / "one.nc", tmp_path / "two.nc"], tmp_path / "r.html")
    with pytest.raises(ValueError, match="has one file twice"):
        report_files([tmp_path / "one.nc", tmp_path / "one.nc"], tmp_path / "r.html")
    xr.Dataset(attrs={"schema": "other"}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other.nc' is none of what is drawn and reported .*`schema` is 'other'"):
        report_files([tmp_path / "other.nc"], tmp_path / "r.html")
    save_spanning_tree(spanning_tree([[0.0], [1.0], [3.0]]), tmp_path / "tree.nc")
    with pytest.raises(ValueError, match=r"tree.nc' is a spanning tree, which a report does not show: give a profile"):
        report_files([tmp_path / "tree.nc"], tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match="there is no file .*absent.nc"):
        report_files([tmp_path / "absent.nc"], tmp_path / "r.html")
    profile.drop_vars("anisotropy").to_netcdf(tmp_path / "cut.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"cut.nc': `profile` lacks the variable 'anisotropy'"):
        report_files([tmp_path / "cut.nc"], tmp_path / "r.html")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken.json' is not a JSON file"):
        report_files([tmp_path / "broken.json"], tmp_path / "r.html")
    with pytest.raises(ValueError, match="at least one of"):
        report_files([], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_plans_of_one_name_in_two_folders_are_two_plans_whatever_the_case_of_their_ending(tmp_path: Path) -> None:
    files = [tmp_path / folder / "plan.JSON" for folder in ("a", "b")]
    for file, ranks in zip(files, ([2, 3], [1, 1]), strict=True):
        file.parent.mkdir()
        example_plan(ranks).save(tmp_path / "plan.json").rename(file)
    assert list(open_sources(files).plans) == [str(file) for file in files]


def test_the_command_writes_the_page_without_loading_torch(profile: xr.Dataset, tmp_path: Path) -> None:
    save_profile(profile, tmp_path / "profile.nc")
    example_plan([2, 3]).save(tmp_path / "plan.json")
    code = (
        "import sys; from gelora.cli import main; sys.argv = ['gelora', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    )
    words = ["report", "profile.nc", "plan.json", "-o", "report.html"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["written: report.html", "set()"]
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_without_its_libraries_the_extra_is_named(
    missing: str, profile: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("gelora[report]")):
        write_report(profile, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
