"""The callback records what a model is at each step, and a training does not notice it."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import xarray as xr

from gelora import estimate
from gelora.netcdf import read_dataset, write_dataset
from gelora.ranks import plan_ranks
from gelora.theory import GapCallback, jacobian_spectra
from tiny_models import ragged_batch, tiny_model, tiny_texts, tiny_tokenizer

TEXTS = tiny_texts(60, seed=3)


def adapted_model() -> Any:
    import peft

    model = tiny_model("bert", hf.AutoModelForSequenceClassification.from_config)
    plan = plan_ranks(None, model, "uniform", rank=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peft.get_peft_model(model, plan.to_lora_config("SEQ_CLS"))


def rows() -> list[dict[str, Any]]:
    batch = ragged_batch(24, seed=1)
    return [{**{key: value[i] for key, value in batch.items()}, "labels": i % 2} for i in range(24)]


def callback(**options: Any) -> GapCallback:
    settings: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "n_points": 1, "estimator": "mle(k1=3, k2=5)"}
    return GapCallback(TEXTS, **{**settings, **options})


def train(folder: Path, *callbacks: Any, steps: int = 5) -> Any:
    model = adapted_model()
    arguments = hf.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=5e-2,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=3,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = hf.Trainer(model=model, args=arguments, train_dataset=rows(), callbacks=list(callbacks))
    trainer.train()
    return model


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[GapCallback, Any]:
    found = callback(every=2)
    return found, train(tmp_path_factory.mktemp("watched"), found)


def test_a_training_is_equal_bit_for_bit_with_and_without_the_callback(
    watched: tuple[GapCallback, Any], tmp_path: Path
) -> None:
    plain = train(tmp_path)
    start = adapted_model().state_dict()
    for name, value in watched[1].state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert not all(torch.equal(value, start[name]) for name, value in plain.state_dict().items())


def test_steps_are_recorded_at_the_start_every_so_often_and_at_the_end(watched: tuple[GapCallback, Any]) -> None:
    history = watched[0].history
    assert history["step"].values.tolist() == [0, 2, 4, 5]
    assert history["block"].values.tolist() == [1, 2]
    assert dict(history.sizes) == {"step": 4, "block": 2}
    assert sorted(watched[0].profiles) == [0, 2, 4, 5]


def test_chosen_steps_are_recorded_and_no_others(tmp_path: Path) -> None:
    found = callback(steps=[0, 3])
    train(tmp_path, found, steps=4)
    assert found.history["step"].values.tolist() == [0, 3]


def test_the_last_step_has_the_numbers_of_the_tuned_model(watched: tuple[GapCallback, Any]) -> None:
    found, model = watched
    history = found.history.sel(step=5)
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "progress": False}
    profile = estimate(model, TEXTS, estimator="mle(k1=3, k2=5)", n_samples=1000, **options)
    spectra = jacobian_spectra(model, TEXTS, n_points=1, **options)
    np.testing.assert_array_equal(history["dimension"].values, profile["dimension"].values[0, 1:])
    np.testing.assert_array_equal(history["standard_error"].values, profile["standard_error"].values[0, 1:])
    np.testing.assert_array_equal(history["input_dimension"].values, profile["dimension"].values[0, :-1])
    ranks = spectra["rank"].sel(respect="both").max("point").values
    np.testing.assert_array_equal(history["rank"].values, ranks)
    np.testing.assert_array_equal(history["gap"].values, ranks - profile["dimension"].values[0, 1:])


def test_dimensions_have_errors_and_move_with_the_weights(watched: tuple[GapCallback, Any]) -> None:
    history = watched[0].history
    assert (history["standard_error"].values > 0).all()
    assert (np.diff(history["dimension"].values, axis=0) != 0).any()
    np.testing.assert_array_equal(
        history["energy_gap"].values, history["energy_rank_99"].values - history["dimension"].values
    )


def test_a_history_can_be_written_and_read(watched: tuple[GapCallback, Any], tmp_path: Path) -> None:
    history = watched[0].history
    write_dataset(history, tmp_path / "history.nc")
    xr.testing.assert_identical(read_dataset(tmp_path / "history.nc", made_by="a test"), history)


def test_a_model_that_is_not_adapted_is_recorded_with_a_plan_and_left_as_found() -> None:
    model = tiny_model("gpt2").train()
    before = copy.deepcopy(model.state_dict())
    found = callback(every=1, plan=plan_ranks(None, model, "uniform", rank=1))
    found.record(model, 7)
    assert found.history["step"].values.tolist() == [7]
    assert found.history["rank"].values.tolist() == [[32, 32]]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_collapsed_is_recorded_as_undefined_and_stops_nothing() -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = callback(every=1)
    with pytest.warns(UserWarning, match="the dimensions at step 3 are undefined: no dimension is defined on any"):
        found.record(model, 3)
    assert np.isnan(found.history["dimension"].values).all()
    assert found.history["rank"].values.tolist() == [[0, 0]]
    assert not found.profiles


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_is_read_once_and_moves_no_global_generator(shuffle: bool) -> None:
    batch = ragged_batch(40, seed=1)
    rows = [{key: value[i] for key, value in batch.items()} for i in range(40)]
    loader: Any = torch.utils.data.DataLoader(rows, batch_size=8, shuffle=shuffle)  # type: ignore[arg-type]
    found = GapCallback(loader, every=1, n_points=1, estimator="mle(k1=3, k2=5)")
    states = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    for step in range(2):
        found.record(adapted_model(), step)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    first, second = found.history["dimension"].values
    np.testing.assert_array_equal(first, second)


def test_batches_that_can_be_read_once_only_serve_at_every_step() -> None:
    found = GapCallback(iter([ragged_batch(40, seed=1)]), every=1, n_points=1, estimator="mle(k1=3, k2=5)")
    for step in range(2):
        found.record(adapted_model(), step)
    assert found.history["step"].values.tolist() == [0, 1]


def test_it_goes_with_the_callbacks_of_gelora_s_own_trainer(
    tmp_path: Path,
) -> None:
    from gelora.finetuning.adaptation import Adapted
    from gelora.finetuning.callbacks import History
    from gelora.finetuning.encoded import Inputs
    from gelora.finetuning.training import make_trainer, run_training

    found = callback(steps=[2])
    arguments = hf.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    examples = [
        {key: value.tolist() if torch.is_tensor(value) else value for key, value in row.items()} for row in rows()
    ]
    tokenizer = tiny_tokenizer()
    trainer = make_trainer(
        Adapted(
            model=adapted_model(),
            save=lambda folder: None,
            kind="peft",
            count=lambda: 0,
            ranks=dict,
            callbacks=(found,),
        ),
        arguments,
        Inputs(
            examples,
            examples[:8],
            hf.DataCollatorWithPadding(tokenizer),
            tokenizer,
            {},
            lambda *_: {"score": 0.0},
            dict,
        ),
        history=History(),
        progress=False,
    )
    run_training(trainer, None, evaluate_again=False)
    assert found.history["step"].values.tolist() == [2]
    assert len(trainer.history.losses) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: callback(), "give `every`, a number of steps, or `steps`, a list of them, got neither"),
        (lambda: callback(every=1, steps=[1]), "a list of them, got both"),
        (lambda: callback(every=0), "`every` must be an integer of at least 1, got 0"),
        (lambda: callback(steps=[-1]), "`steps` must be an integer of at least 0, got -1"),
        (lambda: callback(every=1, estimator=["mle", "twonn"]), r"`estimator` must be one estimator, got \['mle', 'tw"),
        (lambda: callback(every=1).history, "`history` is empty: no step of the training was recorded yet"),
    ],
)
def test_a_wrong_call_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
