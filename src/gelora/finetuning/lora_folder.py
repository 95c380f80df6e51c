"""Low-rank factors of any origin → a LoRA folder that peft alone can load."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.blocks import is_transposed
from gelora.export import make_lora_config
from gelora.finetuning.classifiers import Classifier
from gelora.plan import ModuleRank

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
Factors = Mapping[str, "tuple[torch.Tensor, torch.Tensor]"]


def save_lora(folder: Path, factors: Factors, scaling: float, classifier: Classifier) -> None:
    r"""Write the update :math:`s B A` of each module as a LoRA adapter (arXiv 2106.09685) in peft's own form.

    Modules of rank 0 are left out. peft loads no adapter without modules: where all ranks are 0, the first module
    keeps rank 1 with B = 0, which adds nothing either.

    Parameters
    ----------
    folder : Path
        Exists; gets ``adapter_config.json`` and ``adapter_model.safetensors``.
    factors : mapping of str to (torch.Tensor, torch.Tensor)
        By the module's name in the unadapted model: A, rank × inputs, and B, outputs × rank. Also of modules that
        keep their weight transposed, as GPT-2's.
    scaling : float
        The factor s, one for all modules.
    classifier : Classifier
        Its model, adapted by now, holds the modules that were trained whole.

    Raises
    ------
    ValueError
        Before anything is written, if there are no factors, or two of them do not fit each other.
    """
    from safetensors.torch import save_file

    _check_factors(factors)
    kept = {name: pair for name, pair in factors.items() if len(pair[0])} or _rank_one_of_zero(factors)
    own = classifier.model
    modules = [_describe(name, pair, scaling, classifier) for name, pair in kept.items()]
    config: Any = make_lora_config(
        modules,
        scaling,
        classifier.task_type,
        own,
        {
            "modules_to_save": list(classifier.head) or None,
            "base_model_name_or_path": str(own.name_or_path) or None,
            "inference_mode": True,
        },
    )
    tensors = _factor_tensors(kept) | _head_tensors(classifier)
    stored = {_PREFIX + name: _to_store(value) for name, value in tensors.items()}
    config.save_pretrained(str(folder))
    save_file(stored, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _check_factors(factors: Factors) -> None:
    if not factors:
        raise ValueError("`factors` must name at least one module, got none: give A and B of each adapted module")
    for name, (a, b) in factors.items():
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ValueError(
                f"`factors`: A (rank × inputs) and B (outputs × rank) of {name!r} must share their rank, got shapes "
                f"{tuple(a.shape)} and {tuple(b.shape)}: give both with one row or column a direction"
            )


def _rank_one_of_zero(factors: Factors) -> Factors:
    """Return a rank-1 update of zero, with an A that could still be trained."""
    name, (a, b) = next(iter(factors.items()))
    return {name: (a.new_full((1, a.shape[1]), a.shape[1] ** -0.5), b.new_zeros(b.shape[0], 1))}


def _describe(name: str, pair: "tuple[torch.Tensor, torch.Tensor]", scaling: float, own: Classifier) -> ModuleRank:
    """Return a planned matrix with the shape and rank of its factors; where it stands does not matter here."""
    a, b = pair
    module: Any = own.model.get_submodule(name)
    return ModuleRank(
        stack="",
        block=0,
        role="",
        name=name,
        rank=len(a),
        alpha=scaling * len(a),
        in_features=a.shape[1],
        out_features=b.shape[0],
        transposed=is_transposed(getattr(module, "base_layer", module)),
    )


def _factor_tensors(factors: Factors) -> "dict[str, torch.Tensor]":
    first = {f"{name}.lora_A.weight": a for name, (a, _) in factors.items()}
    return first | {f"{name}.lora_B.weight": b for name, (_, b) in factors.items()}


def _head_tensors(classifier: Classifier) -> "dict[str, torch.Tensor]":
    """Return the tensors of the modules trained whole, by their names in the unadapted model."""
    own: Any = classifier.model
    found: dict[str, torch.Tensor] = {}
    for name in classifier.head:
        module = own.get_submodule(name)
        # peft puts a trained copy beside the module, in its place.
        trained = module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module
        found |= {f"{name}.{key}": value for key, value in trained.state_dict().items()}
    return found


def _to_store(value: "torch.Tensor") -> "torch.Tensor":
    """Return a copy on the CPU: safetensors refuses tensors that share memory."""
    kept = value.detach().to("cpu", copy=True).contiguous()
    return kept.float() if kept.is_floating_point() else kept
