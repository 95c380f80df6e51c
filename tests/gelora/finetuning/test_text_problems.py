"""Question answering and language modelling end to end on tiny models: learnt, saved, loaded, resumed."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gelora.finetuning.labelled import labelled_batches
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.runner import finetune
from gelora.finetuning.tasks import Answering, Task
from runs import interrupted_at, same, same_predictions

Folder = Callable[[str], Path]
QUICK: dict[str, Any] = {
    "max_steps": 6,
    "eval_steps": 6,
    "save_steps": 6,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "max_length": 16,
    "progress": False,
}
LONGER: dict[str, Any] = QUICK | {"max_steps": 60, "eval_steps": 60, "save_steps": 60, "learning_rate": 1e-2}
LONGER |= {"batch_size": 16}


def make_questions(n: int, seed: int, unanswerable: bool = False) -> list[dict[str, Any]]:
    """Ask for the word after "new", which stands once in each context, or nowhere."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        words = [draw.choice(["the", "film", "play", "song", "was", "good"]) for _ in range(draw.randint(6, 24))]
        place = draw.randrange(len(words) - 1)
        answers: dict[str, Any] = {"text": [], "answer_start": []}
        if not unanswerable or number % 3:
            words[place : place + 2] = "new", draw.choice(["old", "long", "short"])
            start = len(" ".join(words[: place + 1])) + 1
            answers = {"text": [words[place + 1]], "answer_start": [start]}
        rows.append({"id": f"q{number}", "question": "is new", "context": " ".join(words), "answers": answers})
    return rows


def make_prompts(n: int, seed: int) -> list[dict[str, Any]]:
    """Answer "good" with one response and "bad" with a longer one."""
    draw = random.Random(seed)
    responses = {"good": "a film", "bad": "the song is long"}
    words = [draw.choice(["good", "bad"]) for _ in range(n)]
    return [{"prompt": f"very {word}", "response": responses[word]} for word in words]


@pytest.fixture(scope="session")
def problems() -> dict[str, Task]:
    """Give a task of each problem."""
    asked: dict[str, Any] = {"problem": "question_answering", "text": ("question", "context")}
    asked |= {"answering": Answering(stride=4)}
    return {
        "questions": Task(name="new", train=make_questions(96, 1), validation=make_questions(24, 2), **asked),
        "unanswerable": Task(
            name="none", train=make_questions(96, 3, True), validation=make_questions(24, 4, True), **asked
        ),
        "responses": Task(
            name="answer",
            problem="language_modelling",
            text=("prompt", "response"),
            train=make_prompts(64, 1),
            validation=make_prompts(24, 2),
        ),
    }


@pytest.mark.parametrize("architecture", ["bert", "deberta", "llama"])
def test_a_tiny_model_learns_to_find_answers(
    architecture: str, folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    task = problems["questions"]
    record = finetune(folder_of(architecture), task, plan_for(architecture), output_dir=tmp_path, **LONGER)
    assert record["score"] > 0.8
    assert record["score"] == record["validation"].sel(metric="f1")[-1]
    saved = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(saved) == ["id", "prediction", "span", "score", "no_answer_score", "exact_match", "f1"]
    assert saved["id"].tolist() == [row["id"] for row in task.validation]
    right = [row["answers"]["text"][0] == text for row, text in zip(task.validation, saved["prediction"], strict=True)]
    assert right == saved["exact_match"].astype(bool).tolist()
    assert record["validation"].sel(metric="exact_match")[-1] == np.mean(right)
    attributes = record.attrs
    assert json.loads(attributes["answering"])["stride"] == 4
    assert json.loads(attributes["greater_is_better"]) is True
    assert json.loads(attributes["modules_trained_whole"]) == ["qa_outputs"]
    assert (attributes["n_train"], attributes["n_validation"]) == (96, 24)
    assert attributes["n_train_windows"] > attributes["n_train_windows_with_answer"] >= 96


def test_a_tiny_model_learns_which_questions_have_no_answer(
    folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    record = finetune(folder_of("bert"), problems["unanswerable"], plan_for("bert"), output_dir=tmp_path, **LONGER)
    values = {str(name): float(record["validation"].sel(metric=name)[-1]) for name in record["metric"].values}
    assert values["f1"] > 0.7
    assert values["best_f1"] >= values["f1"]
    assert values["exact_match"] == pytest.approx((16 * values["HasAns_exact"] + 8 * values["NoAns_exact"]) / 24)
    saved = pd.read_parquet(tmp_path / "predictions.parquet")
    refused = saved["no_answer_score"] - saved["score"] > 0
    assert (refused == (saved["prediction"] == "")).all()
    assert 0 < refused.sum() < 24


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_tiny_model_learns_to_respond(
    architecture: str, folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    record = finetune(
        folder_of(architecture), problems["responses"], plan_for(architecture), output_dir=tmp_path, **LONGER
    )
    assert record["score"] < 0.3
    assert record["score"] == record["validation_loss"][-1]
    assert record["validation"].sel(metric="perplexity")[-1] == pytest.approx(math.exp(float(record["score"])))
    assert json.loads(record.attrs["greater_is_better"]) is False
    assert record.attrs["prompt"] == "{prompt}\n"
    saved = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(saved) == ["row", "nll", "n_tokens"]
    assert saved["nll"].sum() / saved["n_tokens"].sum() == pytest.approx(float(record["score"]))
    n_tokens = [len(row["response"].split()) + 1 for row in problems["responses"].validation]
    assert saved["n_tokens"].tolist() == n_tokens
    # what GPT-2 is stored with is tied to its embeddings; LLaMA's head is not stored with the bare model
    head = {"gpt2": [], "llama": ["lm_head"]}[architecture]
    assert json.loads(record.attrs["modules_trained_whole"]) == head
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "(loss; less is better)" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "num_labels" not in card.split("```python")[1].split("```")[0]


def test_a_language_model_that_is_stored_whole_keeps_its_head(
    problems: Any, tiny_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    import transformers

    from gelora.ranks import plan_ranks

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=18, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = transformers.LlamaForCausalLM(config)
    before = model.lm_head.weight.clone()
    tokenizer = tiny_tokenizer(pairs=False, pad=False)
    plan = plan_ranks(None, model, "uniform", rank=2)
    record = finetune(model, problems["responses"], plan, output_dir=tmp_path, tokenizer=tokenizer, **QUICK)
    assert json.loads(record.attrs["modules_trained_whole"]) == []
    assert record["trainable_parameters"].values.tolist()[1] == 0
    tuned, _ = load_adapter(tmp_path / "adapter", model)
    assert torch.equal(tuned.get_output_embeddings().weight, before)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_loss_is_that_of_the_loaded_model_token_by_token_whatever_the_batches(
    batch_size: int, folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    task = problems["responses"]
    options = QUICK | {"eval_batch_size": batch_size}
    record = finetune(folder_of("gpt2"), task, plan_for("gpt2"), output_dir=tmp_path, **options)
    model, tokenizer = load_adapter(tmp_path / "adapter")
    total, count = 0.0, 0
    for row in task.validation:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([[*prompt, *tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[0, : len(prompt)] = -100
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss
        n_tokens = ids.shape[1] - len(prompt)
        total, count = total + float(loss) * n_tokens, count + n_tokens
    assert float(record["score"]) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "full", "geolora", "houlsby", "eva", "adalora"])
@pytest.mark.parametrize(("problem", "architecture"), [("questions", "bert"), ("responses", "gpt2")])
def test_a_saved_adapter_is_the_model_it_was(
    problem: str,
    architecture: str,
    adapter: str,
    folder_of: Folder,
    plan_for: Callable[..., Any],
    problems: Any,
    tmp_path: Path,
) -> None:
    task = problems[problem]
    plan = None if adapter in ("full", "houlsby") else plan_for(architecture)
    finetune(folder_of(architecture), task, plan, adapter, output_dir=tmp_path, **QUICK)
    saved = pd.read_parquet(tmp_path / "predictions.parquet")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    for place, row in enumerate(task.validation[:6]):
        with torch.no_grad():
            if problem == "questions":
                pair = tokenizer(row["question"], row["context"], return_tensors="pt", return_token_type_ids=False)
                if pair["input_ids"].shape[1] > QUICK["max_length"]:
                    continue
                output = model(**pair)
                null = output.start_logits[0, 0] + output.end_logits[0, 0]
                assert float(null) == pytest.approx(saved["no_answer_score"][place], abs=1e-4)
            else:
                prompt = tokenizer(row["prompt"])["input_ids"]
                ids = torch.tensor([[*prompt, *tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]])
                logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
                nll = torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum")
                assert float(nll) == pytest.approx(saved["nll"][place], rel=1e-4)


@pytest.mark.parametrize(("problem", "architecture"), [("unanswerable", "bert"), ("responses", "gpt2")])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    problem: str, architecture: str, folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    arguments = (folder_of(architecture), problems[problem], plan_for(architecture))
    options = QUICK | {"max_steps": 8, "eval_steps": 3, "save_steps": 3, "dropout": 0.3}
    whole = finetune(*arguments, output_dir=tmp_path / "whole", **options)
    with interrupted_at(5):
        finetune(*arguments, output_dir=tmp_path / "out", **options)
    resumed = finetune(*arguments, output_dir=tmp_path / "out", **options)
    assert same(whole, resumed)
    same_predictions(tmp_path / "whole", tmp_path / "out")


def test_another_stride_or_template_is_another_run(
    folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    arguments: dict[str, Any] = {"output_dir": tmp_path, **QUICK}
    finetune(folder_of("bert"), problems["questions"], plan_for("bert"), **arguments)
    changed = replace(problems["questions"], answering=Answering(stride=5))
    with pytest.raises(ValueError, match="holds a run with other arguments .*answering was .*'stride': 4"):
        finetune(folder_of("bert"), changed, plan_for("bert"), **arguments)


def test_the_best_weights_are_those_of_the_smallest_loss(
    folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    options = QUICK | {"max_steps": 9, "eval_steps": 3, "save_steps": 3, "learning_rate": 0.3}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "score"}
    record = finetune(folder_of("gpt2"), problems["responses"], plan_for("gpt2"), output_dir=tmp_path, **options)
    values = record["validation"].sel(metric="score").values
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-9" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] == pytest.approx(record["score"]) == pytest.approx(values.min())


@pytest.mark.parametrize(("problem", "architecture"), [("questions", "bert"), ("responses", "gpt2")])
def test_labelled_batches_give_a_loss_and_its_spectra(
    problem: str, architecture: str, folder_of: Folder, plan_for: Callable[..., Any], problems: Any
) -> None:
    from gelora.fisher import fisher_spectra

    model, batches = labelled_batches(
        folder_of(architecture), problems[problem], n_examples=8, batch_size=4, max_length=16
    )
    assert all(torch.isfinite(model(**batch).loss) for batch in batches)
    names = [module.name for module in plan_for(architecture).bind(model).modules[:1]]
    found = fisher_spectra(model, batches, names)[names[0]]
    assert found.rank > 0
    assert found.n_examples == sum(len(batch["input_ids"]) for batch in batches)


def test_a_model_that_reads_both_ways_cannot_respond(
    folder_of: Folder, plan_for: Callable[..., Any], problems: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"`model`: BertLMHeadModel reads its texts both ways.* give a decoder for"):
        finetune(folder_of("bert"), problems["responses"], plan_for("bert"), output_dir=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_loaded_model_with_another_head_gets_the_head_for_questions(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Callable[..., Any], problems: Any
) -> None:
    bare = tiny_model("bert")
    model, batches = labelled_batches(bare, problems["questions"], tokenizer=tiny_tokenizer(), max_length=16)
    again, _ = labelled_batches(model, problems["questions"], tokenizer=tiny_tokenizer(), max_length=16)
    assert type(model).__name__ == "BertForQuestionAnswering"
    assert torch.equal(again.qa_outputs.weight, model.qa_outputs.weight)
    assert torch.isfinite(again(**batches[0]).loss)


def test_minilm_tunes_on_a_few_real_questions(minilm: Path, data_dir: Path, tmp_path: Path) -> None:
    from gelora.ranks import plan_ranks

    record = finetune(
        minilm,
        "squad",
        plan_ranks(None, minilm, "uniform", rank=4),
        output_dir=tmp_path,
        data_dir=data_dir / "squad",
        n_train=24,
        n_validation=8,
        **QUICK | {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "max_length": 128},
    )
    assert 0 <= record["score"] <= 1
    saved = pd.read_parquet(tmp_path / "predictions.parquet")
    stored = pd.read_parquet(data_dir / "squad" / "validation.parquet").set_index("id")["context"]
    assert len(saved) == 8
    assert all(text and text in stored[name] for name, text in zip(saved["id"], saved["prediction"], strict=True))
