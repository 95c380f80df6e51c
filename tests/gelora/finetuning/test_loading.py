"""A saved adapter is the model it was, on any base that is the one it was trained on; all else is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gelora.finetuning.adapters import ADAPTERS
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.runner import finetune
from runs import predict, predictions

Folder = Callable[[str], Path]
RUN: dict[str, Any] = {"max_steps": 3, "eval_steps": 3, "save_steps": 3, "batch_size": 16, "learning_rate": 1e-2}
ON_A_BASE = ("lora", "dora", "bitfit", "houlsby", "pfeiffer")


@pytest.fixture(scope="session")
def saved(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Give the folder of a short run."""
    made: dict[tuple[str, str], Path] = {}

    def run(adapter: str, architecture: str = "bert") -> Path:
        key = adapter, architecture
        if key not in made:
            plan = None if ADAPTERS[adapter].plan_use == "none" else plan_for(architecture)
            output = tmp_path_factory.mktemp("saved") / "run"
            finetune(folder_of(architecture), sentiment, plan, adapter, output_dir=output, progress=False, **RUN)
            made[key] = output
        return made[key]

    return run


@pytest.fixture
def copied(saved: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """Give an adapter folder of one's own, to damage."""

    def copy(adapter: str) -> Path:
        return Path(shutil.copytree(saved(adapter) / "adapter", tmp_path / "adapter"))

    return copy


def loaded(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    return AutoModelForSequenceClassification.from_pretrained(folder, **{"num_labels": 2} | options)


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_every_adapter_predicts_as_it_did_on_the_named_base_on_its_folder_and_on_a_loaded_model(
    adapter: str, saved: Callable[..., Path], folder_of: Folder, sentiment: Any
) -> None:
    output = saved(adapter)
    for base in (None, str(folder_of("bert")), loaded(folder_of("bert"))):
        model, tokenizer = load_adapter(output / "adapter", base)
        assert not model.training
        np.testing.assert_allclose(predict(model, tokenizer, sentiment), predictions(output), rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", ["lora", "bitfit", "houlsby"])
def test_a_loaded_model_without_a_padding_token_pads_as_the_run_did(
    adapter: str, saved: Callable[..., Path], folder_of: Folder, sentiment: Any
) -> None:
    base = loaded(folder_of("gpt2"))
    assert base.config.pad_token_id is None
    model, tokenizer = load_adapter(saved(adapter, "gpt2") / "adapter", base)
    expected = predictions(saved(adapter, "gpt2"))
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), expected, rtol=0, atol=1e-6)


def one_block_less(folder: Path) -> Any:
    return loaded(folder, num_hidden_layers=1)


@pytest.mark.parametrize("adapter", ON_A_BASE)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folders: loaded(folders("bert"), num_labels=3), r"it has \(3,\) for 'classifier.bias' of s\w+ \(2,\)"),
        (lambda folders: loaded(folders("gpt2")), r"it (lacks|has no layer) 'bert\."),
        (lambda folders: loaded(folders("roberta")), r"it (lacks|has no layer) 'bert\."),
        (lambda folders: one_block_less(folders("bert")), r"it (lacks|has no layer) 'bert.encoder.layer.1\."),
    ],
)
def test_a_base_that_does_not_fit_is_refused_and_left_as_it_is(
    adapter: str, make: Callable[..., Any], message: str, saved: Callable[..., Path], folder_of: Folder
) -> None:
    base = make(folder_of)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with pytest.raises(ValueError, match=f"`model` does not fit the adapter: {message}.*; give the pretrained model"):
        load_adapter(saved(adapter) / "adapter", base)
    after = base.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(module._forward_hooks for module in base.modules())


def test_a_base_of_other_widths_is_refused(saved: Callable[..., Path], folder_of: Folder) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder_of("bert"), hidden_size=16, num_labels=2)
    make: Any = AutoModelForSequenceClassification.from_config
    for adapter, size in (("lora", r"\(16,\)"), ("bitfit", r"\(16,\)"), ("houlsby", r"\(\d+, 16\)|\(16(, \d+)?,?\)")):
        narrow = make(config)
        with pytest.raises(ValueError, match=rf"`model` does not fit the adapter: it has ({size}) for"):
            load_adapter(saved(adapter) / "adapter", narrow)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("lora", "lora", r"`model` has an adapter already, the first at 'bert.encoder.layer.0.attention.self.query'"),
        ("lora", "houlsby", r"`model` has an adapter already"),
        ("houlsby", "houlsby", r"`model` holds bottlenecks already, the first at 'bert.encoder.layer.0.attention.out"),
        ("pfeiffer", "lora", r"`model` holds bottlenecks already, the first at"),
        ("pfeiffer", "bitfit", r"`model` holds bottlenecks already, the first at"),
        ("pfeiffer", "houlsby", r"`model` holds bottlenecks already, the first at 'bert.encoder.layer.0.output.dense"),
    ],
)
def test_a_base_takes_one_adapter(
    first: str, second: str, message: str, saved: Callable[..., Path], folder_of: Folder, sentiment: Any
) -> None:
    base = loaded(folder_of("bert"))
    model, tokenizer = load_adapter(saved(first) / "adapter", base)
    with pytest.raises(ValueError, match=message + r".*: give the pretrained model, loaded afresh"):
        load_adapter(saved(second) / "adapter", base)
    expected = predictions(saved(first))
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [3, torch.nn.Linear(2, 2)])
@pytest.mark.parametrize("adapter", ["lora", "full", "houlsby"])
def test_something_that_is_no_model_is_refused(given: Any, adapter: str, saved: Callable[..., Path]) -> None:
    with pytest.raises(
        TypeError, match=rf"`model` must be a transformers model, its folder or its name, got {type(given).__name__}:"
    ):
        load_adapter(saved(adapter) / "adapter", given)


def test_a_base_that_is_not_there_is_named(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`model`: there is no folder .*nowhere"):
        load_adapter(saved("lora") / "adapter", tmp_path / "nowhere")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path) -> None:
    file.write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("adapter", "name", "damage", "error", "message"),
    [
        ("lora", "adapter_model.safetensors", cut, ValueError, r"adapter_model.safetensors' is missing or damaged"),
        (
            "dora",
            "adapter_model.safetensors",
            Path.unlink,
            ValueError,
            r"adapter_model.safetensors' is missing or damaged",
        ),
        ("lora", "adapter_config.json", cut, ValueError, r"adapter_config.json' is missing or damaged"),
        ("lora", "adapter_config.json", empty, ValueError, r"adapter_config.json' is missing or damaged"),
        ("lora", "adapter_config.json", Path.unlink, ValueError, r"adapter_config.json' is missing or damaged"),
        ("lora", "tokenizer.json", cut, ValueError, r"could not be loaded by AutoTokenizer"),
        ("full", "model.safetensors", cut, ValueError, r"could not be loaded by AutoModelForSequenceClassification"),
        ("full", "model.safetensors", Path.unlink, FileNotFoundError, r"could not be loaded by AutoModelForSequenceC"),
        ("full", "gelora_adapter.json", cut, ValueError, r"gelora_adapter.json' is not a JSON file, or truncated"),
        ("full", "gelora_adapter.json", Path.unlink, FileNotFoundError, r"holds no gelora_adapter.json: give the"),
        ("bitfit", "adapter.safetensors", cut, ValueError, r"adapter.safetensors' is missing or damaged"),
        ("pfeiffer", "adapter.safetensors", cut, ValueError, r"adapter.safetensors' is missing or damaged"),
        ("pfeiffer", "adapter.json", empty, ValueError, r"adapter.json' is damaged, it must hold the widths"),
    ],
)
def test_a_damaged_file_is_named(
    adapter: str,
    name: str,
    damage: Callable[[Path], None],
    error: type[Exception],
    message: str,
    copied: Callable[[str], Path],
    folder_of: Folder,
) -> None:
    folder, base = copied(adapter), loaded(folder_of("bert"))
    before = list(base.state_dict())
    damage(folder / name)
    with pytest.raises(error, match=message):
        load_adapter(folder, base)
    assert list(base.state_dict()) == before


def change_facts(folder: Path, **changes: Any) -> None:
    """Set facts of the folder; None takes one out."""
    file = folder / "gelora_adapter.json"
    facts = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in facts.items() if name not in changes or value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


def test_facts_that_are_lacking_are_named(copied: Callable[[str], Path]) -> None:
    folder = copied("bitfit")
    change_facts(folder, base=None, num_labels=None)
    with pytest.raises(ValueError, match=r"gelora_adapter.json' is damaged, it lacks base, num_labels: save the adap"):
        load_adapter(folder)


@pytest.mark.parametrize("name", ["mine", "lora"])
def test_an_adapter_that_cannot_be_attached_is_named(name: str, copied: Callable[[str], Path]) -> None:
    folder = copied("bitfit")
    change_facts(folder, adapter=name)
    with pytest.raises(ValueError, match=f"holds the adapter '{name}', which this gelora cannot load: load it by the"):
        load_adapter(folder)


def test_an_adapter_of_the_user_in_the_form_of_peft_is_loaded(
    copied: Callable[[str], Path], saved: Callable[..., Path], sentiment: Any
) -> None:
    folder = copied("lora")
    change_facts(folder, adapter="mine")
    model, tokenizer = load_adapter(folder)
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), predictions(saved("lora")), rtol=0, atol=1e-6)
