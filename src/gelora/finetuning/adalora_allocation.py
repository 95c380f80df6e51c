"""When AdaLoRA gives up directions, and what of that a checkpoint must keep."""

# ruff: noqa: ARG002, D102 (the signatures of the events are those of transformers)

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.adalora.layer import RankAllocator
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

STATE_FILE = "adalora.safetensors"
_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PATTERN = "pattern"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps of a run: of all, before the budget falls, after it fell, and from one allocation to the next."""

    total: int
    start: int
    tail: int
    interval: int


def make_schedule(total: int, warmup: float, final: float, interval: int | None) -> Schedule:
    """Return the schedule of a run of ``total`` steps.

    Raises
    ------
    ValueError
        If the run is too short: importance is known after one step, and used at the next.

    Examples
    --------
    >>> make_schedule(200, 0.12, 0.5, None)
    Schedule(total=200, start=24, tail=100, interval=2)
    """
    if total < 2:
        raise ValueError(
            f"adapter='adalora' needs at least 2 steps to move ranks in, got {total}: raise `epochs` or `max_steps`"
        )
    tail = min(round(final * total), total - 2)
    start = min(round(warmup * total), total - tail - 1)
    return Schedule(total, start, tail, max(1, total // 100) if interval is None else interval)


class Allocation(TrainerCallback):
    """Let peft move the ranks after each step of the optimiser.

    Parameters
    ----------
    tuner : peft.AdaLoraModel
        Its layers have ranks of their own.
    layers : mapping of str to torch.nn.Module
        Those layers by their names in the unadapted model.
    target : int
        Total rank at the end.
    warmup, final, interval
        As `gelora.finetuning.adalora.AdaLoRA` takes them.

    Attributes
    ----------
    ranks : dict of str to int
        Directions that the last allocation left each module. Between two allocations AdaLoRA lets those it gave up
        come back; after the last it does not.
    """

    def __init__(
        self,
        tuner: Any,
        layers: Mapping[str, Any],
        target: int,
        warmup: float,
        final: float,
        interval: int | None,
    ) -> None:
        self._tuner, self._layers = tuner, layers
        self._shares = (warmup, final, interval)
        self.ranks: dict[str, int] = {name: int(layer.r["default"]) for name, layer in layers.items()}
        # peft made its own before the layers had their ranks.
        make: Any = RankAllocator
        tuner.rankallocator = make(tuner.model, self._config, "default")
        tuner.rankallocator.target_bgt = target

    @property
    def _config(self) -> Any:
        return self._tuner.peft_config["default"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        schedule, config = make_schedule(state.max_steps, *self._shares), self._config
        config.total_step, config.deltaT = schedule.total, schedule.interval
        config.tinit, config.tfinal = schedule.start, schedule.tail

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, config = state.global_step + 1, self._config  # the trainer counts the step later
        skipped = getattr(kwargs.get("optimizer"), "step_was_skipped", False)
        if skipped and step < config.total_step - config.tfinal:
            return  # the gradients overflowed: they say nothing of importance
        before = config.rank_pattern
        self._tuner.update_and_allocate(step)
        if config.rank_pattern is not before:
            self._count_pattern()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The best checkpoint may be one from before the last allocation.
        left = torch.stack([torch.count_nonzero(layer.lora_E["default"]) for layer in self._layers.values()])
        self.ranks = dict(zip(self._layers, left.tolist(), strict=True))

    def _count_pattern(self) -> None:
        pattern = self._config.rank_pattern
        self.ranks = {name: sum(pattern[f"{name}.lora_E.default"]) for name in self._layers}

    def save(self, folder: Path) -> None:
        """Write the scores and the last allocation into a checkpoint."""
        allocator = self._tuner.rankallocator
        tensors = {
            f"{kind}/{name}": value.contiguous() for kind in _SCORES for name, value in getattr(allocator, kind).items()
        }
        pattern = self._config.rank_pattern or {}
        tensors |= {f"{_PATTERN}/{name}": torch.tensor(kept, dtype=torch.bool) for name, kept in pattern.items()}
        save_file(tensors, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Read them back."""
        stored: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in (*_SCORES, _PATTERN)}
        for key, value in load_file(folder / STATE_FILE).items():
            kind, name = key.split("/", maxsplit=1)
            stored[kind][name] = value
        devices = {name: parameter.device for name, parameter in self._tuner.model.named_parameters()}
        for kind in _SCORES:
            scores = {name: value.to(devices[name]) for name, value in stored[kind].items()}
            setattr(self._tuner.rankallocator, kind, scores)
        self._config.rank_pattern = {name: kept.tolist() for name, kept in stored[_PATTERN].items()} or None
        if self._config.rank_pattern:
            self._count_pattern()
