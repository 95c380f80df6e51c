"""Estimate: representations × estimators → profile."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.clouds import Representations, as_representations
from gelora.measuring import LayerReading, Measurer, give_out, report_halves, report_undefined
from gelora.messages import check_replicates
from gelora.netcdf import plain_attributes
from gelora.profile import COVARIATES, make_profile
from gelora.provenance import generator, package_versions, timestamp
from gelora.registry import EstimatorChoice, describe_estimator
from gelora.registry import resolve_estimators as resolve_estimators
from gelora.replicates import Halves, draw_halves, rows_fingerprints
from gelora.representations import extract_representations
from gelora.stopping import UntilStable, Verdict
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, DimensionEstimator

SampleChoice = int | str | UntilStable | Callable[[Representations], bool] | None


def estimate(
    model: Any,
    data: Any,
    *,
    estimator: EstimatorChoice = "twonn",
    pooling: str = "mean",
    n_samples: SampleChoice = 5000,
    n_replicates: int = 0,
    confidence: float | None = None,
    seed: int = 0,
    text_column: str | Sequence[str] | None = None,
    max_length: int | None = None,
    decoder_texts: Sequence[str] | None = None,
    n_tokens: int | None = 20_000,
    layers: Sequence[str] | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Estimate the intrinsic dimension of a model's hidden states, layer by layer.

    Parameters
    ----------
    model : PreTrainedModel, torch.nn.Module, str or Path
        A loaded model, or the folder or hub name of one.
    data : list of str, list of pairs of str, datasets.Dataset, DataLoader, tensors, or path
        What to run through it; see `extract_representations`.
    estimator : str, estimator, a list of these, or a mapping from label to these
        Names as in `available_estimators`, with options as in ``"mle(k1=5, k2=10)"``, or callables.
    n_samples : int, "auto", UntilStable, callable, optional
        Rows drawn, by the seed alone; None takes all. ``"auto"`` draws in growing rounds, spread evenly over the
        data, until the ranks of the first estimator would come out the same in another draw with the asked
        ``confidence``, or the data end; `gelora.stopping.UntilStable` has the rule's options. Another callable is
        asked as in `extract_representations`.
    n_replicates : int
        Estimates on random halves of the rows, the same rows in every layer: an even number. They tell how far
        ranks can be trusted, see `plan_ranks`; 50 is a good number. ``"auto"`` brings 50 of its own.
    confidence : float, optional
        For ``n_samples="auto"``; 0.9 by default.
    pooling, text_column, max_length, decoder_texts, n_tokens, layers, tokenizer, batch_size, device, \
    revision, trust_remote_code
        As for `extract_representations`.
    seed : int
        Seed of the draw of rows and of every estimator's own draws.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    xarray.Dataset
        The profile: ``dimension``, ``standard_error``, ``ci_low``, ``ci_high``, ``n_points`` and ``undefined``
        (the reason, where a dimension is) by estimator and layer, covariates by layer, provenance in the
        attributes; ``dimension_scales`` where an estimator reads several scales; with replicates
        ``dimension_replicates`` and ``dimension_scale_replicates``. A number does not depend on which other
        estimators or layers were asked for.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Naming the argument, the requirement, what was found and the remedy.
    DegenerateCloudError
        If no dimension is defined at all.

    Warns
    -----
    UserWarning
        For each layer and estimator without a defined dimension, with the reason; what an estimator warns about
        comes with its name and the layer.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> import torch
    >>> config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    >>> tokens = torch.randint(1000, (200, 8), generator=torch.Generator().manual_seed(0))
    >>> profile = estimate(BertModel(config), tokens, estimator="twonn", progress=False)
    >>> dict(profile.sizes)
    {'estimator': 1, 'layer': 3}
    """
    estimators = resolve_estimators(estimator)  # before any work: a mistyped name costs no time
    generator(seed)
    check_replicates(n_replicates)
    watch = _watch(n_samples, estimators, n_replicates, confidence, seed)
    draw: Any = n_samples if watch is None else watch
    representations = extract_representations(
        model,
        data,
        pooling=pooling,
        n_samples=draw,
        seed=seed,
        text_column=text_column,
        max_length=max_length,
        decoder_texts=decoder_texts,
        n_tokens=n_tokens,
        layers=layers,
        tokenizer=tokenizer,
        batch_size=batch_size,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
    if watch is None:
        return estimate_representations(
            representations, estimator=estimators, n_replicates=n_replicates, seed=seed, progress=progress
        )
    return watch.finish(representations, estimators, progress)


def estimate_representations(
    representations: Any,
    *,
    estimator: EstimatorChoice = "twonn",
    n_replicates: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Estimate the intrinsic dimension of point clouds one already has.

    Parameters
    ----------
    representations : Representations, sequence of arrays, or mapping from name to array
        One cloud of shape (n_points, width) per layer, NumPy or torch, in order of depth.
    estimator, n_replicates, seed, progress
        As for `estimate`; replicates need clouds of one length. An estimator's own draws go by the seed and the name
        of the cloud, or its place in a list.

    Returns
    -------
    xarray.Dataset
        The profile, as from `estimate`.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, the requirement, what was found and the remedy.
    DegenerateCloudError
        If no dimension is defined at all.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> clouds = [rng.normal(size=(500, 2)), rng.normal(size=(500, 6))]
    >>> profile = estimate_representations(clouds, estimator="mle", progress=False)
    >>> [bool(abs(d - true) < 1) for d, true in zip(profile["dimension"].values[0], [2, 6])]
    [True, True]
    """
    estimators = resolve_estimators(estimator)
    clouds = as_representations(representations)
    started = time.perf_counter()
    halves = _halves(clouds, check_replicates(n_replicates), seed)
    n_estimates = len(estimators) * len(clouds) * (1 + len(halves))
    with tqdm(total=n_estimates, desc="dimensions", unit=" estimates", disable=not progress) as bar:
        measurer = Measurer(clouds=clouds, estimators=estimators, halves=halves, seed=seed, advance=bar.update)
        layers = [measurer.measure(column) for column in range(len(clouds))]
    give_out(measurer.caught)  # after the progress bar, which they would tear apart
    undefined = _table(layers, list(estimators), lambda reading: reading.reason, object)
    report_undefined(undefined, list(estimators), clouds)
    report_halves(layers, list(estimators), clouds)
    return _assemble(clouds, estimators, layers, halves, seed, time.perf_counter() - started)


def _halves(clouds: Representations, n_replicates: int, seed: int) -> Halves:
    if n_replicates and not clouds.rows:
        raise ValueError(
            "`n_replicates` needs clouds of one length, whose rows belong together: halves take the same rows in every "
            f"layer, got {sorted({len(cloud) for cloud in clouds.clouds})} points"
        )
    return draw_halves(clouds.rows, n_replicates, seed)


def _table(layers: Sequence[LayerReading], labels: Sequence[str], value: Callable[[Any], Any], dtype: Any) -> Any:
    return np.array([[value(layer.readings[label]) for layer in layers] for label in labels], dtype=dtype)


def _assemble(
    clouds: Representations,
    estimators: Mapping[str, DimensionEstimator],
    layers: Sequence[LayerReading],
    halves: Halves,
    seed: int,
    seconds: float,
) -> xr.Dataset:
    """Put the readings of all layers into a profile."""
    labels = list(estimators)

    def table(value: Callable[[DimensionEstimate], float]) -> NDArray[np.float64]:
        numbers: NDArray[np.float64] = _table(layers, labels, lambda reading: value(reading.estimate), np.float64)
        return numbers

    optional, scales = _optional(layers, labels, len(halves))
    seconds_of = {label: sum(layer.readings[label].seconds for layer in layers) for label in labels}
    replicates = {
        "n_replicates": len(halves),
        "n_rows": halves.n_rows,
        "replicate_rows": halves.n_rows // 2,
        "replicate_seed": int(seed),
        "rows_fingerprint": rows_fingerprints(clouds.rows),
    }
    return make_profile(
        estimators=labels,
        estimates={
            "dimension": table(lambda one: one.dimension),
            "standard_error": table(lambda one: one.standard_error),
            "ci_low": table(lambda one: one.interval[0]),
            "ci_high": table(lambda one: one.interval[1]),
        },
        n_points=table(lambda one: one.n_points).astype(np.int64),
        undefined=_table(layers, labels, lambda reading: reading.reason, object),
        covariates={name: np.array([layer.covariates.get(name, np.nan) for layer in layers]) for name in COVARIATES},
        stacks=clouds.stacks,
        layers=clouds.layers,
        names=clouds.names,
        optional=optional,
        scales=scales,
        attributes={
            **clouds.attributes,
            **replicates,
            "seed": int(seed),
            "estimators": {label: describe_estimator(function) for label, function in estimators.items()},
            "citations": {label: str(getattr(f, "citation", "")) for label, f in estimators.items()},
            "estimator_seconds": {label: round(value, 3) for label, value in seconds_of.items()},
            "neighbor_search_seconds": round(sum(layer.search_seconds for layer in layers), 3),
            "estimation_seconds": round(seconds, 3),
            "versions": package_versions(),
            "created": timestamp(),
        },
    )


def _optional(
    layers: Sequence[LayerReading], labels: Sequence[str], n_replicates: int
) -> tuple[dict[str, NDArray[np.float64]], list[float]]:
    """Return the variables by scale and replicate, where there are any, and the scales of all estimators."""
    every = [layer.readings[label].estimate.scales for layer in layers for label in labels]
    scales = sorted({float(scale) for found in every if found is not None for scale in found})
    shape = (len(labels), len(layers))
    optional = {}
    if n_replicates:
        optional["dimension_replicates"] = np.full((*shape, n_replicates), np.nan)
    if scales:
        optional["dimension_scales"] = np.full((*shape, len(scales)), np.nan)
    if scales and n_replicates:
        optional["dimension_scale_replicates"] = np.full((*shape, len(scales), n_replicates), np.nan)
    for (row, label), (column, layer) in product(enumerate(labels), enumerate(layers)):
        reading = layer.readings[label]
        if scales:
            optional["dimension_scales"][row, column] = _by_scale(reading.estimate, scales)
        for number, half in enumerate(reading.halves):
            if half is None:
                continue
            optional["dimension_replicates"][row, column, number] = half.dimension
            if scales:
                optional["dimension_scale_replicates"][row, column, :, number] = _by_scale(half, scales)
    return optional, scales


def _by_scale(one: DimensionEstimate, scales: Sequence[float]) -> NDArray[np.float64]:
    if one.scales is None or one.dimension_by_scale is None:
        return np.full(len(scales), np.nan)
    known = dict(zip(one.scales.tolist(), one.dimension_by_scale.tolist(), strict=True))
    return np.array([known.get(scale, math.nan) for scale in scales])


class _Watch:
    """Asks a stopping rule after every round, of the first estimator's profile."""

    def __init__(
        self, rule: UntilStable, estimators: Mapping[str, DimensionEstimator], n_replicates: int, seed: int
    ) -> None:
        self.rule = rule
        self.first = rule.first
        self.growth = rule.growth
        self.n_replicates = max(n_replicates, rule.n_replicates)
        self.seed = seed
        self.label = next(iter(estimators))
        self.estimator = {self.label: estimators[self.label]}
        self.verdicts: list[Verdict] = []
        self.profile: xr.Dataset | None = None
        self.caught: list[warnings.WarningMessage] | None = None
        self.seconds = 0.0

    def __call__(self, representations: Representations) -> bool:
        begun = time.perf_counter()
        try:
            return self._judge(representations)
        finally:
            self.seconds += time.perf_counter() - begun

    def _judge(self, representations: Representations) -> bool:
        with warnings.catch_warnings(record=True) as self.caught:  # those of the last round are given out at the end
            warnings.simplefilter("always")
            try:
                self.profile = self._estimate(representations, self.estimator, progress=False)
            except DegenerateCloudError:
                return False  # too few examples yet
        self.verdicts.append(self.rule.judge(self.profile, self.label))
        return self.verdicts[-1].stable

    def finish(
        self, representations: Representations, estimators: Mapping[str, DimensionEstimator], progress: bool
    ) -> xr.Dataset:
        """Return the profile of everything that was extracted, with the verdicts of the rounds."""
        profile = self._last(representations) if list(estimators) == [self.label] else None
        if profile is None:
            profile = self._estimate(representations, estimators, progress)
        last = self.verdicts[-1] if self.verdicts else None
        if last is None or not last.stable:
            _warn_unsettled(last, self.rule.confidence)
        rounds = {"auto": [verdict.record() for verdict in self.verdicts], "auto_estimator": self.label}
        stopped = "the data ended" if last is None or not last.stable else "the ranks were stable"
        rule = {"confidence": self.rule.confidence, "rounding": self.rule.rounding, "offset": self.rule.offset}
        seconds = {
            "auto_seconds": round(self.seconds, 3),
            "extraction_seconds": round(float(profile.attrs["extraction_seconds"]) - self.seconds, 3),
        }
        return profile.assign_attrs(plain_attributes({**rounds, **seconds, "auto_rule": rule, "auto_stopped": stopped}))

    def _last(self, representations: Representations) -> xr.Dataset | None:
        """Return the profile of the last round if it is of all that was extracted, with the full provenance."""
        counts = {"encoder": 0} | {stack: len(rows) for stack, rows in representations.rows.items()}
        if self.profile is None or int(self.profile.attrs["n_rows"]) != max(counts.values()):
            return None
        for entry in self.caught or ():
            warnings.warn(entry.message, category=entry.category, stacklevel=5)
        return self.profile.assign_attrs(plain_attributes(representations.attributes))

    def _estimate(
        self, representations: Representations, estimators: Mapping[str, DimensionEstimator], progress: bool
    ) -> xr.Dataset:
        return estimate_representations(
            representations, estimator=estimators, n_replicates=self.n_replicates, seed=self.seed, progress=progress
        )


def _watch(
    n_samples: SampleChoice,
    estimators: Mapping[str, DimensionEstimator],
    n_replicates: int,
    confidence: float | None,
    seed: int,
) -> _Watch | None:
    """Return what decides in the extraction's rounds; None where the number is given, or somebody else decides."""
    if isinstance(n_samples, str):
        if n_samples != "auto":
            raise ValueError(f"`n_samples` must be a number, 'auto' or None for all, got {n_samples!r}")
        return _Watch(UntilStable(confidence=confidence or 0.9), estimators, n_replicates, seed)
    if confidence is not None:
        raise ValueError(f"`confidence` goes with n_samples='auto', got n_samples={n_samples!r:.60}: leave it out")
    if isinstance(n_samples, UntilStable):
        return _Watch(n_samples, estimators, n_replicates, seed)
    return None


def _warn_unsettled(last: Verdict | None, confidence: float) -> None:
    if last is None:
        warnings.warn("the data ended before any dimension was defined in halves of it", stacklevel=4)
        return
    need = "no number of examples" if math.isinf(last.n_settling) else f"about {last.n_settling:,.0f} examples"
    warnings.warn(
        f"the data ended at {last.n_rows:,} examples before the ranks were stable: another draw would give the same "
        f"with probability {last.stability:.2f}, and {need} would make it {confidence:g}; see how the plan moves "
        "with scale and rounding",
        stacklevel=4,
    )
