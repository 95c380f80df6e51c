"""The figures that the concept pages give are the measured ones, as the benchmarks wrote them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")


def page(name: str) -> str:
    return " ".join((DOCS / "concepts" / f"{name}.md").read_text(encoding="utf-8").split())


def rows(name: str) -> list[list[str]]:
    """Return the cells of all tables of a page."""
    text = (DOCS / "concepts" / f"{name}.md").read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]


def measured(name: str) -> Any:
    return json.loads((DOCS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_table_of_noise_is_the_measured_one() -> None:
    known = {(row["n"], row["k"]): row for row in measured("rank_stability")["noise"]["rows"]}
    shown = [row for row in rows("rank_noise") if re.fullmatch(r"[\d,]+", row[0])]
    assert len(shown) == 6
    for n, k, spread, plans in shown:
        found = known[int(n.replace(",", "")), int(k)]
        assert spread == f"{min(found['spread_of_rises']):.2f}–{max(found['spread_of_rises']):.2f}"
        assert int(plans) == found["plans"]


def test_the_scale_decides_as_the_pages_say() -> None:
    known = {(row["n"], row["k"]): row for row in measured("rank_stability")["noise"]["rows"]}
    last = {k: known[4000, k]["mean_rises"][-1] for k in (2, 40)}
    assert f"rises by {last[2]:.1f} at k = 2 and by {last[40]:.1f} at k = 40".replace("-", "−") in page(
        "intrinsic_dimension"
    )
    apart = np.abs(np.subtract(known[1000, 10]["mean_rises"], known[4000, 40]["mean_rises"])).max()
    assert apart < 1 / 3
    ranks = {k: known[4000, k]["most_frequent"][-1] for k in (2, 40)}
    assert f"the last block gets rank {ranks[2]} at k = 2 and rank {ranks[40]} at k = 40" in page("rank_noise")


def test_what_rounding_does_to_plans_is_the_measured_share() -> None:
    tasks = measured("rank_stability")["candidates"]["tasks"].values()
    share = {
        way: np.mean([task["estimators"]["twonn"]["roundings"][way]["same_plan"] for task in tasks])
        for way in ("ceil", "round")
    }
    text = f"in {share['ceil']:.0%} of the pairs when rounded up, and in {share['round']:.0%} when rounded"
    assert text.replace("%", " %") in page("rank_noise")


def test_reported_and_observed_stability_are_the_measured_ones() -> None:
    known = measured("rank_stability")["calibration"]
    shown = {row[0]: row[1:] for row in rows("rank_noise")}
    names = {"ceil": "rounded up", "round": "to the nearest"}
    for case, found in known.items():
        if isinstance(found, dict):
            estimator, rounding, n = case.split(", ")
            cells = shown[f"`{estimator}`, {names[rounding]}, {n}"]
            assert cells == [f"{found['reported']:.2f}", f"{found['observed']:.2f}"]


def test_drawing_until_stable_took_what_the_page_says() -> None:
    found = measured("rank_stability")["enough"]["mle, ceil"]
    last = found["runs"][-1]
    text = page("rank_noise")
    assert f"On SST-2's {last['available']:,} rows it stopped at {last['used']:,}, in {last['seconds']:.0f} s" in text
    assert f"took {found['full_seconds']:.0f} s" in text
    assert found["agreeing"][-1] == 5
    assert "Five of six ranks" in text
    covered = measured("rank_stability")["coverage"]["covered"]
    assert f"held the true 4 in {100 * covered:.1f} % of the runs" in text


def test_what_the_page_on_theorems_says_was_measured_was_measured() -> None:
    report = measured("theory_report")
    cases = [case for task in report["tasks"].values() for case in task.values()]
    every = {name: np.concatenate([case[name] for case in cases]) for name in ("dimension", "rise", "n_adapted")}
    for verdict in ("bound_holds", "corollary_holds", "vacuous", "fisher_saturated"):
        assert all(np.all(np.array(case[verdict]) == 1) for case in cases)
    assert {rank for case in cases for rank in case["jacobian_rank"]["both"]} == {382, 383}
    text = page("theorems")
    assert f"holds in all {len(every['dimension'])} cases" in text
    assert f"dimensions of {every['dimension'].min():.1f} to {every['dimension'].max():.1f}" in text
    assert f"rises of at most {every['rise'].max():.1f}, at least {every['n_adapted'].min():,.0f} adapted" in text
    training = report["training"]
    assert f"{training['step'][-1]} steps: ranks stayed" in text
    assert training["rank"][0] == training["rank"][-1]
    assert (np.array(training["dimension"][-1]) < training["dimension"][0]).all()
    first, last = training["dimension"][0][-1], training["dimension"][-1][-1]
    assert f"(block 6 from {first:.1f} to {last:.1f})" in text
    energy = report["tasks"]["sst2"]["mle"]["jacobian_energy_rank_90"]["both"][-1]
    assert f"in the last block of SST-2 {energy} directions carry 90 %" in text


def test_the_ceiling_and_the_calibration_are_shown_by_measured_numbers() -> None:
    manifolds, text = measured("manifolds")["manifolds"], page("intrinsic_dimension")
    for name in ("M9_Affine", "M10d_Cubic"):
        assert f"{manifolds[name]['estimates']['twonn']['dimension']:.1f}" in text
    lines = measured("interval_coverage")["lines"]
    ball = {line["estimator"]: line["mean"] for line in lines if (line["family"], line["d"]) == ("ball", 20)}
    assert f"`twonn` reads {ball['twonn']:.1f} and calibrated {ball['twonn, calibrated']:.1f}" in text
