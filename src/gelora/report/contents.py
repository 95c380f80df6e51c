"""What stands on the page of a report, in words, tables and charts; how it looks is the template's affair."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from gelora.citing import citation
from gelora.netcdf import json_attribute
from gelora.plan import RankPlan
from gelora.report import profile_section
from gelora.report.comparison_section import comparison_chart
from gelora.report.finding import Finding, by_severity
from gelora.report.findings import comparison_findings, plan_findings
from gelora.report.pieces import Chart, Table, mapping, row
from gelora.report.plan_section import PlanPart, plan_part, plans_chart
from gelora.report.profile_findings import profile_findings
from gelora.report.record_section import records_chart
from gelora.report.rises_section import rises_chart
from gelora.report.wording import percent, short_path, span, what_was_measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePart:
    """A profile as a report shows it.

    Parameters
    ----------
    measured : list of str
        In sentences, what was measured.
    chart : Chart
        Dimensions.
    rises : Chart, optional
        Rise of the dimension over each block, for a profile with replicates.
    scales : Chart, optional
        Dimensions by scale.
    covariates : list of Chart
        One each.
    covariates_table : Table
        All of them.
    origin : list of Table
        Provenance.
    n_stacks : int
        Stacks of the model that were read.
    """

    measured: list[str]
    chart: Chart
    rises: Chart | None
    scales: Chart | None
    covariates: list[Chart]
    covariates_table: Table
    origin: list[Table]
    n_stacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All of a page.

    Parameters
    ----------
    title : str
        What it is about.
    facts : list of (str, str)
        The few numbers that matter most, each with what it is.
    findings : list of Finding
        All there are, problems first.
    profile : ProfilePart, optional
    plans : list of PlanPart
    plans_chart : Chart, optional
        Of several plans.
    comparison, records : Chart, optional
    origin : list of Table
        Provenance of what is no profile.
    citation : str
        BibTeX, empty without a profile.
    """

    title: str
    facts: list[tuple[str, str]]
    findings: list[Finding]
    profile: ProfilePart | None
    plans: list[PlanPart]
    plans_chart: Chart | None
    comparison: Chart | None
    records: Chart | None
    origin: list[Table]
    citation: str

    @property
    def charts(self) -> list[Chart]:
        """Every chart of the page, in its order."""
        return list(self._charts())

    def _charts(self) -> Iterator[Chart]:
        if self.profile is not None:
            yield self.profile.chart
            yield from filter(None, [self.profile.rises, self.profile.scales])
            yield from self.profile.covariates
        yield from filter(None, [self.plans_chart, *(plan.chart for plan in self.plans)])
        yield from filter(None, [self.comparison, self.records])


def contents_of(
    profile: xr.Dataset | None,
    plans: Mapping[str, RankPlan],
    comparison: xr.Dataset | None,
    records: Mapping[str, xr.Dataset],
) -> Contents:
    """Return the contents of a report on these, which are checked."""
    parts = [
        plan_part(name, plan, place, plan_findings(plan, profile))
        for place, (name, plan) in enumerate(plans.items(), start=1)
    ]
    findings = [_named(one, part.name if len(parts) > 1 else "") for part in parts for one in part.findings]
    findings += [] if profile is None else profile_findings(profile)
    findings += [] if comparison is None else comparison_findings(comparison)
    return Contents(
        title=_title(profile, plans, comparison),
        facts=[*_profile_facts(profile, plans), *_plan_facts(plans), *_comparison_facts(comparison)],
        findings=by_severity(findings),
        profile=None if profile is None else _profile_part(profile, plans),
        plans=parts,
        plans_chart=plans_chart(plans) if len(plans) > 1 else None,
        comparison=None if comparison is None else comparison_chart(comparison),
        records=records_chart(records) if records else None,
        origin=[*_plans_origin(plans), *([] if comparison is None else [_comparison_origin(comparison)])],
        citation=citation(
            *(one for one in (profile, *plans.values(), comparison, *records.values()) if one is not None)
        ),
    )


def _named(finding: Finding, plan: str) -> Finding:
    return Finding(finding.kind, finding.severity, f"{plan}: {finding.what}" if plan else finding.what, finding.remedy)


def _title(profile: xr.Dataset | None, plans: Mapping[str, RankPlan], comparison: xr.Dataset | None) -> str:
    if profile is not None:
        return f"Intrinsic dimension of {profile_section.title_of(profile)}"
    if plans:
        return f"LoRA ranks for {next(iter(plans.values())).architecture.model_type}"
    if comparison is not None:
        return f"Methods compared on {short_path(comparison.attrs.get('model', '')) or 'one model'}"
    return "Fine-tuning"


def _profile_part(profile: xr.Dataset, plans: Mapping[str, RankPlan]) -> ProfilePart:
    charts, table = profile_section.covariates(profile)
    labels = _deciding_first(profile, plans)
    return ProfilePart(
        measured=what_was_measured(profile),
        chart=profile_section.dimensions_chart(profile),
        rises=rises_chart(profile, labels),
        scales=profile_section.scale_chart(profile, labels),
        covariates=charts,
        covariates_table=table,
        origin=[
            profile_section.provenance_table(profile),
            profile_section.estimators_table(profile),
            profile_section.versions_table(profile),
        ],
        n_stacks=len(set(profile["stack"].values)),
    )


def _deciding_first(profile: xr.Dataset, plans: Mapping[str, RankPlan]) -> list[str]:
    """Return the estimators of a profile, those that the plans rest on first."""
    decided = [str(mapping(plan.provenance.get("profile")).get("estimator", "")) for plan in plans.values()]
    labels = [str(one) for one in profile["estimator"].values]
    return sorted(labels, key=lambda label: label not in decided)


def _profile_facts(profile: xr.Dataset | None, plans: Mapping[str, RankPlan]) -> Iterator[tuple[str, str]]:
    if profile is None:
        return
    label = _deciding_first(profile, plans)[0]
    known = profile["dimension"].sel(estimator=label).values
    known = known[np.isfinite(known)]
    if known.size:
        yield f"{known.min():.1f} – {known.max():.1f}", f"dimension over the layers, by {label}"
    points = profile["n_points"].sel(estimator=label).values
    yield span(points, "–"), f"points in each of {profile.sizes['layer']} layers"


def _plan_facts(plans: Mapping[str, RankPlan]) -> Iterator[tuple[str, str]]:
    for name, plan in list(plans.items())[:1]:
        ranks = sorted({module.rank for module in plan.modules})
        text = f"{ranks[0]} – {ranks[-1]}" if len(ranks) > 1 else str(ranks[0])
        named = f" of {name}" if len(plans) > 1 else ""
        yield text, f"LoRA ranks{named}, {plan.n_parameters:,} trained parameters"
        if plan.uncertainty is not None:
            yield percent(plan.uncertainty.stability), f"probability that another draw gives the same plan{named}"


def _comparison_facts(comparison: xr.Dataset | None) -> Iterator[tuple[str, str]]:
    if comparison is not None:
        methods, tasks, seeds = (comparison.sizes[name] for name in ("method", "task", "seed"))
        yield f"{methods} methods", f"compared on {tasks} task{'s' * (tasks > 1)}, {seeds} seed{'s' * (seeds > 1)} each"


def _plans_origin(plans: Mapping[str, RankPlan]) -> list[Table]:
    tables = []
    for name, plan in plans.items():
        about = plan.provenance
        options, made_from = mapping(about.get("options")), mapping(about.get("profile"))
        rows = [row("policy", plan.policy), row("architecture", str(plan.architecture))]
        rows += [row("options", ", ".join(f"{key}={value!r}" for key, value in options.items()))] if options else []
        for key in ("estimator", "data_fingerprint", "fingerprint"):
            if made_from.get(key):
                rows.append(row(f"{key.replace('_', ' ')} of the profile", str(made_from[key])))
        rows += [row("fingerprint of the weights", plan.weights_fingerprint)] if plan.weights_fingerprint else []
        rows += [row("made", str(about["created"]))] if about.get("created") else []
        tables.append(
            Table(
                caption=f"Origin of the plan {name}" if len(plans) > 1 else "Origin of the plan",
                head=["what", "value"],
                rows=rows,
                left=frozenset({0, 1}),
            )
        )
    return tables


def _comparison_origin(comparison: xr.Dataset) -> Table:
    names = ("model", "weights_fingerprint", "reference", "created")
    rows = [row(name, str(comparison.attrs[name])) for name in names if comparison.attrs.get(name)]
    versions = json_attribute(comparison, "versions", "`comparison`")
    if isinstance(versions, dict):
        rows.append(row("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return Table(caption="Origin of the comparison", head=["what", "value"], rows=rows, left=frozenset({0, 1}))
