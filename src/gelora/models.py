"""Load a model and its tokenizer, by folder or hub name."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.masking import masked
from gelora.messages import nearest
from gelora.quantization import check_library, check_quantizable, quantization_config, warn_misread
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def load_pretrained(
    model: str | Path,
    auto_class: str = "AutoModel",
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    **options: Any,
) -> Any:
    """Load ``model``, a folder or the name of a model on the Hugging Face hub.

    A folder is read without any network call; a name is looked up by transformers as usual (cache first).

    Parameters
    ----------
    model : str or Path
        Folder or hub name.
    auto_class : str
        A class of transformers: ``"AutoModel"``, ``"AutoTokenizer"``, ``"AutoModelForSequenceClassification"``…
    revision : str, optional
        Branch, tag or commit on the hub.
    trust_remote_code : bool
        Run code that comes with the model. Off unless asked for.
    local_files_only : bool
        Look a name up in the local cache alone.
    **options
        Passed to ``from_pretrained``.

    Raises
    ------
    FileNotFoundError
        If ``model`` looks like a path and is none, or the hub has no such model or cannot be reached.
    ValueError
        If transformers does not know the model, or its weights are damaged.
    """
    import transformers
    from safetensors import SafetensorError

    folder = Path(model)
    if not folder.is_dir() and (isinstance(model, Path) or _looks_like_path(str(model))):
        raise FileNotFoundError(
            f"`model`: there is no folder {masked(str(model))!r}; give a model's folder or hub name"
        )
    try:
        with quiet_libraries():
            return getattr(transformers, auto_class).from_pretrained(
                str(model),
                revision=revision or "main",
                trust_remote_code=trust_remote_code,
                local_files_only=local_files_only or folder.is_dir(),
                **options,
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = "" if folder.is_dir() else f", and there is no folder {str(model)!r}"
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        text = f"`model`: {str(model)!r} could not be loaded by {auto_class}: {reason}{where}"
        raise kind(masked(text)) from error


def _looks_like_path(name: str) -> bool:
    # A hub name is "name" or "owner/name"; whatever else is meant as a path.
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name.endswith("/")


def check_placement(model: Any, device: str | None, device_map: Any, quantization: str | None) -> None:
    """Raise unless a model can be put where it is asked to be, as it is asked to be held.

    Parameters
    ----------
    model
        A loaded model, a folder or a hub name.
    device, device_map, quantization
        As for `load_model`.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was found and the remedy.
    ImportError
        If bitsandbytes is needed and not installed.
    """
    check_quantizable(quantization, model)
    if quantization is not None:
        check_library()
    if not isinstance(model, str | Path):
        if device not in (None, "auto"):
            raise ValueError("`device` goes with a model given by name: a loaded model runs where it is, move it first")
        if device_map is not None:
            raise ValueError(
                "`device_map` goes with a model given by name: a loaded model runs where it is, spread it first by "
                "from_pretrained(…, device_map=…) or accelerate.dispatch_model"
            )
    if device_map is None:
        return
    if device is not None:
        raise ValueError(f"`device` and `device_map` both say where the model runs, got device={device!r}: give one")
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise ValueError(
            f"`device_map` must be one of {', '.join(DEVICE_MAPS)}, or a mapping from modules to devices, got "
            f"{device_map!r}{nearest(device_map, DEVICE_MAPS)}; a single device is `device`"
        )
    if not isinstance(device_map, str | Mapping) or not device_map:
        raise TypeError(
            f"`device_map` must be one of {', '.join(DEVICE_MAPS)}, or a mapping from modules to devices such as "
            f"{{'': 0}}, got {device_map!r:.80}"
        )


def load_model(
    model: Any,
    *,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | None = None,
    precision: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "nn.Module":
    """Return a loaded ``model`` as it is, and one given by name on the devices that are asked for.

    Parameters
    ----------
    model : torch.nn.Module, str or Path
        A loaded model, a folder or a hub name.
    device : str, optional
        Where all of it goes; by default a GPU if there is one.
    device_map : {"auto", "balanced", "balanced_low_0", "sequential"} or mapping, optional
        How it is spread by accelerate; what goes to disk and is not there as it is needed lies in a temporary folder
        as long as the model is held.
    quantization : {"nf4", "fp4", "int8"}, optional
        How bitsandbytes holds its linear layers.
    precision : {"float32", "bfloat16", "float16"}
        In which matrices of 4 bits are multiplied.
    revision, trust_remote_code
        As for `load_pretrained`.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `check_placement`, or naming a device that there is not.
    FileNotFoundError
        If there is no such model.
    """
    from torch import nn

    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, str | Path):
        raise TypeError(f"`model` must be a loaded model, a folder or a hub name, got {type(model).__name__}")
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    loaded: nn.Module
    if device_map is None and quantization is None:
        target = _device(device)
        loaded = load_pretrained(model, "AutoModel", **options)
        return loaded.to(target)
    options["device_map"] = {"": str(_device(device))} if device_map is None else device_map
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization, precision)
    folder = tempfile.mkdtemp(prefix="gelora-offload-")
    try:
        loaded = load_pretrained(model, "AutoModel", offload_folder=folder, **options)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
    if quantization is not None:
        warn_misread(loaded)
    return loaded


def _device(device: str | None) -> "torch.device":
    import torch

    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(str(device))
    except RuntimeError as error:
        raise ValueError(
            f"`device` must be 'auto' or a torch device such as 'cpu' or 'cuda:0', got {device!r}"
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` is {device!r}, but torch finds no CUDA device: give device='auto' or 'cpu'")
    return found


def load_tokenizer(
    model: "PreTrainedModel | nn.Module",
    tokenizer: "PreTrainedTokenizerBase | str | Path | None" = None,
    auto_class: str = "AutoTokenizer",
) -> "PreTrainedTokenizerBase":
    """Return the tokenizer given, or the one that lies beside the weights of a loaded ``model``.

    With ``auto_class="AutoImageProcessor"`` the same for an image processor.

    Raises
    ------
    ValueError
        If there is none on this machine: a hub is not asked behind the user's back.
    """
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        return tokenizer
    if tokenizer is not None:
        loaded: PreTrainedTokenizerBase = load_pretrained(tokenizer, auto_class)
        return loaded
    origin = str(getattr(model, "name_or_path", "") or "")
    what = "read texts" if auto_class == "AutoTokenizer" else "read images, an image processor"
    remedy = f"`tokenizer` must be given to {what}: none was found on this machine for the model {origin!r}"
    if not origin:
        raise ValueError(remedy)
    try:
        loaded = load_pretrained(origin, auto_class, local_files_only=True)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(remedy) from error
    return loaded
