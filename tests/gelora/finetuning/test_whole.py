"""Full fine-tuning and BitFit: what trains, in which type, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gelora.finetuning.loading import load_adapter
from gelora.finetuning.runner import finetune
from gelora.finetuning.whole import BitFit, Full, is_bias
from runs import make_setting, predict, predictions

Folder = Callable[[str], Path]
RUN: dict[str, Any] = {"max_steps": 3, "eval_steps": 3, "save_steps": 3, "batch_size": 16, "progress": False}


def half(folder: Path) -> Any:
    """Return the bare model with its weights in bfloat16."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.bfloat16)


def test_the_biases_of_bert_are_counted_in_closed_form(folder_of: Folder, sentiment: Any) -> None:
    d, inner, blocks = 32, 48, 2
    attention, feed_forward, norms = 4 * d, inner + d, 2 * d
    assert (
        BitFit()(make_setting(folder_of("bert"), sentiment)).count() == blocks * (attention + feed_forward + norms) + d
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta", "gpt2"])
def test_bitfit_trains_every_bias_and_the_head_and_nothing_else(name: str, folder_of: Folder, sentiment: Any) -> None:
    given = make_setting(folder_of(name), sentiment)
    head = given.classifier.head
    parameters = dict(BitFit()(given).model.named_parameters())
    trained = {key for key, parameter in parameters.items() if parameter.requires_grad}
    expected = {key for key in parameters if key.endswith(".bias") or key.startswith(tuple(f"{one}." for one in head))}
    assert trained == expected
    assert any(parameters[key].ndim > 1 for key in trained)  # the head
    assert len(trained) < len(parameters)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_full_counts_all_but_the_head_once(name: str, folder_of: Folder, sentiment: Any, tiny_model: Any) -> None:
    given = make_setting(folder_of(name), sentiment)
    adapted = Full()(given)
    assert all(parameter.requires_grad for parameter in adapted.model.parameters())
    assert adapted.count() == sum(parameter.numel() for parameter in tiny_model(name).parameters())
    assert adapted.ranks() == {}


def test_a_model_without_biases_is_refused_before_anything_is_written(
    folder_of: Folder, sentiment: Any, tmp_path: Path
) -> None:
    message = r"`adapter` 'bitfit' trains biases, but LlamaForSequenceClassification has none .*: give another adapter"
    with pytest.raises(ValueError, match=message):
        finetune(folder_of("llama"), sentiment, None, "bitfit", output_dir=tmp_path / "out", **RUN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_bitfit_trains_a_model_in_half_precision_with_biases_in_float32(
    name: str, folder_of: Folder, sentiment: Any
) -> None:
    given = make_setting(half(folder_of(name)), sentiment, precision="bfloat16")
    model: Any = BitFit()(given).model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert {module.weight.dtype for module in model.modules() if isinstance(module, torch.nn.LayerNorm)} == {
        torch.float32
    }
    frozen = [p for p in model.parameters() if not p.requires_grad and p.ndim > 1]
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 12, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in trained)


@pytest.mark.parametrize(("adapter", "dtype", "near"), [("full", "float32", 1e-6), ("bitfit", "bfloat16", 0.1)])
def test_a_run_in_half_precision_is_loaded_again(
    adapter: str, dtype: str, near: float, folder_of: Folder, sentiment: Any, tmp_path: Path
) -> None:
    """Full saves float32, so nothing is lost; BitFit's biases are rounded to the type of the weights beside them."""
    options = RUN | {"learning_rate": 1e-3, "precision": "bfloat16", "output_dir": tmp_path / "out"}
    finetune(half(folder_of("bert")), sentiment, None, adapter, **options)
    facts = json.loads((tmp_path / "out" / "adapter" / "gelora_adapter.json").read_text(encoding="utf-8"))
    assert facts["dtype"] == dtype
    model, tokenizer = load_adapter(tmp_path / "out" / "adapter", None if adapter == "full" else folder_of("bert"))
    assert model.dtype == getattr(torch, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        logits = predict(model, tokenizer, sentiment)
    np.testing.assert_allclose(logits, predictions(tmp_path / "out"), rtol=0, atol=near)


def test_the_biases_that_deberta_keeps_outside_its_matrices_are_trained_too() -> None:
    from transformers import DebertaConfig, DebertaModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    names = {name for name, _ in DebertaModel(DebertaConfig(**sizes, vocab_size=30)).named_parameters()}
    outside = {name for name in names if name.endswith(("q_bias", "v_bias"))}
    assert len(outside) == 2
    assert outside < {name for name in names if is_bias(name)}
    assert not any(is_bias(name) for name in names if name.endswith("weight"))
