"""A rank plan: which attention matrices get which LoRA rank. Bound to a model, exported, saved."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.blocks import Architecture, architecture_of, find_blocks, is_linear, matrix_shape, weights_fingerprint
from gelora.export import export_plan, make_lora_config, model_name, to_axolotl, to_trl, write_adapter_config
from gelora.files import atomic_path, read_json, to_json
from gelora.plan_check import PlanCheck, bare_model, check_adaptation
from gelora.plan_html import plan_html
from gelora.plan_uncertainty import PlanScales, PlanUncertainty, scales_from_record, uncertainty_from_record

if TYPE_CHECKING:
    import xarray as xr
    from peft import LoraConfig
    from torch import nn

SCHEMA = "gelora-rank-plan"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRank:
    """The rank of one adapted matrix.

    Parameters
    ----------
    stack : str
        ``"encoder"`` or ``"decoder"``.
    block : int
        Block of that stack, from 1.
    role : str
        ``"query"``, ``"key"``, ``"value"``, ``"output"``, ``"query_key_value"`` where they are one matrix, or
        another name of its model's attention (`gelora.blocks.SHARED_ROLES`); of any other matrix the module path
        relative to its block, e.g. ``"mlp.up_proj"``.
    name : str
        Module path in the model that the plan is bound to.
    rank : int
        Rank r of the update B A.
    alpha : float
        LoRA's α: the update is scaled by α / r.
    in_features, out_features : int
        Shape of the matrix.
    transposed : bool
        Whether the model keeps its weight as (in, out), as GPT-2's ``Conv1D`` does.
    """

    stack: str
    block: int
    role: str
    name: str
    rank: int
    alpha: float
    in_features: int
    out_features: int
    transposed: bool = False

    @property
    def n_parameters(self) -> int:
        """Trainable parameters, r · (in + out)."""
        return self.rank * (self.in_features + self.out_features)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """LoRA ranks for the matrices of a model, and where they come from.

    Parameters
    ----------
    policy : str
        What chose the ranks.
    modules : tuple of ModuleRank
        Every adapted matrix, from the first block to the last.
    architecture : Architecture
        What a model must have for the plan to fit.
    weights_fingerprint : str
        Of the model the profile was made with; empty where unknown.
    scaling : float
        α / r, the same for every matrix.
    provenance : mapping
        Policy options and the origin of the profile.
    uncertainty : PlanUncertainty, optional
        What resampling says of the ranks, for a profile with replicates.
    by_scale : PlanScales, optional
        The scale the ranks hold at, and the ranks at the others.

    Notes
    -----
    A plan is kept by (stack, block, role), so a plan made on ``AutoModel`` serves the same model under a head:
    `bind` gives it that model's module names.
    """

    policy: str
    modules: tuple[ModuleRank, ...]
    architecture: Architecture
    weights_fingerprint: str
    scaling: float
    provenance: Mapping[str, Any] = field(default_factory=dict)
    uncertainty: PlanUncertainty | None = None
    by_scale: PlanScales | None = None

    _repr_html_ = plan_html  # how notebooks show it

    @property
    def n_parameters(self) -> int:
        """Trainable adapter parameters, without any task head."""
        return sum(module.n_parameters for module in self.modules)

    @property
    def block_ranks(self) -> dict[tuple[str, int], int]:
        """Rank of each (stack, block), the largest of its matrices where they differ."""
        ranks: dict[tuple[str, int], int] = {}
        for module in self.modules:
            key = (module.stack, module.block)
            ranks[key] = max(ranks.get(key, 0), module.rank)
        return ranks

    @property
    def stability(self) -> float:
        """Probability that another draw of as many examples gives the same plan; NaN without replicates."""
        return math.nan if self.uncertainty is None else self.uncertainty.stability

    @property
    def module_stability(self) -> "xr.DataArray | None":
        """The same for each module by itself, along ``module``."""
        return None if self.uncertainty is None else self._along_modules(self.uncertainty.module_stability)

    @property
    def expected_ranks(self) -> "xr.DataArray | None":
        """Mean of each module's distribution over ranks, along ``module``."""
        return None if self.uncertainty is None else self._along_modules(self.uncertainty.expected)

    @property
    def probabilities(self) -> "xr.DataArray | None":
        """Probability of each rank, (module, rank): what the errors of the dimensions leave open."""
        if self.uncertainty is None:
            return None
        found = self._along_modules(self.uncertainty.probabilities, "rank")
        return found.assign_coords(rank=list(self.uncertainty.ranks))

    @property
    def ranks_by_scale(self) -> "xr.DataArray | None":
        """Rank at each scale of a multiscale estimator, (scale, module), with the ``stability`` of each plan."""
        if self.by_scale is None or not self.by_scale.scales:
            return None
        found = self._along_modules(list(zip(*self.by_scale.ranks, strict=True)), "scale").transpose("scale", "module")
        stability = ("scale", list(self.by_scale.stabilities))
        return found.assign_coords(scale=list(self.by_scale.scales), stability=stability)

    def _along_modules(self, values: Any, *more: str) -> "xr.DataArray":
        import xarray as xr

        modules = self.modules
        coords = {
            "module": [module.name for module in modules],
            "block": ("module", [module.block for module in modules]),
            "stack": ("module", [module.stack for module in modules]),
        }
        return xr.DataArray([list(v) for v in values] if more else list(values), dims=("module", *more), coords=coords)

    def bind(self, model: "nn.Module") -> "RankPlan":
        """Return this plan with the module names of ``model``.

        Raises
        ------
        ValueError
            If ``model`` has another architecture, depth or width, or lacks a matrix of the plan.

        Warns
        -----
        UserWarning
            If its weights differ from those the profile was made with.
        """
        blocks = find_blocks(model)
        check_same_architecture(self.architecture, architecture_of(model, blocks), "the plan")
        warn_other_weights(self.weights_fingerprint, weights_fingerprint(model, blocks), "the plan")
        found = {(block.stack, block.index): block for block in blocks}
        layers = {name: module for name, module in model.named_modules() if is_linear(module)}
        bound = []
        for module in self.modules:
            block = found.get((module.stack, module.block))
            name = "" if block is None else block.roles.get(module.role, f"{block.name}.{module.role}")
            sides = matrix_shape(layers[name]) if name in layers else ()
            if sides != (module.in_features, module.out_features):
                raise ValueError(
                    f"the plan adapts the {module.role} matrix of block {module.block}, "
                    + (
                        f"{module.in_features} × {module.out_features}, which is {sides[0]} × {sides[1]} in the model"
                        if sides
                        else "which the model lacks"
                    )
                )
            bound.append(replace(module, name=name))
        return replace(self, modules=tuple(bound))

    def to_lora_config(
        self, task_type: str | None = None, *, model: "nn.Module | None" = None, **options: Any
    ) -> "LoraConfig":
        """Return a ``peft.LoraConfig`` with this plan's ranks.

        ``rank_pattern`` and ``alpha_pattern`` name every adapted module, each key matching exactly one. ``r`` is
        the largest rank and ``lora_alpha`` keeps the same ratio, for tools that read only those two.

        Without ``model`` the keys match the names that the plan has with anything before them, so the configuration
        of a plan made on a bare model also serves that model under a head. With ``model`` they match its names alone.

        Parameters
        ----------
        task_type : str, optional
            As peft's, e.g. ``"SEQ_CLS"``.
        model : torch.nn.Module, optional
            Bind the plan to this model first, which also checks that it fits.
        **options
            Passed to ``LoraConfig``, e.g. ``lora_dropout``.

        Returns
        -------
        peft.LoraConfig
        """
        base = None if model is None else bare_model(model)
        modules = self.modules if base is None else self.bind(base).modules
        return make_lora_config(modules, self.scaling, task_type, base, options)

    def check(self, model: "nn.Module", config: "LoraConfig | None" = None) -> PlanCheck:
        """Prove that peft adapts ``model`` as planned, without changing it or copying its weights.

        Every key of ``rank_pattern`` and ``alpha_pattern`` matches one module, ``target_modules`` the planned ones
        and no other; shapes and transposition agree, no rank exceeds its matrix, α / r is the plan's scaling; and
        what peft makes of the model's layers on the meta device has the planned ranks and numbers of parameters.
        The adapter of a model that is adapted already is compared too. The weights' values are not.

        Parameters
        ----------
        model : torch.nn.Module
            Bare or under a head, adapted or not.
        config : peft.LoraConfig, optional
            What to prove; by default ``to_lora_config(model=model)``.

        Raises
        ------
        ValueError, RuntimeError
            Naming the first disagreement.
        """
        base = bare_model(model)
        bound = replace(self, weights_fingerprint="").bind(base).modules
        config = config or make_lora_config(bound, self.scaling, None, base, {})
        return check_adaptation(bound, self.scaling, base, config)

    def to_adapter_config(
        self,
        folder: str | Path,
        *,
        base_model: str | None = None,
        task_type: str | None = None,
        model: "nn.Module | None" = None,
        layout: str = "peft",
        experiment: str | None = None,
        training_params: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        """Write `to_lora_config` as the file that ``LoraConfig.from_pretrained`` reads, and return its folder.

        ``base_model`` is that of the profile unless given. See `gelora.export.write_adapter_config`.
        """
        config = self.to_lora_config(task_type, model=model, **options)
        name = base_model or model_name(self.provenance) or None
        if experiment is not None and layout == "peft":
            raise ValueError("`experiment` goes with layout='metamathqa', got layout='peft': leave it out")
        place = {"layout": layout, "experiment": experiment or f"gelora-{self.policy}"}
        return write_adapter_config(config, folder, base_model=name, training_params=training_params, **place)

    def to_axolotl(self, *, model: "nn.Module | None" = None, **options: Any) -> str:
        """Return `to_lora_config` as a fragment of an Axolotl configuration; see `gelora.export.to_axolotl`."""
        return to_axolotl(self.to_lora_config(model=model, **options))

    def to_trl(
        self,
        *,
        base_model: str | None = None,
        dataset: str = "trl-lib/Capybara",
        task_type: str = "CAUSAL_LM",
        model: "nn.Module | None" = None,
        **options: Any,
    ) -> str:
        """Return a Python program that tunes with TRL's ``SFTTrainer``; see `gelora.export.to_trl`."""
        name = base_model or model_name(self.provenance) or "name or folder of the model"
        return to_trl(self.to_lora_config(task_type, model=model, **options), name, dataset)

    def export(self, path: str | Path, format: str = "peft", **options: Any) -> Path:
        """Write the plan for another tool, by the method of that name, which takes ``options``; return what it wrote.

        ``"peft"`` and ``"metamathqa"`` write a folder by `to_adapter_config`, ``"axolotl"`` and ``"trl"`` a file.
        """
        return export_plan(self, path, format, options)

    def save(self, path: str | Path) -> Path:
        """Write the plan to a JSON file, whole or not at all."""
        record = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **_plain(asdict(self))}
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(record, indent=1) + "\n", encoding="utf-8")
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> "RankPlan":
        """Read a plan from a JSON file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no plan, or newer than this gelora.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"`path`: there is no file {str(path)!r}; make one with `gelora ranks --output`")
        try:
            record = read_json(file)
        except ValueError as error:
            raise ValueError(f"`path`: {str(path)!r} is not a JSON file, or truncated: {error}") from error
        return _from_record(record, str(path))


def check_same_architecture(expected: Architecture, found: Architecture, what: str) -> None:
    """Raise ValueError unless the architectures agree."""
    if expected != found:
        raise ValueError(f"{what} was made for {expected}, but `model` is {found}: make it again for this model")


def warn_other_weights(expected: str, found: str | None, what: str) -> None:
    """Warn if the weights' fingerprints are both known and differ."""
    if expected and found and expected != found:
        warnings.warn(
            f"{what} was made with other weights of the same architecture: its ranks are those of another model",
            stacklevel=3,
        )


def _from_record(record: Any, path: str) -> RankPlan:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"`path`: {path!r} is not a gelora rank plan; make one with `gelora ranks`")
    version = record.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ValueError(
            f"`path`: {path!r} has schema version {version!r:.40}, this gelora reads up to {SCHEMA_VERSION}: "
            "install a newer gelora"
        )
    try:
        plan = RankPlan(
            policy=str(record["policy"]),
            modules=tuple(_module(entry) for entry in record["modules"]),
            architecture=Architecture.from_record(record["architecture"]),
            weights_fingerprint=str(record["weights_fingerprint"]),
            scaling=_positive("scaling", record["scaling"]),
            provenance=dict(record["provenance"]),
            uncertainty=uncertainty_from_record(record.get("uncertainty")),
            by_scale=scales_from_record(record.get("by_scale")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__} {error!s:.500}"
        raise ValueError(f"`path`: {path!r} is a damaged rank plan: {reason}") from error
    if not plan.modules:
        raise ValueError(f"`path`: {path!r} is a damaged rank plan: it adapts no module")
    if len({(module.stack, module.block, module.role) for module in plan.modules}) < len(plan.modules):
        raise ValueError(f"`path`: {path!r} is a damaged rank plan: it has a matrix twice")
    return plan


def _plain(value: Any) -> Any:
    """Return ``value`` with null in place of NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _module(entry: Mapping[str, Any]) -> ModuleRank:
    module = ModuleRank(**entry)
    for name in ("block", "rank", "in_features", "out_features"):
        value = getattr(module, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise ValueError(f"{name} must be a positive integer, got {value!r:.40}")
    _positive("alpha", module.alpha)
    return module


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number, got {value!r:.40}")
    return float(value)
