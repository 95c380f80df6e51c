"""Run the example of README.md, put what it prints below it, and draw the figure beside it.

Usage: python docs/readme.py (or ``make readme``). With ``--check`` nothing is written: the exit code says whether
README.md shows what the example prints here.
"""

import argparse
import contextlib
import io
import re
import sys
import warnings
from pathlib import Path

from gelora.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FIGURE = ROOT / "docs" / "_static" / "profile_and_ranks.png"
EXAMPLE = re.compile(r"(<!-- example -->\n\n```python\n)(.*?)(```\n\n```text\n)(.*?)(```)", re.S)


def run_example(code: str) -> tuple[str, dict[str, object]]:
    """Return what ``code`` prints, and its names."""
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the plan says how far it is to be trusted; so does the text
        exec(compile(code, "README.md", "exec"), names)
    return printed.getvalue(), names


def draw(names: dict[str, object]) -> None:
    """Draw the profile and the plan of the example side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from gelora.plots import plot_profile, plot_ranks

    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_profile(names["profile"], left)
        plot_ranks(names["plan"], right, show="probabilities")
        with atomic_path(FIGURE) as temporary:
            figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    """Run, compare, and write unless ``--check`` is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    found = EXAMPLE.search(text)
    if found is None:
        sys.exit("README.md has no example: a comment <!-- example -->, a block of python and one of text")
    printed, names = run_example(found[2])
    if arguments.check:
        sys.exit(0 if printed == found[4] else f"README.md shows\n{found[4]}\nbut the example prints\n{printed}")
    with atomic_path(README) as temporary:
        temporary.write_text(text[: found.start(4)] + printed + text[found.end(4) :], encoding="utf-8")
    draw(names)


if __name__ == "__main__":
    main()
