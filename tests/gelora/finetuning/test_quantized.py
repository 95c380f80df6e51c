"""Quantised models: what is quantised and what not, training, reloading, and what is refused."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.quantized import check_quantization, forget_weights, loading_options
from gelora.finetuning.runner import finetune
from gelora.finetuning.tasks import load_task
from runs import predict, predictions

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
QUICK: dict[str, Any] = {
    "max_steps": 40,
    "eval_steps": 40,
    "save_steps": 40,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "device": "cpu",
    "progress": False,
}
Run = Callable[..., xr.Dataset]


@pytest.fixture
def quantised_run(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> Run:
    """Give a run on a quantised tiny model into ``tmp_path / "out"``."""

    def run(quantization: str, adapter: str = "lora", architecture: str = "bert", **changes: Any) -> xr.Dataset:
        options = QUICK | {"output_dir": tmp_path / "out", "quantization": quantization} | changes
        return finetune(folder_of(architecture), sentiment, plan_for(architecture), adapter, **options)

    return run


def check_reload(output: Path, sentiment: Any) -> None:
    """The adapter on the quantised base predicts as the run did."""
    model, tokenizer = load_adapter(output / "adapter")
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), predictions(output), rtol=0, atol=1e-5)


@needs_library
@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_all_but_the_head_is_quantised_and_frozen(
    quantization: str, folder_of: Callable[[str], Path], sentiment: Any
) -> None:
    classifier = load_classifier(folder_of("bert"), load_task(sentiment), quantization=quantization, device="cpu")
    assert classifier.head == ("classifier", "bert.pooler.dense")
    assert classifier.quantization == quantization
    kinds = {
        name: type(module).__name__
        for name, module in classifier.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert {kinds.pop(name) for name in classifier.head} == {"Linear"}
    assert set(kinds.values()) == {"Linear8bitLt" if quantization == "int8" else "Linear4bit"}
    assert len(kinds) == 12
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())
    if quantization != "int8":
        weight: Any = classifier.model.get_submodule("bert.encoder.layer.0.attention.self.query").weight
        assert weight.quant_type == quantization
        assert weight.quant_state.nested  # the constants are quantised too


@needs_library
@pytest.mark.parametrize("adapter", ["lora", "rslora", "dora", "eva"])
def test_a_run_on_4_bits_learns_and_reloads_to_its_predictions(
    adapter: str, quantised_run: Run, sentiment: Any, tmp_path: Path
) -> None:
    record = quantised_run("nf4", adapter)
    assert record["score"] > 0.8
    assert record.attrs["quantization"] == "nf4"
    assert record["trainable_parameters"].sel(part="head") == 32 * 32 + 32 + 66
    check_reload(tmp_path / "out", sentiment)


@needs_library
def test_a_run_on_8_bits_learns_and_reloads_to_its_predictions(
    quantised_run: Run, sentiment: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = quantised_run("int8")
    assert caplog.records == []  # the library would note every product
    assert record["score"] > 0.8
    check_reload(tmp_path / "out", sentiment)


@needs_library
def test_training_leaves_the_quantised_weights_as_they_are(
    quantised_run: Run, folder_of: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    quantised_run("nf4", max_steps=4, eval_steps=4, save_steps=4)
    model, _ = load_adapter(tmp_path / "out" / "adapter")
    fresh = load_classifier(folder_of("bert"), load_task(sentiment), quantization="nf4", device="cpu").model
    name = "bert.encoder.layer.1.attention.self.value"
    base: Any = model.get_submodule(f"base_model.model.{name}").base_layer
    assert torch.equal(base.weight, fresh.get_submodule(name).weight)


@needs_library
def test_an_evaluation_leaves_the_gradients_of_the_next_step_as_they_were(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    from gelora.finetuning.adaptation import Setting
    from gelora.finetuning.lora import LoRA

    classifier = load_classifier(folder_of("bert"), load_task(sentiment), quantization="nf4", device="cpu")
    plan = forget_weights(plan_for("bert")).bind(classifier.model)
    model = LoRA()(Setting(classifier=classifier, plan=plan, dropout=0.0, seed=0, batches=lambda: iter(()))).model
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.default.weight"
    tokens, labels = torch.tensor([[2, 5, 9, 13, 3]]), torch.tensor([1])

    def gradient() -> torch.Tensor:
        model.train().zero_grad()
        model(tokens, labels=labels).loss.backward()
        found = model.get_parameter(name).grad
        assert found is not None
        return found.clone()

    first = gradient()
    with torch.no_grad():
        model.eval()(tokens)
    assert first.abs().max() > 0
    assert torch.equal(gradient(), first)


@needs_library
def test_a_quantised_run_is_another_run_than_one_with_the_weights_as_stored(quantised_run: Run) -> None:
    short = {"max_steps": 2, "eval_steps": 2, "save_steps": 2}
    quantised_run("nf4", **short)
    with pytest.raises(ValueError, match=r"`output_dir` .* other arguments \(weights_fingerprint was "):
        quantised_run("fp4", **short)


def test_a_quantisation_that_does_not_exist_is_refused(quantised_run: Run) -> None:
    with pytest.raises(ValueError, match=r"`quantization` must be one of nf4, fp4, int8, or None, got 'nf8'; did you"):
        quantised_run("nf8")


def test_a_loaded_model_is_refused(quantised_run: Run, tiny_model: Callable[[str], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"`model` must be a folder or hub name for quantization='nf4', got a loaded BertModel: give"
    ):
        check_quantization("nf4", tiny_model("bert"), "lora")


@pytest.mark.parametrize("adapter", ["full", "sora", "adalora", "bitfit"])
def test_adapters_that_change_weights_or_have_no_quantised_layers_are_refused(adapter: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"`quantization` goes with the adapters lora, rslora, dora, eva, got adapter='{adapter}': choo",
    ):
        check_quantization("nf4", "somewhere", adapter)


def test_a_refused_quantisation_writes_nothing(quantised_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`quantization` goes with the adapters"):
        quantised_run("nf4", "sora")
    assert not (tmp_path / "out").exists()


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, quantised_run: Run) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest)
    )
    message = r"`quantization` needs bitsandbytes, which is not installed: pip install 'gelora\[quantized\]'"
    with pytest.raises(ImportError, match=message):
        quantised_run("nf4")
    with pytest.raises(ImportError, match=message):
        loading_options("nf4", "float32", "cpu", ["classifier"])


def test_nothing_asked_for_is_nothing_checked() -> None:
    check_quantization(None, object(), "full")


def test_a_plan_for_quantised_weights_keeps_all_but_their_fingerprint(plan_for: Callable[..., Any]) -> None:
    plan = plan_for("bert")
    assert plan.weights_fingerprint
    forgotten = forget_weights(plan)
    assert forgotten.weights_fingerprint == ""
    assert forgotten.modules == plan.modules
