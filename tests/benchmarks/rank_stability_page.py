"""The page of the measurements on ranks, from their JSON file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

ROUNDINGS = ("ceil", "round", "floor")


def page(result: dict[str, Any]) -> str:
    """Return the page as Markdown, of the parts that have been measured."""
    lines = [
        "# How far ranks can be trusted",
        "",
        f"Made by `{result['command']}` on {result['machine']}; {result['versions']}. Hidden states are those of the "
        "MiniLM encoder (6 blocks of width 384), mean pooled, on train rows; ranks are geometric "
        "with offset 1, and the "
        "rounding is up where none is named. Each part says when it was measured.",
    ]
    for name, write in (
        ("noise", _noise),
        ("candidates", _candidates),
        ("calibration", _calibration),
        ("probabilities", _probabilities),
        ("enough", _enough),
        ("coverage", _coverage),
    ):
        if name in result:
            entry = result[name]
            lines += ["", *write(entry), "", f"Measured on {entry['date']} in {entry['seconds']:,.0f} s."]
    return "\n".join(lines) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    head = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    return head + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _numbers(values: Sequence[float], digits: int = 1) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def _plan(ranks: Sequence[int]) -> str:
    return f"({', '.join(map(str, ranks))})"


def _noise(entry: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{row['n']:,}",
            row["k"],
            f"{min(row['spread_of_rises']):.2f}–{max(row['spread_of_rises']):.2f}",
            _numbers(row["mean_rises"]),
            row["plans"],
            f"{_plan(row['most_frequent'])}, {row['times']} times",
        )
        for row in entry["rows"]
    ]
    found = {(row["n"], row["k"]): np.array(row["spread_of_rises"]) for row in entry["rows"]}
    ratios = [found[n, 2] / found[n, 20] for n in (500, 1000)]
    twins = [next(r["mean_rises"] for r in entry["rows"] if (r["n"], r["k"]) == at) for at in ((1000, 10), (4000, 40))]
    last = {k: next(r for r in entry["rows"] if r["n"] == 4000 and r["k"] == k) for k in (2, 40)}
    return [
        "## Noise and scale of a rank",
        "",
        f"{entry['n_draws']} draws of n of {entry['n_phrases']:,} random SST-2 phrases, without replacement; maximum "
        "likelihood on k neighbours (k = 2 is TwoNN's likelihood). The spread is the standard deviation of a rise over "
        "the draws, from the quietest block to the noisiest. Draws of 4,000 overlap, which hides a quarter of their "
        "spread.",
        "",
        *_table(("n", "k", "spread of rises", "mean rises", "different plans", "most frequent plan"), rows),
        "",
        f"With 20 neighbours in place of 2 a rise has {min(map(min, ratios)):.1f} to {max(map(max, ratios)):.1f} times "
        f"less noise at n = 500 and 1,000. The scale decides more than the noise: at n = 4,000 the "
        "last block gets rank "
        f"{last[2]['most_frequent'][-1]} at k = 2 and rank {last[40]['most_frequent'][-1]} at k = 40. "
        "What counts is k/n: "
        f"mean rises at n = 1,000, k = 10 are {_numbers(twins[0], 2)}; at n = 4,000, k = 40 {_numbers(twins[1], 2)}.",
    ]


def _candidates(entry: dict[str, Any]) -> list[str]:
    names = list(next(iter(entry["tasks"].values()))["estimators"])
    summary = []
    for name in names:
        found = [task["estimators"][name] for task in entry["tasks"].values()]
        cells = [
            f"{np.mean([one['roundings'][rounding][key] for one in found]):.2f}"
            for key in ("same_plan", "same_rank", "same_rank_as_large")
            for rounding in ROUNDINGS
        ]
        noise = np.mean([one["spread_of_rises"] for one in found])
        drift = np.mean([one["drift"] for one in found])
        summary.append((name, f"{noise:.2f}", f"{drift:.2f}", *cells))
    headings = ["estimator", "noise", "drift"]
    headings += [f"{what}, {rounding}" for what in ("same plan", "same rank", "larger draw") for rounding in ROUNDINGS]
    lines = [
        "## Which estimator, scale and rounding",
        "",
        f"{entry['n_pairs']} pairs of draws that share no row, on each of {len(entry['tasks'])} "
        "tasks. Noise: spread of a "
        "rise over draws. Drift: root mean square change of the rises from these draws to a larger "
        "one. Same plan, same "
        "rank: how often both draws of a pair agree on all blocks, on one block. Larger draw: how "
        "often a block's rank is "
        "that of the larger draw. Means over tasks.",
        "",
        *_table(headings, summary),
    ]
    for task, found in entry["tasks"].items():
        rows = [
            (
                name,
                _numbers(one["mean_rises"]),
                _numbers(one["rises_of_large"]),
                *(
                    f"{_plan(one['roundings'][rounding]['most_frequent'])} → "
                    f"{_plan(one['roundings'][rounding]['large'])}"
                    for rounding in ("ceil", "round")
                ),
                f"{one['seconds']:.2f}",
            )
            for name, one in found["estimators"].items()
        ]
        lines += [
            "",
            f"{task}: draws of {found['n']:,}, the larger one of {found['n_large']:,} rows.",
            "",
            *_table(
                (
                    "estimator",
                    "mean rises",
                    "rises of the larger draw",
                    "plan by ceil → larger",
                    "by round → larger",
                    "s",
                ),
                rows,
            ),
        ]
    return lines


def _calibration(entry: dict[str, Any]) -> list[str]:
    cases = {name: one for name, one in entry.items() if isinstance(one, dict)}
    rows = [
        (
            name,
            one["draws"],
            f"{one['reported']:.2f}",
            f"{one['observed']:.2f}",
            _numbers(one["reported_blocks"], 2),
            _numbers(one["observed_blocks"], 2),
        )
        for name, one in cases.items()
    ]
    return [
        "## Is the stability true?",
        "",
        "Draws of SST-2 that share no row, each with 50 replicates: the stability that its plan reports, against how "
        "often two of the draws really give one plan.",
        "",
        *_table(("case", "draws", "reported", "observed", "reported by block", "observed by block"), rows),
    ]


def _probabilities(entry: dict[str, Any]) -> list[str]:
    lines = [
        "## Ranks with their probabilities",
        "",
        "Three estimators, 50 replicates, the first n rows of one random order, then all. Stability is the probability "
        "that another draw of as many rows gives the same plan; settling, how many rows would bring it to 0.9.",
    ]
    for task, found in entry.items():
        if not isinstance(found, dict):
            continue
        rows = []
        for name, one in found["plans"].items():
            estimator, n = name.split()
            shares = [
                "/".join(
                    f"{rank}:{share:.2f}"
                    for rank, share in zip(one["rank_values"], block, strict=True)
                    if share >= 0.05
                )
                for block in one["probabilities"]
            ]
            settling = "none" if one["n_settling"] is None else f"{one['n_settling']:,}"
            rows.append((estimator, f"{int(n):,}", _plan(one["ranks"]), *shares, f"{one['stability']:.2f}", settling))
        blocks = [f"block {number}" for number in range(1, len(rows[0]) - 4)]
        lines += ["", f"{task}:", "", *_table(("estimator", "rows", "plan", *blocks, "stability", "settling"), rows)]
    return lines


def _enough(entry: dict[str, Any]) -> list[str]:
    lines = [
        "## Enough examples, no more",
        "",
        '`n_samples="auto"` on SST-2 at a confidence of 0.9, with ever more rows at hand, and the profile of all rows '
        "by the same estimator without replicates; one thread. Agreeing: blocks, of six, with the rank of that full "
        "profile.",
    ]
    for name, one in entry.items():
        if not isinstance(one, dict):
            continue
        rows = [
            (
                f"{run['available']:,}",
                f"{run['used']:,}",
                f"{run['seconds']:.0f}",
                f"{run['extraction_seconds']:.0f}",
                run["stopped"],
                f"{run['verdicts'][-1]['stability']:.2f}",
                _plan(run["ranks"]),
                f"{agreeing} of {len(run['ranks'])}",
            )
            for run, agreeing in zip(one["runs"], one["agreeing"], strict=True)
        ]
        rows.append(
            (
                f"{one['full_rows']:,}",
                "all",
                f"{one['full_seconds']:.0f}",
                "",
                "full profile",
                "",
                _plan(one["full_ranks"]),
                "",
            )
        )
        headings = (
            "rows at hand",
            "used",
            "seconds",
            "of them extraction",
            "stopped as",
            "stability",
            "plan",
            "agreeing",
        )
        lines += [
            "",
            f"{name} (`{one['estimator']}`, rounding {one['rounding']}, first round of {one['first']:,} rows):",
        ]
        lines += ["", *_table(headings, rows)]
    return lines


def _coverage(entry: dict[str, Any]) -> list[str]:
    low, high = entry["dimensions"]
    return [
        "## The interval of a difference",
        "",
        f"{entry['n_runs']} pairs of layers with the same rows, spheres of dimension {low} and {high}, {entry['n']:,} "
        f"points, 50 replicates; {entry['estimator']}. The 95 % interval of the rise held the true gap of {high - low} "
        f"in {100 * entry['covered']:.1f} % of the runs; uncalibrated, whose bias is another for the "
        "two dimensions, in "
        f"{100 * entry['covered_raw']:.1f} %. Mean rise {entry['mean_gap']:.2f}, spread over the runs "
        f"{entry['spread']:.3f}, root mean square of the reported errors {entry['mean_error']:.3f}; errors of the two "
        f"layers taken for independent would add up to {entry['independent_error']:.3f}.",
    ]
