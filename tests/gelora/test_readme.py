"""README.md shows what its example prints and what was measured."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir() or not README.is_file(), reason="README.md is in the source tree only"
)


def test_the_table_of_rivals_is_that_of_the_measurements() -> None:
    import rivals_page

    results = json.loads(rivals_page.RESULTS.read_text(encoding="utf-8"))
    for page in (README, rivals_page.PAGE):
        text = page.read_text(encoding="utf-8")
        for line in rivals_page.make_table(results):
            assert line in text, f"{page.name} lacks {line!r}: run `make bench-rivals`"


def test_the_example_has_its_output_below_it_and_its_figure() -> None:
    found = re.search(r"<!-- example -->\n\n```python\n(.*?)```\n\n```text\n(.*?)```", README.read_text("utf-8"), re.S)
    assert found is not None
    assert len(found[1].splitlines()) == 12
    assert "layer" in found[2] and "stability" in found[2], "run `make readme`"  # noqa: PT018
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text("utf-8"))
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


@pytest.mark.slow
def test_the_example_prints_what_stands_below_it(minilm: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "readme.py", "--check"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
