"""The theorems on one model, block by block: dimensions beside the ranks that are said to bound them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from gelora.blocks import Architecture, architecture_of, find_blocks, weights_fingerprint
from gelora.fisher import FisherSpectrum
from gelora.messages import nearest
from gelora.netcdf import check_schema, plain_attributes, read_dataset, write_dataset
from gelora.plan import RankPlan, check_same_architecture, warn_other_weights
from gelora.profile import attribute, check_profile
from gelora.provenance import package_versions, timestamp
from gelora.theory.adapted import BlockKey, fisher_ranks
from gelora.theory.inputs import backbone, load_model
from gelora.theory.jacobians import ENERGY_SHARES, jacobian_spectra

if TYPE_CHECKING:
    from rich.table import Table

Columns = dict[str, tuple[Any, NDArray[Any]]]
SCHEMA = "gelora-theory-report"
SCHEMA_VERSION = 1
# A rank this near to the width bounds nothing: a layer norm alone takes one or two directions away.
VACUOUS_SHARE = 0.95
_LONG_NAMES = {
    "dimension": "intrinsic dimension of the block's output",
    "standard_error": "standard error of the dimension",
    "rise": "dimension of the output less that of the input",
    "jacobian_rank": "largest rank of the Jacobian over the points",
    "jacobian_energy_rank_90": "largest number of singular values with 90 % of the sum of squares, over the points",
    "jacobian_energy_rank_99": "largest number of singular values with 99 % of the sum of squares, over the points",
    "jacobian_lower_bound": "whether the probes ran out at some point, so that the rank may be larger",
    "n_adapted": "adapted parameters of the block",
    "width": "width of the block's output",
    "gap": "largest rank of the Jacobian less the dimension",
    "fisher_rank": "rank of the Fisher information of the adapted parameters",
    "fisher_effective_rank": "exponential of the entropy of its normalised eigenvalues",
    "fisher_energy_rank_90": "eigenvalues that hold 90 % of its trace",
    "fisher_saturated": "1 where every example added a direction, so that the rank may be larger",
    "bound_holds": "1 where the dimension does not exceed the rank of the Jacobian, 0 where it does, NaN if undecided",
    "corollary_holds": "1 where the rise does not exceed the adapted parameters, 0 where it does, NaN if undecided",
    "vacuous": "whether that rank is so near to the width that it bounds nothing",
}


def theory_report(
    model: Any,
    profile: xr.Dataset,
    data: Any = None,
    *,
    plan: RankPlan | None = None,
    labelled_batches: Iterable[Mapping[str, Any]] | None = None,
    estimator: str | None = None,
    n_points: int = 8,
    n_probes: int | None = None,
    max_examples: int = 256,
    layers: Sequence[str] | None = None,
    text_column: str | Sequence[str] | None = None,
    max_length: int | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
    **options: Any,
) -> xr.Dataset:
    r"""Put the dimensions of a profile beside the ranks that GeLoRA's theorems bound them by.

    Theorem 3.2 of EdDib2024, as we read it: :math:`d_i \le \operatorname{rank}(T_i)`, the largest rank over the data
    of the Jacobian of block i in its input and parameters. Its corollary: :math:`\max(d_i - d_{i-1}, 0) \le N_i`, the
    number of parameters of block i that need optimising. Both are checked with the estimated dimensions.

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        Bare, with a head, or adapted by peft's LoRA. With a head where ``labelled_batches`` are given.
    profile : xarray.Dataset
        As `gelora.estimate` returns, of this model; its pooling is used.
    data : optional
        What the Jacobians are taken at, as for `gelora.extract_representations`; the labelled batches where left out.
    plan : RankPlan, optional
        The adapted parameters of a model that is not adapted. Without either, Jacobians in the input alone.
    labelled_batches : iterable of mappings of tensors, optional
        For the ranks of the Fisher information, e.g. as from `gelora.finetuning.labelled.labelled_batches`.
    estimator : str, optional
        Which of the profile's estimators; may be left out where it has one.
    n_points : int
        Examples for the Jacobians.
    n_probes : int, optional
        See `jacobian_spectra`.
    max_examples : int
        Labelled examples for the Fisher information.
    layers, text_column, max_length, tokenizer, seed, revision, trust_remote_code, progress
        As for `jacobian_spectra`.
    **options
        Further options of `jacobian_spectra`: ``tolerance``, ``chunk_size``, ``max_bytes``, ``decoder_texts``.

    Returns
    -------
    xarray.Dataset
        Along ``block``: ``dimension``, ``standard_error``, ``rise``, ``gap``, ``n_adapted``, ``width``;
        ``jacobian_rank``, ``jacobian_energy_rank_90``, ``jacobian_energy_rank_99``, ``jacobian_lower_bound`` also by
        ``respect``; ``fisher_rank``, ``fisher_effective_rank``, ``fisher_energy_rank_90``, ``fisher_saturated``, NaN
        without labels; ``bound_holds`` and ``corollary_holds``, 1 or 0, NaN where a dimension is undefined, nothing is
        adapted or the probes ran out below the dimension; ``vacuous``.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If the profile belongs to another architecture, lacks the estimator or its layers, there is nothing to take
        Jacobians at, or as `jacobian_spectra`.

    Warns
    -----
    UserWarning
        If the profile was made with other weights.

    Notes
    -----
    A rank at ``n_points`` inputs is a lower bound to the largest over the data. Where ``vacuous`` is true the bound
    holds for any cloud of that width, and its holding says nothing: energy ranks tell more. The dimensions are
    estimates; weigh a violation against their errors.
    """
    check_profile(profile)
    label = _label(profile, estimator)
    batches = None if labelled_batches is None else list(labelled_batches)
    if data is None:
        if batches is None:
            raise ValueError("`data` must be given, or `labelled_batches`: the Jacobians are taken at examples")
        data = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches]
    loaded, tokenizer = load_model(model, data, tokenizer, revision, trust_remote_code)
    _check_belongs(profile, loaded, layers)
    spectra = jacobian_spectra(
        loaded,
        data,
        plan=plan,
        n_points=n_points,
        pooling=str(profile.attrs.get("pooling") or "mean"),
        n_probes=n_probes,
        layers=layers,
        text_column=text_column,
        max_length=max_length,
        tokenizer=tokenizer,
        seed=seed,
        progress=progress,
        **options,
    )
    columns = _dimensions(profile, label, spectra) | _jacobians(spectra)
    fisher: dict[BlockKey, FisherSpectrum] = {}
    if batches is not None and int(spectra["n_adapted"].sum()):
        fisher = fisher_ranks(loaded, batches, plan=plan, max_examples=max_examples, seed=seed, progress=progress)
    columns |= _fishers(fisher, _keys(spectra)) | _verdicts(columns)
    return _finish(columns, spectra, profile, label, fisher)


def _label(profile: xr.Dataset, estimator: str | None) -> str:
    labels = [str(label) for label in profile["estimator"].values]
    if estimator is None and len(labels) == 1:
        return labels[0]
    if estimator not in labels:
        hint = "" if estimator is None else nearest(estimator, labels)
        raise ValueError(f"`estimator` must be one of the profile's estimators {labels}, got {estimator!r}{hint}")
    return str(estimator)


def _check_belongs(profile: xr.Dataset, model: torch.nn.Module, layers: Sequence[str] | None) -> None:
    """Check that ``profile`` was made with this architecture, and warn of other weights."""
    runner = backbone(model)
    blocks = find_blocks(runner, layers)
    recorded = attribute(profile, "architecture")
    if recorded:
        try:
            made_for = Architecture.from_record(recorded)
        except ValueError as error:
            raise ValueError(f"`profile`: its attribute `architecture` is damaged: {error}") from error
        check_same_architecture(made_for, architecture_of(runner, blocks), "the profile")
    own = str(profile.attrs.get("weights_fingerprint", ""))
    warn_other_weights(own, weights_fingerprint(runner, blocks), "the profile")


def _keys(spectra: xr.Dataset) -> list[BlockKey]:
    return [(str(s), int(b)) for s, b in zip(spectra["stack"].values, spectra["block"].values, strict=True)]


def _dimensions(profile: xr.Dataset, label: str, spectra: xr.Dataset) -> Columns:
    row = profile.sel(estimator=label)
    layers = zip(row["stack"].values, row["layer"].values, strict=True)
    place = {(str(stack), int(layer)): column for column, (stack, layer) in enumerate(layers)}
    keys = _keys(spectra)
    missing = [key for stack, block in keys for key in ((stack, block - 1), (stack, block)) if key not in place]
    if missing:
        raise ValueError(
            f"`profile` lacks layer {missing[0][1]} of the {missing[0][0]}, which `model` has on this data: make it "
            "again for this model"
        )
    before = [place[stack, block - 1] for stack, block in keys]
    after = [place[key] for key in keys]
    dimension = row["dimension"].values
    return {
        "dimension": ("block", dimension[after]),
        "standard_error": ("block", row["standard_error"].values[after]),
        "rise": ("block", dimension[after] - dimension[before]),
    }


def _jacobians(spectra: xr.Dataset) -> Columns:
    names = {"jacobian_rank": "rank", "jacobian_lower_bound": "lower_bound"}
    names |= {f"jacobian_{name}": name for name in ENERGY_SHARES}
    columns: Columns = {name: (("respect", "block"), spectra[of].max("point").values) for name, of in names.items()}
    return columns | {name: ("block", spectra[name].values) for name in ("n_adapted", "width")}


def _fishers(spectra: Mapping[BlockKey, FisherSpectrum], keys: Sequence[BlockKey]) -> Columns:
    found = [spectra.get(key) for key in keys]

    def column(value: Callable[[FisherSpectrum], float]) -> tuple[str, NDArray[np.float64]]:
        return "block", np.array([math.nan if one is None else value(one) for one in found], dtype=np.float64)

    return {
        "fisher_rank": column(lambda one: one.rank),
        "fisher_effective_rank": column(lambda one: one.effective_rank),
        "fisher_energy_rank_90": column(lambda one: one.energy_rank(0.9)),
        "fisher_saturated": column(lambda one: one.saturated),
    }


def _verdicts(columns: Columns) -> Columns:
    # The last respect is the widest asked for: both, or the input.
    rank = columns["jacobian_rank"][1][-1]
    dimension, rise, n_adapted = (columns[name][1] for name in ("dimension", "rise", "n_adapted"))
    # Nothing is adapted: there is no N to hold the rise against.
    ceiling = np.where(n_adapted > 0, n_adapted, math.nan)
    # Where the probes ran out the rank may be larger: a dimension above what was found decides nothing.
    short = columns["jacobian_lower_bound"][1][-1] & (dimension > rank)
    return {
        "gap": ("block", rank - dimension),
        "bound_holds": ("block", _holds(dimension, np.where(short, math.nan, rank))),
        "corollary_holds": ("block", _holds(np.maximum(rise, 0.0), ceiling)),
        "vacuous": ("block", rank > VACUOUS_SHARE * columns["width"][1]),
    }


def _holds(value: NDArray[Any], bound: NDArray[Any]) -> NDArray[np.float64]:
    known = np.isfinite(value) & np.isfinite(bound)
    return np.where(known, np.where(known, value, 0.0) <= bound, math.nan)


def _finish(
    columns: Columns,
    spectra: xr.Dataset,
    profile: xr.Dataset,
    label: str,
    fisher: Mapping[BlockKey, FisherSpectrum],
) -> xr.Dataset:
    kept = {
        name: profile.attrs.get(name, "") for name in ("data", "data_fingerprint", "weights_fingerprint", "created")
    }
    taken = (
        "model",
        "architecture",
        "weights_fingerprint",
        "pooling",
        "n_probes",
        "tolerance",
        "seed",
        "data",
        "data_fingerprint",
    )
    attributes = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        **{name: spectra.attrs[name] for name in taken},
        "estimator": label,
        "profile": kept,
        "n_points": spectra.sizes["point"],
        "n_labelled": max((one.n_examples for one in fisher.values()), default=0),
        "versions": package_versions(),
        "created": timestamp(),
    }
    coords = {name: spectra[name] for name in ("respect", "block", "stack", "name")}
    report = xr.Dataset(columns, coords=coords, attrs=plain_attributes(attributes))
    for name, text in _LONG_NAMES.items():
        report[name].attrs["long_name"] = text
    return report


def save_report(report: xr.Dataset, path: str | Path) -> Path:
    """Write a report as from `theory_report` to a netCDF file, whole or not at all.

    Raises
    ------
    ValueError
        If ``report`` is something else.
    OSError
        If ``path`` cannot be written; nothing is left behind.
    """
    return write_dataset(_check(report, "`report`"), path)


def open_report(path: str | Path) -> xr.Dataset:
    """Read a report of `theory_report` from a netCDF file into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind or newer than this gelora.
    """
    return _check(read_dataset(path, made_by="gelora theory --output"), f"`path`: {str(path)!r}")


def _check(report: xr.Dataset, what: str) -> xr.Dataset:
    kind = {"kind": "theory report", "made_by": "gelora theory"}
    check_schema(report, what, schema=SCHEMA, version=SCHEMA_VERSION, **kind)
    missing = [name for name in _LONG_NAMES if name not in report.variables]
    if missing:
        raise ValueError(f"{what} lacks the variable {missing[0]!r}: it was cut or changed since it was made")
    return report


def theory_table(report: xr.Dataset, title: str | None = None) -> "Table":
    """Return a table with a row per block: dimension against rank, rise against adapted parameters, Fisher rank.

    Parameters
    ----------
    report : xarray.Dataset
        As `theory_report` returns.
    title : str, optional
        Stands above the table.

    Returns
    -------
    rich.table.Table
    """
    from rich.table import Table

    _check(report, "`report`")
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    for heading in ("block", "dimension ≤ rank", "bound", "99 %", "rise ≤ adapted", "Fisher rank"):
        table.add_column(heading, justify="right", no_wrap=True)
    several = len(set(report["stack"].values)) > 1
    for column in range(report.sizes["block"]):
        one = report.isel(block=column, respect=-1)
        bound, corollary = float(one["bound_holds"]), float(one["corollary_holds"])
        value, error, adapted = float(one["dimension"]), float(one["standard_error"]), int(one["n_adapted"])
        dimension = _number(value) + ("" if math.isnan(value + error) else f" ± {error:.1f}")
        rank = ("≥" if bool(one["jacobian_lower_bound"]) else "") + str(int(one["jacobian_rank"]))
        table.add_row(
            f"{str(one['stack'].item())[:3]} {int(one['block'])}" if several else str(int(one["block"])),
            f"{dimension} {_sign(bound)} {rank}",
            "vacuous" if bound == 1 and bool(one["vacuous"]) else _word(bound),
            str(int(one["jacobian_energy_rank_99"])),
            f"{_number(float(one['rise']))} {_sign(corollary)} {f'{adapted:,}' if adapted else '–'}",
            _fisher(one),
        )
    points, labelled = report.attrs["n_points"], report.attrs["n_labelled"]
    table.caption = (
        f"rank and 99 % energy: of the Jacobians at {points} examples, in {report['respect'].values[-1]}"
        + (f"\nFisher rank (effective rank): of {labelled} labelled examples" if labelled else "")
    )
    return table


def _word(verdict: float) -> str:
    return "undecided" if math.isnan(verdict) else ("holds" if verdict else "violated")


def _sign(verdict: float) -> str:
    return "?" if math.isnan(verdict) else ("≤" if verdict else ">")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _fisher(one: xr.Dataset) -> str:
    rank = float(one["fisher_rank"])
    if math.isnan(rank):
        return "–"
    return f"{'≥' if float(one['fisher_saturated']) else ''}{rank:.0f} ({float(one['fisher_effective_rank']):.1f})"
