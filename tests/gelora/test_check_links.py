"""The check of links finds what is wrong, and nothing else."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from documentation import DOCS, ROOT

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")

GOOD = """<html><head><link rel="stylesheet" href="style.css?v=1"><script src="code.js"></script></head>
<body id="top"><a href="#top">up</a><a href="other.html#place">there</a><a href="folder/">folder</a>
<img src="picture.png"><img src="data:image/png;base64,AA=="><a href="https://example.org/a_(b)?c=d#e">out</a></body></html>"""


@pytest.fixture
def checker() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "check_links.py"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    files = {
        "index.html": GOOD,
        "other.html": '<h2 id="place">Place</h2>',
        "folder/index.html": '<a href="../index.html">back</a>',
        "style.css": "body { background: url(picture.png) }",
        "code.js": "",
        "picture.png": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_pages_whose_links_are_right_have_no_problem(checker: dict[str, Any], site: Path) -> None:
    assert checker["check"](site) == ([], 4)


@pytest.mark.parametrize(
    ("markup", "problem"),
    [
        ('<a href="gone.html">', "'gone.html' leads nowhere"),
        ('<a href="other.html#gone">', "'other.html#gone': that page has no such anchor"),
        ('<a href="#gone">', "'#gone': that page has no such anchor"),
        ('<a href="../secret.html">', "'../secret.html' leads out of the documentation"),
        ('<a href="/index.html">', "'/index.html' leads out of the documentation"),
        ('<img src="gone.png">', "'gone.png' leads nowhere"),
        ('<img src="https://example.org/a.png">', "loads 'https://example.org/a.png' from elsewhere"),
        ('<img srcset="picture.png 1x, //example.org/b.png 2x">', "loads '//example.org/b.png' from elsewhere"),
        ('<script src="//example.org/a.js"></script>', "loads '//example.org/a.js' from elsewhere"),
        ('<link rel="preload stylesheet" href="http://example.org/a.css">', "loads 'http://example.org/a.css' from"),
        ('<p style="background: url(https://example.org/a.png)">', "loads 'https://example.org/a.png' from elsewhere"),
        ('<style>@import "https://example.org/a.css"</style>', "loads 'https://example.org/a.css' from elsewhere"),
        ('<video poster="https://example.org/a.png">', "loads 'https://example.org/a.png' from elsewhere"),
        ('<img srcset="picture.png 1x, , gone.png 2x, ">', "'gone.png' leads nowhere"),
        ('<a href="http://example.org/">', "'http://example.org/' is no well-formed https address"),
        ('<a href="https://localhost/">', "'https://localhost/' is no well-formed https address"),
        ('<a href="https://exa mple.org/">', "is no well-formed https address"),
        ('<a href="file:///etc/passwd">', "'file:///etc/passwd' is no well-formed https address"),
    ],
)
def test_a_wrong_link_is_named_with_its_page(checker: dict[str, Any], site: Path, markup: str, problem: str) -> None:
    (site / "folder" / ".." / "wrong.html").resolve().write_text(markup, encoding="utf-8")
    (found,), _ = checker["check"](site)
    assert found.startswith(str(site / "wrong.html"))
    assert problem in found


def test_a_style_sheet_that_loads_from_elsewhere_is_found(checker: dict[str, Any], site: Path) -> None:
    (site / "style.css").write_text('@import "https://example.org/a.css"; b { src: url(gone.woff) }', encoding="utf-8")
    found, _ = checker["check"](site)
    assert [problem.split(": ", 1)[1] for problem in found] == [
        "loads 'https://example.org/a.css' from elsewhere",
        "'gone.woff' leads nowhere",
    ]


def test_links_of_markdown_are_followed_but_not_those_in_code(checker: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "[a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n[g](README.md#h) [i](http://example.org)", encoding="utf-8"
    )
    assert checker["check_markdown"](page) == [
        "'b.md' leads nowhere",
        "'http://example.org' is no well-formed https address",
    ]


@pytest.mark.parametrize("page", ["README.md", "paper_figures/README.md"])
def test_the_links_of_the_readmes_lead_to_files(checker: dict[str, Any], page: str) -> None:
    assert checker["check_markdown"](ROOT / page) == []
