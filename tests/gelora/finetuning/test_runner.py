"""Fine-tuning end to end on tiny models: it learns, its files reload, it resumes, it leaves nothing behind."""

import functools
import json
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from gelora.finetuning import runner
from gelora.finetuning.record import open_record
from gelora.finetuning.runner import finetune
from runs import dying_before_it_saves, interrupted_at, predict, predictions, same, same_predictions

Folder = Callable[[str], Path]
Run = Callable[..., xr.Dataset]
QUICK: dict[str, Any] = {
    "max_steps": 8,
    "eval_steps": 8,
    "save_steps": 8,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "progress": False,
}


@pytest.fixture
def quick(folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path) -> Run:
    """Give eight steps on the tiny BERT into ``tmp_path / "out"``."""

    arguments = {"model": folder_of("bert"), "task": sentiment, "plan": plan_for("bert")}

    def run(**changes: Any) -> xr.Dataset:
        return finetune(**arguments | QUICK | {"output_dir": tmp_path / "out"} | changes)

    return run


@pytest.fixture(scope="session")
def tuned(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[xr.Dataset, Path]]:
    """Give a run that learnt the task, one for each architecture."""
    made: dict[str, tuple[xr.Dataset, Path]] = {}

    def run(architecture: str) -> tuple[xr.Dataset, Path]:
        if architecture not in made:
            output = tmp_path_factory.mktemp("tuned") / architecture
            longer = QUICK | {"max_steps": 40, "eval_steps": 20, "save_steps": 40, "learning_rate": 1e-2}
            longer |= {"batch_size": 16}
            record = finetune(folder_of(architecture), sentiment, plan_for(architecture), output_dir=output, **longer)
            made[architecture] = record, output
        return made[architecture]

    return run


def test_a_tiny_model_learns_the_task_well_above_chance(architecture: str, tuned: Any) -> None:
    record, _ = tuned(architecture)
    assert record["score"] > 0.8
    assert record["loss"][-5:].mean() < 0.5 * record["loss"][:5].mean()


def test_the_record_holds_steps_evaluations_ranks_and_costs(architecture: str, tuned: Any) -> None:
    record, output = tuned(architecture)
    assert record.sizes["step"] == 40
    assert record["evaluation_step"].values.tolist() == [20, 40]
    assert record["validation"].sel(metric="score")[-1] == record["score"]
    assert record["score"] == record["validation"].sel(metric=["accuracy", "f1"])[-1].mean()
    ranks = json.loads(record.attrs["planned_ranks"])
    assert {2, 3} == set(ranks.values())
    assert [ranks[name] for name in record["module"].values] == record["rank"].values.tolist()
    assert (record["alpha"] == 2.0 * record["rank"]).all()
    expected = 0.0304 * 40  # the warm-up, rounded up to 2 steps
    assert np.ceil(expected) == 2
    np.testing.assert_allclose(record["learning_rate"][:3], [0.0, 0.5e-2, 1e-2])
    assert record["seconds"] == pytest.approx(float(record["step_seconds"].sum()))
    assert record["rank_history"].values.tolist() == [record["rank"].values.tolist()]
    assert record["change_step"].values.tolist() == [0]
    # At least what the process holds beside torch: the weights are tiny here, the libraries are not.
    assert record["peak_memory"] > (0 if torch.cuda.is_available() else 1e8)
    xr.testing.assert_identical(open_record(output / "record.nc"), record)


def test_trainable_parameters_are_those_of_the_plan_and_of_the_head(
    architecture: str, tuned: Any, plan_for: Callable[..., Any]
) -> None:
    record, _ = tuned(architecture)
    head = {"bert": 32 * 32 + 32 + 66, "roberta": 32 * 32 + 32 + 66, "deberta": 32 * 32 + 32 + 66}
    assert record["trainable_parameters"].values.tolist() == [
        plan_for(architecture).n_parameters,
        head.get(architecture, 64),
    ]


def reload(architecture: str, base: Path, adapter: Path) -> Any:
    """Load a saved adapter as its model card says."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    options = {"pad_token_id": tokenizer.pad_token_id} if architecture in ("gpt2", "llama") else {}
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, **options)
    return PeftModel.from_pretrained(model, adapter).eval(), tokenizer


def test_the_saved_adapter_reloads_to_the_same_predictions(
    architecture: str, tuned: Any, folder_of: Folder, sentiment: Any
) -> None:
    record, output = tuned(architecture)
    model, tokenizer = reload(architecture, folder_of(architecture), output / "adapter")
    logits = predict(model, tokenizer, sentiment)
    np.testing.assert_allclose(logits, predictions(output), rtol=0, atol=1e-6)
    saved = pd.read_parquet(output / "predictions.parquet")
    assert (logits.argmax(-1) == saved["prediction"]).all()
    assert saved["label"].tolist() == [row["label"] for row in sentiment.validation]
    assert (saved["label"] == saved["prediction"]).mean() == record["validation"].sel(metric="accuracy")[-1]


def test_the_model_card_names_base_score_and_origin(tuned: Any, folder_of: Folder) -> None:
    record, output = tuned("bert")
    card = (output / "adapter" / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"---\nlibrary_name: peft\nbase_model: {folder_of('bert')}\n")
    assert f"{float(record['score']):.4f}" in card
    assert "num_labels=2, pad_token_id=0" in card
    origin = json.loads(card.split("```json\n")[1].split("```")[0])
    assert origin["policy"] == "uniform"
    assert "| encoder 1 | 2 | 2 | 2 | 2 |\n| encoder 2 | 3 | 3 | 3 | 3 |" in card.split("## Ranks")[1]
    assert origin["weights_fingerprint"] == record.attrs["weights_fingerprint"]


def test_the_attributes_say_where_the_record_comes_from(tuned: Any) -> None:
    record, _ = tuned("bert")
    attributes = record.attrs
    assert {"task", "adapter", "policy", "model", "data_fingerprint", "seed", "options", "versions", "created"} <= set(
        attributes
    )
    assert json.loads(attributes["options"])["learning_rate"] == 1e-2
    assert (attributes["n_train"], attributes["n_validation"]) == (64, 24)
    assert json.loads(attributes["modules_trained_whole"]) == ["classifier", "bert.pooler.dense"]


def test_the_same_call_gives_the_same_numbers_and_another_seed_others(quick: Run, tmp_path: Path) -> None:
    first, second = quick(), quick(output_dir=tmp_path / "again")
    assert same(first, second)
    same_predictions(tmp_path / "out", tmp_path / "again")
    assert not same(first, quick(output_dir=tmp_path / "other", seed=1))


# dropout, so that a wrong generator state shows; 3 does not divide the 8 steps an epoch
RESUMED: dict[str, Any] = {"max_steps": 11, "eval_steps": 4, "save_steps": 3, "dropout": 0.3}


@pytest.mark.parametrize("step", [2, 7, 9])
def test_an_interrupted_run_ends_as_if_it_had_not_been(step: int, quick: Run, tmp_path: Path) -> None:
    whole = quick(output_dir=tmp_path / "whole", **RESUMED)
    with interrupted_at(step):
        quick(**RESUMED)
    assert not (tmp_path / "out" / "record.nc").exists()
    resumed = quick(**RESUMED)
    assert same(whole, resumed)
    same_predictions(tmp_path / "whole", tmp_path / "out")


def test_a_run_interrupted_after_its_last_step_trains_no_more(quick: Run, tmp_path: Path) -> None:
    whole = quick(output_dir=tmp_path / "whole", max_steps=11)
    with dying_before_it_saves():
        quick(max_steps=11)
    resumed = quick(max_steps=11)
    assert resumed.sizes["step"] == 11
    assert same(whole, resumed)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "checksums.json").unlink(), "it was not written to its end"),
        (lambda folder: cut(folder / "checksums.json"), "it was not written to its end"),
        (lambda folder: cut(folder / "trained.safetensors"), "trained.safetensors has changed since"),
        (lambda folder: cut(folder / "optimizer.pt"), "optimizer.pt has changed since"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    damage: Callable[[Path], None], reason: str, quick: Run, tmp_path: Path
) -> None:
    with interrupted_at(7):
        quick(**RESUMED)
    damage(tmp_path / "out" / "checkpoints" / "checkpoint-6")
    with pytest.warns(UserWarning, match=rf"'checkpoint-6' of .* is damaged \({reason}\): the one before it is used"):
        resumed = quick(**RESUMED)
    assert same(resumed, quick(output_dir=tmp_path / "whole", **RESUMED))


def test_a_run_without_a_sound_checkpoint_starts_again(quick: Run, tmp_path: Path) -> None:
    with interrupted_at(4):
        quick(**RESUMED)
    cut(tmp_path / "out" / "checkpoints" / "checkpoint-3" / "optimizer.pt")
    with pytest.warns(UserWarning, match=r"or the run starts again where there is none"):
        resumed = quick(**RESUMED)
    assert same(resumed, quick(output_dir=tmp_path / "whole", **RESUMED))


KILLED = """
import os, signal, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from transformers import Trainer

from gelora.finetuning.runner import finetune
from gelora.finetuning.tasks import Task
from gelora.plan import RankPlan

sys.path.insert(0, sys.argv[5])
from conftest import make_rows

save = Trainer._save_optimizer_and_scheduler


def killed(self, folder):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)


Trainer._save_optimizer_and_scheduler = killed
task = Task(
    name="sentiment", text=("sentence",), label_names=("bad", "good"), metrics=("accuracy", "f1"),
    train=make_rows(64, 1), validation=make_rows(24, 2),
)
finetune(
    Path(sys.argv[1]), task, RankPlan.load(sys.argv[2]), output_dir=sys.argv[3], **eval(sys.argv[4])
)
"""


def test_a_run_killed_while_it_wrote_a_checkpoint_goes_on_from_the_one_before(
    quick: Run, folder_of: Folder, plan_for: Callable[..., Any], tmp_path: Path
) -> None:
    import signal
    import subprocess

    plan = plan_for("bert").save(tmp_path / "plan.json")
    arguments = [folder_of("bert"), plan, tmp_path / "out", repr(QUICK | RESUMED), Path(__file__).parents[1]]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert left == ["checkpoint-3", "checkpoint-6"]
    with pytest.warns(UserWarning, match=r"'checkpoint-6' .* \(it was not written to its end\)"):
        resumed = quick(**RESUMED)
    assert same(resumed, quick(output_dir=tmp_path / "whole", **RESUMED))


def test_the_last_whole_checkpoint_is_there_while_the_next_is_written(
    quick: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gelora.finetuning import training

    seen = []

    def seal(checkpoint: Path) -> None:
        seen.append(sorted(path.name for path in checkpoint.parent.iterdir()))
        original(checkpoint)

    original = training.seal_checkpoint
    monkeypatch.setattr(training, "seal_checkpoint", seal)
    quick(save_steps=2, save_total_limit=1)
    assert seen[1:] == [[f"checkpoint-{step - 2}", f"checkpoint-{step}"] for step in (4, 6, 8)]
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["checkpoint-8"]


def test_a_run_that_dies_after_training_still_saves_its_best_weights(quick: Run, tmp_path: Path) -> None:
    options = {"max_steps": 12, "eval_steps": 4, "save_steps": 4, "learning_rate": 0.1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    whole = quick(output_dir=tmp_path / "whole", **options)
    losses = whole["validation_loss"].values.tolist()
    assert losses[-1] == losses[0] > losses[1]  # evaluated again with the best weights, which are not the last
    with dying_before_it_saves():
        quick(**options)
    assert same(quick(**options), whole)
    same_predictions(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping_keeps_its_patience_over_an_interruption(patience: int, quick: Run, tmp_path: Path) -> None:
    from transformers import EarlyStoppingCallback

    options = {"max_steps": 40, "eval_steps": 2, "save_steps": 2, "learning_rate": 1e-9}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "score"}

    def run(name: str) -> xr.Dataset:
        return quick(output_dir=tmp_path / name, callbacks=[EarlyStoppingCallback(patience)], **options)

    whole = run("whole")
    assert whole.sizes["step"] == 2 + 2 * patience
    with interrupted_at(3):
        run("out")
    with dying_before_it_saves():
        run("out")
    assert same(run("out"), whole)


def test_a_finished_run_returns_its_record_without_training(
    quick: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = quick()
    monkeypatch.setattr(runner, "_train", lambda *_: pytest.fail("it trained again"))
    second = quick(progress=True, device="cpu", save_steps=3)
    xr.testing.assert_equal(first, second)


def test_another_run_in_the_same_folder_is_refused(quick: Run) -> None:
    quick()
    with pytest.raises(
        ValueError, match=r"`output_dir` .* other arguments \(learning_rate was 0.005, is 0.001\): give"
    ):
        quick(learning_rate=1e-3)
    with pytest.raises(
        ValueError, match=r"holds a run already \(run.json, record.nc, .*\): give a fresh folder, or resume"
    ):
        quick(resume=False)


def test_results_without_a_run_file_are_not_overwritten(quick: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "adapter").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds adapter of something else than a gelora run: give a fresh folder"):
        quick()


def test_a_call_that_failed_before_its_first_checkpoint_does_not_block_the_folder(quick: Run) -> None:
    with interrupted_at(1):
        quick()
    assert quick(learning_rate=1e-3).sizes["step"] == 8


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(quick: Run, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) at step \d+: .*lower `learning_rate`"):
        quick(learning_rate=1e30, save_steps=1)
    assert not (tmp_path / "out" / "record.nc").exists()
    last = max((tmp_path / "out" / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    losses = state["stateful_callbacks"]["History"]["attributes"]["losses"]
    assert len(losses) == state["global_step"]
    assert np.isfinite(losses).all()


def test_pairs_are_encoded_together(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    rows = [{"a": row["sentence"], "b": "was it good", "label": row["label"]} for row in sentiment.train]
    task = replace(sentiment, name="pairs", text=("a", "b"), train=rows, validation=rows[:20])
    longer = QUICK | {"max_steps": 30, "eval_steps": 30, "batch_size": 16, "learning_rate": 1e-2}
    record = finetune(folder_of("bert"), task, plan_for("bert"), output_dir=tmp_path / "out", **longer)
    assert record["score"] > 0.8


def test_a_regression_learns_numbers(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    rows = [{"sentence": row["sentence"], "label": 2.5 * row["label"] - 1.0} for row in sentiment.train]
    task = replace(
        sentiment, problem="regression", label_names=(), metrics=(), score=(), train=rows, validation=rows[:24]
    )
    task = replace(task, metrics=("pearson", "spearman"), score=("pearson", "spearman"))
    longer = QUICK | {"max_steps": 40, "eval_steps": 40, "batch_size": 16, "learning_rate": 1e-2}
    record = finetune(folder_of("bert"), task, plan_for("bert"), output_dir=tmp_path / "out", **longer)
    assert record["validation"].sel(metric="pearson")[-1] > 0.8
    assert record["trainable_parameters"].sel(part="head") == 32 * 32 + 32 + 33
    saved = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert list(saved.columns) == ["label", "prediction", "logit_0"]


def test_by_default_each_epoch_ends_with_an_evaluation_and_a_checkpoint(quick: Run, tmp_path: Path) -> None:
    record = quick(max_steps=-1, epochs=1.5, batch_size=32, eval_steps=None, save_steps=None)
    assert record.sizes["step"] == 3
    assert record["evaluation_step"].values.tolist() == [2, 3]
    assert record["epoch"].values.tolist() == [1.0, 1.5]
    kept = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert kept == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.slow
def test_a_pretrained_encoder_learns_sentiment(minilm: Path, data_dir: Path, tmp_path: Path) -> None:
    from gelora.ranks import plan_ranks

    record = finetune(
        minilm,
        "sst2",
        plan_ranks(None, minilm, "uniform", rank=2),
        data_dir=data_dir / "sst2",
        output_dir=tmp_path / "out",
        n_train=1600,
        n_validation=200,
        max_length=32,
        batch_size=16,
        epochs=1,
        learning_rate=2e-3,
        progress=False,
    )
    assert record["score"] > 0.7
    assert record["trainable_parameters"].values.tolist() == [36_864, 770]


def test_accumulated_batches_train_as_one_large_batch(quick: Run, tmp_path: Path) -> None:
    options = {"dropout": 0.0, "max_steps": 4, "eval_steps": 4}
    large = quick(batch_size=16, output_dir=tmp_path / "large", **options)
    small = quick(batch_size=8, gradient_accumulation_steps=2, **options)
    np.testing.assert_allclose(small["loss"], large["loss"], rtol=1e-5)
    np.testing.assert_allclose(small["validation_loss"], large["validation_loss"], rtol=1e-5)


def test_the_best_weights_are_those_that_are_saved(quick: Run, tmp_path: Path) -> None:
    record = quick(
        max_steps=24,
        eval_steps=4,
        save_steps=4,
        learning_rate=3e-2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    assert record["score"] == record["validation"].sel(metric="score").max()
    saved = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    accuracy = (saved["label"] == saved["prediction"]).mean()
    assert accuracy == record["validation"].sel(metric="accuracy")[-1]


@pytest.fixture
def loaded(folder_of: Folder) -> Any:
    """Give the tiny BERT with a head of its own."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=2)


def test_a_loaded_model_stays_as_it_was(quick: Run, loaded: Any) -> None:
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    flags = [parameter.requires_grad for parameter in loaded.parameters()]
    record = quick(model=loaded)
    assert record["trainable_parameters"].sel(part="head") == 32 * 32 + 32 + 66
    after = loaded.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert flags == [parameter.requires_grad for parameter in loaded.parameters()]
    assert loaded.training is False


def test_a_bare_model_gets_the_head_that_its_folder_gets(quick: Run, folder_of: Folder, tmp_path: Path) -> None:
    from transformers import AutoModel

    bare = quick(model=AutoModel.from_pretrained(folder_of("deberta")), plan=plan("deberta", folder_of))
    named = quick(model=folder_of("deberta"), plan=plan("deberta", folder_of), output_dir=tmp_path / "named")
    assert bare["trainable_parameters"].equals(named["trainable_parameters"])
    assert bare.attrs["modules_trained_whole"] == named.attrs["modules_trained_whole"]


def plan(architecture: str, folder_of: Folder) -> Any:
    from gelora.ranks import plan_ranks

    return plan_ranks(None, folder_of(architecture), "uniform", rank=1)


def test_global_state_and_streams_are_left_alone(quick: Run, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from transformers.utils import logging

    def state() -> tuple[Any, ...]:
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            list(warnings.filters),
            logging.get_verbosity(),
            logging.is_progress_bar_enabled(),
            torch.is_grad_enabled(),
        )

    before = state()
    capfd.readouterr()
    quick()
    assert capfd.readouterr() == ("", "")
    assert state() == before
    quick(progress=True, output_dir=tmp_path / "shown")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "8/8" in shown.err


def test_no_forward_pass_is_added_to_those_of_training_and_evaluation(
    quick: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertForSequenceClassification

    calls: list[bool] = []
    forward = BertForSequenceClassification.forward

    @functools.wraps(forward)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", counted)
    quick()
    assert (calls.count(True), calls.count(False)) == (8, 3)


def test_a_plan_file_serves_as_the_plan(quick: Run, plan_for: Callable[..., Any], tmp_path: Path) -> None:
    path = plan_for("bert").save(tmp_path / "plan.json")
    assert same(quick(plan=path), quick(plan=plan_for("bert"), output_dir=tmp_path / "other"))


def test_a_plan_of_other_weights_warns_and_of_another_model_is_refused(
    quick: Run, plan_for: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="made with other weights of the same architecture"):
        quick(plan=replace(plan_for("bert"), weights_fingerprint="other"))
    with pytest.raises(ValueError, match=r"the plan was made for gpt2 .*, but `model` is bert"):
        quick(plan=plan_for("gpt2"), output_dir=tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"adapter": "lorra"},
            ValueError,
            r"`adapter` must be one of \['full', .*\], got 'lorra'; did you mean 'lora'\?",
        ),
        ({"task": "colla"}, ValueError, r"`task`: there is no 'colla'.*did you mean 'cola'"),
        ({"model": Path("nowhere")}, FileNotFoundError, r"`model`: there is no folder 'nowhere'"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, r"`model` must be a transformers model, .* got Linear"),
        ({"plan": "nowhere.json"}, FileNotFoundError, r"there is no file 'nowhere.json'"),
        ({"plan": 3}, TypeError, r"`plan` must be a RankPlan .* got int"),
        ({"epochs": 0}, ValueError, r"`epochs` must be a positive number, got 0"),
        ({"max_steps": 0}, ValueError, r"`max_steps` must be an integer of at least 1, or -1 for all epochs, got 0"),
        ({"batch_size": 0}, ValueError, r"`batch_size` must be an integer of at least 1, got 0"),
        ({"batch_size": None}, ValueError, r"`batch_size` must be an integer of at least 1, got None"),
        ({"eval_steps": 0}, ValueError, r"`eval_steps` must be an integer of at least 1, got 0"),
        ({"max_length": 2}, ValueError, r"`max_length` must be an integer of at least 3, got 2"),
        ({"seed": -1}, ValueError, r"`seed` must be an integer of at least 0, got -1"),
        ({"learning_rate": float("nan")}, ValueError, r"`learning_rate` must be a positive number, got nan"),
        ({"weight_decay": -0.1}, ValueError, r"`weight_decay` must be a number of at least 0, got -0.1"),
        ({"warmup_ratio": 1}, ValueError, r"`warmup_ratio` must be a share of all steps, .* got 1"),
        ({"dropout": 1.0}, ValueError, r"`dropout` must be a probability, at least 0 and below 1, got 1.0"),
        ({"precision": "fp16"}, ValueError, r"`precision` must be one of float32, bfloat16, float16, got 'fp16'"),
        ({"device": "gpu"}, ValueError, r"`device` must be one of auto, cpu, cuda, got 'gpu'"),
        ({"schedule": "steep"}, ValueError, r"TrainingArguments refuses these options: steep is not a valid"),
        ({"lerning_rate": 1}, ValueError, r"`lerning_rate` is neither .*did you mean 'learning_rate'\?"),
        ({"num_train_epochs": 1}, ValueError, r"`num_train_epochs` is set by `epochs`: give that instead"),
        ({"push_to_hub": True}, ValueError, r"`push_to_hub` belongs to the runner and cannot be set: leave it out"),
        ({"n_train": 0}, ValueError, r"`n_train` must be a positive integer or None"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_written(
    changes: dict[str, Any], error: type[Exception], message: str, quick: Run, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        quick(**changes)
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == []


def test_a_device_that_is_not_there_is_named(quick: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"`device` is 'cuda', but torch finds no CUDA device: give device='auto'"):
        quick(device="cuda")


def test_an_output_that_cannot_be_a_folder_is_named(quick: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match=r"cannot write into .*file.*: a file is in the way"):
        quick(output_dir=tmp_path / "file")


def test_the_public_name_resolves_without_importing_torch_first() -> None:
    import subprocess

    code = (
        "import sys, gelora.finetuning.runner, gelora.finetuning.tasks\n"
        "print({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"
