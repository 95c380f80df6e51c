"""Put a report together and write it: one HTML file with its styles, its scripts and plotly inside."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import xarray as xr

from gelora.blocks import Architecture
from gelora.files import atomic_path, check_writable
from gelora.finetuning.record import check_record
from gelora.masking import masked
from gelora.naming import Plans, Records, named_plans, named_records
from gelora.plan import RankPlan
from gelora.profile import attribute, check_profile
from gelora.provenance import package_versions, timestamp
from gelora.report.contents import Contents, contents_of
from gelora.report.pieces import Chart
from gelora.scores import check_comparison


def write_report(
    profile: xr.Dataset | None,
    path: str | Path,
    *,
    plan: Plans | None = None,
    comparison: xr.Dataset | None = None,
    record: Records | None = None,
) -> Path:
    """Write one self-contained HTML page that tells what was measured, what follows, and how far to trust it.

    The page holds its charts (plotly, some 5 MB) and loads nothing from anywhere; each chart has its numbers in a
    table beneath, for readers without JavaScript and for print: all of them, but of a training loss the first, the
    median and the last.

    Parameters
    ----------
    profile : xarray.Dataset or None
        As `gelora.estimate` returns.
    path : str or Path
        The file, customarily ``.html``; an existing one is replaced.
    plan : RankPlan, or sequence or mapping of these, optional
        Of the same architecture; several are set side by side. Each comes with the ``LoraConfig`` to copy.
    comparison : xarray.Dataset, optional
        As `gelora.compare` returns.
    record : xarray.Dataset, or sequence or mapping of these, optional
        Training records as `gelora.finetune` returns.

    Returns
    -------
    Path

    Raises
    ------
    TypeError, ValueError
        If one of them is not what it should be, there is none, or a plan is of another architecture than the profile
        or another plan.
    ImportError
        If plotly or jinja2 is not installed: they come with ``gelora[report]``.
    OSError
        If the file cannot be written; nothing is left behind.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from gelora import estimate_representations
    >>> cloud = np.random.default_rng(0).normal(size=(300, 5))
    >>> profile = estimate_representations([cloud[:, :2], cloud], progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(profile, folder + "/report.html").read_text()
    >>> "<h1>" in page
    True
    """
    check_writable(path)
    plans = {} if plan is None or plan == {} else named_plans(plan)
    records = {} if record is None or record == {} else named_records(record)
    for known in plans.values():
        _check_whole(known)
    if profile is None and not plans and comparison is None and not records:
        raise ValueError("`profile` must be given, or a plan, a comparison or a record: there is nothing to report on")
    if profile is not None:
        check_profile(profile)
        _check_belong(profile, plans)
    if comparison is not None:
        check_comparison(comparison)
    for one in records.values():
        check_record(one)
    text = render(contents_of(profile, plans, comparison, records))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def render(contents: Contents) -> str:
    """Return the page of these contents."""
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("a report needs jinja2 and plotly: pip install 'gelora[report]'") from error
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    template = Environment(autoescape=True, finalize=_without_credentials, **options).from_string(
        _template("report.html.jinja")
    )
    # Browsers read a carriage return as a line feed, which would change the hash of what is allowed to run.
    scripts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in (get_plotlyjs(), _template("report.js"))]
    page: str = template.render(
        contents=contents,
        charts={chart.name: _of_script(chart) for chart in contents.charts},
        style=_template("report.css"),
        scripts=scripts,
        policy=content_policy(scripts),
        made=f"gelora {package_versions(['gelora']).get('gelora', '')}",
        created=timestamp()[:10],
    )
    return page


def _of_script(chart: Chart) -> dict[str, Any]:
    """Return what the script needs of a chart; choices as pairs, as an object would come with its keys sorted."""
    choices = [(label, list(options)) for label, options in chart.choices.items()]
    made: dict[str, Any] = _masked_within({"figures": chart.figures, "choices": choices})
    return made


def _masked_within(value: Any) -> Any:
    """Mask credentials in the texts of nested mappings and sequences, keys included."""
    if isinstance(value, Mapping):
        return {_masked_within(key): _masked_within(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_masked_within(entry) for entry in value]
    return masked(value) if isinstance(value, str) else value


def content_policy(scripts: Sequence[str]) -> str:
    """Return a Content-Security-Policy under which these scripts run, no other, and nothing is loaded.

    Examples
    --------
    >>> content_policy(["1"]).split("; ")[1]
    "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"
    """
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _check_whole(plan: RankPlan) -> None:
    """Raise ValueError where what a plan says of its matrices is not said of each."""
    found, scales, count = plan.uncertainty, plan.by_scale, len(plan.modules)
    whole = not scales or all(len(ranks) == count for ranks in scales.ranks)
    if found is not None:
        whole &= all(len(row) == len(found.ranks) for row in found.probabilities)
        whole &= {len(found.probabilities), len(found.expected), len(found.module_stability)} == {count}
    if not whole:
        raise ValueError(
            f"`plan` {plan.policy!r} is damaged: its probabilities or scales are not those of its {count} matrices; "
            "make it again by `gelora ranks`"
        )


def _check_belong(profile: xr.Dataset, plans: Mapping[str, RankPlan]) -> None:
    recorded = attribute(profile, "architecture")
    if not recorded:
        return
    try:
        made_for = Architecture.from_record(recorded)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"`profile`: its attribute `architecture` is damaged: {error}") from error
    for name, plan in plans.items():
        if plan.architecture != made_for:
            raise ValueError(
                f"`plan` {name!r} is for {plan.architecture}, but `profile` is of {made_for}: give a plan made from "
                "this profile, by `gelora ranks`, or make a report of each"
            )


def _without_credentials(value: Any) -> Any:
    """Mask what goes into the template as text; what is markup already, the styles and scripts, is ours."""
    return masked(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _template(name: str) -> str:
    return files("gelora.report").joinpath("templates", name).read_text(encoding="utf-8")
