"""Models whose frozen weights are held in 4 or 8 bits, as QLoRA has them: what they need, and how they are loaded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gelora.plan import RankPlan
from gelora.quantization import check_library, check_quantizable, quantization_config, use_one_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Those that leave the frozen weights alone and whose layers peft has for quantised matrices too.
QUANTIZED_ADAPTERS = ("lora", "rslora", "dora", "eva")


def check_quantization(quantization: str | None, model: Any, adapter: str) -> None:
    """Raise unless a model can be quantised as asked.

    Parameters
    ----------
    quantization : str or None
        One of `gelora.quantization.QUANTIZATIONS`; None asks for nothing.
    model
        As `gelora.finetuning.runner.finetune` takes it.
    adapter : str
        Name of the adapter.

    Raises
    ------
    ValueError
        If there is no such quantisation, or the adapter changes the weights themselves.
    TypeError
        If the model is loaded already.
    ImportError
        If bitsandbytes is not installed.
    """
    check_quantizable(quantization, model)
    if quantization is None:
        return
    if adapter not in QUANTIZED_ADAPTERS:
        raise ValueError(
            f"`quantization` goes with the adapters {', '.join(QUANTIZED_ADAPTERS)}, got adapter={adapter!r}: choose "
            "one of them, or leave `quantization` out"
        )
    check_library()


def loading_options(quantization: str, precision: str, device: str, whole: Sequence[str]) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs to quantise a model while it is read.

    Parameters
    ----------
    quantization, precision, whole
        As for `gelora.quantization.quantization_config`; the modules that stay whole are trained whole.
    device : {"auto", "cpu", "cuda"}
        Where the model goes: it cannot be moved later.

    Raises
    ------
    ImportError
        If bitsandbytes is not installed.
    """
    import torch

    check_library()

    place = "cuda:0" if device != "cpu" and torch.cuda.is_available() else "cpu"
    config = quantization_config(quantization, precision, whole)
    return {"quantization_config": config, "device_map": {"": place}}


def prepare_quantized(model: "PreTrainedModel") -> "PreTrainedModel":
    """Freeze a quantised model and make what is not quantised of it float32."""
    import peft

    prepare: Any = peft.prepare_model_for_kbit_training
    prepared: PreTrainedModel = prepare(model, use_gradient_checkpointing=False)
    use_one_path(prepared)
    return prepared


def forget_weights(plan: RankPlan) -> RankPlan:
    """Return the plan without the fingerprint of its weights: quantised ones never have the same."""
    return replace(plan, weights_fingerprint="")
