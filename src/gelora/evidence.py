"""What ranks rest on: the dimensions of one or several profiles, their spread over draws, and their scales."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gelora.geometry import BlockKey, FloatArray, block_columns, deviations, standard_draws
from gelora.messages import check_confidence, nearest
from gelora.profile import check_profile
from gelora.provenance import fingerprint, generator

COMBINATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "max": lambda values: np.asarray(values.max(axis=0)),
    "mean": lambda values: np.asarray(values.mean(axis=0)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The dimensions of one estimator in one or several profiles, stacked.

    Parameters
    ----------
    layers : tuple of (stack, layer)
        Of each profile, in order; the same for all.
    dimensions : ndarray of shape (n_profiles, n_layers)
        NaN where undefined.
    spreads : tuple of ndarray of shape (n_deviations, n_layers)
        For each profile, as from `gelora.geometry.deviations`, NaN where undefined; empty without replicates.
    scales : ndarray of shape (n_scales,)
        Scales that all profiles have.
    by_scale : ndarray of shape (n_scales, n_profiles, n_layers)
        Dimensions at these.
    spreads_by_scale : tuple of tuple of ndarray
        By scale and profile, as ``spreads``.
    combine : str
        How profiles are joined, one of `COMBINATIONS`.
    n_examples : int
        The fewest data rows of a profile.
    taken, reason : str
        The scale of ``dimensions``, and why it.
    records : list of dict
        Provenance of each profile.
    """

    layers: tuple[BlockKey, ...]
    dimensions: FloatArray
    spreads: tuple[FloatArray, ...]
    scales: FloatArray
    by_scale: FloatArray
    spreads_by_scale: tuple[tuple[FloatArray, ...], ...]
    combine: str
    n_examples: int
    taken: str
    reason: str
    records: list[dict[str, Any]]

    @property
    def blocks(self) -> tuple[BlockKey, ...]:
        """The blocks between the layers."""
        return block_columns(self.layers)[0]

    @property
    def has_spread(self) -> bool:
        """Whether every profile carries replicates on which its dimensions are defined."""
        return bool(self.spreads) and all(len(spread) >= 4 for spread in self.spreads)

    def need_spread(self, what: str) -> None:
        """Raise ValueError, naming ``what`` needs it, unless `has_spread`; telling none from undefined ones."""
        if self.has_spread:
            return
        if any(record["n_replicates"] for record in self.records):
            raise ValueError(
                f"{what} needs the spread of the dimensions, but they are undefined on most halves of the rows: give "
                "more data, or an estimator that needs fewer points"
            )
        raise ValueError(f"{what} needs the spread of the dimensions: estimate the profile with n_replicates=50")

    def rises(self, stacked: FloatArray) -> FloatArray:
        """Return max(d_i − d_{i−1}, 0), joined over the profiles, (n_draws, n_blocks), from stacked dimensions."""
        _, before, after = block_columns(self.layers)
        single = stacked.reshape(len(stacked), *self.dimensions.shape)
        rise = np.maximum(single[:, :, after] - single[:, :, before], 0.0)
        return COMBINATIONS[self.combine](np.moveaxis(rise, 1, 0))

    def tops(self, stacked: FloatArray) -> FloatArray:
        """Return the dimension of each block's output, joined over the profiles, (n_draws, n_blocks)."""
        _, _, after = block_columns(self.layers)
        single = stacked.reshape(len(stacked), *self.dimensions.shape)
        return COMBINATIONS[self.combine](np.moveaxis(single[:, :, after], 1, 0))

    def weights(self, seed: int, n_draws: int) -> FloatArray:
        """Return Student weights for `stacked_spread`, each profile's drawn by itself."""
        parts = [
            standard_draws(len(spread), generator(seed, "rank draws", number), n_draws)
            for number, spread in enumerate(self.spreads)
        ]
        return np.concatenate(parts, axis=1)


def stacked_spread(spreads: Sequence[FloatArray]) -> FloatArray:
    """Return the deviations of several profiles, which are independent, as blocks along a diagonal."""
    from scipy.linalg import block_diag

    return np.asarray(block_diag(*spreads), dtype=np.float64)


def read_evidence(
    profiles: Sequence[xr.Dataset], estimator: str | None, *, scale: float | None, combine: str, reason: str = ""
) -> Evidence:
    """Read what ranks rest on from profiles of one architecture.

    Parameters
    ----------
    profiles : sequence of xarray.Dataset
        Checked.
    estimator : str, optional
        Which estimator; may be left out where a profile has one.
    scale : float, optional
        Take its dimensions at this scale in place of its own number.
    combine : str
        One of `COMBINATIONS`.
    reason : str
        Why this scale, where the caller knows.

    Raises
    ------
    ValueError
        If the estimator must be named or is unknown, the profiles have different layers, or the scale is none of
        the estimator's.
    """
    labels = [estimator_label(profile, estimator) for profile in profiles]
    if len(set(labels)) > 1:
        raise ValueError(
            f"`profile`: the profiles must be joined by one estimator, got {labels}: make them with the same, and name "
            "it by `estimator`"
        )
    poolings = {str(profile.attrs.get("pooling", "")) for profile in profiles}
    if len(poolings) > 1:
        raise ValueError(f"`profile`: the profiles must have one pooling, got {sorted(poolings)}: make them alike")
    rows = [profile.sel(estimator=label) for profile, label in zip(profiles, labels, strict=True)]
    layers = _layers(rows[0])
    if any(_layers(row) != layers for row in rows):
        raise ValueError("`profile`: all profiles must have the same layers: make them for the same model")
    scales = _shared_scales(rows)
    if scale is not None and scale not in scales:
        raise ValueError(f"`scale` must be one of the estimator's scales {scales.tolist()}, got {scale!r}")
    by_scale = np.array([[_at(row, float(one)) for row in rows] for one in scales]).reshape(
        len(scales), len(rows), len(layers)
    )
    if scale is None:
        dimensions = np.array([row["dimension"].values for row in rows])
        spreads = _spreads(rows, None)
        taken, why = "the estimator's own number", reason or "no scale was asked for"
    else:
        dimensions = by_scale[int(np.flatnonzero(scales == scale)[0])]
        spreads = _spreads(rows, scale)
        taken, why = f"{scale:g}", reason or "asked for"
    return Evidence(
        layers=layers,
        dimensions=dimensions,
        spreads=spreads,
        scales=scales,
        by_scale=by_scale,
        spreads_by_scale=tuple(_spreads(rows, float(one)) for one in scales),
        combine=combine,
        n_examples=min(int(row.attrs.get("n_rows", 0) or row["n_points"].min()) for row in rows),
        taken=taken,
        reason=why,
        records=[_record(row, dimension) for row, dimension in zip(rows, dimensions, strict=True)],
    )


def rise_intervals(profile: xr.Dataset, estimator: str | None = None, *, confidence: float = 0.95) -> xr.Dataset:
    """Return d_i − d_{i−1} of every block with its error, from the halves that both layers share.

    Parameters
    ----------
    profile : xarray.Dataset
        With replicates.
    estimator : str, optional
        May be left out where the profile has one.
    confidence : float
        Coverage of the interval, in (0, 1).

    Returns
    -------
    xarray.Dataset
        ``rise``, ``standard_error``, ``ci_low``, ``ci_high`` and ``independent_error``, what errors of the two
        layers taken for independent would add up to, along ``block``. The interval is Student's with as many degrees
        of freedom as there are splits; it knows nothing of bias.

    Raises
    ------
    ValueError
        If the profile has no replicates.
    """
    from scipy.stats import t as student

    found = read_evidence([check_profile(profile)], estimator, scale=None, combine="max")
    found.need_spread("the error of a rise")
    blocks, before, after = block_columns(found.layers)
    spread, dimensions = found.spreads[0], found.dimensions[0]
    errors = np.sqrt(np.square(spread).mean(axis=0))
    paired = np.sqrt(np.square(spread[:, after] - spread[:, before]).mean(axis=0))
    rise = dimensions[after] - dimensions[before]
    reach = float(student.ppf(0.5 + check_confidence(confidence) / 2.0, len(spread) // 2)) * paired
    return xr.Dataset(
        {
            "rise": ("block", rise),
            "standard_error": ("block", paired),
            "ci_low": ("block", rise - reach),
            "ci_high": ("block", rise + reach),
            "independent_error": ("block", np.hypot(errors[after], errors[before])),
        },
        coords={
            "block": [number for _, number in blocks],
            "stack": ("block", [stack for stack, _ in blocks]),
        },
    )


def estimator_label(profile: xr.Dataset, estimator: str | None) -> str:
    """Return the estimator that decides.

    Raises
    ------
    ValueError
        If it is not named though the profile has several, or the profile lacks it.
    """
    labels = [str(label) for label in profile["estimator"].values]
    if estimator is None:
        if len(labels) > 1:
            raise ValueError(
                f"`estimator` must say which of the profile's estimators decides the ranks: one of {labels}"
            )
        return labels[0]
    if estimator not in labels:
        raise ValueError(f"`estimator`: the profile has no {estimator!r}, it has {labels}{nearest(estimator, labels)}")
    return estimator


def _layers(row: xr.Dataset) -> tuple[BlockKey, ...]:
    return tuple((str(s), int(n)) for s, n in zip(row["stack"].values, row["layer"].values, strict=True))


def _shared_scales(rows: Sequence[xr.Dataset]) -> FloatArray:
    """Return the scales at which every layer of every profile that is defined at all has a dimension."""
    found: set[float] | None = None
    for row in rows:
        if "dimension_scales" not in row.variables:
            return np.empty(0)
        table = row["dimension_scales"].transpose("layer", "scale").values[np.isfinite(row["dimension"].values)]
        own = {float(one) for one in row["scale"].values[np.isfinite(table).all(axis=0)]} if len(table) else set()
        found = own if found is None else found & own
    return np.array(sorted(found or ()), dtype=np.float64)


def _at(row: xr.Dataset, scale: float) -> FloatArray:
    return np.asarray(row["dimension_scales"].sel(scale=scale).values, dtype=np.float64)


def _spreads(rows: Sequence[xr.Dataset], scale: float | None) -> tuple[FloatArray, ...]:
    name = "dimension_replicates" if scale is None else "dimension_scale_replicates"
    if any(name not in row.variables for row in rows):
        return ()
    return tuple(_spread(row, row[name] if scale is None else row[name].sel(scale=scale)) for row in rows)


def _spread(row: xr.Dataset, replicates: xr.DataArray) -> FloatArray:
    """Return the deviations of the layers that are defined, NaN for the others."""
    values = np.asarray(replicates.transpose("replicate", "layer").values, dtype=np.float64)
    defined = np.isfinite(row["dimension"].values)
    found = deviations(values[:, defined], int(row.attrs["n_rows"]), int(row.attrs["replicate_rows"]))
    spread: NDArray[np.float64] = np.full((len(found), values.shape[1]), np.nan)
    spread[:, defined] = found
    return spread


def _record(row: xr.Dataset, dimensions: FloatArray) -> dict[str, Any]:
    marks = [str(row.attrs.get(name, "")).encode() for name in ("data_fingerprint", "weights_fingerprint")]
    return {
        "estimator": str(row["estimator"].values),
        "dimensions": {
            f"{stack} {layer}": float(d) if math.isfinite(d) else None
            for (stack, layer), d in zip(_layers(row), dimensions, strict=True)
        },
        "fingerprint": fingerprint([row["dimension"].values.tobytes(), *marks]),
        "model": str(row.attrs.get("model", "")),
        "data": str(row.attrs.get("data", "")),
        "data_fingerprint": str(row.attrs.get("data_fingerprint", "")),
        "pooling": str(row.attrs.get("pooling", "")),
        "n_points": int(row["n_points"].min()),
        "n_replicates": int(row.attrs.get("n_replicates", 0)),
    }
