"""A made-up comparison, for what summarises, tests, prints and draws them."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from gelora.scores import DIMS, NUMBERS, SCHEMA, SCHEMA_VERSION


def example_comparison(
    scores: "np.ndarray[tuple[int, int, int], np.dtype[np.float64]]",
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    parameters: Sequence[float] = (),
    greater_is_better: bool = True,
) -> xr.Dataset:
    """Return a comparison with these scores (task, method, seed); NaN stands for a run that failed."""
    n_tasks, n_methods, n_seeds = scores.shape
    tasks = list(tasks) or [f"task{i}" for i in range(n_tasks)]
    methods = list(methods) or [f"method{i}" for i in range(n_methods)]
    values = {name: np.ones(scores.shape) for name, _, _ in NUMBERS} | {"score": scores}
    values["trainable_parameters"] = np.broadcast_to(
        np.array(parameters or range(1, n_methods + 1), dtype=float)[None, :, None], scores.shape
    )
    variables = {name: (DIMS, value) for name, value in values.items()}
    status = np.where(np.isnan(scores), "failed", "finished").astype(object)
    return xr.Dataset(
        {**variables, "status": (DIMS, status)},
        coords={
            "task": np.array(tasks, dtype=object),
            "method": np.array(methods, dtype=object),
            "seed": np.arange(n_seeds),
        },
        attrs={
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "reference": methods[0],
            "greater_is_better": json.dumps(dict.fromkeys(tasks, greater_is_better)),
        },
    )
