"""Models whose weights are held in 4 or 8 bits by bitsandbytes: how they are asked for, known and run."""

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.messages import check_choice

if TYPE_CHECKING:
    from torch import nn
    from transformers import BitsAndBytesConfig

QUANTIZATIONS = ("nf4", "fp4", "int8")
_BLOCK = 64  # numbers that share a constant
_MOST_ERROR = 0.17  # of Gaussian weights, twice that of NormalFloat; of fp4 it is 0.12
_FAST_PATH = "support_avx512bf16_for_cpu"
# What matrices of bitsandbytes note at their first pass.
_NOTED = (_FAST_PATH, "compute_dtype", "compute_type_is_set")


def check_quantizable(quantization: str | None, model: Any) -> None:
    """Raise unless a model can be quantised as asked.

    Parameters
    ----------
    quantization : str or None
        One of `QUANTIZATIONS`; None asks for nothing.
    model
        A folder, a hub name or a loaded model.

    Raises
    ------
    ValueError
        If there is no such quantisation.
    TypeError
        If the model is loaded already.
    """
    if quantization is None:
        return
    check_choice("quantization", quantization, QUANTIZATIONS, ", or None")
    if not isinstance(model, str | Path):
        raise TypeError(
            f"`model` must be a folder or hub name for quantization={quantization!r}, got a loaded "
            f"{type(model).__name__}: give where its weights lie, they are quantised as they are read"
        )


def check_library() -> None:
    """Raise ImportError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError("`quantization` needs bitsandbytes, which is not installed: pip install 'gelora[quantized]'")


def quantization_config(quantization: str, precision: str, whole: Sequence[str] = ()) -> "BitsAndBytesConfig":
    """Return what ``from_pretrained`` needs to quantise a model while it is read.

    Parameters
    ----------
    quantization : {"nf4", "fp4", "int8"}
        NormalFloat or float of 4 bits with quantised constants, Dettmers et al. 2023 (arXiv 2305.14314), or integers
        of 8 bits, Dettmers et al. 2022 (arXiv 2208.07339).
    precision : {"float32", "bfloat16", "float16"}
        In which matrices of 4 bits are multiplied.
    whole : sequence of str
        Modules that stay as they are.
    """
    import torch
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    config: BitsAndBytesConfig
    if quantization == "int8":
        config = make(load_in_8bit=True, llm_int8_skip_modules=list(whole))
        return config
    config = make(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, precision),
        llm_int8_skip_modules=list(whole),
    )
    return config


def quantization_of(model: "nn.Module") -> tuple[str, dict[str, str]]:
    """Return how a model of transformers is quantised: a name of `QUANTIZATIONS` or of a method, and its options.

    Both are empty where it is not.
    """
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is None:
        return "", {}
    known: dict[str, Any] = dict(config if isinstance(config, dict) else config.to_dict())
    method = known.get("quant_method", "")
    options = {name: str(value) for name, value in sorted(known.items()) if not name.startswith("_")}
    options["quant_method"] = str(getattr(method, "value", method))
    if known.get("load_in_8bit"):
        return "int8", options
    if known.get("load_in_4bit"):
        return str(known.get("bnb_4bit_quant_type", "4bit")), options
    return options["quant_method"] or type(config).__name__, options


def warn_misread(model: "nn.Module") -> None:
    """Warn of matrices of 4 bits whose width bitsandbytes reads wrongly on this processor.

    Seen with bitsandbytes 0.50 on processors with AVX-512: where rows end within a block of 64 numbers, as those of
    width 96 or 160, a part of the matrix comes out wrong, without a word. One small matrix of each such width is tried.
    """
    import torch

    widths: dict[tuple[int, str], str] = {}
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and module.weight.device.type == "cpu" and state.shape[-1] % _BLOCK:
            widths.setdefault((int(state.shape[-1]), str(state.quant_type)), name)
    for (width, kind), name in widths.items():
        functional = importlib.import_module("bitsandbytes.functional")
        wanted = torch.randn(_BLOCK, width, generator=torch.Generator().manual_seed(0))
        found = functional.dequantize_4bit(*functional.quantize_4bit(wanted, quant_type=kind))
        error = float((found - wanted).norm() / wanted.norm())
        if error > _MOST_ERROR:
            warnings.warn(
                f"on this processor bitsandbytes reads matrices of 4 bits and width {width}, such as {name!r}, with an "
                f"error of {error:.0%} of the weights, {kind} has about 10 %: dimensions and ranks would be those "
                "of another model; give quantization='int8', or run on a GPU",
                stacklevel=3,
            )


def use_one_path(model: "nn.Module") -> None:
    """Let matrices of 4 bits multiply alike in training and evaluation on every processor.

    On some processors bitsandbytes evaluates by a faster path that has no gradients and rounds the constants to
    bfloat16, and leaves the weights in its layout: steps after an evaluation would train other weights, and nothing
    below them.
    """
    for module in model.modules():
        matrix: Any = module
        if getattr(matrix, _FAST_PATH, False):
            setattr(matrix, _FAST_PATH, False)


@contextmanager
def as_found(model: "nn.Module") -> Iterator[None]:
    """Let quantised matrices compute by `use_one_path`, without a note of each product, and leave them as they were.

    bitsandbytes converts a bias for good to the type of the first input that it meets.
    """
    kept = []
    for module in model.modules():
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        if weight is not None and not weight.is_floating_point():
            noted = {name: getattr(module, name) for name in _NOTED if hasattr(module, name)}
            kept.append((module, noted, bias, None if bias is None else bias.data))
    if not kept:
        yield
        return
    chatty = logging.getLogger("bitsandbytes")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    use_one_path(model)
    try:
        yield
    finally:
        chatty.setLevel(level)
        for module, noted, bias, data in kept:
            for name, value in noted.items():
                setattr(module, name, value)
            if bias is not None and data is not None and bias.dtype != data.dtype:
                bias.data = data
