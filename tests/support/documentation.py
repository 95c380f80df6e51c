"""The pages of the documentation, the code on them, and the tutorials."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = ("_build", "auto_tutorials", "auto_figures", "generated")


def pages() -> list[Path]:
    """Every Markdown page, README of the repository included."""
    found = (path for path in DOCS.rglob("*.md") if not set(GENERATED) & set(path.relative_to(DOCS).parts))
    return [ROOT / "README.md", *sorted(found)]


def tutorials() -> list[Path]:
    """Every tutorial script."""
    return sorted((DOCS / "tutorials").glob("*.py"))


def python_blocks(page: Path, *, only_runnable: bool = False) -> list[str]:
    """The code of each block that is marked as Python; `% needs …` before one says that it cannot run here."""
    blocks = re.findall(r"^(% needs [^\n]*\n)?```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [code for needs, code in blocks if not (needs and only_runnable)]
