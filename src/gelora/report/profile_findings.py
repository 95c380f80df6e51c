"""What a reader of a profile must know before trusting it, each with what to do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gelora.netcdf import json_attribute
from gelora.profile import attribute, check_profile
from gelora.report.finding import Finding, by_severity
from gelora.report.wording import count_of, layer_names, listed, listed_layers, percent, sentence

FEW_POINTS = 1000
MANY = 0.2  # share of copies, or of truncated texts, from which they matter for what was measured
LEAST_RECALL = 0.9
UNLIKE = 1.5  # ratio of two estimators' dimensions from which they describe different things
# They read eigenvalues, or correct for what n points cannot tell.
_NOT_LOCAL = ("Spectral", "Calibrated", "lPCA")


def profile_findings(profile: xr.Dataset) -> list[Finding]:
    """Return what is to be known of a profile, problems first.

    Parameters
    ----------
    profile : xarray.Dataset
        As `gelora.estimate` returns; what an older one does not record is not found.

    Returns
    -------
    list of Finding

    Raises
    ------
    TypeError, ValueError
        If it is no profile, or damaged.
    """
    check_profile(profile)
    rules: list[Callable[[xr.Dataset], Iterator[Finding]]] = [
        *(_undefined, _nonfinite, _ceiling, _few_points, _recall, _bends, _warned, _copies, _points, _truncated),
        *(_disagreement, _no_replicates),
    ]
    return by_severity([finding for rule in rules for finding in rule(profile)])


def _undefined(profile: xr.Dataset) -> Iterator[Finding]:
    for label in _labels(profile):
        row = profile.sel(estimator=label)
        reasons = row["undefined"].values
        layers = [name for name, reason in zip(layer_names(profile), reasons, strict=True) if reason]
        if not layers:
            continue
        first = next(str(reason) for reason in reasons if reason)
        pooling = str(profile.attrs.get("pooling", ""))
        remedy = "Give more or more varied data, or an estimator that needs fewer points."
        if pooling in ("cls", "last") and layers[0].startswith("layer 0"):
            remedy = (
                f"With {pooling} pooling layer 0 has one vector, or a handful, for all texts: take mean pooling, or "
                "plan ranks with undefined='minimum'."
            )
        yield Finding(
            "undefined",
            "problem",
            f"{label}: no dimension is defined for {listed_layers(layers)}. {sentence(first)}",
            remedy,
        )


def _nonfinite(profile: xr.Dataset) -> Iterator[Finding]:
    bad = attribute(profile, "n_nonfinite")
    if bad:
        name, count = next((str(name), str(count)) for name, count in bad.items())
        yield Finding(
            "nonfinite",
            "problem",
            f"{count} points of {name} have coordinates that are not finite"
            + (f", and others of {len(bad) - 1} more layers." if len(bad) > 1 else "."),
            "Run the model in another precision, bfloat16 or float32.",
        )


def _ceiling(profile: xr.Dataset) -> Iterator[Finding]:
    made = dict(_mappings(profile, "estimators"))
    found, limits, counts = [], [], []
    for label in _labels(profile):
        about = made.get(label, {})
        if any(word in f"{about.get('class', '')} {label}" for word in _NOT_LOCAL):
            continue
        row = profile.sel(estimator=label)
        n, limit = _distinguishable(row["n_points"].values, about)
        above = row["dimension"].values > limit
        if above.any():
            found.append(f"{label} ({_places(profile, above)})")
            limits.append(float(limit[above].max()))
            counts.append(int(n[above].max()))
    if found:
        yield Finding(
            "ceiling",
            "caution",
            f"Dimensions above about {max(limits):.0f} (log₂ n) are hard to tell among {max(counts):,} points: the "
            f"nearest neighbour is then more than half as far away as the cloud is wide, and estimates read low. Above "
            f"lie {listed(found)}.",
            "Compare layers rather than read absolute numbers; give more data, or wrap the estimator in "
            "gelora_estimators.calibrated, which corrects the bias by simulation.",
        )


def _places(profile: xr.Dataset, chosen: Any) -> str:
    """Return the layers of a mask in words."""
    if chosen.all():
        return "all layers"
    return listed_layers([name for name, is_chosen in zip(layer_names(profile), chosen, strict=True) if is_chosen])


def _distinguishable(n_points: Any, about: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the points that are looked at together, and the dimension up to which a neighbour is near.

    n points fill a cloud of d dimensions so that the nearest neighbour is at about n^(-1/d) of its width: half of it at
    d = log₂ n, which is the bound of EckmannRuelle1992 at a quarter of the diameter.
    """
    options = about.get("options")
    batch = options.get("batch_size") if isinstance(options, Mapping) else None
    n = np.minimum(n_points, batch) if isinstance(batch, int) and batch > 0 else n_points
    return n, np.log2(np.maximum(n, 1))


def _few_points(profile: xr.Dataset) -> Iterator[Finding]:
    counts = profile["n_points"].values[np.isfinite(profile["dimension"].values)]
    if counts.size and counts.min() < FEW_POINTS:
        yield Finding(
            "few-points",
            "caution",
            f"Some dimensions rest on {int(counts.min()):,} points only: below {FEW_POINTS:,} ranks from the two "
            "nearest neighbours are mostly noise.",
            "Draw more examples (n_samples), or take an estimator that looks at more neighbours, such as mle.",
        )


def _recall(profile: xr.Dataset) -> Iterator[Finding]:
    if "neighbor_recall" not in profile.variables:
        return
    for label in _labels(profile):
        recall = profile["neighbor_recall"].sel(estimator=label).values
        low = recall < LEAST_RECALL
        if low.any():
            names = [name for name, is_low in zip(layer_names(profile), low, strict=True) if is_low]
            yield Finding(
                "recall",
                "caution",
                f"{label}: the approximate search found {np.nanmin(recall):.0%} of the true neighbours at worst, less "
                f"than {LEAST_RECALL:.0%} in {listed_layers(names)}.",
                "Search exactly: neighbors='exact'.",
            )


def _bends(profile: xr.Dataset) -> Iterator[Finding]:
    for label, entries in _warnings(profile):
        bent = [entry for entry in entries if "bends" in entry["message"]]
        if bent:
            yield Finding(
                "bent-line",
                "caution",
                f"{label}: the line behind the dimension bends in {_where(profile, bent)}, so "
                "that no single number describes all sizes of subsample.",
                "Read these numbers as means over scales; choose the option sizes within one straight part, or decide "
                "ranks by another estimator.",
            )


def _warned(profile: xr.Dataset) -> Iterator[Finding]:
    for label, entries in _warnings(profile):
        others = [entry for entry in entries if "bends" not in entry["message"]]
        ceiling = [entry for entry in others if entry["category"] == "InformationCeilingWarning"]
        if ceiling:
            yield Finding(
                "ceiling",
                "caution",
                f"{label}: {ceiling[0]['message']} ({_where(profile, ceiling)})",
                "Read the interval, which is open above, and not the number; give more data.",
            )
        rest = [entry for entry in others if entry not in ceiling]
        if rest:
            yield Finding(
                "estimator",
                "caution",
                f"{label} warned in {_where(profile, rest)}, first: {rest[0]['message']}",
                "See the page of this estimator; compare with another one.",
            )


def _copies(profile: xr.Dataset) -> Iterator[Finding]:
    copies, drawn = count_of(profile, "text_copies_removed"), count_of(profile, "n_texts")
    if copies and drawn:
        many = copies / drawn >= MANY
        yield Finding(
            "text-copies",
            "caution" if many else "note",
            f"Left out, as their tokens are those of another example: {copies:,} of {drawn:,} "
            f"({percent(copies / drawn)}).",
            "Check the data and the column: the profile is that of fewer examples than were drawn."
            if many
            else "Nothing at so small a share.",
        )


def _points(profile: xr.Dataset) -> Iterator[Finding]:
    if "n_copies" not in profile.variables:
        return
    counts = np.nan_to_num(profile["n_copies"].transpose("estimator", "layer").values).max(axis=0)
    if (counts > 0).any():
        yield Finding(
            "point-copies",
            "note",
            f"Up to {int(counts.max()):,} points with the coordinates of another were left out "
            f"({_places(profile, counts > 0)}): a distance of zero breaks every estimator.",
            "Nothing, where they are few; where most points are copies the pooling does not tell the examples apart.",
        )


def _truncated(profile: xr.Dataset) -> Iterator[Finding]:
    cut, drawn = count_of(profile, "n_truncated"), count_of(profile, "n_texts")
    if cut and drawn:
        yield Finding(
            "truncated",
            "caution" if cut / drawn >= MANY else "note",
            f"{cut:,} of {drawn:,} texts ({percent(cut / drawn)}) were cut at "
            f"{count_of(profile, 'max_length'):,} tokens: what stands behind was not measured.",
            "Give a larger max_length where the model takes more tokens, or shorter texts.",
        )


def _disagreement(profile: xr.Dataset) -> Iterator[Finding]:
    values = profile["dimension"].values
    values = np.where(np.isfinite(values) & (values > 0), values, np.nan)  # a factor of 0 says nothing
    known = np.isfinite(values).sum(axis=0) > 1
    if not known.any():
        return
    ratio = np.nanmax(values[:, known], axis=0) / np.nanmin(values[:, known], axis=0)
    if ratio.max() > UNLIKE:
        place = int(np.flatnonzero(known)[ratio.argmax()])
        column, labels = values[:, place], _labels(profile)
        low, high = int(np.nanargmin(column)), int(np.nanargmax(column))
        yield Finding(
            "disagreement",
            "caution",
            f"The estimators differ by a factor of up to {ratio.max():.1f}: in {layer_names(profile)[place]} "
            f"{labels[low]} says {column[low]:.1f}, {labels[high]} {column[high]:.1f}. They look at different scales.",
            "Name the estimator with every number; plan ranks by one, and look whether the others give the same.",
        )


def _no_replicates(profile: xr.Dataset) -> Iterator[Finding]:
    if "dimension_replicates" not in profile.variables:
        yield Finding(
            "no-replicates",
            "note",
            "The profile has no replicates: ranks from it get no probabilities.",
            "Estimate with n_replicates=50.",
        )


def _where(profile: xr.Dataset, entries: Sequence[Mapping[str, str]]) -> str:
    """Return the layers that warnings speak of; their stack is left out where the profile has one."""
    suffix = "" if len(set(profile["stack"].values)) > 1 else f" of the {profile['stack'].values[0]}"
    return listed_layers([entry["where"].removesuffix(suffix) for entry in entries])


def _labels(profile: xr.Dataset) -> list[str]:
    return [str(label) for label in profile["estimator"].values]


def _mappings(profile: xr.Dataset, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(label, made) for label, made in attribute(profile, name).items() if isinstance(made, Mapping)]


def _warnings(profile: xr.Dataset) -> list[tuple[str, list[dict[str, str]]]]:
    """Return what each estimator warned of; entries that are not as gelora writes them are left out."""
    record = json_attribute(profile, "estimator_warnings", "`profile`")
    found = []
    for label, entries in record.items() if isinstance(record, Mapping) else ():
        sound = [one for one in entries if isinstance(one, Mapping)] if isinstance(entries, list) else []
        kept = [{key: str(one.get(key, "")) for key in ("where", "category", "message")} for one in sound]
        if kept:
            found.append((str(label), kept))
    return found
