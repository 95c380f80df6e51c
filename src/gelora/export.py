"""What a rank plan becomes for other tools: a LoraConfig that is proven on the model, and files that carry it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gelora.files import atomic_path, make_folder
from gelora.lora_arguments import lora_arguments, python_literal
from gelora.messages import check_choice, nearest
from gelora.plan_check import Planned
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

CONFIG_FILE = "adapter_config.json"
TRAINING_FILE = "training_params.json"
LAYOUTS = ("peft", "metamathqa")
# What the runner of peft's comparison on MetaMathQA reads from training_params.json.
_TRAINING_FIELDS = (
    *("model_id", "dtype", "max_seq_length", "batch_size", "batch_size_eval", "max_steps", "eval_steps", "compile"),
    *("use_gc", "query_template", "seed", "grad_norm_clip", "optimizer_type", "optimizer_kwargs", "lr_scheduler"),
    *("use_amp", "autocast_adapter_dtype", "generation_kwargs", "attn_implementation", "init_kv_cache_prefix"),
)
_RESERVED = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern")
# Options that would adapt other modules than the planned, or scale them otherwise.
_CONTRARY = (
    "use_rslora",
    "exclude_modules",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "target_parameters",
)


def make_lora_config(
    modules: Sequence[Planned],
    scaling: float,
    task_type: str | None,
    model: "nn.Module | None",
    options: Mapping[str, Any],
) -> "LoraConfig":
    """Return the ``peft.LoraConfig`` of ``modules``.

    Parameters
    ----------
    modules : sequence of Planned
        With the names of ``model`` where one is given.
    scaling : float
        α / r.
    task_type : str, optional
        As peft's.
    model : torch.nn.Module, optional
        Anchors the keys at its names.
    options : mapping
        Further options of ``LoraConfig``.

    Raises
    ------
    ValueError
        If an option contradicts the plan.
    """
    with quiet_libraries():  # peft imports quantisers, which may have something to say
        from peft import LoraConfig

    contrary = set(_RESERVED) & set(options) or {name for name in _CONTRARY if options.get(name)}
    if contrary:
        raise ValueError(f"`{min(contrary)}` follows from the plan: change the plan instead")
    fields = lora_arguments(modules, scaling, None if model is None else [name for name, _ in model.named_modules()])
    return LoraConfig(task_type=task_type, **{**fields, **options})


def model_name(provenance: Mapping[str, Any]) -> str:
    """Return the name or folder of the model that a plan was made on, empty where it was loaded from nowhere.

    Examples
    --------
    >>> model_name({"model": "", "profile": {"model": "bert-base-cased"}})
    'bert-base-cased'
    """
    return str(provenance.get("model") or (provenance.get("profile") or {}).get("model") or "")


def config_fields(config: "LoraConfig") -> dict[str, Any]:
    """Return the fields of ``config`` as JSON takes them, sets in order.

    Examples
    --------
    >>> from peft import LoraConfig
    >>> config_fields(LoraConfig(r=4, target_modules=["v", "q"]))["target_modules"]
    ['q', 'v']
    """
    fields: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]
    fields = {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}
    return {name: getattr(value, "value", value) for name, value in sorted(fields.items())}


def write_adapter_config(
    config: "LoraConfig",
    folder: str | Path,
    *,
    base_model: str | None = None,
    layout: str = "peft",
    experiment: str = "gelora",
    training_params: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``adapter_config.json``, whole or not at all, and return its folder.

    Parameters
    ----------
    config : peft.LoraConfig
        What ``LoraConfig.from_pretrained`` shall return.
    folder : str or Path
        Made if needed. It must hold no trained adapter.
    base_model : str, optional
        Name or folder of the model to adapt.
    layout : {"peft", "metamathqa"}
        ``"peft"``: the file lies in ``folder``. ``"metamathqa"``: as the runner of peft's
        ``method_comparison/MetaMathQA`` reads it, with ``folder`` in the place of that directory:
        ``experiments/lora/<experiment>/``, with ``training_params.json`` where it has something to say.
    experiment : str
        Name of that experiment.
    training_params : mapping, optional
        What the experiment changes of the runner's defaults; ``model_id`` is ``base_model`` unless given.

    Raises
    ------
    ValueError
        If an argument is none of these.
    FileExistsError
        If the folder holds a trained adapter, which another configuration would make unreadable, or training
        parameters that this export would leave in force.
    """
    check_choice("layout", layout, LAYOUTS)
    if layout == "peft" and training_params is not None:
        raise ValueError('`training_params` belong to `layout="metamathqa"`: leave them out, or choose it')
    target = Path(folder)
    training = {} if base_model is None else {"model_id": base_model}
    training |= _check_training(training_params or {})
    if layout == "metamathqa":
        target = target / "experiments" / "lora" / _check_experiment(experiment)
    weights = sorted(target.glob("adapter_model.*"))
    if weights:
        raise FileExistsError(
            f"`folder`: {str(target)!r} holds the trained adapter {weights[0].name}: give another one"
        )
    if layout == "metamathqa" and not training and (target / TRAINING_FILE).exists():
        raise FileExistsError(
            f"`folder`: {str(target)!r} holds {TRAINING_FILE} of another export, which the runner would read: "
            "remove it, or give `training_params`"
        )
    make_folder(target)
    fields = config_fields(config)
    if layout == "metamathqa":  # its runner loads a causal language model, whatever the configuration says
        fields["task_type"] = fields["task_type"] or "CAUSAL_LM"
    _write_json(target / CONFIG_FILE, fields | ({"base_model_name_or_path": base_model} if base_model else {}))
    if layout == "metamathqa" and training:
        _write_json(target / TRAINING_FILE, training)
    return target


def _check_training(training: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(training) - set(_TRAINING_FIELDS))
    if unknown:
        raise ValueError(
            f"`training_params`: the runner has no field {unknown[0]!r}{nearest(unknown[0], _TRAINING_FIELDS)}; "
            f"it has {', '.join(_TRAINING_FIELDS)}"
        )
    return dict(training)


def _check_experiment(experiment: str) -> str:
    if not isinstance(experiment, str) or not re.fullmatch(r"\w[\w.+=-]*", experiment):
        raise ValueError(
            f"`experiment` must be the name of one folder, of letters, digits and . _ - + =, got {experiment!r}"
        )
    return experiment


def _write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# Key of an Axolotl configuration → field of LoraConfig.
_AXOLOTL = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_rank_pattern": "rank_pattern",
    "lora_alpha_pattern": "alpha_pattern",
    "lora_fan_in_fan_out": "fan_in_fan_out",
    "lora_modules_to_save": "modules_to_save",
    "peft_init_lora_weights": "init_lora_weights",
    "peft_use_dora": "use_dora",
}
_AXOLOTL_ALWAYS = ("lora_r", "lora_alpha", "lora_dropout")
_AXOLOTL_HEAD = """\
# LoRA ranks by gelora, to paste into an Axolotl configuration.
# Needs an Axolotl that reads lora_rank_pattern and lora_alpha_pattern: one that does not gives every matrix lora_r.
"""


def to_axolotl(config: "LoraConfig") -> str:
    """Return ``config`` as a fragment of an Axolotl configuration, in YAML.

    Raises
    ------
    ValueError
        If an α is no whole number, which Axolotl's schema refuses, or ``config`` sets a field without a key there,
        or ``init_lora_weights`` to False, which Axolotl does not hand on.

    Examples
    --------
    >>> from peft import LoraConfig
    >>> config = LoraConfig(r=4, lora_alpha=8, target_modules=["q"], rank_pattern={"q": 4}, alpha_pattern={"q": 8})
    >>> print(to_axolotl(config).split("gives every matrix lora_r.")[1].strip())
    adapter: "lora"
    lora_r: 4
    lora_alpha: 8
    lora_dropout: 0.0
    lora_target_modules:
      - "q"
    lora_rank_pattern:
      "q": 4
    lora_alpha_pattern:
      "q": 8
    """
    fields, changed = config_fields(config), _changed(config)
    broken = [alpha for alpha in (fields["lora_alpha"], *fields["alpha_pattern"].values()) if alpha % 1]
    if broken:
        raise ValueError(f"Axolotl takes whole numbers for α, and the plan has {broken[0]:g}: choose a whole `scaling`")
    # Axolotl takes these two from the model.
    unknown = sorted(set(changed) - set(_AXOLOTL.values()) - {"task_type", "base_model_name_or_path"})
    if unknown:
        raise ValueError(f"`{unknown[0]}` has no key in an Axolotl configuration: leave it out")
    if not fields["init_lora_weights"]:
        raise ValueError("`init_lora_weights` must not be False for Axolotl, which then starts from peft's default")
    entries = {"adapter": "lora"} | {
        key: fields[name] for key, name in _AXOLOTL.items() if name in changed or key in _AXOLOTL_ALWAYS
    }
    return _AXOLOTL_HEAD + "".join(_yaml(key, value) for key, value in entries.items())


def _scalar(value: Any) -> str:
    # JSON's scalars are YAML's, but that YAML 1.1 takes a number like 1e-05, without a point, for text.
    text = json.dumps(value)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text


def _changed(config: "LoraConfig") -> dict[str, Any]:
    """Return the fields of ``config`` that are not peft's defaults."""
    from peft import LoraConfig

    usual = config_fields(LoraConfig())
    return {name: value for name, value in config_fields(config).items() if value != usual[name]}


def _yaml(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        lines = [f"  {json.dumps(name)}: {_scalar(entry)}" for name, entry in value.items()]
    elif isinstance(value, list):
        lines = [f"  - {_scalar(entry)}" for entry in value]
    else:
        return f"{key}: {_scalar(value)}\n"
    return "\n".join([f"{key}:", *lines]) + "\n"


_TRL = '''\
"""Supervised fine-tuning by TRL, with LoRA ranks by gelora."""

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

peft_config = LoraConfig(
{arguments}
)

trainer = SFTTrainer(
    model={model!r},
    args=SFTConfig(output_dir={output!r}),
    train_dataset=load_dataset({dataset!r}, split="train"),
    peft_config=peft_config,
)
trainer.train()
'''


def to_trl(config: "LoraConfig", base_model: str, dataset: str) -> str:
    """Return a Python program that tunes ``base_model`` with TRL's ``SFTTrainer`` and ``config``.

    Parameters
    ----------
    config : peft.LoraConfig
        Written out, field by field.
    base_model, dataset : str
        Names or folders, as ``from_pretrained`` and ``datasets.load_dataset`` take them.

    Examples
    --------
    >>> from peft import LoraConfig
    >>> print(to_trl(LoraConfig(r=4), "base", "rows").split("LoraConfig(")[1].split(")")[0].strip())
    r=4,
    """
    arguments = "\n".join(f"    {name}={python_literal(value)}," for name, value in _changed(config).items())
    return _TRL.format(arguments=arguments, model=base_model, output="sft-gelora", dataset=dataset)


class Exportable(Protocol):
    """A plan that writes itself, as `gelora.plan.RankPlan`."""

    def to_adapter_config(self, folder: str | Path, **options: Any) -> Path: ...  # noqa: D102
    def to_axolotl(self, **options: Any) -> str: ...  # noqa: D102
    def to_trl(self, **options: Any) -> str: ...  # noqa: D102


def _text(make: Callable[..., str], path: str | Path, options: Mapping[str, Any]) -> Path:
    text = make(**options)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


EXPORTS: Mapping[str, Callable[[Exportable, str | Path, Mapping[str, Any]], Path]] = {
    "peft": lambda plan, path, options: plan.to_adapter_config(path, **options),
    "metamathqa": lambda plan, path, options: plan.to_adapter_config(path, **{"layout": "metamathqa", **options}),
    "axolotl": lambda plan, path, options: _text(plan.to_axolotl, path, options),
    "trl": lambda plan, path, options: _text(plan.to_trl, path, options),
}


def export_plan(plan: Exportable, path: str | Path, format: str, options: Mapping[str, Any]) -> Path:
    """Write ``plan`` in one of `EXPORTS` and return the file, or the folder of ``adapter_config.json``.

    Raises
    ------
    ValueError
        If the format is unknown.
    """
    if format not in EXPORTS:
        hint = nearest(str(format), EXPORTS)
        raise ValueError(f"`format` must be one of {', '.join(EXPORTS)}, got {format!r}{hint}")
    return EXPORTS[format](plan, path, options)
