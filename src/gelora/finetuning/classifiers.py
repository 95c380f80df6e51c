"""A model → one with a head for a task: the head, the padding token, and which modules are new."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.blocks import check_finite_parameters, find_blocks, weights_fingerprint
from gelora.files import read_json
from gelora.finetuning.quantized import loading_options, prepare_quantized
from gelora.finetuning.tasks import TaskData
from gelora.images import check_processor
from gelora.models import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_CLASS = "AutoModelForSequenceClassification"
IMAGE_CLASS = "AutoModelForImageClassification"
QUESTION_CLASS = "AutoModelForQuestionAnswering"
LANGUAGE_CLASS = "AutoModelForCausalLM"
_TASK_TYPES = {AUTO_CLASS: "SEQ_CLS", QUESTION_CLASS: "QUESTION_ANS", LANGUAGE_CLASS: "CAUSAL_LM"}
_HEADS = {
    AUTO_CLASS: "sequence classifier",
    IMAGE_CLASS: "image classifier",
    QUESTION_CLASS: "model for question answering",
    LANGUAGE_CLASS: "causal language model",
}


@dataclass(frozen=True, slots=True)
class Classifier:
    """A model with a head for a task, not yet adapted.

    Parameters
    ----------
    model : PreTrainedModel
        Our own copy: training it leaves what the user gave alone.
    tokenizer : PreTrainedTokenizerBase
        With a padding token. For images, the image processor.
    head : tuple of str
        Modules that are trained whole and saved with the adapter: the head and whatever else the stored weights
        do not hold. The head of a language model is not among them where the stored weights hold it.
    weights : str
        Fingerprint of the blocks.
    auto_class, processor_class : str
        Names of the classes of transformers that load the model and its tokenizer.
    quantization : str
        One of `gelora.quantization.QUANTIZATIONS`; empty where the weights are as stored.
    not_quantized : tuple of str
        Modules that no quantisation touches: the head, whether or not it is trained.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    head: tuple[str, ...]
    weights: str
    auto_class: str = AUTO_CLASS
    processor_class: str = "AutoTokenizer"
    quantization: str = ""
    not_quantized: tuple[str, ...] = ()

    @property
    def task_type(self) -> str | None:
        """What peft calls the task: it knows none of images."""
        return _TASK_TYPES.get(self.auto_class)

    def describe_processor(self) -> str:
        """Return what of the tokenizer or image processor tells two runs apart."""
        if self.auto_class == IMAGE_CLASS:
            processor: Any = self.tokenizer
            return str(processor.to_json_string())
        return f"{type(self.tokenizer).__name__} of {len(self.tokenizer)} tokens"


def load_classifier(
    model: Any,
    data: TaskData,
    *,
    tokenizer: Any = None,
    precision: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: str | None = None,
    device: str = "auto",
) -> Classifier:
    """Return ``model`` with a head for the task of ``data``.

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        A folder or hub name, or a loaded model: bare, with a head for the task, or with another head, which is left
        away. A loaded one is copied.
    data : TaskData
        Says how many outputs the head needs, and their names.
    tokenizer : optional
        A tokenizer, or for images an image processor, its folder or name; by default the one beside the weights.
    precision : str
        ``"float32"`` refuses a loaded model with half-precision weights.
    revision, trust_remote_code
        For a model given by name.
    quantization : {"nf4", "fp4", "int8"}, optional
        Of the weights that are not trained, for a model given by name.
    device : str
        Where a quantised model goes.

    Raises
    ------
    FileNotFoundError
        If the model cannot be loaded.
    ValueError, TypeError
        If its head has another number of outputs, its blocks lack weights, there is no tokenizer or the tokenizer
        does not belong to it; or if a model that reads both ways shall write responses.

    Notes
    -----
    Modules that no stored weights fill start at random: the head, and for some models a pooler before it. They
    must be trained and saved with the adapter, or the saved adapter would predict otherwise when loaded again.
    """
    if isinstance(model, str | Path):
        if quantization is None:
            loaded, new = _from_name(model, data, revision, trust_remote_code)
        else:
            loaded, new = _quantized(model, data, revision, trust_remote_code, quantization, precision, device)
        if tokenizer is None:  # asked for with the model: the hub may be asked for it too
            kind = _processor_class(data)
            tokenizer = load_pretrained(model, kind, revision=revision, trust_remote_code=trust_remote_code)
    else:
        loaded, new = _from_loaded(model, data, precision)
    processor = load_tokenizer(loaded, tokenizer, _processor_class(data))
    found = check_processor(processor) if data.task.image else _padding_tokenizer(loaded, processor)
    check_finite_parameters(loaded)
    if data.task.problem == "language_modelling":
        _check_decoder(loaded)
    head = _head_modules(loaded, new, data)
    return Classifier(
        loaded,
        found,
        head,
        weights_fingerprint(loaded, find_blocks(loaded)) or "",
        auto_class=_auto_class(data),
        processor_class=_processor_class(data),
        quantization=quantization or "",
        not_quantized=tuple(dict.fromkeys((*_outside(loaded), *head))),
    )


def _auto_class(data: TaskData) -> str:
    kinds = {"question_answering": QUESTION_CLASS, "language_modelling": LANGUAGE_CLASS}
    return IMAGE_CLASS if data.task.image else kinds.get(data.task.problem, AUTO_CLASS)


def _processor_class(data: TaskData) -> str:
    return "AutoImageProcessor" if data.task.image else "AutoTokenizer"


def labels_of(data: TaskData) -> dict[str, Any]:
    """Return what a model's configuration says about the labels of a task."""
    if data.task.problem == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    if data.task.problem != "classification":
        return {"num_labels": data.num_labels} if data.num_labels else {}
    names = data.task.label_names
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def _quantized(
    model: str | Path,
    data: TaskData,
    revision: str | None,
    trust_remote_code: bool,
    quantization: str,
    precision: str,
    device: str,
) -> tuple["PreTrainedModel", set[str]]:
    """Load a model with all but its head quantised: which modules the head is, a load without any weights tells."""
    sketch, new = _from_name(model, data, revision, trust_remote_code, device_map={"": "meta"})
    whole = tuple(dict.fromkeys((*_outside(sketch), *_head_modules(sketch, new, data))))
    options = loading_options(quantization, precision, device, whole)
    loaded, new = _from_name(model, data, revision, trust_remote_code, **options)
    return prepare_quantized(loaded), new


def _from_name(
    model: str | Path, data: TaskData, revision: str | None, trust_remote_code: bool, **options: Any
) -> tuple["PreTrainedModel", set[str]]:
    import torch

    loaded, info = load_pretrained(
        model,
        _auto_class(data),
        revision=revision,
        trust_remote_code=trust_remote_code,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # to say which sizes differ, below
        **labels_of(data),
        **options,
    )
    mismatched = sorted(entry[0] for entry in info["mismatched_keys"])
    if mismatched:
        raise ValueError(
            f"`model`: the stored head {mismatched[0]!r} of {str(model)!r} does not fit the {data.num_labels} outputs "
            f"of the task {data.task.name!r}: give the model without that head, e.g. AutoModel.from_pretrained(…)"
        )
    return loaded, set(info["missing_keys"])


def _from_loaded(model: Any, data: TaskData, precision: str) -> tuple["PreTrainedModel", set[str]]:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"`model` must be a transformers model, a folder or a hub name, got {type(model).__name__}; "
            "merge an adapted one first (`merge_and_unload`)"
        )
    if precision == "float32" and str(model.dtype) in ("torch.float16", "torch.bfloat16"):
        raise ValueError(
            f"`model` has weights of type {model.dtype}: load it with dtype=torch.float32, or give precision='bfloat16'"
        )
    if not _has_head(model, data):
        return _with_head(model, data)
    if data.num_labels and model.config.num_labels != data.num_labels:
        raise ValueError(
            f"`model`: its head has {model.config.num_labels} outputs, but the task {data.task.name!r} needs "
            f"{data.num_labels}: load it with num_labels={data.num_labels}, or give the bare model"
        )
    own = copy.deepcopy(model)
    if "problem_type" in labels_of(data):
        own.config.problem_type = labels_of(data)["problem_type"]
    return own, _not_stored(own)


def _has_head(model: "PreTrainedModel", data: TaskData) -> bool:
    import transformers

    mapped = getattr(transformers, _auto_class(data))._model_mapping.get(type(model.config), None)
    known = mapped if isinstance(mapped, tuple) else (mapped,)
    return type(model) in known or type(model).__name__.endswith(_auto_class(data).removeprefix("AutoModel"))


def _check_decoder(model: "PreTrainedModel") -> None:
    """Refuse a model that would see the token it is asked for."""
    if all(block.stack == "encoder" for block in find_blocks(model)) and not getattr(model.config, "is_decoder", False):
        raise ValueError(
            f"`model`: {type(model).__name__} reads its texts both ways, and would see what it is to write: give a "
            "decoder for 'language_modelling', such as GPT-2, LLaMA or Qwen"
        )


def _with_head(model: "PreTrainedModel", data: TaskData) -> tuple["PreTrainedModel", set[str]]:
    """Return a new classifier with the weights of the bare ``model``."""
    import transformers

    config = copy.deepcopy(model.config)
    for name, value in labels_of(data).items():
        setattr(config, name, value)
    config.architectures = config.architectures or []  # None, of a model made in memory, is not iterated over
    try:
        own: PreTrainedModel = getattr(transformers, _auto_class(data)).from_config(config, dtype=model.dtype)
    except ValueError as error:
        raise ValueError(
            f"`model`: transformers has no {_HEADS[_auto_class(data)]} for {type(model).__name__}: give another model"
        ) from error
    own.name_or_path = model.name_or_path
    missing, _ = own.base_model.load_state_dict(model.base_model.state_dict(), strict=False)
    prefix = f"{own.base_model_prefix}."
    drawn = {name for name, _ in own.named_parameters() if not name.startswith(prefix)}  # not what is tied to the base
    return own, {prefix + name for name in missing} | drawn | _not_stored(own)


def _outside(model: "PreTrainedModel") -> list[str]:
    """Return the modules with parameters outside the base model."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]


def _head_modules(model: "PreTrainedModel", new: Iterable[str], data: TaskData) -> tuple[str, ...]:
    """Return the modules outside the base model, and those inside it that hold the ``new`` parameters.

    Of a language model's head alone what is new: it is pretrained like the rest, and often tied to the embeddings.
    """
    outside = _outside(model)
    if data.task.problem == "language_modelling":
        own = {name for name, _ in model.named_parameters()}  # a tied head is not named a second time
        outside = [name for name in outside if any(key.startswith(f"{name}.") and key in own for key in new)]
    inside = sorted({name.rpartition(".")[0] for name in new if name.startswith(f"{model.base_model_prefix}.")})
    embeddings = [name for name, module in model.named_modules() if module is model.get_input_embeddings()]
    for name in inside:
        for stored in (*(block.name for block in find_blocks(model)), *embeddings):
            if f"{name}.".startswith(f"{stored}."):
                raise ValueError(
                    f"`model`: the stored weights of {model.name_or_path!r} lack {name!r}, a part of the transformer "
                    "itself: give a complete pretrained model"
                )
    return (*outside, *inside)


def _not_stored(model: "PreTrainedModel") -> set[str]:
    """Return the parameters of the poolers in ``model`` that its stored weights lack or hold otherwise.

    A loaded model does not tell what it was loaded with and what it drew at random; the file it names does.
    """
    import torch

    stored = _StoredWeights(str(model.name_or_path or ""))
    return {
        name
        for name, parameter in model.named_parameters()
        if ".pooler." in f".{name}"
        and ((value := stored.get(name)) is None or not torch.equal(value.to(parameter), parameter.detach()))
    }


class _StoredWeights:
    """Read single tensors of the safetensors files that a model was loaded from, where they are on this machine."""

    def __init__(self, origin: str) -> None:
        self._files = _weight_files(origin) if origin else {}

    def get(self, name: str) -> "torch.Tensor | None":
        """Return a parameter by its name in the model, with or without the base model's prefix."""
        import safetensors

        for key, file in self._files.items():
            if key == name or name.endswith(f".{key}") or key.endswith(f".{name}"):
                with safetensors.safe_open(file, framework="pt") as tensors:
                    found: torch.Tensor = tensors.get_tensor(key)
                return found
        return None


def _weight_files(origin: str) -> dict[str, Path]:
    import safetensors
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    index = _stored_file(origin, SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        try:
            return {key: index.parent / Path(name).name for key, name in read_json(index)["weight_map"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`model`: {str(index)!r} is damaged ({error}): fetch it again") from error
    whole = _stored_file(origin, SAFE_WEIGHTS_NAME)
    if whole is not None:
        with safetensors.safe_open(whole, framework="pt") as tensors:
            return dict.fromkeys(tensors.keys(), whole)
    return {}


def _stored_file(origin: str, name: str) -> Path | None:
    from transformers.utils.hub import cached_file

    if Path(origin).is_dir():
        return Path(origin) / name if (Path(origin) / name).is_file() else None
    found = cached_file(
        origin,
        name,
        local_files_only=True,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _padding_tokenizer(model: "PreTrainedModel", tokenizer: Any) -> "PreTrainedTokenizerBase":
    """Return ``tokenizer`` with a padding token that the model knows of."""
    own: PreTrainedTokenizerBase = tokenizer
    if own.pad_token is None:
        own = copy.deepcopy(tokenizer)
        own.pad_token = own.eos_token or own.unk_token
        if own.pad_token is None:
            raise ValueError(
                "`tokenizer` must have a padding token: set its `pad_token`, or an `eos_token` to pad with"
            )
    embeddings = model.get_input_embeddings()
    size = getattr(embeddings, "num_embeddings", len(own))
    if len(own) > size:
        raise ValueError(
            f"`tokenizer` does not belong to the model: it has {len(own)} tokens, but the model embeds {size}"
        )
    position_pad = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    if position_pad is not None and position_pad != own.pad_token_id:
        raise ValueError(
            f"`tokenizer` pads with the token id {own.pad_token_id}, but the model counts positions from tokens other "
            f"than {position_pad}: give the model's own tokenizer"
        )
    model.config.pad_token_id = own.pad_token_id
    return own
