"""EVA as an adapter: LoRA whose A starts with the directions that the inputs of each matrix vary in most."""

import itertools
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from gelora.finetuning.adaptation import Adapted, Setting
from gelora.finetuning.lora import adapt, lora_config
from gelora.messages import check_integer, check_number
from gelora.plan import RankPlan

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]
_LABELS = ("labels", "start_positions", "end_positions")


@dataclass(frozen=True, kw_only=True)
class EVA:
    """EVA: LoRA started from the principal directions of the inputs, Paischer et al. 2024 (arXiv 2410.07170).

    The rows of A start as the top right singular vectors of the centred inputs of their matrix, over tokens of the
    train rows that are no padding, by peft's incremental decomposition; B starts at 0. Then it is LoRA.

    Parameters
    ----------
    rho : float
        1 keeps the plan's ranks. Above, the plan's total is dealt out again by the share of variance that each
        direction explains, and a matrix gets at most ``rho`` times its planned rank; its α / r stays the plan's.
        Matrices that get nothing are not adapted.
    tau : float
        Directions count as found when a batch more leaves them with this cosine similarity to those before.
    max_batches : int
        Forward passes at most. Where directions have not settled by then, those found so far are taken, and a
        warning says so.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    rho: float = 1.0
    tau: float = 0.99
    max_batches: int = 128

    name: ClassVar[str] = "eva"
    plan_use: ClassVar[str] = "required"

    def __post_init__(self) -> None:
        check_number("rho", self.rho, "a number of at least 1, which keeps the plan's ranks", least=1)
        check_number("tau", self.tau, "a cosine similarity above 0 and up to 1", least_excluded=True, most=1)
        check_integer("max_batches", self.max_batches, 2)

    def __call__(self, setting: Setting) -> Adapted:
        """Put a LoRA matrix beside each planned matrix and start its A from the inputs."""
        plan = setting.ranks
        most = self._most_directions(plan)
        batches = _read_batches(setting, self.max_batches, most)
        began = time.perf_counter()
        found = self._find_directions(setting, batches, most)
        seconds = time.perf_counter() - began
        moved = _with_ranks(plan, {name: len(rows) for name, rows in found.items()})
        own = replace(setting, plan=moved)
        adapted = adapt(own, lora_config(own), plan.scaling)
        _start_from(adapted.model, found)
        return replace(adapted, preparation_seconds=seconds)

    def _most_directions(self, plan: RankPlan) -> int:
        """Return the largest number of directions that peft looks for in any module."""
        for module in plan.modules:
            wanted, most = round(module.rank * self.rho), min(module.in_features, module.out_features)
            if wanted > most:
                raise ValueError(
                    f"`rho` of {self.rho:g} allows {module.name!r} the rank {wanted}, but its smaller side is {most}: "
                    "lower `rho`, or plan lower ranks"
                )
        return max(round(module.rank * self.rho) for module in plan.modules)

    def _find_directions(self, setting: Setting, batches: Sequence[Batch], most: int) -> "dict[str, torch.Tensor]":
        """Return the first rows of A of every module."""
        from peft import EvaConfig
        from peft.tuners.lora.eva import (
            get_eva_state_dict,
            prepare_layer_inputs_fn_language_modeling,
            prepare_model_inputs_fn_language_modeling,
        )

        config: Any = lora_config(setting)
        config.eva_config = EvaConfig(rho=float(self.rho), tau=float(self.tau))
        if self.rho == 1:  # equal ranks, of which each gets its own: else peft would deal out those of shared inputs
            pattern = {re.escape(m.name): min(most, m.in_features) for m in setting.ranks.modules}
            config.r, config.rank_pattern = most, pattern
        texts = "input_ids" in batches[0]  # patches of images are never padding
        found: dict[str, torch.Tensor] = get_eva_state_dict(
            setting.classifier.model,
            batches,
            config,
            forward_fn=_Forward(self.max_batches),
            prepare_model_inputs_fn=prepare_model_inputs_fn_language_modeling if texts else None,
            prepare_layer_inputs_fn=prepare_layer_inputs_fn_language_modeling if texts else None,
            show_progress_bar=False,
        )
        return {m.name: found[m.name][: m.rank if self.rho == 1 else m.out_features] for m in setting.ranks.modules}


class _Forward:
    """One forward pass for peft, which goes on until all directions have settled: after ``most`` they count as such."""

    def __init__(self, most: int) -> None:
        self._left = most + 1  # peft makes one more, to see which modules share their inputs

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        from peft.tuners.lora.eva import SVDHook

        self._left -= 1
        if self._left <= 0:
            if self._left == 0:
                warnings.warn(
                    "the directions of EVA have not settled in `max_batches` batches: those found so far are used; "
                    "raise `max_batches`, or lower `tau`",
                    stacklevel=2,
                )
            for module in model.modules():
                for hook in module._forward_hooks.values():
                    if isinstance(hook, SVDHook):
                        hook.sim_thresh = -2.0  # below every cosine
        return model(**inputs)


def _read_batches(setting: Setting, most: int, n_directions: int) -> list[Batch]:
    """Return batches without labels that have a token for each direction."""
    batches = []
    for batch in itertools.islice(setting.batches(), most):
        inputs = {name: value for name, value in batch.items() if name not in _LABELS}
        if _count_tokens(inputs) >= n_directions:
            batches.append(inputs)
    if not batches:
        raise ValueError(
            f"`batch_size`: no batch of train rows has the {n_directions} tokens that EVA needs to find as many "
            "directions: raise it, or plan lower ranks"
        )
    return batches


def _count_tokens(batch: Batch) -> int:
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    if "input_ids" in batch:
        return int(batch["input_ids"].numel())
    return int(next(iter(batch.values()))[..., 0].numel())


def _with_ranks(plan: RankPlan, ranks: Mapping[str, int]) -> RankPlan:
    modules = (replace(m, rank=ranks[m.name], alpha=plan.scaling * ranks[m.name]) for m in plan.modules)
    return replace(plan, modules=tuple(module for module in modules if module.rank), uncertainty=None, by_scale=None)


def _start_from(model: Any, found: "Mapping[str, torch.Tensor]") -> None:
    import torch

    with torch.no_grad():
        for name, rows in found.items():
            if len(rows):
                model.base_model.model.get_submodule(name).lora_A["default"].weight.copy_(rows)
