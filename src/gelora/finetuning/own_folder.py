"""The folder of an adapter that only gelora knows: the trained tensors by name, and what puts them into a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.files import read_json

if TYPE_CHECKING:
    from torch import nn

TENSORS_FILE = "adapter.safetensors"
SHAPE_FILE = "adapter.json"


def save_own(folder: Path, model: "nn.Module", shape: Mapping[str, Any]) -> None:
    """Write every trainable tensor of ``model``, and ``shape``, which says what the adapter added to it."""
    from safetensors.torch import save_file

    tensors = {
        name: parameter.detach().cpu().contiguous().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
    (folder / SHAPE_FILE).write_text(json.dumps(dict(shape), indent=1) + "\n", encoding="utf-8")


def read_shape(folder: Path) -> dict[str, Any]:
    """Return what `save_own` was told.

    Raises
    ------
    ValueError
        If the file is missing or damaged.
    """
    try:
        found = read_json(folder / SHAPE_FILE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`folder`: {str(folder / SHAPE_FILE)!r} is missing or damaged ({error}): save the adapter again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"`folder`: {str(folder / SHAPE_FILE)!r} is damaged, it holds no mapping: save it again")
    return found


def load_own(model: "nn.Module", folder: Path) -> "nn.Module":
    """Give ``model`` the tensors in ``folder`` and return it.

    Raises
    ------
    ValueError
        If the file is missing or damaged, or the model lacks one of the tensors or has it in another shape; the model
        is left as it is then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / TENSORS_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"`folder`: {str(folder / TENSORS_FILE)!r} is missing or damaged ({error}): save the adapter again"
        ) from error
    known = dict(model.named_parameters())
    for name, value in tensors.items():
        own = tuple(known[name].shape) if name in known else None
        if own != tuple(value.shape):
            has = "lacks" if own is None else f"has {own} for"
            raise ValueError(
                f"`model` does not fit the adapter: it {has} {name!r} of shape {tuple(value.shape)}; give "
                "the pretrained model it was trained on, with as many labels"
            )
    model.load_state_dict(tensors, strict=False)
    return model
