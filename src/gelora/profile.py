"""The profile: an xarray Dataset of dimensions, estimator by layer. Schema, check, open, save."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.netcdf import check_schema, json_attribute, plain_attributes, read_dataset, write_dataset

SCHEMA = "gelora-profile"
SCHEMA_VERSION = 1

ESTIMATES = ("dimension", "standard_error", "ci_low", "ci_high")
# Where they were asked for, or the estimator gives them.
OPTIONAL_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "dimension_scales": ("estimator", "layer", "scale"),
    "dimension_replicates": ("estimator", "layer", "replicate"),
    "dimension_scale_replicates": ("estimator", "layer", "scale", "replicate"),
    "neighbor_recall": ("estimator", "layer"),
    "n_copies": ("estimator", "layer"),
}
COVARIATES = ("mean_norm", "mean_nearest_distance", "spectral_entropy", "participation_ratio", "anisotropy")
_LONG_NAMES = {
    "dimension": "intrinsic dimension",
    "standard_error": "standard error of the intrinsic dimension",
    "ci_low": "lower end of the confidence interval",
    "ci_high": "upper end of the confidence interval",
    "n_points": "distinct points used",
    "undefined": "why the dimension is undefined, empty where it is defined",
    "dimension_scales": "intrinsic dimension by scale, NaN where an estimator has no such scale",
    "dimension_replicates": "intrinsic dimension on halves of the data rows; replicates 2s and 2s + 1 are split s",
    "dimension_scale_replicates": "intrinsic dimension by scale on the same halves",
    "neighbor_recall": "share of the true nearest neighbours that an approximate search found, NaN where it is exact",
    "n_copies": "exact copies of other points, removed before the estimate; NaN where an estimator does not count them",
    "scale": "neighbourhood size or whatever the estimator calls its scale",
    "mean_norm": "mean Euclidean norm of the points",
    "mean_nearest_distance": "mean distance to the nearest other point",
    "spectral_entropy": "entropy of the normalised eigenvalues of the centred covariance, in nats",
    "participation_ratio": "squared sum over sum of squares of the eigenvalues of the centred covariance",
    "anisotropy": "largest eigenvalue of the centred covariance over their sum",
}


def make_profile(
    *,
    estimators: Sequence[str],
    estimates: Mapping[str, NDArray[np.float64]],
    n_points: NDArray[np.int64],
    undefined: NDArray[np.str_],
    covariates: Mapping[str, NDArray[np.float64]],
    stacks: Sequence[str],
    layers: Sequence[int],
    names: Sequence[str],
    attributes: Mapping[str, Any],
    optional: Mapping[str, NDArray[np.float64]] | None = None,
    scales: Sequence[float] = (),
) -> xr.Dataset:
    """Put estimates, covariates and provenance into a Dataset of the profile's schema.

    Parameters
    ----------
    estimators : sequence of str
        Labels along ``estimator``.
    estimates : mapping
        Each of ``dimension``, ``standard_error``, ``ci_low``, ``ci_high``, of shape (n_estimators, n_layers).
    n_points, undefined : ndarray of shape (n_estimators, n_layers)
        Distinct points used; the reason where a dimension is undefined, else empty.
    covariates : mapping
        Each covariate, of shape (n_layers,).
    stacks, layers, names : sequence
        Coordinates along ``layer``.
    attributes : mapping
        Provenance; what is no number or text is stored as JSON, as netCDF knows nothing else.
    optional : mapping, optional
        Some of `OPTIONAL_VARIABLES`, with the dimensions given there.
    scales : sequence of float
        The scales along ``scale``.

    Returns
    -------
    xarray.Dataset
    """
    last = {stack: max(n for s, n in zip(stacks, layers, strict=True) if s == stack) for stack in set(stacks)}
    depth = [n / last[stack] if last[stack] else 0.0 for stack, n in zip(stacks, layers, strict=True)]
    grid = ("estimator", "layer")
    variables: dict[str, Any] = {name: (grid, estimates[name]) for name in ESTIMATES}
    variables |= {"n_points": (grid, n_points), "undefined": (grid, undefined.astype(object))}
    variables |= {name: ("layer", covariates[name]) for name in COVARIATES}
    extra = dict(optional or {})
    variables |= {name: (OPTIONAL_VARIABLES[name], values) for name, values in extra.items()}
    profile = xr.Dataset(
        variables,
        coords={
            "estimator": np.array(list(estimators), dtype=object),
            "layer": np.array(layers, dtype=np.int64),
            "name": ("layer", np.array(list(names), dtype=object)),
            "depth": ("layer", np.array(depth)),
            "stack": ("layer", np.array(list(stacks), dtype=object)),
        },
        attrs={"schema": SCHEMA, "schema_version": SCHEMA_VERSION} | plain_attributes(attributes),
    )
    if len(scales):
        profile = profile.assign_coords(scale=np.array(scales, dtype=np.float64))
    for name, text in _LONG_NAMES.items():
        if name in profile.variables:
            profile[name].attrs["long_name"] = text
    return check_profile(profile)


def check_profile(profile: Any) -> xr.Dataset:
    """Return ``profile`` if it has the schema of a profile.

    Raises
    ------
    TypeError
        If it is no Dataset.
    ValueError
        If it is of another kind, newer than this gelora, or lacks something; saying what.
    """
    if not isinstance(profile, xr.Dataset):
        raise TypeError(
            f"`profile` must be an xarray.Dataset as `gelora.estimate` returns, got {type(profile).__name__}"
        )
    check_schema(profile, "`profile`", schema=SCHEMA, version=SCHEMA_VERSION, kind="profile", made_by="gelora estimate")
    grid: tuple[str, ...] = ("estimator", "layer")
    needed: dict[str, tuple[str, ...]] = dict.fromkeys((*ESTIMATES, "n_points", "undefined"), grid)
    needed |= dict.fromkeys((*COVARIATES, "name", "depth", "stack"), ("layer",))
    needed |= {name: dims for name, dims in OPTIONAL_VARIABLES.items() if name in profile.variables}
    for name, dims in needed.items():
        if name not in profile.variables:
            raise ValueError(f"`profile` lacks the variable {name!r}: it was cut or changed since it was made")
        if set(profile[name].dims) != set(dims):
            raise ValueError(f"`profile`: {name!r} must have the dimensions {dims}, got {profile[name].dims}")
    if profile.sizes.get("replicate", 0) % 2:
        raise ValueError(
            f"`profile` has {profile.sizes['replicate']} replicates, but they come in pairs, two for each split: keep "
            "both of a pair"
        )
    if "dimension_replicates" in profile.variables and not {"n_rows", "replicate_rows"} <= set(profile.attrs):
        raise ValueError("`profile` lacks the attributes `n_rows` and `replicate_rows` of its replicates: keep them")
    if not profile.sizes["estimator"] or not profile.sizes["layer"]:
        raise ValueError("`profile` is empty: it needs at least one estimator and one layer")
    return profile


def save_profile(profile: xr.Dataset, path: str | Path) -> Path:
    """Write ``profile`` to a netCDF file, whole or not at all.

    Parameters
    ----------
    profile : xarray.Dataset
        As `gelora.estimate` returns.
    path : str or Path
        The file, customarily ``.nc``; an existing one is replaced.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        If ``path`` cannot be written; nothing is left behind.
    """
    return write_dataset(check_profile(profile), path)


def open_profile(path: str | Path) -> xr.Dataset:
    """Read a profile from a netCDF file into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, foreign or newer than this gelora.
    """
    return check_profile(read_dataset(path, made_by="gelora estimate --output"))


def attribute(profile: xr.Dataset, name: str) -> dict[str, Any]:
    """Return an attribute that holds a JSON object, such as ``architecture``; empty where there is none.

    Raises
    ------
    ValueError
        If the attribute is damaged.
    """
    record = json_attribute(profile, name, "`profile`")
    if not isinstance(record, dict):
        raise ValueError(f"`profile`: its attribute `{name}` is damaged: {record!r:.80}")
    return record


def has_interval(profile: xr.Dataset) -> NDArray[np.bool_]:
    """Say of each dimension whether both ends of its interval are there: one that is open above cannot be drawn."""
    return np.asarray(np.isfinite(profile["ci_low"].values) & np.isfinite(profile["ci_high"].values))


def drawn_interval(profile: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the bar of each dimension: its interval, else ± one standard error, NaN without either."""
    dimension, error = profile["dimension"].values, profile["standard_error"].values
    error = np.where(np.isfinite(error), error, np.nan)
    given = has_interval(profile)
    low = np.where(given, profile["ci_low"].values, dimension - error)
    return low, np.where(given, profile["ci_high"].values, dimension + error)
