"""The figures of paper_figures/, drawn when the documentation is built, with what its README says of each."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FIGURES = Path(__file__).resolve().parents[2] / "paper_figures"
SHARED = runpy.run_path(str(FIGURES / "draw_all.py"))["SHARED"]  # what is no script of a figure
GROUPS = {"gelora": "GeLoRA", "geolora": "GeoLoRA", "field": "Field,", "ours": "Ours,"}  # in their order on the page
FILE_PIXELS, PAGE_PIXELS = 300, 110  # of an inch
USAGE_ERROR = 2  # exit status of argparse: the script needs files of the reader's own


def read_rows(readme):
    """Return the cells of every table row of README that names a script, by the file names of its scripts."""
    rows = {}
    for line in readme.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) < 4:
            continue
        for script in re.findall(r"([\w-]+\.py)`", cells[1]):
            rows[script] = cells
    return rows


def draw(script, folder):
    """Run one script in this process; return the pictures it made, none where it needs files on its command line."""
    before, sys.argv = sys.argv, [str(script), "--output", str(folder)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        if ended.code == USAGE_ERROR:
            return []
        if ended.code:
            raise
    finally:
        sys.argv = before
    return sorted(folder.glob("*.png"))


def draw_all(target):
    """Draw every figure into ``target`` and write ``figures.md``, the text of the page."""
    sys.path.insert(0, str(FIGURES))
    rows = read_rows((FIGURES / "README.md").read_text(encoding="utf-8"))
    scripts = sorted((path for path in FIGURES.glob("*.py") if path.name not in SHARED), key=place_of)
    text = []
    for script in scripts:
        with tempfile.TemporaryDirectory() as scratch:
            pictures = draw(script, Path(scratch))
            kept = [Path(shutil.copy(picture, target / picture.name)) for picture in pictures]
        if kept:
            text.append(describe(script, kept, rows.get(script.name)))
    (target / "figures.md").write_text("\n".join(text), encoding="utf-8")


def place_of(script):
    """Return the sort key of a script: its group, then its name with numbers in their order."""
    group = script.stem.split("_")[0]
    numbers = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in script.stem.split("_")[1:]]
    return (list(GROUPS).index(group) if group in GROUPS else len(GROUPS), group, numbers)


def title_of(script):
    """Return a heading: `gelora_1_flat_direction.py` is GeLoRA 1, flat direction."""
    group, _, rest = script.removesuffix(".py").partition("_")
    numbered = re.sub(r"^(\d+)_", r"\1, ", rest).replace("_", " ")
    return f"{GROUPS.get(group, group.capitalize())} {numbered}".strip()


def first_line(script):
    """Return what the docstring of a script begins with, without a final stop; its title where it has none."""
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    return docstring.splitlines()[0].rstrip(".") if docstring else title_of(script.name)


def width_of(picture):
    """Return the width on the page in pixels, so that letters are of one size in all figures."""
    with picture.open("rb") as file:
        header = file.read(24)
    return round(int.from_bytes(header[16:20]) * PAGE_PIXELS / FILE_PIXELS)


def describe(script, pictures, row):
    """Return one section of the page: what is shown, the pictures, script, data and command."""
    caption = plain(row[0]) if row else first_line(script)
    caption = caption[:1].upper() + caption[1:]
    lines = [f"## {title_of(script.name)}\n", f"{caption}.\n"]
    for picture in pictures:
        name = picture.name
        alternative = f"{caption} ({picture.stem})" if len(pictures) > 1 else caption
        lines += [
            f"```{{image}} /auto_figures/{name}",
            f":alt: {alternative.replace('`', '')}",
            f":width: {width_of(picture)}px",
            ":class: figure",
            "```\n",
        ]
    if row:
        lines.append(f"Script: `{script.name}`. Data: {plain(row[2])}. Command: {plain(row[3])}.\n")
    return "\n".join(lines)


def plain(cell):
    """Return a table cell without links, which are relative to another folder, and without a final stop."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).rstrip(".")


def is_current(target):
    """Say whether the page is newer than everything it is made from."""
    page = target / "figures.md"
    if not page.is_file():
        return False
    inputs = [path for path in FIGURES.rglob("*") if path.is_file() and "output" not in path.parts]
    results = [path for path in (FIGURES.parent / "docs" / "benchmarks").rglob("*") if path.suffix in {".nc", ".json"}]
    return all(path.stat().st_mtime <= page.stat().st_mtime for path in [*inputs, *results, Path(__file__)])


def build(app):
    """Draw in a process of its own, so that nothing of the figures stays in Sphinx; an error ends the build."""
    target = Path(app.srcdir) / "auto_figures"
    if is_current(target):
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    subprocess.run([sys.executable, __file__, target], check=True, stdout=subprocess.DEVNULL)


def setup(app):
    app.connect("builder-inited", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]))
