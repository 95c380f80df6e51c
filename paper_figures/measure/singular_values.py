"""Singular values of GeoLoRA's coefficients S over a run: what is on trial, what grows, what is truncated.

Usage: python paper_figures/measure/singular_values.py --data FOLDER

MiniLM on SST-2, uniform ranks to start from. Every few steps the singular values of S of some matrices are kept, with
those that the last truncation kept apart from those on trial, and the rank of every matrix. Writes
``singular_values.nc``.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from _origin import MODEL, make_parser, origin
from transformers import TrainerCallback

from gelora import finetune, plan_ranks
from gelora.demo import demo_model
from gelora.files import atomic_path, make_folder, to_json
from gelora.finetuning.geolora import GeoLoRALinear

BLOCKS, ROLES = (1, 3, 6), ("query", "value")
START, TOLERANCE = 8, 0.1
RUN: dict[str, Any] = {
    "n_train": 2000,
    "n_validation": 200,
    "batch_size": 8,
    "eval_batch_size": 64,
    "max_length": 32,
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
    "train_sampling_strategy": "group_by_length",
    "seed": 0,
    "device": "cpu",
}


class SpectrumRecorder(TrainerCallback):
    """Keeps the singular values of S and the kept ranks of GeoLoRA's layers every ``every`` steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.steps: list[int] = []
        self.spectra: list[dict[str, list[float]]] = []
        self.ranks: list[dict[str, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep the values of this step, if it is one of those."""
        if state.global_step % self.every and state.global_step != 1:
            return
        layers = {n: m for n, m in kwargs["model"].named_modules() if isinstance(m, GeoLoRALinear)}
        self.steps.append(state.global_step)
        self.ranks.append({name: layer.kept_rank for name, layer in layers.items()})
        cores = {name: layer.geolora_S.detach()[: layer.rank, : layer.rank] for name, layer in layers.items()}
        self.spectra.append({name: torch.linalg.svdvals(core).tolist() for name, core in cores.items()})


def to_dataset(recorder: SpectrumRecorder, names: dict[str, tuple[int, str]]) -> xr.Dataset:
    """Return the singular values of the chosen matrices and the ranks of all as labelled arrays."""
    chosen = [name for name, (block, role) in names.items() if block in BLOCKS and role in ROLES]
    width = max(len(spectrum[name]) for spectrum in recorder.spectra for name in chosen)
    values = np.full((len(recorder.steps), len(chosen), width), np.nan, dtype=np.float32)
    for row, spectrum in enumerate(recorder.spectra):
        for column, name in enumerate(chosen):
            values[row, column, : len(spectrum[name])] = spectrum[name]
    return xr.Dataset(
        {
            "singular_value": (("step", "matrix", "place"), values),
            "kept_rank": (("step", "module"), [[ranks[name] for name in names] for ranks in recorder.ranks]),
        },
        coords={
            "step": recorder.steps,
            "matrix_module": ("matrix", chosen),
            "matrix": [f"block {names[name][0]}, {names[name][1]}" for name in chosen],
            "module": list(names),
        },
    )


def main() -> None:
    """Train, record, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=240, help="steps of the run")
    parser.add_argument("--every", type=int, default=2, help="steps from one record to the next")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data must be given: a folder with sst2/")
    plan = plan_ranks(None, demo_model(), "uniform", rank=START)
    recorder = SpectrumRecorder(arguments.every)
    steps = arguments.steps
    with tempfile.TemporaryDirectory() as scratch:
        record = finetune(
            demo_model(),
            "sst2",
            plan,
            f"geolora(tolerance={TOLERANCE})",
            data_dir=arguments.data / "sst2",
            output_dir=Path(scratch) / "run",
            max_steps=steps,
            eval_steps=steps,
            save_steps=steps,
            callbacks=(recorder,),
            **RUN,
        )
    modules = zip(record["module"].values, record["block"].values, record["role"].values, strict=True)
    found = to_dataset(recorder, {str(name): (int(block), str(role)) for name, block, role in modules})
    found["loss"] = ("train_step", record["loss"].values.astype(np.float32))
    setting = {"model": MODEL, "task": "sst2", "start": START, "tolerance": TOLERANCE, "interval": 10, "steps": steps}
    found.attrs = {
        "setting": to_json(setting | RUN),
        "score": float(record["score"]),
        "origin": to_json(origin(arguments)),
    }
    with atomic_path(make_folder(arguments.output) / "singular_values.nc") as temporary:
        compress = {name: {"zlib": True, "shuffle": True} for name in ("singular_value", "kept_rank", "loss")}
        found.to_netcdf(temporary, engine="h5netcdf", encoding=compress)


if __name__ == "__main__":
    main()
