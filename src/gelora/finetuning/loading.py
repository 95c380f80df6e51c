"""A saved adapter → the model it was, ready to predict, whatever adapter it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.finetuning.adaptation import PEFT, WHOLE
from gelora.finetuning.adapter_folder import read_facts
from gelora.finetuning.adapters import ADAPTERS
from gelora.finetuning.quantized import loading_options, use_one_path
from gelora.models import load_pretrained
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import nn


def load_adapter(folder: str | Path, model: Any = None) -> "tuple[nn.Module, Any]":
    """Return the tuned model and its tokenizer or image processor.

    Parameters
    ----------
    folder : str or Path
        The ``adapter`` folder of a run of `gelora.finetune`.
    model : PreTrainedModel, str or Path, optional
        The pretrained model under a head of the right number of outputs, or its folder or name. By default the one
        that the folder names. Folders that hold a whole model need none.

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
        If the folder is damaged, or the base model does not fit.
    """
    place = Path(folder)
    facts = read_facts(place)
    with quiet_libraries():
        processor = load_pretrained(place, facts["processor_class"])
        if facts["kind"] == WHOLE:
            whole: nn.Module = load_pretrained(place, facts["auto_class"], dtype=facts["dtype"])
            return whole.eval(), processor
        named = facts["base"] if model is None else model
        base = _base(named, facts) if isinstance(named, str | Path) else named
        if facts["kind"] == PEFT:
            from peft import PeftModel

            wrapped: nn.Module = PeftModel.from_pretrained(base, str(place))
            return wrapped.eval(), processor
        kind: Any = ADAPTERS[facts["adapter"]]
        attached: nn.Module = kind.attach(base, place, facts)
        return attached.eval(), processor


def _base(name: str | Path, facts: dict[str, Any]) -> Any:
    """Load the pretrained model under a fresh head of the right size."""
    options = {"num_labels": facts["num_labels"], "dtype": facts["dtype"], "revision": facts["revision"] or None}
    if facts["pad_token_id"] is not None:
        options["pad_token_id"] = facts["pad_token_id"]
    if facts.get("quantization"):
        options |= loading_options(facts["quantization"], facts["precision"], "auto", facts["head"])
    base: Any = load_pretrained(name, facts["auto_class"], **options)
    if facts.get("quantization"):
        use_one_path(base)
    return base
