"""Write ``docs/benchmarks/rivals.md`` and the table of README.md from ``rivals.json``.

The upper half of the table is measured by `rivals.py`; the lower half is read from the code and documentation of the
versions named there, and stands in `FEATURES` below.

Usage: python tests/benchmarks/rivals_page.py
"""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gelora.files import atomic_path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "rivals.json"
PAGE = RESULTS.with_suffix(".md")
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- rivals -->\n)(.*?)(<!-- /rivals -->)", re.S)
NAMES = {"gelora": "gelora", "skdim": "scikit-dimension", "dadapy": "DADApy", "torchid": "torchid"}
NONE = "–"
TRAPS = {
    "clean": "TwoNN on a 5-sphere in 768 coordinates",
    "offset": "… in float32, two coordinates offset by 300 and −1000",
    "copies": "… with one row in ten copied",
    "offset and copies": "… with both",
}
# Row → what each library has, read from the versions in the table's head; PEFT estimates no dimensions.
FEATURES: dict[str, tuple[str, str, str, str, str]] = {
    "error of the dimension": (
        "interval, coverage measured",
        "`GRIDE`: Fisher information",
        "likelihood errors",
        "none",
        "",
    ),
    "dimension by scale": ("`gride` and `twonn` scans, with errors", "`GRIDE(multiscale=True)`", "yes", "none", ""),
    "persistent homology": ("degree 0 exact, above by giotto-ph or ripser", "degree 0", "none", "none", ""),
    "bias in high dimension": (
        "calibrated by simulation, any estimator",
        "within `DANCo`",
        "none",
        "within `DANCo`",
        "",
    ),
    "hidden states, layer by layer": ("yes, block outputs by hooks", "none", "none", "a metric for your own loop", ""),
    "result": (
        "xarray Dataset, one file, with provenance",
        "attribute of the object",
        "tuple",
        "attribute of the object",
        "",
    ),
    "clouds beyond memory": ("yes, from disk", "no", "no", "no", ""),
    "GPU": ("yes (its speed is not measured)", "no", "not for dimensions", "yes", "yes"),
    "LoRA ranks": (
        "before training, from dimensions, with probabilities",
        "",
        "",
        "",
        "EVA before, AdaLoRA while training",
    ),
    "licence": ("Apache-2.0", "BSD-3-Clause", "Apache-2.0", "Apache-2.0", "Apache-2.0"),
}


def make_table(results: dict[str, Any]) -> list[str]:
    """Return the lines of the table: measured rows, then read ones."""
    libraries = results["libraries"]
    present = [name for name in NAMES if name in libraries]
    places = [list(NAMES).index(name) for name in present] + [len(NAMES)]
    head = [f"{NAMES[name]} {libraries[name]['version']}" for name in present] + [f"PEFT {version('peft')}"]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " --- |" * len(head)]
    for cloud, label in TRAPS.items():
        cells = [_cell(libraries[name]["readings"]["twonn"][cloud]) for name in present]
        lines.append(f"| {label} | " + " | ".join([*cells, NONE]) + " |")
    seconds = [f"{libraries[name]['readings']['twonn']['seconds']:.2g}" for name in present]
    seconds[0] += f" ({libraries['gelora']['readings']['twonn, no error']['seconds']:.2g} without its error)"
    lines.append("| seconds for TwoNN on 5,000 × 384 points | " + " | ".join([*seconds, NONE]) + " |")
    counts = [str(len(libraries[name]["estimators"])) for name in present]
    lines.append("| its own estimators | " + " | ".join([*counts, NONE]) + " |")
    for label, row in FEATURES.items():
        lines.append(f"| {label} | " + " | ".join(row[place] or NONE for place in places) + " |")
    needs = [_needs(libraries[name]) for name in present]
    lines.append("| Python | " + " | ".join([*needs, NONE]) + " |")
    return lines


def _cell(value: float | str) -> str:
    return f"{value:.2f}" if isinstance(value, float | int) else f"error: {value.split(':')[0]}"


def _needs(library: dict[str, Any]) -> str:
    numpy = " and NumPy < 2" if library["numpy"].startswith("1.") else ""
    return (library["requires_python"] or f"tested with {library['python']}") + numpy


def main() -> None:
    """Write both."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    table = make_table(results)
    dates = sorted({library["date"] for library in results["libraries"].values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    source = (
        f"Dimensions (the truth is 5), seconds and counts are measured ({results['machine']}, {when}; "
        f"`{results['command']}`), the rest is read from the versions in the head."
    )
    text = README.read_text(encoding="utf-8")
    more = "[More](docs/benchmarks/rivals.md)"
    block = "\n".join([*table, "", f"{source} {more}", ""])
    with atomic_path(README) as temporary:
        temporary.write_text(BLOCK.sub(lambda found: found[1] + block + found[3], text), encoding="utf-8")
    mle = [
        f"| {NAMES[name]} | " + " | ".join(_cell(library["readings"]["mle"][cloud]) for cloud in TRAPS) + " |"
        for name, library in results["libraries"].items()
        if "mle" in library["readings"]
    ]
    lists = [
        f"- {NAMES[name]}: " + ", ".join(f"`{one}`" for one in library["estimators"])
        for name, library in results["libraries"].items()
    ]
    page = [
        "# Beside other libraries",
        "",
        source,
        "",
        f"The cloud has {results['n']:,} points on a 5-sphere in 768 coordinates. Hidden states are offset like the",
        "second cloud, for a few coordinates of transformers are large and nearly constant, and repeat like the third,",
        "for texts repeat. gelora removes exact copies before the search and takes distances of the stored numbers in",
        "float64.",
        "",
        *table,
        "",
        "The maximum-likelihood estimator with 20 neighbours (gelora's averages over 10 to 20) on the same clouds:",
        "",
        "| | clean | offset | copies | both |",
        "| --- | --- | --- | --- | --- |",
        *mle,
        "",
        "## What counts as an estimator",
        "",
        *lists,
        "",
    ]
    with atomic_path(PAGE) as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
