"""Questions on long contexts → overlapping windows with the answer's first and last token, as a trainer takes them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gelora.finetuning.glue import Answering

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

POSITIONS = ("start_positions", "end_positions")
_ASIDE = ("offset_mapping", "overflow_to_sample_mapping", "special_tokens_mask")


@dataclass(frozen=True, slots=True)
class Window:
    """Where the context stands in one window.

    Parameters
    ----------
    question : int
        Row of the question.
    first : int
        Place of the first token of the context in the window.
    offsets : ndarray of shape (n, 2)
        First character, and the one after the last, of each of the context's tokens in the window.
    null : int
        Place that stands for no answer: of the CLS token, else of the BOS token, else the first.
    n_tokens : int
        Tokens of the window.
    """

    question: int
    first: int
    offsets: NDArray[np.int64]
    null: int
    n_tokens: int

    def places(self, start: int, stop: int) -> tuple[int, int]:
        """Return the places of the first and the last token of the characters from ``start`` to before ``stop``.

        Both are the place of no answer where the window does not hold all of them.
        """
        if not len(self.offsets) or self.offsets[0, 0] > start or self.offsets[-1, 1] < stop:
            return self.null, self.null
        first = int(np.searchsorted(self.offsets[:, 0], start, side="right")) - 1
        last = int(np.searchsorted(self.offsets[:, 1], stop, side="left"))
        return self.first + first, self.first + max(first, last)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a split.

    Parameters
    ----------
    rows : list of dict
        Of each window the model's inputs, and the places of the answer as ``start_positions`` and ``end_positions``.
    windows : list of Window
        As many.
    """

    rows: list[Mapping[str, Any]]
    windows: list[Window]

    def facts(self, split: str) -> dict[str, int]:
        """Return the number of windows, and of those with an answer, for the record."""
        held = sum(row[POSITIONS[0]] != window.null for row, window in zip(self.rows, self.windows, strict=True))
        return {f"n_{split}_windows": len(self.rows), f"n_{split}_windows_with_answer": held}


def cut_windows(
    split: "Dataset",
    columns: tuple[str, str, str],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    answering: Answering,
    name: str,
) -> Windows:
    """Encode each question with all of its context, in as many windows as that takes.

    The question comes first, also for tokenizers that pad on the left: a decoder must have read it before it reads the
    context.

    Parameters
    ----------
    split : datasets.Dataset
        As `gelora.finetuning.question_data.question_rows` makes it.
    columns : tuple of str
        Of the question, the context and the answers.
    tokenizer : PreTrainedTokenizerBase
        A fast one.
    max_length : int
        Tokens of a window.
    answering : Answering
        Gives the stride.
    name : str
        Of the split, for messages.

    Raises
    ------
    ValueError
        If the tokenizer gives no offsets, or a question leaves no room for its context.
    """
    questions = [text.strip() for text in split[columns[0]]]
    contexts, answers = list(split[columns[1]]), list(split[columns[2]])
    strides = _strides(questions, tokenizer, max_length, answering.stride, name)
    made: dict[int, list[tuple[Mapping[str, Any], Window]]] = {}
    for stride in sorted(set(strides)):
        rows = [row for row, own in enumerate(strides) if own == stride]
        pairs = ([questions[row] for row in rows], [contexts[row] for row in rows])
        for row, window in _encode(pairs, rows, tokenizer, max_length, stride):
            made.setdefault(window.question, []).append((row, window))
    rows_of: list[Mapping[str, Any]] = []
    windows = []
    for question in sorted(made):
        for row, window in made[question]:
            rows_of.append({**row, **dict(zip(POSITIONS, _place(window, answers[question]), strict=True))})
            windows.append(window)
    return Windows(rows_of, windows)


def _strides(
    questions: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_length: int, asked: int, name: str
) -> list[int]:
    """Return the stride of each question's windows."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"`tokenizer` must tell where its tokens stand in the text, which a {type(tokenizer).__name__} does not: "
            "give a fast one, with a tokenizer.json"
        )
    encoded = tokenizer(list(questions), add_special_tokens=False, verbose=False)["input_ids"]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    strides = []
    for row, ids in enumerate(encoded):
        room = max_length - special - len(ids)
        if room < 1:
            raise ValueError(
                f"`max_length`: the question in row {row} of the {name} split takes {len(ids)} tokens, which leaves "
                f"none of {max_length} for its context: raise it where the model takes more, or drop that row"
            )
        strides.append(min(asked, room // 2))
    return strides


def _encode(
    pairs: tuple[list[str], list[str]],
    rows: Sequence[int],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    stride: int,
) -> Iterator[tuple[Mapping[str, Any], Window]]:
    encoded: Any = tokenizer(
        *pairs,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=False,
        verbose=False,
    )
    keys = [key for key in encoded if key not in _ASIDE]
    for place, number in enumerate(encoded["overflow_to_sample_mapping"]):
        row = {key: encoded[key][place] for key in keys}
        ids = row["input_ids"]
        held = [i for i, part in enumerate(encoded.sequence_ids(place)) if part == 1]
        offsets = np.array([encoded["offset_mapping"][place][i] for i in held], dtype=np.int64).reshape(-1, 2)
        first = held[0] if held else len(ids)
        yield row, Window(rows[number], first, offsets, _null_place(ids, tokenizer), len(ids))


def _null_place(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in ids:
            return list(ids).index(token)
    return 0


def _place(window: Window, answers: Mapping[str, Sequence[Any]]) -> tuple[int, int]:
    """Return the places of the first answer in a window, those of no answer where there is none in it."""
    if not answers["text"]:
        return window.null, window.null
    start = answers["answer_start"][0]
    return window.places(start, start + len(answers["text"][0]))


@dataclass(frozen=True, slots=True)
class PadWindows:
    """Collate windows to a batch; the places of the answers move with padding on the left.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Pads on its own side.
    width : int
        Tokens of every batch where that side is the left, so that places mean the same in all batches.
    """

    tokenizer: "PreTrainedTokenizerBase"
    width: int

    @property
    def left(self) -> bool:
        """Whether the padding stands before the tokens."""
        return str(self.tokenizer.padding_side) == "left"

    def __call__(self, rows: list[Any]) -> "dict[str, torch.Tensor]":
        """Return the batch."""
        import torch

        inputs = [{key: value for key, value in row.items() if key not in POSITIONS} for row in rows]
        sides: dict[str, Any] = {"padding": "max_length", "max_length": self.width} if self.left else {"padding": True}
        batch = dict(self.tokenizer.pad(inputs, return_tensors="pt", **sides))
        for name in POSITIONS:
            places = [row[name] + self.shift(len(row["input_ids"])) for row in rows]
            batch[name] = torch.tensor(places)
        return batch

    def shift(self, n_tokens: int) -> int:
        """Return how far the tokens of a window are moved."""
        return self.width - n_tokens if self.left else 0
