"""The page of the provoked faults, from their JSON file."""

from typing import Any


def page(result: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    reference = result["reference"]
    rows = [
        "| {} | {} | {} | {} |".format(
            entry["fault"],
            entry["tries"],
            "; ".join(f"{what}: {count}" for what, count in entry["counts"].items()),
            f"{entry['same']} of {entry['same_of']}" if entry["same_of"] else "",
        )
        for entry in result["faults"]
    ]
    lines = [
        "# Faults",
        "",
        f"Made by `{result['command']}` on {result['machine']}, {result['date']}, in {result['seconds']:,.0f} s; "
        f"{', '.join(f'{name} {version}' for name, version in result['versions'].items())}.",
        "",
        f"`gelora estimate --store` on {reference['texts']} sentences of {result['data']} and a random model of one "
        f"block of width 16,384, TwoNN and maximum likelihood on its output: {reference['windows']} windows of 4 MiB. "
        f"Undisturbed, the windows are there after {reference['seconds']['extraction']:.1f} s and the profile after "
        f"{reference['seconds']['whole']:.1f} s. A run is a process of its own, forked off one that has imported the "
        "libraries, with one thread a library; those under faketime are `python -m gelora`. Moments and places are "
        f"drawn by seed {result['seed']}, moments evenly over the time of the undisturbed run. "
        "Times are those of a machine with other work.",
        "",
        "Same result: once the run has been called again, the points of the store are to the bit those of the "
        "undisturbed run, and the profile has every number, label and attribute of it but times; of the calls that "
        "were not refused. A window that is kept and not made again has the same mark, with its time and inode.",
        "",
        "| fault | times | what happened | same result |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"
