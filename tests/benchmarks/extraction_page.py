"""Write the page ``docs/benchmarks/extraction.md`` from ``extraction.json`` and ``large_clouds.json`` beside it."""

# ruff: noqa: E501 (the sentences of the page)

import json
from pathlib import Path
from typing import Any

from gelora.files import atomic_path

OUTPUT = Path("docs/benchmarks")
MEBI = 2**20


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def machine(found: dict[str, Any]) -> str:
    """Say where and with what it was measured."""
    wanted = ("gelora", "torch", "transformers", "numpy", "zarr")
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in wanted if name in found["versions"])
    return f"{found['machine']['cores']} cores ({found['machine']['processor']}), no GPU, Python {found['versions']['python']}, {versions}; {found['date']}."


def speed(part: dict[str, Any]) -> str:
    """Write the section on time."""
    ratios = [one["ours"] / one["plain"] for one in part["rounds"]]
    rows = [
        [f"{one['plain']:.1f} s", f"{one['ours']:.1f} s", f"{one['ours'] / one['plain']:.3f}"] for one in part["rounds"]
    ]
    return "\n\n".join(
        [
            "## Time beside the plain loop",
            f"{part['n_texts']:,} sentences, half of CoLA and half of SST-2, mixed, through MiniLM. The plain loop runs batches of 32 in the given order, padded to the longest, with `output_hidden_states=True`, and takes the mean over tokens; it estimates nothing. Ours sorts by length, removes copies, reads by hooks, and then runs {', '.join(f'`{name}`' for name in part['estimators'])} on every layer, {part['of_which_estimation']:.1f} s of its time. Both by turns in one process; the median ratio is **{part['ratio']:.3f}** ({min(ratios):.2f} – {max(ratios):.2f}), asked is at most 0.75.",
            table(["plain loop", "ours, estimators included", "ratio"], rows),
        ]
    )


def memory(rows: list[dict[str, Any]]) -> str:
    """Write the section on memory."""
    lines = [
        [
            f"{one['n_points']:,}",
            f"{one['peak'] - one['before']:.0f} MiB",
            f"{one['store_mebibytes']:.0f} MiB",
            f"{one['seconds']:.0f} s",
            f"{one['n_points'] / one['seconds']:.0f}",
        ]
        for one in rows
    ]
    return "\n\n".join(
        [
            "## Memory and time against the number of texts",
            "Extraction of all seven layers of MiniLM into a store, sentences of SST-2 from its Parquet file, each size in a process of its own. Memory is the peak of the resident set above what it was with the model loaded and one batch of the longest texts run; asked is at most 300 MiB. The time includes reading, tokenising and the checks.",
            table(["texts", "memory", "store on disk", "time", "texts a second"], lines),
            "![Memory and time against the number of texts](extraction.png)",
        ]
    )


def kill(part: dict[str, Any]) -> str:
    """Write the section on a kill."""
    return "\n\n".join(
        [
            "## The train set of SST-2, killed in the middle",
            f"`gelora estimate --store` on all {part['n_points']:,} distinct sentences, with {part['seconds_until_the_kill']:.0f} s until `kill -9`, when {part['windows_at_the_kill']} of {part['windows']} windows were done. The same command again took {part['seconds_after']:.0f} s, estimators included, and made {part['made_again']} of those windows again.",
        ]
    )


def clouds(found: dict[str, Any]) -> str:
    """Write the section on clouds beyond memory."""
    rows = [
        [
            f"{one['n']:,}",
            f"{one['cloud_bytes'] / MEBI:.0f} MiB",
            f"{one['peak'] / MEBI:.0f} MiB",
            f"{one['search_seconds']:.0f} s",
            f"{one['search_gflops']:.0f} GFLOP/s",
            f"{one['tree_seconds']:.0f} s" if "tree_seconds" in one else "",
            f"{one['twonn']:.2f}",
        ]
        for one in found["rows"]
    ]
    return "\n\n".join(
        [
            "## Clouds beyond memory",
            f"Points of width {found['width']:,} in a file, mapped: `twonn`, which searches neighbours, and a minimum spanning tree. The process may have {found['room'] / MEBI:.0f} MiB of memory more than it starts with, by the kernel's limit, whatever the cloud holds; what would not fit ends in an error. The time grows as n².",
            table(["points", "cloud", "memory taken", "`twonn`", "of which at", "spanning tree", "dimension"], rows),
            "![Memory and time against the number of points](large_clouds.png)",
            machine(found),
        ]
    )


def main() -> None:
    """Write the page."""
    found = json.loads((OUTPUT / "extraction.json").read_text(encoding="utf-8"))
    large = json.loads((OUTPUT / "large_clouds.json").read_text(encoding="utf-8"))
    parts = [
        "# Extraction and large clouds",
        "Made by `make bench-extraction DATA=FOLDER`.",
        speed(found["speed"]),
        memory(found["memory"]),
        kill(found["kill"]),
        machine(found),
        clouds(large),
    ]
    with atomic_path(OUTPUT / "extraction.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
