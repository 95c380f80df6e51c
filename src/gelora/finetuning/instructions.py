"""Prompts and responses → tokens of which only those of the response are learnt, and their likelihood."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora.finetuning.glue import PROMPT, Task
from gelora.finetuning.metrics import check_outputs
from gelora.finetuning.tasks import TaskData

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # as transformers' losses pass over it


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rows of a split that have something to learn.

    Parameters
    ----------
    rows : list of dict
        ``input_ids``, ``attention_mask`` and ``labels``, which are −100 but on the response.
    places : list of int
        Their rows in the split.
    n_truncated : int
        How many of them are cut to the greatest length.
    n_dropped : int
        How many are left out, as nothing of their response is left.
    """

    rows: list[Mapping[str, Any]]
    places: list[int]
    n_truncated: int
    n_dropped: int


def describe_prompt(task: Task, tokenizer: Any) -> str:
    """Return what comes before a response: the task's template, the tokenizer's chat template or ``{prompt}`` alone."""
    if task.template:
        return task.template
    return str(tokenizer.chat_template) if getattr(tokenizer, "chat_template", None) else f"{PROMPT}\n"


def encode_responses(
    split: "Dataset", task: Task, tokenizer: "PreTrainedTokenizerBase", max_length: int, name: str
) -> Encoded:
    """Tokenize prompts and responses apart, as a prompt is alone when a response to it is asked for, and join them.

    Parameters
    ----------
    split : datasets.Dataset
        Columns of prompts and responses.
    task : Task
        Names them, and may have a template.
    tokenizer : PreTrainedTokenizerBase
        With an end-of-sequence token, which closes every response.
    max_length : int
        Tokens of prompt and response together; what is beyond is cut off.
    name : str
        Of the split, for messages.

    Raises
    ------
    ValueError
        If the tokenizer has no end-of-sequence token, its chat template does not fit, or nothing is left of any
        response.

    Warns
    -----
    UserWarning
        If nothing is left of some responses: these rows are dropped.
    """
    columns = [split[column] for column in task.text]
    pairs = [_texts(prompt, response, task, tokenizer) for prompt, response in zip(*columns, strict=True)]
    prompts, responses = ([pair[side] for pair in pairs] for side in (0, 1))
    if tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` must have an end-of-sequence token, which closes a response: set its `eos_token`")
    plain: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    before = [] if _is_chat(task, tokenizer) else _opening(tokenizer)
    heads = tokenizer(prompts, **plain)["input_ids"]
    tails = tokenizer(responses, **plain)["input_ids"]
    rows: list[Mapping[str, Any]] = []
    places, n_truncated = [], 0
    for place, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        start = [*before, *head]
        ids = [*start, *_closed(tail, int(tokenizer.eos_token_id))]
        if len(start) >= max_length or len(ids) < 2:
            continue
        n_truncated += len(ids) > max_length
        ids = ids[:max_length]
        labels = [IGNORED] * len(start) + ids[len(start) :]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
        places.append(place)
    dropped = len(pairs) - len(rows)
    _tell_dropped(dropped, len(pairs), max_length, name)
    return Encoded(rows, places, n_truncated, dropped)


def _tell_dropped(dropped: int, n_rows: int, max_length: int, name: str) -> None:
    if dropped == n_rows:
        raise ValueError(
            f"`max_length`: no prompt of the {name} split leaves room for a response within {max_length} tokens: raise "
            "it where the model takes more, or shorten the prompts"
        )
    if dropped:
        warnings.warn(
            f"{dropped} of {n_rows} rows of the {name} split are dropped: their prompts leave no room for a response "
            f"within {max_length} tokens; raise `max_length` to keep them",
            stacklevel=2,
        )


def _is_chat(task: Task, tokenizer: Any) -> bool:
    return not task.template and bool(getattr(tokenizer, "chat_template", None))


def _texts(prompt: str, response: str, task: Task, tokenizer: Any) -> tuple[str, str]:
    """Return what comes before the response, and the response with what closes it."""
    if not _is_chat(task, tokenizer):
        return (task.template or f"{PROMPT}\n").replace(PROMPT, prompt), response
    asked = [{"role": "user", "content": prompt}]
    answered = [*asked, {"role": "assistant", "content": response}]
    start = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(answered, tokenize=False))
    if not whole.startswith(start):
        raise ValueError(
            "`tokenizer`: a conversation by its chat template does not begin with the prompt for a response: give the "
            "task a `template`"
        )
    return start, whole[len(start) :]


def _opening(tokenizer: Any) -> list[int]:
    """Return the BOS token where the tokenizer puts one before a text by itself."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("")["input_ids"]
    return [int(bos)] if bos is not None and ids and ids[0] == bos else []


def _closed(ids: Sequence[int], eos: int) -> list[int]:
    return [*ids] if eos in ids else [*ids, eos]


@dataclass(frozen=True, slots=True)
class PadResponses:
    """Collate rows to a batch, padded on the tokenizer's side; padding is not learnt."""

    tokenizer: "PreTrainedTokenizerBase"

    def __call__(self, rows: list[Any]) -> "dict[str, torch.Tensor]":
        """Return the batch."""
        import torch

        inputs = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
        batch = dict(self.tokenizer.pad(inputs, padding=True, return_tensors="pt"))
        labels = torch.full_like(batch["input_ids"], IGNORED)
        left = str(self.tokenizer.padding_side) == "left"
        for place, row in enumerate(rows):
            n_tokens = len(row["labels"])
            held = slice(-n_tokens, None) if left else slice(n_tokens)
            labels[place, held] = torch.tensor(row["labels"])
        return {**batch, "labels": labels}


def row_losses(logits: Any, labels: "torch.Tensor") -> "torch.Tensor":
    """Return of each row the negative log-likelihood of its labelled tokens, and their number, shape (n, 2).

    Logits are as large as tokens times vocabulary: they are taken row by row, and never gathered.
    """
    import torch
    from torch.nn.functional import cross_entropy

    scores = logits[0] if isinstance(logits, tuple | list) else logits
    found = []
    for row, wanted in zip(scores, labels, strict=True):
        kept = wanted[1:] != IGNORED  # a token is predicted by the one before it
        loss = cross_entropy(row[:-1][kept].float(), wanted[1:][kept], reduction="sum")
        found.append(torch.stack([loss, kept.sum().to(loss.dtype)]))
    return torch.stack(found)


@dataclass(frozen=True, slots=True)
class ResponseEvaluation:
    """What the losses of the validation rows say.

    Parameters
    ----------
    task : Task
        Says which metrics are wanted.
    places : sequence of int
        Which rows of the validation split they are of.
    """

    task: Task
    places: Sequence[int]

    def metrics(self, outputs: NDArray[Any], labels: Any) -> dict[str, float]:  # noqa: ARG002
        """Return the mean loss over all tokens of all responses, its exponential, and the score."""
        check_outputs(outputs)
        total, n_tokens = np.asarray(outputs, dtype=np.float64).sum(axis=0)
        loss = float(total / n_tokens)
        found = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
        return {name: found[name] for name in self.task.metrics} | {
            "score": float(np.mean([found[name] for name in self.task.score]))
        }

    def table(self, outputs: NDArray[Any], labels: Any) -> Mapping[str, Any]:  # noqa: ARG002
        """Return a row a response: its row in the split, negative log-likelihood and number of tokens."""
        return {"row": list(self.places), "nll": outputs[:, 0], "n_tokens": outputs[:, 1].astype(np.int64)}


def response_parts(tokenizer: Any, data: TaskData, max_length: int) -> dict[str, Any]:
    """Return the fields of `gelora.finetuning.encoded.Inputs` for language modelling."""
    made = {
        name: encode_responses(split, data.task, tokenizer, max_length, name) for name, split in data.splits().items()
    }
    facts: dict[str, Any] = {"max_length": max_length}
    for name, encoded in made.items():
        facts |= {f"n_{name}_truncated": encoded.n_truncated, f"n_{name}_dropped": encoded.n_dropped}
    evaluation = ResponseEvaluation(data.task, made["validation"].places)
    return {
        "train": made["train"].rows,
        "validation": made["validation"].rows,
        "collate": PadResponses(tokenizer),
        "facts": facts,
        "reduce": row_losses,
        "evaluate": evaluation.metrics,
        "tabulate": evaluation.table,
    }
