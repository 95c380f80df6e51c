"""What a reader of a plan or a comparison must know before trusting it, each with what to do."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import xarray as xr

from gelora.plan import RankPlan
from gelora.report.finding import Finding, by_severity
from gelora.report.pieces import mapping
from gelora.report.wording import listed, rounded
from gelora.scores import AVERAGE, check_comparison, compare_scores

LEAST_SEEDS = 5
SIGNIFICANT = 0.05


def plan_findings(plan: RankPlan, profile: xr.Dataset | None = None) -> list[Finding]:
    """Return what is to be known of a rank plan, problems first; ``profile`` is the one beside it in a report."""
    rules = (_unstable, _by_scale, _uniform)
    found = [finding for rule in rules for finding in rule(plan)]
    return by_severity(found + ([] if profile is None else list(_of_another_profile(plan, profile))))


def comparison_findings(comparison: xr.Dataset) -> list[Finding]:
    """Return what is to be known of a comparison of methods, problems first."""
    check_comparison(comparison)
    return by_severity([*_failed(comparison), *_noise_of_scores(comparison)])


def _unstable(plan: RankPlan) -> Iterator[Finding]:
    found = plan.uncertainty
    if found is None:
        if plan.provenance.get("profile"):
            yield Finding(
                "no-probabilities",
                "note",
                "The plan says nothing of its noise: its profile had no replicates, or its ranks are not read off it.",
                "Estimate the profile with n_replicates=50 and plan again.",
            )
        return
    if found.stability >= found.confidence:
        return
    worst = min(range(len(plan.modules)), key=lambda place: found.module_stability[place])
    module = plan.modules[worst]
    yield Finding(
        "unstable-ranks",
        "caution",
        f"The ranks are noisy: another draw of {found.n_examples:,} examples would give the same plan with probability "
        f"{found.stability:.2f}, less than the {found.confidence:g} asked for. The least certain is block "
        f"{module.block} of the {module.stack} ({found.module_stability[worst]:.2f}).",
        _settling(found.n_settling, rounds=_option(plan, "rounding") == "round"),
    )


def _settling(n_settling: float, *, rounds: bool) -> str:
    """Return what would make ranks stable, where they are rounded to the nearest already or not."""
    if math.isinf(n_settling):
        other = "" if rounds else "rounding='round', or "
        return (
            f"No number of examples would settle it, as a rise lies at a step of the rounding: choose {other}one plan "
            "by hand and keep it."
        )
    other = "" if rounds else ", or rounding='round'"
    return (
        f"About {rounded(n_settling)} examples would settle it; or take an estimator with less noise, such as mle with "
        f"more neighbours{other}."
    )


def _option(plan: RankPlan, name: str) -> object:
    """Return an option that a plan was made with; None where it says nothing of it."""
    return mapping(plan.provenance.get("options")).get(name)


def _by_scale(plan: RankPlan) -> Iterator[Finding]:
    found = plan.by_scale
    if found is None or len(set(found.ranks)) < 2:
        return
    moved = sum(len(set(column)) > 1 for column in zip(*found.ranks, strict=True))
    yield Finding(
        "scale-decides",
        "caution",
        f"The scale decides: {moved} of {len(plan.modules)} matrices get another rank at some of the scales "
        f"{found.scales[0]:g} to {found.scales[-1]:g} of the same estimator. Taken: {found.taken}, as {found.reason}.",
        "Give the scale with the plan, and compare plans at several scales in a fine-tuning before relying on one.",
    )


def _uniform(plan: RankPlan) -> Iterator[Finding]:
    ranks = {module.rank for module in plan.modules}
    if len(ranks) == 1 and plan.policy not in ("uniform",):
        yield Finding(
            "uniform-ranks",
            "note",
            f"All matrices have rank {next(iter(ranks))}: this plan is plain LoRA of that rank.",
            "Nothing; a larger budget would tell blocks apart."
            if _option(plan, "budget")
            else "Nothing; results with it are results of LoRA.",
        )


def _of_another_profile(plan: RankPlan, profile: xr.Dataset) -> Iterator[Finding]:
    more = plan.provenance.get("more_profiles")
    records = [plan.provenance.get("profile"), *(more if isinstance(more, list) else [])]
    marks = [str(record.get("data_fingerprint", "")) for record in records if isinstance(record, Mapping)]
    own = str(profile.attrs.get("data_fingerprint", ""))
    others = own and any(marks) and own not in marks
    weights = (plan.weights_fingerprint, str(profile.attrs.get("weights_fingerprint", "")))
    if others or (all(weights) and weights[0] != weights[1]):
        yield Finding(
            "another-profile",
            "caution",
            f"The plan was made from {'other data' if others else 'a model with other weights'} than the profile shown "
            "here.",
            "Plan again from this profile (gelora ranks), or give the report the profile that the plan was made from.",
        )


def _failed(comparison: xr.Dataset) -> Iterator[Finding]:
    counts = Counter(str(status) for status in comparison["status"].values.ravel())
    lacking = sum(number for status, number in counts.items() if status != "finished")
    if lacking:
        yield Finding(
            "lacking-runs",
            "problem",
            f"{lacking} of {comparison['status'].size} trainings failed or are missing: means rest on the others.",
            "Run gelora compare again, with --retry-failed for those that failed.",
        )


def _noise_of_scores(comparison: xr.Dataset) -> Iterator[Finding]:
    seeds = comparison.sizes["seed"]
    if seeds < LEAST_SEEDS:
        yield Finding(
            "few-seeds",
            "caution",
            f"{seeds} seed{'s' if seeds > 1 else ''} a method: only large differences between methods can be seen.",
            "Give the study more seeds before saying that one method is better than another.",
        )
    if not comparison.attrs.get("reference"):
        return
    tests = compare_scores(comparison)
    single = tests["q_value"].sel(task=[task for task in tests["task"].values if task != AVERAGE])
    if not bool(single.notnull().any()) or bool((single < SIGNIFICANT).any()):
        return
    what = (
        f"On no single task does a method differ from {tests.attrs['reference']} beyond the noise of the seeds (paired "
        f"t tests, adjusted after Benjamini and Hochberg, q < {SIGNIFICANT:g})"
    )
    average = tests["q_value"].sel(task=AVERAGE)
    apart = [str(method) for method in average["method"].values[average.values < SIGNIFICANT]]
    if apart:
        yield Finding(
            "average-differs",
            "note",
            f"{what}; in the average over the tasks {listed(apart)} {'does' if len(apart) == 1 else 'do'} "
            f"(smallest q = {float(average.min()):.2g}).",
            "Speak of the average alone; give more seeds to tell on which tasks the methods differ.",
        )
    else:
        yield Finding(
            "no-difference", "note", f"{what}.", "These seeds do not tell the methods apart; give more seeds."
        )
