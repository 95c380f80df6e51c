"""Measure one layer: every estimator on the whole cloud and on its halves, by one neighbour search."""

import functools
import inspect
import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora.catching import caught
from gelora.clouds import Representations
from gelora.covariates import mean_norm, spectrum_covariates
from gelora.provenance import generator
from gelora.readings import Covariates, Entry, Reading, Told, keep, kept_covariates, kept_reading
from gelora.replicates import Halves, HalvesOfStack, half_estimates
from gelora.scheduling import Scheduler
from gelora.store import StoredCloud
from gelora_estimators.neighbors import Neighbors, nearest_distances, search_breadth
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, DimensionEstimator

# Label of an estimator, the layer, and what it warned of.
Caught = list[tuple[str, str, Entry]]
_LEAST_RECALL = 0.9  # of an approximate search; below it there is a warning


@dataclass(frozen=True, slots=True)
class LayerReading:
    """What is measured of one layer.

    Parameters
    ----------
    readings : dict of str to Reading
        By label of the estimator.
    covariates : dict of str to float
        See `gelora.covariates`.
    search_seconds : float
        Time of the search that the estimators shared.
    """

    readings: dict[str, Reading]
    covariates: dict[str, float]
    search_seconds: float


@dataclass(frozen=True, slots=True)
class Measurer:
    """Measures the layers of one set of clouds, by tasks that may run anywhere.

    Parameters
    ----------
    clouds : Representations
        The clouds.
    estimators : mapping of str to DimensionEstimator
        By label.
    halves : Halves
        Halves of the data rows; none where no replicates are wanted.
    seed : int
        Of the estimators' own draws.
    """

    clouds: Representations
    estimators: Mapping[str, DimensionEstimator]
    halves: Halves
    seed: int

    def tasks(self, column: int, scheduler: Scheduler) -> list[Any]:
        """Return the tasks of one layer: a reading for each estimator, then the covariates.

        The search that they share is a task of its own. What is kept beside a store is not made again.
        """
        clouds, cloud = self.clouds, self.clouds.clouds[column]
        # By the module's path, not its position: it does not change with the layers asked for.
        place = (clouds.stacks[column], clouds.names[column])
        files: dict[str, Path | None] = dict.fromkeys(self.estimators)
        method = covariate_method(self.estimators)
        about = None
        if isinstance(cloud, StoredCloud):
            kept = cloud.readings(len(self.halves), self.seed)
            files = {label: kept.file_of(place, label, function) for label, function in self.estimators.items()}
            about = kept.covariates_of(place, method)
        known = {label: told for label, file in files.items() if (told := kept_reading(file)) is not None}
        covariates = kept_covariates(about)
        missing = {label: function for label, function in self.estimators.items() if label not in known}
        if missing or covariates is None:
            if not isinstance(cloud, StoredCloud):  # a stored one is read by whoever works on it
                cloud = scheduler.send(cloud)
            search = functools.partial(_search, estimators=missing, halved=len(self.halves) > 0)
            found, halves = scheduler.task(search, cloud), self.halves.of(clouds.stacks[column])
        return [
            scheduler.task(_give, known[label])
            if label in known
            else scheduler.task(
                functools.partial(_read, label, function, place, halves, self.seed, files[label]), cloud, found
            )
            for label, function in self.estimators.items()
        ] + [
            scheduler.task(functools.partial(_describe, about, method), cloud, found)
            if covariates is None
            else scheduler.task(_give, covariates)
        ]

    def put_together(self, column: int, results: Sequence[Any], told: Caught) -> LayerReading:
        """Return the reading of a layer from what came of its tasks; ``told`` receives what estimators warned of."""
        where = f"layer {self.clouds.layers[column]} of the {self.clouds.stacks[column]}"
        *read, (covariates, seconds) = results
        for label, (_, entries) in zip(self.estimators, read, strict=True):
            told.extend((label, where, entry) for entry in entries)
        readings = {label: reading for label, (reading, _) in zip(self.estimators, read, strict=True)}
        return LayerReading(readings, covariates, seconds)


@dataclass(frozen=True, slots=True)
class _Found:
    """Neighbours for every estimator that takes them from the shared search, and its seconds."""

    by_label: Mapping[str, Neighbors]
    seconds: float


def _search(cloud: Any, *, estimators: Mapping[str, DimensionEstimator], halved: bool) -> _Found:
    points, begun = np.asarray(cloud), time.perf_counter()
    found = _search_once(points, estimators, halved)
    return _Found(found, time.perf_counter() - begun)


def _read(
    label: str,
    function: DimensionEstimator,
    place: tuple[str, str],
    halves: HalvesOfStack,
    seed: int,
    file: Path | None,
    cloud: Any,
    found: _Found,
) -> Told:
    points, begun = np.asarray(cloud), time.perf_counter()
    names, neighbors = (label, *place), found.by_label.get(label)
    with caught() as entries:
        one, reason = _estimate_one(function, label, points, generator(seed, *names), neighbors)

    def rng_of(number: int) -> np.random.Generator:
        return generator(seed, *names, "half", number)

    single = len(halves) > 0 and halves.one_point_a_row
    parts = [halves.points(number) for number in range(len(halves))]
    with caught() as more:
        estimates = half_estimates(points, function, one if single else None, parts, neighbors, rng_of)
    told = [(entry.category, str(entry.message)) for entry in (*entries, *more)]
    reading = Reading(one, reason, estimates, time.perf_counter() - begun)
    keep(file, (reading, told))
    return reading, told


def _describe(file: Path | None, method: str, cloud: Any, found: _Found) -> Covariates:
    points, fitting = np.asarray(cloud), [one for one in found.by_label.values() if one.method == method]
    covariates = cloud_covariates(points, fitting[0] if fitting else None, method)
    keep(file, (covariates, found.seconds))
    return covariates, found.seconds


def _give(known: Any) -> Any:
    return known


def _search_once(
    points: NDArray[Any], estimators: Mapping[str, DimensionEstimator], halved: bool
) -> dict[str, Neighbors]:
    """Return the neighbours for every estimator that can take them from a search made for all.

    Estimators with ``from_distances`` and ``k`` share the search for the largest k on their device and by their kind of
    search, long enough to look up halves where ``halved``. What an approximate search finds depends on its breadth, so
    that only those who would search as broadly share one: no number depends on who else was asked.
    """
    groups: dict[tuple[str, str, int], list[str]] = {}
    for label, function in estimators.items():
        if _shares(function):
            device, method = str(getattr(function, "device", "auto")), neighbor_method(function)
            breadth = search_breadth(_columns(function, halved), method)
            groups.setdefault((device, method, breadth), []).append(label)
    shared: dict[str, Neighbors] = {}
    for (device, method, _), labels in groups.items():
        k = max(_columns(estimators[label], halved) for label in labels)
        try:
            found = nearest_distances(points, k, minimum=1, device=device, neighbors=method)
        except DegenerateCloudError:
            continue  # on its own each estimator says what it needed
        shared |= dict.fromkeys(labels, found)
    return shared


def neighbor_method(estimator: Any) -> str:
    """Return how an estimator searches neighbours, "exact" where it says nothing."""
    method = getattr(estimator, "neighbors", "exact")
    return method if isinstance(method, str) else "exact"  # others may count neighbours by this name


def covariate_method(estimators: Mapping[str, Any]) -> str:
    """Return how the neighbours behind the covariates were searched: approximately where every shared search was."""
    shared = [neighbor_method(function) for function in estimators.values() if _shares(function)]
    return "exact" if "exact" in shared or not shared else shared[0]


def _shares(estimator: Any) -> bool:
    return hasattr(estimator, "from_distances") and hasattr(estimator, "k")


def _columns(estimator: Any, halved: bool) -> int:
    """Return how many neighbours serve an estimator, and its version without error on halves of the cloud."""
    k = int(estimator.k)
    bare = getattr(estimator, "without_error", None)
    if not halved or bare is None:
        return k
    # Of 4k + 24 neighbours of a point practically always k are in its half.
    return max(k, 4 * int(bare().k) + 24)


def _from_search(function: Any, points: NDArray[Any], rng: np.random.Generator, found: Neighbors) -> DimensionEstimate:
    """Return the estimate from a search made for several estimators."""
    offered = {"indices": found.indices, "points": points[found.rows] if found.n_copies else points}
    parameters = inspect.signature(function.from_distances).parameters
    extras = {name: value for name, value in offered.items() if name in parameters}
    estimate: DimensionEstimate = function.from_distances(found.distances, len(points), rng, **extras)
    if found.method == "exact" or not isinstance(estimate, DimensionEstimate):
        return estimate
    return replace(estimate, diagnostics={**estimate.diagnostics, "neighbor_recall": found.recall})


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


def cloud_covariates(points: NDArray[Any], found: Neighbors | None = None, method: str = "exact") -> dict[str, float]:
    """Return the covariates of one cloud, NaN where it is degenerate; ``found`` saves a search by ``method``."""
    if len(points) < 2 or not np.isfinite(points).all():
        return {}
    values = {"mean_norm": mean_norm(points), **spectrum_covariates(points)}
    try:
        nearest = found or nearest_distances(points, 1, neighbors=method)
        values["mean_nearest_distance"] = float(nearest.distances[:, 0].mean())
    except DegenerateCloudError:
        values["mean_nearest_distance"] = math.nan
    return values


def warnings_record(told: Caught) -> dict[str, list[dict[str, str]]]:
    """Return what estimators warned of, by their labels, as JSON takes it.

    Examples
    --------
    >>> warnings_record([("ph", "layer 3 of the encoder", (UserWarning, "the line bends"))])
    {'ph': [{'where': 'layer 3 of the encoder', 'category': 'UserWarning', 'message': 'the line bends'}]}
    """
    found: dict[str, list[dict[str, str]]] = {}
    for label, where, (category, message) in told:
        found.setdefault(label, []).append({"where": where, "category": category.__name__, "message": message})
    return found


def give_out(told: Caught) -> None:
    """Give warnings out, of an estimator's like ones the first, with all layers that have it."""
    alike: dict[tuple[Any, ...], list[tuple[str, str, Entry]]] = {}
    for label, where, (category, message) in told:
        text = re.split(r"[-+]?\d", message)[0]  # up to the first number: layers differ there
        alike.setdefault((label, category, text), []).append((label, where, (category, message)))
    for (label, category, _), entries in alike.items():
        more = f" (the first of {len(entries)} alike)" if len(entries) > 1 else ""
        layers = ", ".join(where for _, where, _ in entries)
        warnings.warn(f"{label}, {layers}: {entries[0][2][1]}{more}", category=category, stacklevel=4)


def report_halves(layers: Sequence[LayerReading], labels: Sequence[str], clouds: Representations) -> None:
    """Warn of estimators whose dimension is undefined on so many halves that ranks get no uncertainty from them."""
    for label in labels:
        table = np.array(
            [
                [half is not None for half in layer.readings[label].halves]
                for layer in layers
                if not layer.readings[label].reason
            ]
        )
        if not table.size or int(table.all(axis=0).reshape(-1, 2).all(axis=1).sum()) >= 2:
            continue
        if table.all():  # none is missing, there are too few
            warnings.warn(
                f"{label}: {table.shape[1]} halves of the rows are one split, from which ranks get no probabilities: "
                "give `n_replicates` of at least 4, better 20",
                stacklevel=4,
            )
            continue
        defined = [column for column, layer in enumerate(layers) if not layer.readings[label].reason]
        worst = defined[int(table.sum(axis=1).argmin())]
        warnings.warn(
            f"{label}: on halves of the rows the dimension of layer {clouds.layers[worst]} of the "
            f"{clouds.stacks[worst]} is undefined {int((~table).sum(axis=1).max())} of {table.shape[1]} times, so that "
            "ranks by this estimator get no probabilities: give more data, or an estimator that needs fewer points",
            stacklevel=4,
        )


def neighbor_recall(estimate: DimensionEstimate) -> float:
    """Return the share of the true neighbours that the search of an estimate found, NaN where it was exact."""
    return float(np.asarray(estimate.diagnostics.get("neighbor_recall", math.nan)))


def copies_removed(estimate: DimensionEstimate) -> float:
    """Return how many copies of other points an estimate left out, NaN where it does not say."""
    found = estimate.diagnostics.get("n_copies")
    return float(found) if isinstance(found, int | float | np.number) else math.nan


def report_recall(layers: Sequence[LayerReading], estimators: Mapping[str, Any], clouds: Representations) -> None:
    """Warn of estimators whose approximate search misses so many neighbours that the dimension may be moved by it."""
    for label, function in estimators.items():
        recall = np.array([neighbor_recall(layer.readings[label].estimate) for layer in layers])
        if (low := int((recall < _LEAST_RECALL).sum())) == 0:
            continue
        worst = int(np.nanargmin(recall))
        warnings.warn(
            f"{label}: the neighbours by {neighbor_method(function)} hold {recall[worst]:.0%} of the true ones in "
            f"layer {clouds.layers[worst]} of the {clouds.stacks[worst]}, less than {_LEAST_RECALL:.0%} in {low} of "
            f"{len(recall)} layers: read the dimension with care, or pass neighbors='exact'",
            stacklevel=4,
        )


def report_undefined(undefined: NDArray[Any], labels: Sequence[str], clouds: Representations) -> None:
    """Warn of every undefined dimension, with the reason.

    Raises
    ------
    DegenerateCloudError
        If no dimension is defined at all.
    """
    reasons = [
        f"{label}, layer {clouds.layers[column]} of the {clouds.stacks[column]}: {undefined[row, column]}"
        for row, label in enumerate(labels)
        for column in range(len(clouds))
        if undefined[row, column]
    ]
    if len(reasons) == undefined.size:
        raise DegenerateCloudError(f"no dimension is defined on any layer; {reasons[0]}")
    for reason in reasons:
        warnings.warn(f"the dimension is undefined for {reason}", stacklevel=4)
