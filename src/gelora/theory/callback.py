"""Watch dimensions and ranks of the blocks while a model is tuned."""

# ruff: noqa: ARG002, D102 (the signatures of the events are those of transformers)

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from transformers import TrainerCallback

from gelora.encoding import needs_tokenizer
from gelora.estimation import estimate_representations
from gelora.messages import check_integer
from gelora.netcdf import plain_attributes
from gelora.plan import RankPlan
from gelora.provenance import package_versions, timestamp
from gelora.quiet import own_generators
from gelora.registry import EstimatorChoice, describe_estimator, resolve_estimators
from gelora.representations import extract_representations
from gelora.theory.jacobians import jacobian_spectra
from gelora_estimators.protocol import DegenerateCloudError

_LONG_NAMES = {
    "dimension": "intrinsic dimension of the block's output",
    "standard_error": "standard error of the dimension",
    "input_dimension": "intrinsic dimension of the block's input",
    "rank": "largest rank of the block's Jacobian over the points",
    "energy_rank_99": "largest number of singular values with 99 % of the sum of squares, over the points",
    "gap": "rank less dimension",
    "energy_gap": "99 % energy rank less dimension",
}


class GapCallback(TrainerCallback):
    """Record, at chosen steps of a training, every block's dimension and how far its rank lies above it.

    For conjecture 3.1 of EdDib2024, as we read it: during fine-tuning the gap between the rank of a block and the
    dimension of its output shrinks. Give it to ``transformers.Trainer`` in ``callbacks``. The training is not touched:
    with and without it the weights are equal bit for bit.

    Parameters
    ----------
    data : list of str, DataLoader, tensors, path, …
        Texts held out from the training, as for `gelora.extract_representations`. A loader is read once.
    every : int, optional
        Record before the first step, after each so many, and at the end.
    steps : iterable of int, optional
        Record after these steps of the optimiser instead; 0 is before the first.
    estimator : str or estimator
        One, as for `gelora.estimate`; its standard error is recorded too.
    plan : RankPlan, optional
        Where the model is not adapted by LoRA: see `jacobian_spectra`.
    pooling, n_samples, text_column, max_length, tokenizer, batch_size
        As for `gelora.extract_representations`.
    n_points, n_probes
        As for `jacobian_spectra`: examples for the ranks, and probes for wide models.
    seed : int
        Of every draw; the same examples at every step.

    Raises
    ------
    ValueError
        If neither or both of ``every`` and ``steps`` are given, or several estimators.

    Examples
    --------
    >>> GapCallback(["a text", "another"], every=100).due(200)
    True
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int | None = None,
        steps: Iterable[int] | None = None,
        estimator: EstimatorChoice = "mle",
        plan: RankPlan | None = None,
        pooling: str = "mean",
        n_samples: int | None = 1000,
        n_points: int = 2,
        n_probes: int | None = None,
        text_column: str | Sequence[str] | None = None,
        max_length: int | None = None,
        tokenizer: Any = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if (every is None) == (steps is None):
            given = "neither" if every is None else "both"
            raise ValueError(f"give `every`, a number of steps, or `steps`, a list of them, got {given}")
        self.every = None if every is None else check_integer("every", every, 1)
        self.steps = frozenset() if steps is None else frozenset(check_integer("steps", step, 0) for step in steps)
        self.estimators = resolve_estimators(estimator)
        if len(self.estimators) != 1:
            raise ValueError(f"`estimator` must be one estimator, got {list(self.estimators)}")
        self.data = data
        self.plan = plan
        self.n_samples = n_samples
        self.n_points = n_points
        self.n_probes = n_probes
        self.batch_size = batch_size
        self.reading = {
            "pooling": pooling,
            "text_column": text_column,
            "max_length": max_length,
            "tokenizer": tokenizer,
            "seed": seed,
            "progress": False,
        }
        self.profiles: dict[int, xr.Dataset] = {}
        self._ranks: dict[int, xr.Dataset] = {}

    def due(self, step: int) -> bool:
        """Say whether to record after ``step``."""
        return step in self.steps if self.every is None else step % self.every == 0

    def record(self, model: torch.nn.Module, step: int) -> None:
        """Measure ``model`` as it is and keep the numbers as those of ``step``.

        Warns
        -----
        UserWarning
            Where a dimension is undefined; it is NaN then.
        """
        # Loaders and estimators from elsewhere may draw from the global generators, which belong to the training.
        with own_generators(self.reading["seed"]):
            self._record(model, step)

    def _record(self, model: torch.nn.Module, step: int) -> None:
        self.data = _held(self.data, self.reading["text_column"])
        clouds = extract_representations(
            model, self.data, n_samples=self.n_samples, batch_size=self.batch_size, **self.reading
        )
        try:
            self.profiles[step] = estimate_representations(
                clouds, estimator=self.estimators, seed=self.reading["seed"], progress=False
            )
        except DegenerateCloudError as error:
            # A model that collapsed is something to see in the history, no reason to lose the training.
            warnings.warn(f"the dimensions at step {step} are undefined: {error}", stacklevel=3)
        spectra = jacobian_spectra(
            model, self.data, plan=self.plan, n_points=self.n_points, n_probes=self.n_probes, **self.reading
        )
        self._ranks[step] = spectra[["rank", "energy_rank_99"]].max("point").assign_attrs(spectra.attrs)

    @property
    def history(self) -> xr.Dataset:
        """What was recorded, along ``step`` and ``block``: `gelora.netcdf` and xarray write it.

        ``dimension``, ``standard_error`` (by the estimator), ``input_dimension``, ``rank``, ``energy_rank_99`` of the
        Jacobian in input and adapted parameters, ``gap`` = rank − dimension, ``energy_gap``. The profiles themselves,
        all layers, are in the attribute ``profiles``, by step; where no dimension was defined there is none.

        Raises
        ------
        ValueError
            If nothing was recorded yet.
        """
        if not self._ranks:
            raise ValueError("`history` is empty: no step of the training was recorded yet, see `every` and `steps`")
        steps = sorted(self._ranks)
        rows = [_row(self.profiles.get(step), self._ranks[step]) for step in steps]
        first = self._ranks[steps[0]]
        history = xr.Dataset(
            {name: (("step", "block"), np.array([row[name] for row in rows])) for name in _LONG_NAMES},
            coords={"step": np.array(steps, dtype=np.int64), **{n: first[n] for n in ("block", "stack", "name")}},
            attrs=plain_attributes(self._attributes(first)),
        )
        for name, text in _LONG_NAMES.items():
            history[name].attrs["long_name"] = text
        return history

    def _attributes(self, spectra: xr.Dataset) -> Mapping[str, Any]:
        kept = ("model", "architecture", "data", "data_fingerprint", "pooling", "n_probes", "tolerance", "seed")
        return {
            **{name: spectra.attrs[name] for name in kept},
            "estimators": {label: describe_estimator(function) for label, function in self.estimators.items()},
            "n_samples": self.n_samples or "all",
            "n_points": self.n_points,
            "versions": package_versions(),
            "created": timestamp(),
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and self.due(0):
            self.record(kwargs["model"], 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.due(state.global_step):
            self.record(kwargs["model"], state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every is not None and state.global_step not in self._ranks:
            self.record(kwargs["model"], state.global_step)


def _held(data: Any, text_column: str | Sequence[str] | None) -> Any:
    """Return ``data`` with the batches of a loader in a list: a shuffling one would give other examples each time."""
    whole = isinstance(data, torch.Tensor | np.ndarray | Mapping | list) or hasattr(data, "column_names")
    if whole or not isinstance(data, Iterable) or needs_tokenizer(data, text_column):
        return data
    return list(data)


def _row(profile: xr.Dataset | None, ranks: xr.Dataset) -> dict[str, list[float]]:
    """Return the numbers of every block at one step; without a profile its dimensions are NaN."""
    known: dict[tuple[str, int], tuple[float, float]] = {}
    if profile is not None:
        one = profile.isel(estimator=0)
        names = ("stack", "layer", "dimension", "standard_error")
        for stack, layer, dimension, error in zip(*(one[name].values for name in names), strict=True):
            known[str(stack), int(layer)] = float(dimension), float(error)
    row: dict[str, list[float]] = {name: [] for name in _LONG_NAMES}
    for column in range(ranks.sizes["block"]):
        block = ranks.isel(block=column, respect=-1)
        stack, number = str(block["stack"].item()), int(block["block"])
        dimension, error = known.get((stack, number), (math.nan, math.nan))
        rank, energy = float(block["rank"]), float(block["energy_rank_99"])
        values = {
            "dimension": dimension,
            "standard_error": error,
            "input_dimension": known.get((stack, number - 1), (math.nan, math.nan))[0],
            "rank": rank,
            "energy_rank_99": energy,
            "gap": rank - dimension,
            "energy_gap": energy - dimension,
        }
        for name, value in values.items():
            row[name].append(value)
    return row
