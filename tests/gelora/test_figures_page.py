"""The page of figures shows what the scripts draw and what the README says of them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from documentation import DOCS

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")

README = """# Figures

| figure | script | data | command |
| --- | --- | --- | --- |
| a line, see [the page](../docs/ranks.md) | `line.py` | `profiles/line.nc`, made by `make bench` | `make figures` |
"""
DRAWS = """import sys
from pathlib import Path
(Path(sys.argv[2]) / "line.png").write_bytes(bytes(16) + (975).to_bytes(4) + (780).to_bytes(4))
(Path(sys.argv[2]) / "line.pdf").write_bytes(b"")
"""


@pytest.fixture
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures_page", DOCS / "_ext" / "figures_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def figures(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "paper_figures"
    folder.mkdir()
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "line.py").write_text(DRAWS, encoding="utf-8")
    (folder / "drawing.py").write_text("raise AssertionError('this is no script')", encoding="utf-8")
    monkeypatch.setattr(page, "FIGURES", folder)
    monkeypatch.syspath_prepend("")  # the page puts the folder of the figures on the path
    return folder


@pytest.mark.usefixtures("figures")
def test_each_picture_stands_on_the_page_with_caption_data_and_command(page: ModuleType, tmp_path: Path) -> None:
    page.draw_all(tmp_path)
    text = (tmp_path / "figures.md").read_text(encoding="utf-8")
    assert (tmp_path / "line.png").is_file()
    assert "A line, see the page." in text
    assert "## Line" in text
    assert "/auto_figures/line.png" in text
    assert ":width: 358px" in text
    assert "Script: `line.py`. Data: `profiles/line.nc`, made by `make bench`. Command: `make figures`." in text


def test_a_script_that_is_in_no_table_is_drawn_too(page: ModuleType, figures: Path, tmp_path: Path) -> None:
    (figures / "README.md").write_text("# Figures\n", encoding="utf-8")
    (figures / "line.py").write_text(f'"""A straight line.\n\nAnd more.\n"""\n{DRAWS}', encoding="utf-8")
    page.draw_all(tmp_path)
    text = (tmp_path / "figures.md").read_text(encoding="utf-8")
    assert "/auto_figures/line.png" in text
    assert "\nA straight line.\n" in text


def test_a_script_that_needs_the_readers_files_is_left_out(page: ModuleType, figures: Path, tmp_path: Path) -> None:
    lines = ("import argparse", "parser = argparse.ArgumentParser()", "parser.add_argument('profile')")
    (figures / "own.py").write_text("\n".join([*lines, "parser.parse_known_args()"]), encoding="utf-8")
    page.draw_all(tmp_path)
    assert "own" not in (tmp_path / "figures.md").read_text(encoding="utf-8")


def test_a_script_that_fails_ends_the_build(page: ModuleType, figures: Path, tmp_path: Path) -> None:
    (figures / "broken.py").write_text("raise ValueError('no such layer')", encoding="utf-8")
    with pytest.raises(ValueError, match="no such layer"):
        page.draw_all(tmp_path)


def test_the_page_is_current_until_a_file_behind_it_changes(page: ModuleType, figures: Path, tmp_path: Path) -> None:
    import os

    assert not page.is_current(tmp_path)
    page.draw_all(tmp_path)
    later = (tmp_path / "figures.md").stat().st_mtime + 1000
    os.utime(tmp_path / "figures.md", (later, later))
    assert page.is_current(tmp_path)
    os.utime(figures / "line.py", (later + 1, later + 1))
    assert not page.is_current(tmp_path)


def test_figures_stand_in_the_order_of_their_groups_and_numbers(page: ModuleType) -> None:
    names = ["ours_pareto", "gelora_10_squad", "own_profile", "geolora_1_ranks", "gelora_2_method", "gelora_tables"]
    scripts = sorted((Path(f"{name}.py") for name in names), key=page.place_of)
    assert [page.title_of(script.name) for script in scripts] == [
        "GeLoRA 2, method",
        "GeLoRA 10, squad",
        "GeLoRA tables",
        "GeoLoRA 1, ranks",
        "Ours, pareto",
        "Own profile",
    ]
