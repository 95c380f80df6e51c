"""GLUE and SQuAD: scores measured here and scores that the paper reports, in blocks of their own.

Usage: python paper_figures/gelora_tables.py [--comparison file] [--squad file] [--published file] [--output folder]

Writes the tables as a picture and as ``gelora-tables.md`` and ``gelora-tables.tex``. Models, data and training of the
blocks differ: no number of one is to be set against a number of the other.
"""

import json

import numpy as np
from drawing import INPUTS, ONE_CLASS, PAGE, RESULTS, new_figure, read_arguments

from gelora.files import atomic_path, make_folder
from gelora.scores import open_comparison, summarise_scores

TASKS = {"cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B", "mrpc": "MRPC", "rte": "RTE", "average": "average"}
OURS = "Measured here: all-MiniLM-L6-v2"


def glue_here(comparison):
    """Return the table of our GLUE runs: mean ± standard error over the seeds."""
    summary = summarise_scores(comparison)
    parameters = comparison["trainable_parameters"].mean(("task", "seed"))
    constant = [*ONE_CLASS.values(), sum(ONE_CLASS.values()) / len(ONE_CLASS)]
    rows = [["one value for all rows", "0", *(f"{100 * score:.1f}" for score in constant)]]
    for method in comparison["method"].values:
        cells = summary.sel({"method": method})
        scores = [
            f"{100 * float(cells['mean'].sel(task=t)):.1f} ± {100 * float(cells['standard_error'].sel(task=t)):.1f}"
            for t in TASKS
        ]
        rows.append([str(method), f"{float(parameters.sel({'method': method})) / 1e6:.3f} M", *scores])
    title = f"{OURS}, GLUE validation sets, 80–200 steps of 8 rows, {comparison.sizes['seed']} seeds"
    return title, ["method", "parameters", *TASKS.values()], rows


def squad_here(comparison):
    """Return the table of our SQuAD runs."""
    rows = []
    for method in comparison["method"].values:
        run = comparison.sel({"method": method, "task": "squad"}).isel(seed=0)
        exact, f1 = (100 * float(run["validation"].sel(metric=name)) for name in ("exact_match", "f1"))
        parameters = f"{float(run['trainable_parameters']) / 1e6:.3f} M"
        rows.append([str(method), parameters, "v1.1, 500 questions", f"{exact:.1f}", f"{f1:.1f}"])
    return f"{OURS}, SQuAD, 200 steps of 8 windows, one seed", ["method", "parameters", "data", "EM", "F1"], rows


def published(record):
    """Return the two tables of what the paper reports; a dash is what our source of its numbers does not give."""
    glue = [[row["method"], row["parameters"] or "–", _number(row["average"])] for row in record["glue"]]
    squad = [[row["method"], row["data"], _number(row["exact_match"]), _number(row["f1"])] for row in record["squad"]]
    title = f"Reported: {record['model']} (arXiv 2412.09250)"
    return (f"{title}, GLUE", ["method", "parameters", "average"], glue), (
        f"{title}, SQuAD",
        ["method", "data", "EM", "F1"],
        squad,
    )


def _number(value):
    return "–" if value is None else f"{value:.2f}"


def to_markdown(tables, note):
    """Return the tables in Markdown, each under its title."""
    parts = []
    for title, head, rows in tables:
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, note]) + "\n"


def to_latex(tables, note):
    """Return the tables as a booktabs ``tabular`` each, under their titles."""
    parts = [f"% {note}"]
    for title, head, rows in tables:
        body = "\n".join(" & ".join(_escape(cell) for cell in row) + r" \\" for row in (head, *rows))
        body = body.replace("\n", "\n\\midrule\n", 1)
        columns = "l" + "r" * (len(head) - 1)
        inner = f"\\toprule\n{body}\n\\bottomrule"
        parts.append(f"\\paragraph{{{_escape(title)}}}\n\n\\begin{{tabular}}{{{columns}}}\n{inner}\n\\end{{tabular}}")
    return "\n\n".join(parts) + "\n"


def _escape(text):
    return text.replace("±", r"$\pm$").replace("–", "--").replace("_", r"\_").replace("%", r"\%")


def draw(axes, tables, shaded):
    """Write the tables below each other in small type; those from ``shaded`` on stand on grey."""
    axes.axis("off")
    line = 0.0
    for number, (title, head, rows) in enumerate(tables):
        top = line
        axes.text(0.01, line + 0.5, title, va="center", fontsize=7.5, weight="bold")
        line += 1.2
        right = np.linspace(0.38, 0.99, 7) if len(head) == 8 else (0.38, 0.62, 0.75, 0.88)[: len(head) - 1]
        for row in (head, *rows):
            axes.text(0.01, line + 0.5, row[0], va="center", fontsize=6.5)
            for place, cell in zip(right, row[1:], strict=True):
                text = cell.replace("-", "−") if cell.startswith("-") else cell
                axes.text(place, line + 0.5, text, va="center", ha="right", fontsize=6.5)
            if row is head:
                axes.axhline(line + 1, 0.01, 0.99, color="0.3", linewidth=0.6)
            line += 1
        if number >= shaded:
            axes.axhspan(top - 0.1, line + 0.2, color="0.92", zorder=0, linewidth=0)
        line += 0.9
    axes.set(xlim=(0, 1), ylim=(line - 0.6, -0.2))


def main():
    """Read the results, write Markdown and LaTeX, and draw both blocks."""
    files = {name: RESULTS / "comparison" / f"{name}.nc" for name in ("comparison", "squad")}
    arguments = read_arguments(__doc__, **files, published=INPUTS / "published.json")
    comparison, squad = open_comparison(arguments.comparison), open_comparison(arguments.squad)
    reported = published(json.loads(arguments.published.read_text(encoding="utf-8")))
    tables = [glue_here(comparison), squad_here(squad), *reported]
    note = (
        "Above: all-MiniLM-L6-v2 (22.7 M parameters), far less training than in any paper; scores times 100, mean ± "
        "standard error over the seeds; parameters without the head, means over the tasks; 2 cores, CPU, "
        f"{comparison.attrs['created'][:10]}. Below, on grey: reported by the paper for DeBERTaV3-base (184 M), "
        "trained on complete sets; – where it is not known here. No number is to be compared across the two blocks."
    )
    make_folder(arguments.output)
    for kind, text in (("md", to_markdown(tables, note)), ("tex", to_latex(tables, note))):
        with atomic_path(arguments.output / f"gelora-tables.{kind}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    with new_figure(arguments.output, "gelora-tables", size=(PAGE, 5.2), made_from=note) as figure:
        draw(figure.subplots(), tables, shaded=2)


if __name__ == "__main__":
    main()
