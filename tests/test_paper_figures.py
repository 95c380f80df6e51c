"""The figures are drawn from committed files, by the commands of the table that lists them."""

import ast
import functools
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "paper_figures"
HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate", "gelora_estimators"}
LARGEST_INPUT = 150_000  # bytes
# Drawn here: what is fast. `make figures` draws them all.
FAST = ("gelora_2_method", "gelora_5_cola", "gelora_tables", "geolora_1_ranks", "geolora_2_learning_rates")

pytestmark = pytest.mark.skipif(not FIGURES.is_dir(), reason="the figures are in the source tree only")


def shared_modules() -> set[str]:
    """What the scripts import from each other's folder, and the one that runs them."""
    names = {path.stem for path in FIGURES.glob("*.py")}
    return {"draw_all"} | {name for path in FIGURES.glob("*.py") for name in imported(path) & names}


def scripts() -> list[Path]:
    return sorted(path for path in FIGURES.glob("*.py") if path.stem not in shared_modules())


@functools.cache
def imported(path: Path) -> set[str]:
    """The packages that a file imports, at its top or within a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def rows() -> dict[str, tuple[str, str]]:
    """The table of the README: script → data and command."""
    text = (FIGURES / "README.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    return {row[1].strip("`"): (row[2], row[3]) for row in cells if row[1].startswith("`")}


@functools.cache
def calls_of_new_figure(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "new_figure"]


def test_every_script_has_a_row_and_every_row_a_script() -> None:
    assert set(rows()) == {path.name for path in scripts()}


def test_every_row_names_its_script_in_its_command_and_data_that_exist() -> None:
    for script, (data, command) in rows().items():
        assert f"python paper_figures/{script}" in command
        for name in re.findall(r"`([\w./-]+/[\w.-]*)`", data):
            places = (ROOT / name, FIGURES / name)
            assert any(place.exists() for place in places), f"{script}: there is no {name}"


def test_no_script_imports_what_computes() -> None:
    for path in FIGURES.glob("*.py"):
        assert not imported(path) & HEAVY, path.name


def test_every_figure_says_what_it_is_made_from() -> None:
    shared = {name: calls_of_new_figure(FIGURES / f"{name}.py") for name in shared_modules()}
    for path in scripts():
        own = calls_of_new_figure(path)
        assert own or any(shared[name] for name in imported(path) & shared.keys()), f"{path.name} draws no figure"
    for path in FIGURES.glob("*.py"):
        for call in calls_of_new_figure(path):
            assert "made_from" in {keyword.arg for keyword in call.keywords}, path.name


def test_inputs_are_small_say_nothing_of_a_folder_and_none_is_left_unused() -> None:
    table = " ".join(data for data, _ in rows().values())
    for path in (FIGURES / "profiles").rglob("*"):
        if path.is_file():
            assert path.stat().st_size <= LARGEST_INPUT, path.name
            assert b"site-packages" not in path.read_bytes(), f"{path.name} names a folder of the machine"
            place = path.relative_to(FIGURES)
            listed = [str(place), f"{place.parent}/`"]
            assert any(name in table for name in listed) or path.suffix == ".nc", f"no figure reads {place}"


def test_what_measures_the_inputs_takes_a_folder_of_data_and_is_run_by_make() -> None:
    measuring = [path for path in (FIGURES / "measure").glob("*.py") if not path.name.startswith("_")]
    shared = {path.stem: path for path in (FIGURES / "measure").glob("_*.py")}
    assert measuring
    for path in measuring:
        parts = [path, *(shared[name] for name in imported(path) & shared.keys())]
        assert any('"--data"' in part.read_text(encoding="utf-8") for part in parts), path.name
    assert (
        "paper_figures/measure/[a-z]*.py; do $(BIN)/python $$script --data $(DATA)" in (ROOT / "Makefile").read_text()
    )


def test_the_style_has_the_colours_of_the_plots() -> None:
    import matplotlib as mpl

    from gelora.palette import COLORS

    style = mpl.rc_params_from_file(FIGURES / "paper.mplstyle", use_default_template=False)
    assert style["axes.prop_cycle"].by_key()["color"] == list(COLORS)


@pytest.mark.parametrize("name", FAST)
def test_a_figure_is_drawn_as_pdf_and_png_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FIGURES))
    monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path)])
    for module in shared_modules():
        monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_path(str(FIGURES / f"{name}.py"), run_name="__main__")
    made = {path.name for path in tmp_path.iterdir()}
    stem = name.replace("_", "-")
    assert {f"{stem}.pdf", f"{stem}.png"} <= made
    assert made - {f"{stem}.pdf", f"{stem}.png"} <= {f"{stem}.md", f"{stem}.tex"}
    assert (tmp_path / f"{stem}.png").stat().st_size > 10_000


def test_the_rings_of_the_pareto_figure_are_round_those_whom_nobody_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from gelora.plots import plot_comparison
    from gelora.plots_comparison import pareto_front
    from gelora.scores import mean_cost, open_comparison, summarise_scores

    comparison = open_comparison(ROOT / "docs" / "benchmarks" / "comparison" / "comparison.nc")
    monkeypatch.syspath_prepend(str(FIGURES))
    script = runpy.run_path(str(FIGURES / "ours_pareto.py"))
    for task in ("rte", "average"):
        axes = Figure().add_subplot()
        plot_comparison(comparison, axes, task=task)
        script["ring_front"](axes)
        (rings,) = [line for line in axes.lines if line.get_markersize() == script["RING"]["markersize"]]
        own = comparison if task == "average" else comparison.sel(task=[task])
        scores = summarise_scores(comparison)["mean"].sel(task=task).values
        best = pareto_front(mean_cost(own).values, scores)
        assert list(rings.get_ydata()) == scores[best].tolist()
