"""The splits of a task → rows, a collator and an evaluation, as the trainer takes them."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora.blocks import position_limit
from gelora.finetuning.answer_inputs import answer_parts
from gelora.finetuning.classifiers import Classifier
from gelora.finetuning.glue import Task
from gelora.finetuning.images import ImageRows, collate_images
from gelora.finetuning.instructions import response_parts
from gelora.finetuning.metrics import evaluate_predictions, predict
from gelora.finetuning.tasks import TaskData
from gelora.images import image_mode

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def first_output(logits: Any, labels: Any) -> "torch.Tensor":  # noqa: ARG001
    """Return the logits alone: some models also return caches and hidden states."""
    found: torch.Tensor = logits[0] if isinstance(logits, tuple | list) else logits
    return found


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model is trained and evaluated on.

    Parameters
    ----------
    train, validation : sequence of mappings
        One row each: the model's inputs and labels.
    collate : callable
        From a list of rows to a batch of tensors.
    processor
        The tokenizer or image processor, which goes with the weights.
    facts : mapping
        For the record.
    evaluate : callable
        From what is kept of the outputs for all validation rows, and their labels, to metrics with the ``score``.
    tabulate : callable
        From the same to columns of what was predicted.
    reduce : callable
        From the outputs for a batch, and its labels, to what is kept of them, on their device.
    label_names : tuple of str
        What the labels are called in rows and batches.
    """

    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    collate: "Callable[[list[Any]], dict[str, torch.Tensor]]"
    processor: Any
    facts: Mapping[str, Any]
    evaluate: Callable[[NDArray[Any], Any], dict[str, float]]
    tabulate: Callable[[NDArray[Any], Any], Mapping[str, Any]]
    reduce: "Callable[[Any, Any], torch.Tensor]" = first_output
    label_names: tuple[str, ...] = ("labels",)

    def batches(self, batch_size: int, seed: int) -> "Iterator[dict[str, torch.Tensor]]":
        """Yield the train rows once, in an order drawn by ``seed``, as batches with labels."""
        order = np.random.default_rng(seed).permutation(len(self.train)).tolist()
        for start in range(0, len(order), batch_size):
            yield dict(self.collate([dict(self.train[row]) for row in order[start : start + batch_size]]))


def make_inputs(classifier: Classifier, data: TaskData, max_length: int) -> Inputs:
    """Encode both splits of ``data`` for the model of ``classifier``.

    Parameters
    ----------
    classifier : Classifier
        Model and tokenizer.
    data : TaskData
        Texts or images, and labels.
    max_length : int
        Tokens a text, a pair or a prompt with its response is cut to, or of a window of a context; fewer where the
        model takes fewer.
    """
    from transformers import DataCollatorWithPadding

    if data.task.image:
        return _image_inputs(classifier, data)
    limit = length_limit(classifier.model, classifier.tokenizer, max_length)
    parts = {"question_answering": answer_parts, "language_modelling": response_parts}.get(data.task.problem)
    if parts is not None:
        return Inputs(**parts(classifier.tokenizer, data, limit), processor=classifier.tokenizer)
    train, train_cut = encode_split(data.train, data.task, classifier.tokenizer, limit)
    validation, validation_cut = encode_split(data.validation, data.task, classifier.tokenizer, limit)
    facts = {"max_length": limit, "n_train_truncated": train_cut, "n_validation_truncated": validation_cut}
    collate = DataCollatorWithPadding(classifier.tokenizer)
    return Inputs(train, validation, collate, classifier.tokenizer, facts, **_label_parts(data.task))


def _label_parts(task: Task) -> dict[str, Any]:
    """Return how predictions of classes and numbers are evaluated, and told."""
    evaluate = functools.partial(evaluate_predictions, problem=task.problem, metrics=task.metrics, score=task.score)
    return {"evaluate": evaluate, "tabulate": functools.partial(tabulate_labels, problem=task.problem)}


def tabulate_labels(logits: NDArray[Any], labels: NDArray[Any], problem: str) -> Mapping[str, Any]:
    """Return columns of labels, predictions and logits."""
    table = logits.reshape(len(labels), -1)
    columns: dict[str, Any] = {"label": labels, "prediction": predict(logits, problem)}
    return columns | {f"logit_{index}": table[:, index] for index in range(table.shape[1])}


def _image_inputs(classifier: Classifier, data: TaskData) -> Inputs:
    """Return rows whose images are decoded and processed when they are asked for; none is augmented."""
    processor: Any = classifier.tokenizer
    mode = image_mode(classifier.model)
    train, validation = (ImageRows(split, processor, mode) for split in (data.train, data.validation))
    return Inputs(train, validation, collate_images, processor, {"image_mode": mode}, **_label_parts(data.task))


def encode_split(
    split: "Dataset", task: Task, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> tuple[list[Mapping[str, Any]], int]:
    """Tokenize the texts or pairs of ``split``, without padding.

    Returns
    -------
    list of dict
        Token ids and the like, and ``labels``.
    int
        How many rows were cut to ``max_length`` tokens.
    """
    columns = [list(split[name]) for name in task.text]
    cut = {"truncation": True, "max_length": max_length, "padding": False, "verbose": False}
    encoded = dict(tokenizer(*columns, **cut))
    full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) == max_length]
    n_cut = 0
    if full:
        whole = tokenizer(*[[column[row] for row in full] for column in columns], padding=False, verbose=False)
        n_cut = sum(len(ids) > max_length for ids in whole["input_ids"])
    labels = list(split[task.label])
    keys = list(encoded)
    rows = zip(*(encoded[key] for key in keys), labels, strict=True)
    return [dict(zip((*keys, "labels"), row, strict=True)) for row in rows], n_cut


def length_limit(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", asked: int) -> int:
    """Return ``asked`` tokens, or as many as the model takes if that is less."""
    own = int(tokenizer.model_max_length)
    limits = [asked] + ([own] if own < 1_000_000 else [])  # tokenizers without a limit of their own say 1e30
    positions = position_limit(model)
    limits += [] if positions is None else [positions]
    return min(limits)
