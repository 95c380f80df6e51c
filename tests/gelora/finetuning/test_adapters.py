"""What holds for every adapter: it resumes; those without LoRA learn; what does not go together is refused."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from gelora.finetuning.adapters import ADAPTERS, make_adapter
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.runner import finetune
from runs import interrupted_at, make_setting, predict, predictions, same, same_predictions

Folder = Callable[[str], Path]
OWN = ("full", "bitfit", "houlsby(width=4)", "pfeiffer(width=4, activation='relu')")
QUICK: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-2, "progress": False}
RUN: dict[str, Any] = QUICK | {"max_steps": 40, "eval_steps": 40, "save_steps": 40}
D, BLOCKS = 32, 2


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 12, 3]])
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


@pytest.mark.parametrize("adapter", OWN)
def test_an_adapted_model_starts_as_the_unadapted_one(
    adapter: str, architecture: str, folder_of: Folder, sentiment: Any
) -> None:
    given = make_setting(folder_of(architecture), sentiment)
    if adapter == "bitfit" and architecture == "llama":
        with pytest.raises(ValueError, match=r"'bitfit' trains biases, but LlamaForSequenceClassification has none"):
            make_adapter(adapter)(given)
        return
    before = logits(given.classifier.model)
    assert torch.equal(logits(make_adapter(adapter)(given).model), before)


def test_a_bottleneck_sits_before_the_residual(folder_of: Folder, sentiment: Any) -> None:
    """What it adds goes through the layer norm with the sum: seen by making it add a constant."""
    given = make_setting(folder_of("bert"), sentiment)
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
    model: Any = make_adapter("houlsby(width=4)")(make_setting(folder_of("bert"), sentiment)).model
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
    given = make_setting(folder_of("bert"), sentiment, plan_for("bert", (2, 5)))
    adapted = make_adapter("houlsby")(given)
    widths = {name: p.shape[0] for name, p in adapted.model.named_parameters() if name.endswith("down.weight")}
    assert sorted(widths.values()) == [2, 2, 5, 5]
    assert set(adapted.ranks().values()) == {2, 5}
    assert adapted.count() == sum(2 * (2 * D * w + w + D) for w in (2, 5))
    only = replace(plan_for("bert"), modules=tuple(m for m in plan_for("bert").modules if m.block == 2))
    some = make_adapter("pfeiffer")(make_setting(folder_of("bert"), sentiment, only))
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


@pytest.mark.parametrize("adapter", OWN)
def test_it_learns_and_the_saved_folder_predicts_as_the_trained_model(
    adapter: str, tuned: Callable[..., Any], sentiment: Any
) -> None:
    record, output = tuned(adapter)
    assert record["score"] > 0.8
    model, tokenizer = load_adapter(output / "adapter")
    np.testing.assert_allclose(predict(model, tokenizer, sentiment), predictions(output), rtol=0, atol=1e-6)
    assert record.sizes["module"] == 0
    assert (record["trainable_parameters"] > 0).all()


# After a step with and without a checkpoint, within and beyond the moves of ranks.
INTERRUPTED = [
    *((adapter, 7) for adapter in (*OWN, "lora", "rslora", "dora", "eva", "sora", "geolora(interval=4, settle=0.2)")),
    ("geolora(interval=4, tolerance=0.15, settle=0.2)", 12),
    ("geolora(interval=4, tolerance=0.15, truncation='at_once')", 9),
    ("adalora(warmup=0.2, final=0.25, interval=2, target=0.5)", 7),
    ("adalora(warmup=0.2, final=0.25, interval=2, target=0.5)", 13),
]


@pytest.mark.parametrize(("adapter", "step"), INTERRUPTED)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    adapter: str, step: int, folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    # Dropout, so that a wrong generator state shows; a rate at which SoRA's gates close.
    options = QUICK | {"max_steps": 15, "eval_steps": 15, "save_steps": 5, "dropout": 0.3}
    plan = None if adapter in OWN else plan_for("bert")

    def run(name: str) -> xr.Dataset:
        return finetune(folder_of("bert"), sentiment, plan, adapter, output_dir=tmp_path / name, **options)

    whole = run("whole")
    with interrupted_at(step):
        run("out")
    assert same(run("out"), whole)
    same_predictions(tmp_path / "whole", tmp_path / "out")


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


@pytest.mark.parametrize("adapter", ["full", "bitfit", "houlsby(width=4)"])
def test_the_model_card_says_how_to_load_it(adapter: str, tuned: Callable[..., Any]) -> None:
    _, output = tuned(adapter)
    card = (output / "adapter" / "README.md").read_text(encoding="utf-8")
    facts = json.loads((output / "adapter" / "gelora_adapter.json").read_text(encoding="utf-8"))
    expected = "from_pretrained" if adapter == "full" else "load_adapter"
    assert expected in card.split("```python")[1].split("```")[0]
    assert "This adapter has no ranks." in card
    assert facts["adapter"] == adapter.partition("(")[0]
