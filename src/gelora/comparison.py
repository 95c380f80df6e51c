"""Comparison: how the dimensions of one profile differ from those of another."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gelora.blocks import Architecture
from gelora.geometry import BlockKey, FloatArray, deviations
from gelora.messages import check_confidence
from gelora.netcdf import plain_attributes
from gelora.profile import attribute, check_profile
from gelora.provenance import package_versions, timestamp

_ORIGIN = ("model", "weights_fingerprint", "data", "data_fingerprint", "pooling", "n_rows", "n_replicates")


def compare_profiles(a: Any, b: Any, *, paired: bool | None = None, confidence: float = 0.95) -> xr.Dataset:
    r"""Return how the dimensions of profile ``b`` differ from those of ``a``, with the error of the difference.

    Parameters
    ----------
    a, b : xarray.Dataset
        Profiles of one architecture, as from `gelora.estimate`: before and after fine-tuning, say.
    paired : bool, optional
        Whether replicate r of both was made from the same rows. By default it is where the fingerprints of the rows
        and the data, the number of replicates and their seed agree. True says that rows of one position belong
        together though the data differ, as with a shuffled control; False takes the profiles for independent.
    confidence : float
        Coverage of the interval, in (0, 1).

    Returns
    -------
    xarray.Dataset
        By estimator and layer: ``difference`` (b − a), ``standard_error``, ``ci_low``, ``ci_high``,
        ``z`` (difference over its error) and ``degrees_of_freedom`` of the interval, infinite for a normal one; the
        scalar ``paired``, and the attribute ``pairing``, which says why.

    Raises
    ------
    TypeError
        If one is no Dataset.
    ValueError
        If they are of different architectures or depths, share no estimator or layer, or cannot be paired though
        ``paired=True``.

    Warns
    -----
    UserWarning
        For estimators and layers that only one has, for unlike poolings, and for an estimator with other options.

    Notes
    -----
    Paired, with the differences :math:`D` of the two halves of each of P splits,
    :math:`\mathrm{SE}^2 = \frac1P \sum_s ((D_{2s} - D_{2s+1})/2)^2`, and Student's interval at P degrees of
    freedom. What both profiles owe to the draw of rows falls out. Otherwise
    :math:`\mathrm{SE}^2 = \mathrm{SE}_a^2 + \mathrm{SE}_b^2`, NaN where one is missing, and a normal interval. For the
    same rows that is too wide where estimates move together. The interval knows nothing of bias, and each is for one
    layer: of 20 layers without a change, one is expected outside its 95 %.

    Examples
    --------
    >>> from gelora import estimate_representations
    >>> cloud = np.random.default_rng(0).normal(size=(500, 8))
    >>> a, b = (
    ...     estimate_representations([cloud[:, :d]], estimator="mle", n_replicates=10, progress=False) for d in (3, 5)
    ... )
    >>> found = compare_profiles(a, b, paired=True)
    >>> bool(found["ci_low"][0, 0] > 1.0), bool(found["paired"])
    (True, True)
    """
    from scipy.stats import t as student

    level = 0.5 + check_confidence(confidence) / 2.0
    before, after = _aligned(_checked("a", a), _checked("b", b))
    obstacle = _obstacle(before, after, forced=paired is True)
    if paired is True and obstacle:
        raise ValueError(f"`paired`=True needs replicates on the same halves, but {obstacle}")
    is_paired = paired is not False and not obstacle
    difference = after["dimension"].values - before["dimension"].values
    if is_paired:
        error, freedom = _paired_errors(before, after)
    else:
        error = np.hypot(before["standard_error"].values, after["standard_error"].values)
        freedom = np.where(np.isfinite(error), math.inf, math.nan)
    error = np.where(np.isfinite(difference), error, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal profiles: 0/0 is NaN, as it should be
        z = difference / error
    reach = np.where(freedom > 0, student.ppf(level, np.maximum(freedom, 1.0)), np.nan) * error
    values = {
        "difference": difference,
        "standard_error": error,
        "ci_low": difference - reach,
        "ci_high": difference + reach,
        "z": z,
        "degrees_of_freedom": freedom,
    }
    why = obstacle or "both were halved in the same way"
    return xr.Dataset(
        {name: (("estimator", "layer"), table) for name, table in values.items()} | {"paired": ((), is_paired)},
        coords={name: before[name].variable for name in ("estimator", "layer", "name", "depth", "stack")},
        attrs=plain_attributes(
            {
                "confidence": float(confidence),
                "pairing": why if paired is None else f"asked for: paired={paired}",
                **_origins({"a": before.attrs, "b": after.attrs}),
            }
        ),
    )


def _checked(name: str, profile: Any) -> xr.Dataset:
    if not isinstance(profile, xr.Dataset):
        raise TypeError(
            f"`{name}` must be a profile, an xarray.Dataset as `gelora.estimate` returns, got {type(profile).__name__}"
        )
    return check_profile(profile)


def _aligned(a: xr.Dataset, b: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both profiles with the estimators and layers that they share, in the order of ``a``."""
    architectures = [attribute(profile, "architecture") for profile in (a, b)]
    if all(architectures) and architectures[0] != architectures[1]:
        first, second = (Architecture.from_record(record) for record in architectures)
        raise ValueError(
            f"`a` and `b` must be profiles of one architecture, got {first} and {second}: choose two of one model"
        )
    labels = [[str(label) for label in profile["estimator"].values] for profile in (a, b)]
    keys = [_keys(profile) for profile in (a, b)]
    shared_labels, shared_keys = _shared("estimator", *labels), _shared("layer", *keys)
    before, after = (
        profile.isel(
            estimator=[own.index(label) for label in shared_labels], layer=[places.index(key) for key in shared_keys]
        ).transpose("estimator", "layer", ...)
        for profile, own, places in zip((a, b), labels, keys, strict=True)
    )
    if not np.allclose(before["depth"].values, after["depth"].values):
        raise ValueError(
            "`a` and `b` must be profiles of one depth, but the same layers lie at other shares of it: "
            f"{before['depth'].values.round(2).tolist()} and {after['depth'].values.round(2).tolist()}"
        )
    _warn_unlike(before, after, shared_labels)
    return before, after


def _keys(profile: xr.Dataset) -> list[BlockKey]:
    return [(str(s), int(n)) for s, n in zip(profile["stack"].values, profile["layer"].values, strict=True)]


def _shared(kind: str, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """Return what both have, and warn of the rest."""
    shared = [one for one in first if one in second]
    if not shared:
        raise ValueError(f"`a` and `b` share no {kind}: `a` has {list(first)}, `b` has {list(second)}")
    dropped = [one for one in (*first, *second) if one not in shared]
    if dropped:
        warnings.warn(f"left out of the comparison, as only one profile has the {kind}: {dropped}", stacklevel=4)
    return shared


def _warn_unlike(a: xr.Dataset, b: xr.Dataset, labels: Sequence[str]) -> None:
    poolings = [str(profile.attrs.get("pooling", "")) for profile in (a, b)]
    if all(poolings) and poolings[0] != poolings[1]:
        warnings.warn(
            f"`a` was made with pooling {poolings[0]!r}, `b` with {poolings[1]!r}: the difference is that of the "
            "poolings too",
            stacklevel=4,
        )
    made = [attribute(profile, "estimators") for profile in (a, b)]
    unlike = [label for label in labels if made[0].get(label) != made[1].get(label)]
    if unlike:
        warnings.warn(f"`a` and `b` were made with other options of the estimators {unlike}", stacklevel=4)


def _obstacle(a: xr.Dataset, b: xr.Dataset, *, forced: bool) -> str:
    """Return why replicate r of ``a`` was not made from the rows of replicate r of ``b``; empty where it was."""
    lacking = [name for name, one in (("a", a), ("b", b)) if "dimension_replicates" not in one.variables]
    if lacking:
        return f"{' and '.join(f'`{name}`' for name in lacking)} had no replicates: estimate with n_replicates=50"
    if a.sizes["replicate"] != b.sizes["replicate"]:
        return f"the numbers of replicates differ, {a.sizes['replicate']} and {b.sizes['replicate']}"
    needed = ["n_rows", "replicate_seed"] + ([] if forced else ["rows_fingerprint", "data_fingerprint"])
    unlike = [name for name in needed if a.attrs.get(name, "") == "" or a.attrs[name] != b.attrs.get(name)]
    return f"their attributes differ or are missing: {', '.join(unlike)}" if unlike else ""


def _paired_errors(a: xr.Dataset, b: xr.Dataset) -> tuple[FloatArray, FloatArray]:
    """Return the errors of the differences, and their degrees of freedom: the splits with both halves defined."""
    replicates = [
        one["dimension_replicates"].transpose("estimator", "layer", "replicate").values.astype(np.float64)
        for one in (a, b)
    ]
    difference = replicates[1] - replicates[0]
    n = int(a.attrs["n_rows"])
    error, freedom = np.full(difference.shape[:2], np.nan), np.full(difference.shape[:2], np.nan)
    for place in np.ndindex(*error.shape):
        spread = deviations(difference[place][:, None], n, n // 2)
        if len(spread):
            error[place], freedom[place] = np.sqrt(np.square(spread).mean()), len(spread) // 2
    return error, freedom


def _origins(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return where the things compared come from, with the versions."""
    found = {f"{key}_{side}": record[key] for side, record in given.items() for key in _ORIGIN if key in record}
    return found | {"versions": package_versions(), "created": timestamp()}
