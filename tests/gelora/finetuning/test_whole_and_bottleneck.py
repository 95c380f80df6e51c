"""Adapters that are no LoRA: full fine-tuning, biases, bottlenecks; and loading whatever was saved."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from gelora.finetuning.adaptation import Adapted, Setting
from gelora.finetuning.adapters import ADAPTERS, make_adapter
from gelora.finetuning.callbacks import History
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.run import bind_plan
from gelora.finetuning.runner import finetune
from gelora.finetuning.tasks import load_task

Folder = Callable[[str], Path]
OWN = ("full", "bitfit", "houlsby(width=4)", "pfeiffer(width=4, activation='relu')")
QUICK: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-2, "progress": False}
RUN: dict[str, Any] = QUICK | {"max_steps": 40, "eval_steps": 40, "save_steps": 40}
D, BLOCKS = 32, 2


def setting(folder: Path, sentiment: Any, plan: Any = None) -> Setting:
    torch.manual_seed(0)
    classifier = load_classifier(folder, load_task(sentiment))
    bound = None if plan is None else bind_plan(plan, classifier)
    return Setting(classifier=classifier, plan=bound, dropout=0.0, seed=0, batches=lambda: iter(()))


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 12, 3]])
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


@pytest.mark.parametrize("adapter", OWN)
def test_an_adapted_model_starts_as_the_unadapted_one(
    adapter: str, architecture: str, folder_of: Folder, sentiment: Any
) -> None:
    given = setting(folder_of(architecture), sentiment)
    if adapter == "bitfit" and architecture == "llama":
        with pytest.raises(ValueError, match=r"'bitfit' trains biases, but LlamaForSequenceClassification has none"):
            make_adapter(adapter)(given)
        return
    before = logits(given.classifier.model)
    assert torch.equal(logits(make_adapter(adapter)(given).model), before)


def trained(adapted: Adapted, head: tuple[str, ...]) -> set[str]:
    named = adapted.model.named_parameters()
    return {name for name, p in named if p.requires_grad and not name.startswith(head)}


def test_bottlenecks_are_the_only_parameters_that_train_and_are_counted(
    architecture: str, folder_of: Folder, sentiment: Any
) -> None:
    for adapter, places in (("houlsby(width=4)", 2), ("pfeiffer(width=4)", 1)):
        given = setting(folder_of(architecture), sentiment)
        adapted = make_adapter(adapter)(given)
        names = trained(adapted, given.classifier.head)
        assert all(".bottleneck." in name for name in names)
        assert len(names) == BLOCKS * places * 4
        assert adapted.count() == BLOCKS * places * (2 * D * 4 + 4 + D)
        sizes = {name: p.numel() for name, p in adapted.model.named_parameters()}
        assert adapted.count() == sum(sizes[name] for name in names)


def test_bitfit_trains_biases_alone_and_full_everything(folder_of: Folder, sentiment: Any) -> None:
    given = setting(folder_of("bert"), sentiment)
    adapted = make_adapter("bitfit")(given)
    names = trained(adapted, given.classifier.head)
    assert names == {
        name
        for name, _ in adapted.model.named_parameters()
        if name.endswith(".bias") and not name.startswith(given.classifier.head)
    }
    whole = make_adapter("full")(setting(folder_of("bert"), sentiment))
    assert all(p.requires_grad for p in whole.model.parameters())
    n_head = 32 * 32 + 32 + 66
    assert whole.count() == sum(p.numel() for p in whole.model.parameters()) - n_head


def test_a_bottleneck_sits_before_the_residual(folder_of: Folder, sentiment: Any) -> None:
    """What it adds goes through the layer norm with the sum: seen by making it add a constant."""
    given = setting(folder_of("bert"), sentiment)
    model: Any = make_adapter("pfeiffer(width=4)")(given).model
    captured: dict[str, torch.Tensor] = {}
    output = model.bert.encoder.layer[0].output
    output.LayerNorm.register_forward_pre_hook(lambda _, args: captured.update(sum=args[0]))
    logits(model)
    before = captured["sum"]
    output.dense.bottleneck.up.bias.data += 1.0
    logits(model)
    torch.testing.assert_close(captured["sum"], before + 1.0)


def test_a_copy_of_the_model_goes_through_its_own_bottlenecks(folder_of: Folder, sentiment: Any) -> None:
    model: Any = make_adapter("houlsby(width=4)")(setting(folder_of("bert"), sentiment)).model
    other = copy.deepcopy(model)
    before = logits(other)
    for name, parameter in model.named_parameters():
        if "bottleneck" in name:
            parameter.data += torch.linspace(0, 1, parameter.numel()).reshape(parameter.shape)
    assert torch.equal(logits(other), before)
    assert not torch.allclose(logits(model), before)


def test_with_a_plan_the_bottleneck_of_a_block_is_as_wide_as_its_rank(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any
) -> None:
    given = setting(folder_of("bert"), sentiment, plan_for("bert", (2, 5)))
    adapted = make_adapter("houlsby")(given)
    widths = {name: p.shape[0] for name, p in adapted.model.named_parameters() if name.endswith("down.weight")}
    assert sorted(widths.values()) == [2, 2, 5, 5]
    assert set(adapted.ranks().values()) == {2, 5}
    assert adapted.count() == sum(2 * (2 * D * w + w + D) for w in (2, 5))
    only = replace(plan_for("bert"), modules=tuple(m for m in plan_for("bert").modules if m.block == 2))
    some = make_adapter("pfeiffer")(setting(folder_of("bert"), sentiment, only))
    assert [name for name in some.model.state_dict() if "down.weight" in name] == [
        "bert.encoder.layer.1.output.dense.bottleneck.down.weight"
    ]


@pytest.fixture(scope="session")
def tuned(folder_of: Folder, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    made: dict[tuple[str, str], tuple[xr.Dataset, Path]] = {}

    def run(adapter: str, architecture: str = "bert") -> tuple[xr.Dataset, Path]:
        key = adapter, architecture
        if key not in made:
            output = tmp_path_factory.mktemp("own") / "run"
            rate = {"full": 1e-3, "bitfit": 3e-2}.get(adapter, 1e-2)
            options = RUN | {"learning_rate": rate, "output_dir": output}
            made[key] = finetune(folder_of(architecture), sentiment, None, adapter, **options), output
        return made[key]

    return run


def predict(model: Any, tokenizer: Any, sentiment: Any) -> np.ndarray[Any, Any]:
    texts = [row["sentence"] for row in sentiment.validation]
    with torch.no_grad():
        encoded = [
            tokenizer(texts[i : i + 16], padding=True, return_tensors="pt", return_token_type_ids=False)
            for i in (0, 16)
        ]
        return torch.cat([model(**one).logits for one in encoded]).numpy()


@pytest.mark.parametrize("adapter", OWN)
def test_it_learns_and_the_saved_folder_predicts_as_the_trained_model(
    adapter: str, tuned: Callable[..., Any], sentiment: Any
) -> None:
    record, output = tuned(adapter)
    assert record["score"] > 0.8
    model, tokenizer = load_adapter(output / "adapter")
    saved = pd.read_parquet(output / "predictions.parquet")[["logit_0", "logit_1"]]
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), saved, rtol=0, atol=1e-6)
    assert record.sizes["module"] == 0
    assert (record["trainable_parameters"] > 0).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_decoders_are_saved_and_loaded_too(architecture: str, tuned: Callable[..., Any], sentiment: Any) -> None:
    _, output = tuned("houlsby(width=4)", architecture)
    model, tokenizer = load_adapter(output / "adapter")
    saved = pd.read_parquet(output / "predictions.parquet")[["logit_0", "logit_1"]]
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), saved, rtol=0, atol=1e-6)


def test_a_lora_folder_is_loaded_the_same_way_on_a_name_or_a_model(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    finetune(folder_of("bert"), sentiment, plan_for("bert"), output_dir=tmp_path / "out", **RUN)
    saved = pd.read_parquet(tmp_path / "out" / "predictions.parquet")[["logit_0", "logit_1"]]
    base = AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=2)
    for given in (None, folder_of("bert"), base):
        model, tokenizer = load_adapter(tmp_path / "out" / "adapter", given)
        np.testing.assert_allclose(predict(model, tokenizer, sentiment), saved, rtol=0, atol=1e-6)


def test_the_whole_model_of_full_is_an_ordinary_folder(tuned: Callable[..., Any], sentiment: Any) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _, output = tuned("full")
    model = AutoModelForSequenceClassification.from_pretrained(output / "adapter").eval()
    saved = pd.read_parquet(output / "predictions.parquet")[["logit_0", "logit_1"]]
    tokenizer = AutoTokenizer.from_pretrained(output / "adapter")
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), saved, rtol=0, atol=1e-6)


class InterruptedRunError(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("adapter", OWN)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    adapter: str, folder_of: Folder, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = QUICK | {"max_steps": 7, "eval_steps": 7, "save_steps": 3, "dropout": 0.3}

    def run(name: str) -> xr.Dataset:
        return finetune(folder_of("bert"), sentiment, None, adapter, output_dir=tmp_path / name, **options)

    whole = run("whole")
    original = History.on_step_end

    def on_step_end(self: History, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == 5:
            raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_step_end", on_step_end)
        with pytest.raises(InterruptedRunError):
            run("out")
    resumed = run("out")
    timed = ["step_seconds", "evaluation_seconds", "seconds", "seconds_per_step", "peak_memory"]
    assert resumed.drop_vars(timed).equals(whole.drop_vars(timed))
    frames = [pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("whole", "out")]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.parametrize(
    ("adapter", "with_plan", "message"),
    [
        ("full", True, r"`plan` must be left out for adapter='full', .* take ranks, \['houlsby', 'pfeiffer', 'lora'"),
        ("bitfit", True, r"`plan` must be left out for adapter='bitfit'"),
        ("lora", False, r"`plan` must be given for adapter='lora': make one by gelora.plan_ranks"),
        ("geolora", False, r"`plan` must be given for adapter='geolora'"),
        ("houlsby(width=3)", True, r"`plan` and the option `width` \(3\) of the adapter are both given"),
        ("houlsby(width=0)", False, r"`width` must be an integer of at least 1, or None .* got 0"),
        ("pfeiffer(activation='gelo')", False, r"`activation` must be one of gelu, relu, swish, .*did you mean 'gelu'"),
        ("houlsby(rank=3)", False, r"`rank` is no option of the adapter 'houlsby'; it has \['activation', 'width'\]"),
        ("houlsby(", False, r"`adapter` must be a name, or a name with options as in rslora\(alpha=16\)"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    adapter: str,
    with_plan: bool,
    message: str,
    folder_of: Folder,
    plan_for: Callable[..., Any],
    sentiment: Any,
    tmp_path: Path,
) -> None:
    plan = plan_for("bert") if with_plan else None
    with pytest.raises(ValueError, match=message):
        finetune(folder_of("bert"), sentiment, plan, adapter, output_dir=tmp_path / "out", **RUN)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_above_its_matrix_is_refused(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"`plan` gives rank 33 to '.*query', a matrix of 32 × 32: a rank is at most"):
        finetune(folder_of("bert"), sentiment, plan_for("bert", (33, 1)), output_dir=tmp_path / "out", **RUN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [3, ADAPTERS["lora"], "instance"])
def test_something_that_is_no_adapter_is_refused(given: Any) -> None:
    if given == "instance":
        assert make_adapter(ADAPTERS["lora"]()).name == "lora"
        return
    with pytest.raises(TypeError, match=r"`adapter` must be one of .*, or an instance of an adapter's class"):
        make_adapter(given)


def damage(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("gelora_adapter.json", None, FileNotFoundError, r"holds no gelora_adapter.json: give the `adapter` folder"),
        ("gelora_adapter.json", b"{", ValueError, r"is not a JSON file, or truncated"),
        ("gelora_adapter.json", b"{}", ValueError, r"is no gelora-adapter record"),
        (
            "gelora_adapter.json",
            b'{"schema": "gelora-adapter", "kind": "own", "schema_version": 99}',
            ValueError,
            r"was written by a newer gelora: install that one",
        ),
        ("adapter.safetensors", b"1234", ValueError, r"adapter.safetensors' is missing or damaged"),
        ("adapter.safetensors", None, ValueError, r"adapter.safetensors' is missing or damaged"),
        ("adapter.json", b"[", ValueError, r"adapter.json' is missing or damaged"),
        ("adapter.json", b"[]", ValueError, r"adapter.json' is damaged, it holds no mapping"),
    ],
)
def test_a_damaged_folder_is_named(
    name: str,
    content: bytes | None,
    error: type[Exception],
    message: str,
    tuned: Callable[..., Any],
    tmp_path: Path,
) -> None:
    import shutil

    _, output = tuned("houlsby(width=4)")
    shutil.copytree(output / "adapter", tmp_path / "adapter")
    damage(tmp_path / "adapter", name, content)
    with pytest.raises(error, match=message):
        load_adapter(tmp_path / "adapter")


def test_a_base_that_does_not_fit_is_refused(tuned: Callable[..., Any], folder_of: Folder) -> None:
    from transformers import AutoModelForSequenceClassification

    _, output = tuned("houlsby(width=4)")
    wider = AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=3)
    with pytest.raises(ValueError, match=r"`model` does not fit the adapter: it has \(3,\) for 'classifier.bias'"):
        load_adapter(output / "adapter", wider)
    with pytest.raises(ValueError, match=r"`model` does not fit the adapter: it has no layer 'bert.encoder"):
        load_adapter(output / "adapter", folder_of("gpt2"))


@pytest.mark.parametrize("adapter", ["full", "bitfit", "houlsby(width=4)"])
def test_the_model_card_says_how_to_load_it(adapter: str, tuned: Callable[..., Any]) -> None:
    _, output = tuned(adapter)
    card = (output / "adapter" / "README.md").read_text(encoding="utf-8")
    facts = json.loads((output / "adapter" / "gelora_adapter.json").read_text(encoding="utf-8"))
    expected = "from_pretrained" if adapter == "full" else "load_adapter"
    assert expected in card.split("```python")[1].split("```")[0]
    assert "This adapter has no ranks." in card
    assert facts["adapter"] == adapter.partition("(")[0]
