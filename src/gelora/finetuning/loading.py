"""A saved adapter → the model it was, ready to predict, whatever adapter it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.blocks import is_linear, matrix_shape
from gelora.finetuning.adaptation import PEFT, WHOLE
from gelora.finetuning.adapter_folder import FACTS_FILE, read_facts
from gelora.finetuning.adapters import ADAPTERS
from gelora.finetuning.quantized import loading_options
from gelora.models import load_pretrained
from gelora.quantization import use_one_path
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import nn

_NEEDED = ("adapter", "auto_class", "base", "dtype", "num_labels", "pad_token_id", "processor_class", "revision")
_PEFT_TENSORS, _PEFT_PREFIX = "adapter_model.safetensors", "base_model.model."


def load_adapter(folder: str | Path, model: Any = None) -> "tuple[nn.Module, Any]":
    """Return the tuned model and its tokenizer or image processor.

    Parameters
    ----------
    folder : str or Path
        The ``adapter`` folder of a run of `gelora.finetune`.
    model : PreTrainedModel, str or Path, optional
        The pretrained model under a head of the right number of outputs, or its folder or name. By default the one
        that the folder names. A loaded one is adapted in place, and pads as the run did. Folders that hold a whole
        model need none.

    Returns
    -------
    model : torch.nn.Module
        In evaluation mode; it predicts what the run predicted.
    processor
        As it was saved.

    Raises
    ------
    FileNotFoundError
        If the folder holds no adapter, or the base model is not found.
    ValueError
        If the folder is damaged, or the base model does not fit or has an adapter already: it is left as it is then.
    TypeError
        If ``model`` is neither a model nor the folder or name of one.
    """
    place = Path(folder)
    facts = _read(place)
    _check_type(model)
    with quiet_libraries():
        processor = load_pretrained(place, facts["processor_class"])
        if facts["kind"] == WHOLE:
            whole: nn.Module = load_pretrained(place, facts["auto_class"], dtype=facts["dtype"])
            return whole.eval(), processor
        attach = _attach_peft if facts["kind"] == PEFT else _own(facts, place).attach
        named = facts["base"] if model is None else model
        base = _base(named, facts) if isinstance(named, str | Path) else named
        _check_unadapted(base)
        tuned: nn.Module = attach(base, place, facts)
        if facts["pad_token_id"] is not None:
            base.config.pad_token_id = facts["pad_token_id"]
        return tuned.eval(), processor


def _read(folder: Path) -> dict[str, Any]:
    """Return what the folder says of the adapter, with all that loading needs."""
    facts = read_facts(folder)
    lacking = [name for name in _NEEDED if name not in facts]
    if lacking:
        raise ValueError(
            f"`folder`: {str(folder / FACTS_FILE)!r} is damaged, it lacks {', '.join(lacking)}: save the adapter again"
        )
    return facts


def _check_type(model: Any) -> None:
    if model is None or isinstance(model, str | Path):
        return
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"`model` must be a transformers model, its folder or its name, got {type(model).__name__}: "
            "give the pretrained model that the adapter was trained on"
        )


def _check_unadapted(model: "nn.Module") -> None:
    """Refuse what an adapter has changed in place: a second one would replace the first, or come on top of it."""
    from gelora.finetuning.bottleneck_layers import check_free_of_bottlenecks

    check_free_of_bottlenecks(model)
    held = [name for name, module in model.named_modules() if {"base_layer", "original_module"} & set(module._modules)]
    if held:
        raise ValueError(
            f"`model` has an adapter already, the first at {held[0]!r}: give the pretrained model, loaded afresh"
        )


def _own(facts: Mapping[str, Any], folder: Path) -> Any:
    """Return the adapter's class."""
    kind: Any = ADAPTERS.get(facts["adapter"])
    if not hasattr(kind, "attach"):
        raise ValueError(
            f"`folder`: {str(folder)!r} holds the adapter {facts['adapter']!r}, which this gelora cannot load: load it "
            "by the class that saved it"
        )
    return kind


def _base(name: str | Path, facts: dict[str, Any]) -> Any:
    """Load the pretrained model under a fresh head of the right size, or with its own where that was not trained."""
    options = {"dtype": facts["dtype"], "revision": facts["revision"] or None}
    if facts["num_labels"]:
        options["num_labels"] = facts["num_labels"]
    if facts["pad_token_id"] is not None:
        options["pad_token_id"] = facts["pad_token_id"]
    if facts.get("quantization"):
        whole = facts.get("not_quantized", facts["head"])
        options |= loading_options(facts["quantization"], facts["precision"], "auto", whole)
    base: Any = load_pretrained(name, facts["auto_class"], **options)
    if facts.get("quantization"):
        use_one_path(base)
    return base


def _attach_peft(model: "nn.Module", folder: Path, facts: Mapping[str, Any]) -> "nn.Module":
    """Wrap ``model`` by peft, after a look at whether it is what the folder's tensors were trained on."""
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(str(folder))
        if config.peft_type is None:
            raise ValueError("it names no kind of adapter")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"`folder`: {str(folder / 'adapter_config.json')!r} is missing or damaged ({error}): save the adapter again"
        ) from error
    shapes = _peft_shapes(folder)
    if facts["adapter"] in ADAPTERS:  # what an adapter of the user's own saves is not known here
        _check_fit(model, shapes)
    wrapped: nn.Module = PeftModel.from_pretrained(model, str(folder), config=config)
    return wrapped


def _peft_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the saved tensors by their names in the model, without reading them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _PEFT_TENSORS, framework="pt") as tensors:
            names: list[str] = tensors.keys()
            return {name.removeprefix(_PEFT_PREFIX): tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"`folder`: {str(folder / _PEFT_TENSORS)!r} is missing or damaged ({error}): save the adapter again"
        ) from error


def _check_fit(model: "nn.Module", shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the model has every matrix that was adapted, and every tensor trained whole, as large.

    Left to itself, peft passes over what has no place.
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    for name, shape in shapes.items():
        path, adapted, part = name.partition(".lora_")
        own: tuple[int, ...] | None
        if adapted:  # A is rank × in, all others begin with out
            first = part.startswith("A")
            own, needed = _side(modules.get(path), 0 if first else 1), shape[-1:] if first else shape[:1]
        else:
            own, needed = tuple(parameters[name].shape) if name in parameters else None, shape
        if own != needed:
            has = "lacks" if own is None else f"has {own} for"
            raise ValueError(
                f"`model` does not fit the adapter: it {has} {path!r} of size {needed}; give the pretrained model it "
                "was trained on, with as many labels"
            )


def _side(layer: "nn.Module | None", side: int) -> tuple[int, ...] | None:
    """Return the inputs or outputs of a linear layer, None where it is none."""
    return (matrix_shape(layer)[side],) if layer is not None and is_linear(layer) else None
