"""Prompts and responses: only the response is learnt, and its likelihood is counted by token."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gelora.finetuning.instructions import PadResponses, encode_responses, response_parts, row_losses
from gelora.finetuning.tasks import Task, load_task

CHAT = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '[SEP]' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
ROWS = [{"prompt": "very good", "response": "a film"}, {"prompt": "the song was", "response": "bad"}]


def make_task(rows: Any = ROWS, **changes: Any) -> Task:
    fields = {"name": "mine", "problem": "language_modelling", "text": ("prompt", "response")}
    return Task(**fields | {"train": rows, "validation": rows} | changes)


def encode(task: Task, tokenizer: Any, max_length: int = 40) -> Any:
    return encode_responses(load_task(task).train, task, tokenizer, max_length, "train")


def spell(tokenizer: Any, row: Any) -> tuple[str, str]:
    """Return the text of a row, and of what is learnt of it."""
    learnt = [token for token in row["labels"] if token != -100]
    assert row["labels"][len(row["labels"]) - len(learnt) :] == learnt == row["input_ids"][-len(learnt) :]
    return tokenizer.decode(row["input_ids"]), tokenizer.decode(learnt)


def test_the_response_and_its_end_are_learnt_and_the_prompt_is_not(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    rows = encode(make_task(), tokenizer).rows
    assert [spell(tokenizer, row) for row in rows] == [
        ("very good a film [SEP]", "a film [SEP]"),
        ("the song was bad [SEP]", "bad [SEP]"),
    ]


def test_a_template_of_the_task_comes_before_the_response(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    tokenizer.chat_template = CHAT
    rows = encode(make_task(template="is {prompt} is"), tokenizer).rows
    assert spell(tokenizer, rows[0]) == ("is very good is a film [SEP]", "a film [SEP]")


def test_a_chat_template_is_used_where_the_tokenizer_has_one(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    tokenizer.chat_template = CHAT
    rows = encode(make_task(), tokenizer).rows
    assert spell(tokenizer, rows[0]) == ("[UNK] very good [SEP] [UNK] a film [SEP]", "a film [SEP]")


def test_a_chat_template_that_changes_the_prompt_is_refused(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    tokenizer.chat_template = CHAT.replace("'assistant '", "'think '")
    with pytest.raises(ValueError, match=r"`tokenizer`: a conversation by its chat template .* give the task a `templ"):
        encode(make_task(), tokenizer)


def test_a_tokenizer_that_opens_texts_with_a_token_opens_prompts_with_it(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "[CLS]"
    assert spell(tokenizer, encode(make_task(), tokenizer).rows[0])[0] == "[CLS] very good a film [SEP]"


def test_a_tokenizer_without_an_end_is_refused(tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"`tokenizer` must have an end-of-sequence token.*set its `eos_token`"):
        encode(make_task(), tokenizer)


def test_what_is_too_long_is_cut_and_rows_without_a_response_left_are_dropped_and_counted(
    tiny_tokenizer: Callable[..., Any],
) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    with pytest.warns(
        UserWarning, match=r"1 of 2 rows of the train split are dropped: .* within 3 tokens; raise `max_l"
    ):
        encoded = encode(make_task(), tokenizer, 3)
    assert spell(tokenizer, encoded.rows[0]) == ("very good a", "a")
    assert (encoded.places, encoded.n_truncated, encoded.n_dropped) == ([0], 1, 1)
    with pytest.raises(ValueError, match=r"`max_length`: no prompt of the train split leaves room .* within 2 tokens"):
        encode(make_task(), tokenizer, 2)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_not_learnt(side: str, tiny_tokenizer: Callable[..., Any]) -> None:
    tokenizer = tiny_tokenizer(pairs=False)
    tokenizer.padding_side = side
    rows = [*encode(make_task(), tokenizer).rows, {"input_ids": [5], "attention_mask": [1], "labels": [5]}]
    batch = PadResponses(tokenizer)(rows)
    learnt = batch["labels"] != -100
    assert learnt.sum(1).tolist() == [3, 2, 1]
    assert (batch["labels"][learnt] == batch["input_ids"][learnt]).all()
    assert (batch["attention_mask"][learnt] == 1).all()


def test_losses_of_rows_are_those_computed_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 5), torch.tensor([[-100, 2, 1, -100], [3, 4, 0, 0], [-100, -100, -100, 2]])
    expected = []
    for row, wanted in zip(logits.double().numpy(), labels.tolist(), strict=True):
        total, count = 0.0, 0
        for place in range(1, 4):
            if wanted[place] != -100:
                total -= math.log(np.exp(row[place - 1, wanted[place]]) / np.exp(row[place - 1]).sum())
                count += 1
        expected.append([total, count])
    np.testing.assert_allclose(row_losses(logits, labels), expected, rtol=1e-6)
    np.testing.assert_allclose(row_losses((logits, "a cache"), labels), expected, rtol=1e-6)


def test_the_loss_is_that_of_all_tokens_and_not_the_mean_of_rows(tiny_tokenizer: Callable[..., Any]) -> None:
    parts = response_parts(tiny_tokenizer(pairs=False), load_task(make_task()), 40)
    found = parts["evaluate"](np.array([[6.0, 3.0], [1.0, 1.0]], dtype=np.float32), None)
    assert found == {"loss": 7 / 4, "perplexity": math.exp(7 / 4), "score": 7 / 4}
    assert parts["evaluate"](np.array([[9e5, 1.0]]), None)["perplexity"] == math.inf
    with pytest.raises(ValueError, match=r"outputs must be finite, 1 of 2 are not"):
        parts["evaluate"](np.array([[np.inf, 1.0]]), None)


def test_instructions_are_read_from_a_folder_of_json_lines(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        pd.DataFrame(ROWS).to_json(tmp_path / f"{split}.jsonl", orient="records", lines=True)
    data = load_task("instructions", tmp_path)
    assert data.fingerprint() == load_task(make_task()).fingerprint()
    assert data.train.column_names == ["prompt", "response"]
    with pytest.raises(ValueError, match=r"`data_dir` must be given for the task 'instructions'"):
        load_task("instructions")
    with pytest.raises(TypeError, match=r"the column 'response' of the train split must hold strings, got NoneType"):
        load_task(make_task([{"prompt": "a", "response": None}]))


def test_a_smaller_loss_is_better() -> None:
    task = make_task()
    assert not task.greater_is_better
    assert task.better_when_greater("perplexity") is False
    assert Task(name="mine", text=("a",)).greater_is_better
    assert Task(name="mine", text=("a",)).better_when_greater("epoch") is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": ("prompt",)}, ValueError, r"`text` must be two columns, the prompt and the response, for 'language"),
        (
            {"problem": "question_answering", "text": ("q",)},
            ValueError,
            r"`text` must be two columns, the question and the context, for 'question_answering', got \('q',\)",
        ),
        ({"label": "x"}, ValueError, r"`label` must be left out for 'language_modelling', got 'x'"),
        ({"label_names": ("a", "b")}, ValueError, r"`label_names` must be left out for a language_modelling"),
        ({"template": "no place"}, ValueError, r"`template` must hold \{prompt\} once, got 'no place'"),
        ({"problem": "classification", "template": "{prompt}"}, ValueError, r"`template` is of problem='language_mod"),
        ({"metrics": ("accuracy",)}, ValueError, r"`metrics`: 'accuracy' is no metric of a language_modelling"),
        ({"answering": 3}, TypeError, r"`answering` must be an Answering, got int"),
        (
            {"problem": "question_answering", "metrics": ("best_f1", "best_f1_thresh"), "score": ("best_f1_thresh",)},
            ValueError,
            r"`score` must be metrics that are all better larger, or all better smaller, got \('best_f1_thresh',\)",
        ),
        (
            {"text": (), "image": "x"},
            ValueError,
            r"`problem` must be 'classification' for images, got 'language_modell",
        ),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_task(**changes)


def test_options_of_answers_are_of_questions_alone() -> None:
    from gelora.finetuning.tasks import Answering

    with pytest.raises(ValueError, match=r"`answering` is of problem='question_answering', got problem='language_mod"):
        make_task(answering=Answering(stride=3))
