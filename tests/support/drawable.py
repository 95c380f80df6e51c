"""A made-up profile with scales and made-up training records, for what draws them."""

from typing import Any

import numpy as np
import xarray as xr

from examples import NAN, example_profile
from gelora.netcdf import plain_attributes

SCALES = [2.0, 4.0, 8.0, 16.0]


def scale_profile(n_layers: int = 3, *, replicates: bool = True, stacks: list[str] | None = None) -> xr.Dataset:
    """Return a profile of two estimators, of which the first has the scales 2 … 16, a line of slope 1 a layer."""
    profile = example_profile([[5.0] * n_layers, [4.0] * n_layers], stacks)
    values = np.full((2, n_layers, 5), NAN)
    values[0, :, :4] = np.arange(4.0) + np.arange(n_layers)[:, None] + 3.0
    profile = profile.assign_coords(scale=[*SCALES, 100.0])
    profile["dimension_scales"] = (("estimator", "layer", "scale"), values)
    if replicates:
        halves = values[..., None] + np.array([0.5, -0.5, 0.5, -0.5]) * (1 + np.arange(n_layers))[:, None, None]
        profile["dimension_scale_replicates"] = (("estimator", "layer", "scale", "replicate"), halves)
    options = {"mle": {"class": "gelora_estimators.gride.Gride"}, "twonn": {"class": "elsewhere.Own"}}
    return profile.assign_attrs(plain_attributes({"estimators": options, "n_rows": 2000, "replicate_rows": 1000}))


def training_record(losses: list[float], evaluations: dict[int, tuple[float, float]], **attributes: Any) -> xr.Dataset:
    """Return a record with these losses, and by step of an evaluation validation loss and score."""
    measured = np.array(list(evaluations.values())).reshape(-1, 2)
    return xr.Dataset(
        {
            "loss": ("step", losses),
            "learning_rate": ("step", np.linspace(1e-3, 0, len(losses))),
            "validation": (("evaluation", "metric"), np.stack([measured[:, 1] - 0.1, measured[:, 1]], axis=1)),
            "validation_loss": ("evaluation", measured[:, 0]),
            "score": ((), measured[-1, 1] if len(measured) else NAN),
            "seconds": ((), 1.0),
            "trainable_parameters": ("part", [100, 10]),
        },
        coords={
            "step": np.arange(1, len(losses) + 1),
            "evaluation_step": ("evaluation", list(evaluations)),
            "metric": ["accuracy", "score"],
            "part": ["adapter", "head"],
        },
        attrs={"adapter": "lora", "task": "rte", **attributes},
    )


def rank_record(history: list[list[int]], steps: list[int], total: int, adapter: str = "geolora") -> xr.Dataset:
    return xr.Dataset(
        {"rank_history": (("change", "module"), np.array(history)), "loss": ("step", np.zeros(total))},
        coords={"change_step": ("change", steps), "step": np.arange(1, total + 1)},
        attrs={"adapter": adapter},
    )
