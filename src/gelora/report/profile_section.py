"""What a report shows of a profile: dimensions with errors, covariates, scales, and where it comes from."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from gelora.profile import COVARIATES, attribute, drawn_interval
from gelora.report.charts import COVARIATE_NAMES, covariate_charts, profile_chart, scales_chart
from gelora.report.pieces import Chart, Table, mapping, number, row
from gelora.report.wording import layer_names, short_path

_PROVENANCE = (
    ("model", "model"),
    ("model_class", "class of the model"),
    ("revision", "revision"),
    ("weights_fingerprint", "fingerprint of the weights (SHA-256)"),
    ("data", "data"),
    ("text_column", "text column"),
    ("data_fingerprint", "fingerprint of the data (SHA-256)"),
    ("n_available", "examples in the data"),
    ("n_texts", "examples drawn"),
    ("text_copies_removed", "copies removed"),
    ("n_truncated", "texts cut"),
    ("max_length", "tokens at most"),
    ("pooling", "pooling"),
    ("n_tokens", "tokens kept"),
    ("read", "what is read"),
    ("tokenizer", "tokenizer"),
    ("precision", "precision"),
    ("dtype", "type of the weights"),
    ("quantization", "quantisation"),
    ("device", "device"),
    ("sample_seed", "seed of the draw"),
    ("seed", "seed of the estimators"),
    ("n_replicates", "replicates"),
    ("extraction_seconds", "seconds of extraction"),
    ("neighbor_search_seconds", "seconds of the neighbour search"),
    ("estimation_seconds", "seconds of estimation"),
    ("created", "made"),
)


def dimensions_chart(profile: xr.Dataset) -> Chart:
    """Return the profile with a toggle for each estimator."""
    return Chart(
        name="profile",
        title="Intrinsic dimension by relative depth, with intervals",
        figures={"": profile_chart(profile)},
        toggles=[str(label) for label in profile["estimator"].values],
        errors=True,
        height=440,
        table=dimensions_table(profile),
    )


def dimensions_table(profile: xr.Dataset) -> Table:
    """Return dimension and interval by layer and estimator; a dash where it is undefined."""
    labels = [str(label) for label in profile["estimator"].values]
    bounds = [drawn_interval(profile.sel(estimator=label)) for label in labels]
    rows = []
    for place, name in enumerate(layer_names(profile)):
        layer = profile.isel(layer=place)
        cells = [name.removeprefix("layer "), str(layer["name"].item()), number(float(layer["depth"]), 2)]
        for index, (low, high) in enumerate(bounds):
            value = float(layer["dimension"][index])
            known = np.isfinite(low[place]) and np.isfinite(value)
            cells.append(number(value) + (f" [{number(low[place])}, {number(high[place])}]" if known else ""))
        rows.append(row(*cells, f"{int(layer['n_points'].max()):,}"))
    return Table(
        caption="Dimension [interval] by layer and estimator: the estimator's confidence interval, ± one standard "
        "error where it gives none; – where no dimension is defined",
        head=["layer", "module", "depth", *labels, "points"],
        rows=rows,
        left=frozenset({0, 1}),
    )


def covariates(profile: xr.Dataset) -> tuple[list[Chart], Table]:
    """Return a chart of each covariate, and the table of all."""
    charts = [
        Chart(name=f"covariate-{name}", title=f"{COVARIATE_NAMES[name]} by depth", figures={"": figure}, height=240)
        for name, figure in covariate_charts(profile).items()
    ]
    rows = []
    for place, name in enumerate(layer_names(profile)):
        values = [float(profile[one].values[place]) for one in COVARIATES]
        cells = [f"{value:.4g}" if np.isfinite(value) else "–" for value in values]
        rows.append(row(name.removeprefix("layer "), *cells))
    head = ["layer", *(COVARIATE_NAMES[name] for name in COVARIATES)]
    return charts, Table(caption="Covariates by layer", head=head, rows=rows)


def scale_chart(profile: xr.Dataset, labels: Sequence[str]) -> Chart | None:
    """Return dimension against scale, for each estimator that reads several; None where none does."""
    found = {label: scales_chart(profile, label) for label in labels}
    figures = {label: figure for label, figure in found.items() if figure is not None}
    if not figures:
        return None
    return Chart(
        name="scales",
        title="Intrinsic dimension by scale, a line for each layer",
        figures=figures,
        choices={"Estimator": list(figures)},
        height=420,
        table=scale_table(profile, list(figures)),
    )


def scale_table(profile: xr.Dataset, labels: list[str]) -> Table:
    """Return dimension by estimator, scale and layer."""
    names = layer_names(profile)
    rows = []
    for label in labels:
        table = profile["dimension_scales"].sel(estimator=label).transpose("scale", "layer")
        for scale, values in zip(profile["scale"].values, table.values, strict=True):
            if np.isfinite(values).any():
                rows.append(row(label, f"{scale:g}", *(number(float(value)) for value in values)))
    return Table(caption="Dimension by scale and layer", head=["estimator", "scale", *names], rows=rows)


def provenance_table(profile: xr.Dataset) -> Table:
    """Return where a profile comes from."""
    rows = []
    for name, words in _PROVENANCE:
        text = _said(name, profile.attrs.get(name, ""))
        if text not in ("", "[]", "{}"):
            rows.append(row(words, text))
    return Table(caption="Origin of the profile", head=["what", "value"], rows=rows, left=frozenset({0, 1}))


def _said(name: str, value: object) -> str:
    """Return an attribute as it is read: numbers of things with commas, lists without brackets."""
    if isinstance(value, int | np.integer) and "seed" not in name:
        return f"{int(value):,}"
    text = str(value)
    return ", ".join(part.strip('" ') for part in text[1:-1].split(",")) if text.startswith('["') else text


def estimators_table(profile: xr.Dataset) -> Table:
    """Return the options and seconds of each estimator."""
    made, seconds = attribute(profile, "estimators"), attribute(profile, "estimator_seconds")
    rows = []
    for label in (str(one) for one in profile["estimator"].values):
        about = mapping(made.get(label))
        options = mapping(about.get("options"))
        written = ", ".join(f"{key}={value!r}" for key, value in options.items())
        rows.append(row(label, str(about.get("class", "")), written, str(seconds.get(label, "–"))))
    return Table(
        caption="Estimators, with every option",
        head=["name", "class", "options", "seconds"],
        rows=rows,
        left=frozenset({0, 1, 2}),
    )


def versions_table(profile: xr.Dataset) -> Table:
    """Return the versions that made a profile."""
    rows = [row(str(name), str(version)) for name, version in attribute(profile, "versions").items()]
    return Table(caption="Versions", head=["package", "version"], rows=rows, left=frozenset({0, 1}))


def title_of(profile: xr.Dataset) -> str:
    """Return the model's name, or what stands for it."""
    return short_path(profile.attrs.get("model", "")) or "point clouds"
