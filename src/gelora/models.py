"""Load a model and its tokenizer, by folder or hub name."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.masking import masked
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
