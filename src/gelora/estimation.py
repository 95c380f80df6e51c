"""Estimate: representations × estimators → profile."""

import inspect
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.covariates import mean_norm, spectrum_covariates
from gelora.profile import COVARIATES, ESTIMATES, make_profile
from gelora.provenance import fingerprint, generator, package_versions, timestamp
from gelora.registry import describe_estimator, make_estimator
from gelora.representations import Representations, extract_representations
from gelora_estimators.neighbors import Neighbors, nearest_distances
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, DimensionEstimator

EstimatorChoice = str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]]


def estimate(
    model: Any,
    data: Any,
    *,
    estimator: EstimatorChoice = "twonn",
    pooling: str = "mean",
    n_samples: int | None = 5000,
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
    pooling, n_samples, text_column, max_length, decoder_texts, n_tokens, layers, tokenizer, batch_size, device, \
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
        attributes. A number does not depend on which other estimators or layers were asked for.

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
    representations = extract_representations(
        model,
        data,
        pooling=pooling,
        n_samples=n_samples,
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
    return estimate_representations(representations, estimator=estimators, seed=seed, progress=progress)


def estimate_representations(
    representations: Any, *, estimator: EstimatorChoice = "twonn", seed: int = 0, progress: bool = True
) -> xr.Dataset:
    """Estimate the intrinsic dimension of point clouds one already has.

    Parameters
    ----------
    representations : Representations, sequence of arrays, or mapping from name to array
        One cloud of shape (n_points, width) per layer, NumPy or torch, in order of depth.
    estimator, seed, progress
        As for `estimate`. An estimator's own draws go by the seed and the name of the cloud, or its place in a list.

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
    clouds = _as_representations(representations)
    described = {label: describe_estimator(function) for label, function in estimators.items()}
    started = time.perf_counter()
    shape = (len(estimators), len(clouds))
    results = {name: np.full(shape, np.nan) for name in ESTIMATES}
    n_points = np.zeros(shape, dtype=np.int64)
    undefined = np.full(shape, "", dtype=object)
    covariates = {name: np.full(len(clouds), np.nan) for name in COVARIATES}
    seconds = dict.fromkeys(estimators, 0.0)
    searching = 0.0
    caught: list[tuple[str, str, warnings.WarningMessage]] = []
    bar = tqdm(total=math.prod(shape), desc="dimensions", unit=" estimates", disable=not progress)
    with bar:
        for column, points in enumerate(clouds.clouds):
            begun = time.perf_counter()
            found = _search_once(points, estimators)
            searching += time.perf_counter() - begun
            for name, value in cloud_covariates(points, next(iter(found.values()), None)).items():
                covariates[name][column] = value
            for row, (label, function) in enumerate(estimators.items()):
                begun = time.perf_counter()
                # By the module's path, not its position: it does not change with the layers asked for.
                rng = generator(seed, label, clouds.stacks[column], clouds.names[column])
                with _caught_into(caught, label, f"layer {clouds.layers[column]} of the {clouds.stacks[column]}"):
                    one, reason = _estimate_one(function, label, points, rng, found.get(label))
                values = (one.dimension, one.standard_error, *one.interval)
                for name, value in zip(ESTIMATES, values, strict=True):
                    results[name][row, column] = value
                n_points[row, column], undefined[row, column] = one.n_points, reason
                seconds[label] += time.perf_counter() - begun
                bar.update()
    _give_out(caught)  # after the progress bar, which they would tear apart
    _report_undefined(undefined, list(estimators), clouds)
    return make_profile(
        estimators=list(estimators),
        estimates=results,
        n_points=n_points,
        undefined=undefined,
        covariates=covariates,
        stacks=clouds.stacks,
        layers=clouds.layers,
        names=clouds.names,
        attributes={
            **clouds.attributes,
            "seed": int(seed),
            "estimators": described,
            "citations": {label: str(getattr(f, "citation", "")) for label, f in estimators.items()},
            "estimator_seconds": {label: round(value, 3) for label, value in seconds.items()},
            "neighbor_search_seconds": round(searching, 3),
            "estimation_seconds": round(time.perf_counter() - started, 3),
            "versions": package_versions(),
            "created": timestamp(),
        },
    )


def resolve_estimators(choice: EstimatorChoice) -> dict[str, DimensionEstimator]:
    """Return label → estimator for whatever ``estimator=`` was given.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, nothing at all, two estimators with one label, or something that is no estimator.
    """
    if isinstance(choice, Mapping):
        entries = list(choice.items())
    else:
        many = list(choice) if isinstance(choice, Sequence) and not isinstance(choice, str) else [choice]
        entries = [(_label(entry), entry) for entry in many]
    if not entries:
        raise ValueError("`estimator` must name at least one estimator, got none")
    resolved: dict[str, DimensionEstimator] = {}
    for label, entry in entries:
        if label in resolved:
            raise ValueError(
                f"`estimator` has {label!r} twice: give a mapping from labels of your own to the two estimators"
            )
        resolved[label] = make_estimator(entry) if isinstance(entry, str) else _check_callable(entry)
    return resolved


def _label(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    own = getattr(entry, "name", None) or getattr(entry, "__name__", None)
    return str(own or type(entry).__name__.lower())


def _check_callable(entry: Any) -> DimensionEstimator:
    if isinstance(entry, type) or not callable(entry):
        raise TypeError(
            f"`estimator` must be a name, an estimator, a list of these or a mapping to these, got {entry!r:.80}"
            + ("; that is a class: pass an instance" if isinstance(entry, type) else "")
        )
    estimator: DimensionEstimator = entry
    return estimator


@contextmanager
def _caught_into(caught: list[tuple[str, str, warnings.WarningMessage]], label: str, where: str) -> Iterator[None]:
    """Keep the warnings given inside, with the estimator and layer they are about."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    caught.extend((label, where, entry) for entry in found)


def _give_out(caught: Sequence[tuple[str, str, warnings.WarningMessage]]) -> None:
    """Give warnings out, of an estimator's like ones the first, with all layers that have it."""
    alike: dict[tuple[Any, ...], list[tuple[str, str, warnings.WarningMessage]]] = {}
    for entry in caught:
        text = re.split(r"[-+]?\d", str(entry[2].message))[0]  # up to the first number: layers differ there
        alike.setdefault((entry[0], entry[2].category, text), []).append(entry)
    for (label, category, _), entries in alike.items():
        more = f" (the first of {len(entries)} alike)" if len(entries) > 1 else ""
        layers = ", ".join(where for _, where, _ in entries)
        warnings.warn(f"{label}, {layers}: {entries[0][2].message}{more}", category=category, stacklevel=3)


def _search_once(points: NDArray[Any], estimators: Mapping[str, DimensionEstimator]) -> dict[str, Neighbors]:
    """Return the neighbours for every estimator that can take them from a search made for all.

    Estimators with ``from_distances`` and ``k`` share the search for the largest k on their device.
    """
    groups: dict[str, list[str]] = {}
    for label, function in estimators.items():
        if hasattr(function, "from_distances") and hasattr(function, "k"):
            groups.setdefault(str(getattr(function, "device", "auto")), []).append(label)
    shared: dict[str, Neighbors] = {}
    for device, labels in groups.items():
        k = max(int(getattr(estimators[label], "k")) for label in labels)  # noqa: B009  # not in the protocol
        try:
            found = nearest_distances(points, k, minimum=1, device=device)
        except DegenerateCloudError:
            continue  # on its own each estimator says what it needed
        shared |= dict.fromkeys(labels, found)
    return shared


def _from_search(function: Any, points: NDArray[Any], rng: np.random.Generator, found: Neighbors) -> DimensionEstimate:
    """Return the estimate from a search made for several estimators."""
    offered = {"indices": found.indices, "points": points[found.rows] if found.n_copies else points}
    parameters = inspect.signature(function.from_distances).parameters
    extras = {name: value for name, value in offered.items() if name in parameters}
    estimate: DimensionEstimate = function.from_distances(found.distances, len(points), rng, **extras)
    return estimate


def _estimate_one(
    function: DimensionEstimator,
    label: str,
    points: NDArray[Any],
    rng: np.random.Generator,
    shared: Neighbors | None = None,
) -> tuple[DimensionEstimate, str]:
    """Return the estimate and an empty string, or NaN and the reason why the dimension is undefined."""
    try:
        found = function(points, rng=rng) if shared is None else _from_search(function, points, rng, shared)
    except DegenerateCloudError as error:
        return DimensionEstimate(math.nan), str(error)
    if not isinstance(found, DimensionEstimate):
        raise TypeError(f"the estimator {label!r} must return a DimensionEstimate, got {type(found).__name__}")
    if not math.isfinite(found.dimension) or found.dimension <= 0:
        return DimensionEstimate(math.nan, n_points=found.n_points), f"the estimator returned {found.dimension}"
    return found, ""


def cloud_covariates(points: NDArray[Any], found: Neighbors | None = None) -> dict[str, float]:
    """Return the covariates of one cloud, NaN where it is degenerate; ``found`` saves a search."""
    if len(points) < 2 or not np.isfinite(points).all():
        return {}
    values = {"mean_norm": mean_norm(points), **spectrum_covariates(points)}
    try:
        nearest = found or nearest_distances(points, 1)
        values["mean_nearest_distance"] = float(nearest.distances[:, 0].mean())
    except DegenerateCloudError:
        values["mean_nearest_distance"] = math.nan
    return values


def _report_undefined(undefined: NDArray[Any], labels: Sequence[str], clouds: Representations) -> None:
    reasons = [
        f"{label}, layer {clouds.layers[column]} of the {clouds.stacks[column]}: {undefined[row, column]}"
        for row, label in enumerate(labels)
        for column in range(len(clouds))
        if undefined[row, column]
    ]
    if len(reasons) == undefined.size:
        raise DegenerateCloudError(f"no dimension is defined on any layer; {reasons[0]}")
    for reason in reasons:
        warnings.warn(f"the dimension is undefined for {reason}", stacklevel=3)


def _as_representations(given: Any) -> Representations:
    if isinstance(given, Representations):
        return given
    named = dict(given) if isinstance(given, Mapping) else None
    if named is None and (not isinstance(given, Sequence) or isinstance(given, str)):
        raise TypeError(
            "`representations` must be the result of `extract_representations`, a list of arrays of shape "
            f"(n_points, width), or a mapping to such arrays, got {type(given).__name__}"
        )
    arrays = [_as_array(cloud) for cloud in (named.values() if named is not None else given)]
    if not arrays:
        raise ValueError("`representations` must hold at least one cloud, got none")
    names = tuple(str(name) for name in named) if named is not None else tuple(f"cloud {i}" for i in range(len(arrays)))
    return Representations(
        clouds=tuple(arrays),
        stacks=("encoder",) * len(arrays),
        layers=tuple(range(len(arrays))),
        names=names,
        rows={},
        attributes={
            "data": "point clouds in memory",
            "data_fingerprint": fingerprint(np.ascontiguousarray(cloud).tobytes() for cloud in arrays),
            "n_texts": max(len(cloud) for cloud in arrays),
            "pooling": "",
            "model": "",
        },
    )


def _as_array(cloud: Any) -> NDArray[Any]:
    if hasattr(cloud, "detach"):
        tensor = cloud.detach().cpu()
        # NumPy does not know bfloat16; float16 is kept, so that its coarse rounding is known.
        cloud = tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()
    array = np.asarray(cloud)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            "`representations`: a cloud must be a numeric array of shape (n_points, width), "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array
