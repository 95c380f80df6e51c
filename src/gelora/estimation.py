"""Estimate: representations × estimators → profile."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.clouds import Representations, as_representations
from gelora.measuring import (
    Caught,
    LayerReading,
    Measurer,
    copies_removed,
    covariate_method,
    give_out,
    neighbor_method,
    neighbor_recall,
    report_halves,
    report_recall,
    report_undefined,
    warnings_record,
)
from gelora.messages import check_replicates
from gelora.processes import Processes
from gelora.profile import COVARIATES, make_profile
from gelora.provenance import generator, package_versions, timestamp
from gelora.registry import EstimatorChoice, describe_estimator
from gelora.registry import resolve_estimators as resolve_estimators
from gelora.replicates import Halves, draw_halves, rows_fingerprints
from gelora.representations import extract_representations
from gelora.scheduling import SERIAL, Scheduler, check_scheduler
from gelora.watching import SampleChoice, watch_for
from gelora_estimators.protocol import DimensionEstimate, DimensionEstimator


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
    layers: Sequence[str] | Sequence[int] | None = None,
    tokenizer: Any = None,
    batch_size: int | str = 32,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | None = None,
    precision: str = "float32",
    store: str | Path | None = None,
    all_processes: bool = False,
    scheduler: str | None = None,
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
    device_map, quantization, precision, store, all_processes, revision, trust_remote_code
        As for `extract_representations`.
    seed : int
        Seed of the draw of rows and of every estimator's own draws.
    scheduler : {"threads", "serial"} or str, optional
        What runs the estimators: threads, by dask where it is installed; one after the other; or the workers of the
        dask scheduler at an address such as ``"tcp://host:8786"``, which read a `store` that they can reach. By
        default an active client of ``dask.distributed``, else threads. The numbers are the same.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    xarray.Dataset
        The profile: ``dimension``, ``standard_error``, ``ci_low``, ``ci_high``, ``n_points`` and ``undefined``
        (the reason, where a dimension is) by estimator and layer, covariates by layer, provenance in the
        attributes, what estimators warned of among them; ``n_copies``, exact copies left out;
        ``dimension_scales`` where an estimator reads several scales; with replicates
        ``dimension_replicates`` and ``dimension_scale_replicates``; ``neighbor_recall`` where an estimator was asked to
        search approximately, and the attribute ``neighbor_methods``. A number does not depend on which other
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
        comes with its name and the layer. For an approximate search that finds less than 90 % of the neighbours.

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
    check_scheduler(scheduler)
    watched = partial(estimate_representations, scheduler=scheduler)
    watch = watch_for(n_samples, estimators, n_replicates, confidence, seed, watched)
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
        device_map=device_map,
        quantization=quantization,
        precision=precision,
        store=store,
        all_processes=all_processes,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
    if watch is not None:
        return watch.finish(representations, estimators, progress)
    own: dict[str, Any] = {"seed": seed, "scheduler": scheduler, "progress": progress}
    return Processes(device or "auto", alone=not all_processes).agree(
        lambda: estimate_representations(representations, estimator=estimators, n_replicates=n_replicates, **own)
    )


def estimate_representations(
    representations: Any,
    *,
    estimator: EstimatorChoice = "twonn",
    n_replicates: int = 0,
    seed: int = 0,
    scheduler: str | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Estimate the intrinsic dimension of point clouds one already has.

    Parameters
    ----------
    representations : Representations, sequence of arrays, or mapping from name to array
        One cloud of shape (n_points, width) per layer, NumPy or torch, in order of depth.
    estimator, n_replicates, seed, scheduler, progress
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
    layers, told = _measure(Measurer(clouds, estimators, halves, seed), scheduler, progress)
    give_out(told)  # after the progress bar, which they would tear apart
    undefined = _table(layers, list(estimators), lambda reading: reading.reason, object)
    report_undefined(undefined, list(estimators), clouds)
    report_halves(layers, list(estimators), clouds)
    report_recall(layers, estimators, clouds)
    return _assemble(clouds, estimators, layers, told, halves, seed, time.perf_counter() - started)


def _measure(measurer: Measurer, scheduler: str | None, progress: bool) -> tuple[list[LayerReading], Caught]:
    """Run the tasks of all layers, and return their readings with what the estimators warned of."""
    n_layers, n_tasks = len(measurer.clouds), len(measurer.estimators) + 1
    told: Caught = []
    chosen = Scheduler(scheduler)
    try:
        with tqdm(total=n_layers * n_tasks, desc="dimensions", unit=" estimates", disable=not progress) as bar:
            if chosen.kind == SERIAL:
                results = [chosen.results(measurer.tasks(column, chosen), bar.update) for column in range(n_layers)]
            else:
                tasks = [task for column in range(n_layers) for task in measurer.tasks(column, chosen)]
                flat = chosen.results(tasks, bar.update)
                results = [flat[start : start + n_tasks] for start in range(0, len(flat), n_tasks)]
    finally:
        chosen.close()
    return [measurer.put_together(column, result, told) for column, result in enumerate(results)], told


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
    told: Caught,
    halves: Halves,
    seed: int,
    seconds: float,
) -> xr.Dataset:
    """Put the readings of all layers into a profile."""
    labels = list(estimators)

    def table(value: Callable[[DimensionEstimate], float]) -> Any:
        return _table(layers, labels, lambda reading: value(reading.estimate), np.float64)

    optional, scales = _optional(layers, labels, len(halves))
    optional["n_copies"] = table(copies_removed)
    methods = {label: way for label, function in estimators.items() if (way := neighbor_method(function)) != "exact"}
    if methods:
        optional["neighbor_recall"] = table(neighbor_recall)
    seconds_of = {label: sum(layer.readings[label].seconds for layer in layers) for label in labels}
    replicates = {
        "n_replicates": len(halves),
        "n_rows": halves.n_rows,
        "replicate_rows": halves.n_rows // 2,
        "replicate_seed": int(seed),
        "rows_fingerprint": rows_fingerprints(clouds.rows),
    }
    profile = make_profile(
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
            "estimator_warnings": warnings_record(told),
            "citations": {label: str(getattr(f, "citation", "")) for label, f in estimators.items()},
            "estimator_seconds": {label: round(value, 3) for label, value in seconds_of.items()},
            **({"neighbor_methods": methods} if methods else {}),
            "neighbor_search_seconds": round(sum(layer.search_seconds for layer in layers), 3),
            "estimation_seconds": round(seconds, 3),
            "versions": package_versions(),
            "created": timestamp(),
        },
    )
    if (method := covariate_method(estimators)) != "exact":
        profile["mean_nearest_distance"].attrs["neighbors"] = method
    return profile


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
