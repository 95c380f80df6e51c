"""Bottlenecks sit where the papers put them in every architecture, and are put in once, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gelora.finetuning.adaptation import Adapted, Setting
from gelora.finetuning.bottleneck import Houlsby, Pfeiffer
from gelora.finetuning.classifiers import Classifier, load_classifier
from gelora.finetuning.run import bind_plan
from gelora.finetuning.tasks import load_task
from tiny_models import ARCHITECTURES, ENCODER_DECODERS, WIDTH, ragged_batch, tiny_model

Folder = Callable[[str], Path]
PLACES = {
    "bert": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "roberta": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "deberta-v2": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "gpt2": ("h.{}.attn.c_proj", "h.{}.mlp.c_proj"),
    "llama": ("layers.{}.self_attn.o_proj", "layers.{}.mlp.down_proj"),
    "vit": ("layers.{}.attention.o_proj", "layers.{}.mlp.fc2"),
}


def setting(model: Any, dropout: float = 0.0) -> Setting:
    tokenizer: Any = None
    classifier = Classifier(model, tokenizer, (), "")
    return Setting(classifier=classifier, plan=None, dropout=dropout, seed=0, batches=lambda: iter(()))


def batch_for(name: str) -> dict[str, torch.Tensor]:
    if name == "vit":
        return {"pixel_values": torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
    batch: dict[str, torch.Tensor] = ragged_batch(3)
    return batch | ({"decoder_input_ids": batch["input_ids"]} if name in ENCODER_DECODERS else {})


def hidden(model: Any, name: str) -> torch.Tensor:
    found: torch.Tensor = model(**batch_for(name)).last_hidden_state
    return found


def behind(adapted: Adapted) -> list[str]:
    """Return the names of the layers with a bottleneck behind them."""
    end = ".bottleneck.down.weight"
    return [name.removesuffix(end) for name in adapted.model.state_dict() if name.endswith(end)]


@pytest.mark.parametrize("name", sorted(PLACES))
def test_they_stand_behind_the_last_matrices_of_attention_and_feed_forward(name: str) -> None:
    attention, feed_forward = PLACES[name]
    both = {place.format(block) for place in (attention, feed_forward) for block in (0, 1)}
    assert set(behind(Houlsby()(setting(tiny_model(name))))) == both
    assert set(behind(Pfeiffer()(setting(tiny_model(name))))) == {feed_forward.format(block) for block in (0, 1)}


def test_a_decoder_of_two_stacks_has_none_behind_its_attention_to_the_encoder() -> None:
    found = behind(Houlsby()(setting(tiny_model("t5"))))
    assert len(found) == 8
    assert {name.partition(".block.")[2][2:] for name in found if name.startswith("decoder")} == {
        "layer.0.SelfAttention.o",
        "layer.2.DenseReluDense.wo",
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("adapter", [Houlsby(width=5), Pfeiffer(width=5, activation="swish")])
def test_in_every_architecture_they_change_nothing_at_first_are_all_passed_and_counted(
    adapter: Houlsby | Pfeiffer, name: str
) -> None:
    model = tiny_model(name)
    with torch.no_grad():  # both: where gradients are asked for, torch may take another kernel for attention
        before = hidden(model, name)
        adapted = adapter(setting(model))
        assert torch.equal(hidden(model, name), before)
    after = hidden(model, name)
    weight = torch.randn(after.shape, generator=torch.Generator().manual_seed(1))
    (after * weight).sum().backward()  # type: ignore[no-untyped-call]
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".bottleneck." in key for key in trained)
    assert all(bool(parameter.grad.any()) for key, parameter in trained.items() if ".up." in key)
    stacks = 2 if name in ENCODER_DECODERS else 1
    assert adapted.count() == stacks * 2 * len(adapter.places) * (2 * WIDTH * 5 + 5 + WIDTH)
    assert adapted.count() == sum(parameter.numel() for parameter in trained.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_every_architecture_the_saved_ones_go_into_a_fresh_model(name: str, tmp_path: Path) -> None:
    adapted = Houlsby(width=3, activation="relu")(setting(tiny_model(name), dropout=0.5))
    generator = torch.Generator().manual_seed(0)
    for key, parameter in adapted.model.named_parameters():
        if ".bottleneck." in key:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    adapted.save(tmp_path)
    fresh = tiny_model(name)
    before = hidden(fresh, name).detach()
    Houlsby.attach(fresh, tmp_path, {})
    with torch.no_grad():
        assert torch.equal(hidden(fresh, name), hidden(adapted.model.eval(), name))
        assert not torch.allclose(hidden(fresh, name), before, atol=1e-3)


def test_dropout_falls_on_the_input_of_the_bottleneck_while_it_trains() -> None:
    model: Any = Pfeiffer(width=4)(setting(tiny_model("bert"), dropout=0.5)).model
    seen: list[torch.Tensor] = []
    layer = model.encoder.layer[0].output.dense
    layer.bottleneck.down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    hidden(model.train(), "bert")
    given, dropped = seen
    kept = dropped != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(dropped[kept], 2 * given[kept])
    seen.clear()
    hidden(model.eval(), "bert")
    assert torch.equal(*seen)


def test_the_ranks_are_those_of_each_planned_module(
    folder_of: Folder, plan_for: Callable[..., Any], sentiment: Any
) -> None:
    classifier = load_classifier(folder_of("bert"), load_task(sentiment))
    plan = bind_plan(plan_for("bert", (2, 5)), classifier)
    given = Setting(classifier=classifier, plan=plan, dropout=0.0, seed=0, batches=lambda: iter(()))
    adapted = Pfeiffer()(given)
    assert adapted.ranks() == {module.name: module.rank for module in plan.modules}
    assert sorted(set(adapted.ranks().values())) == [2, 5]
    assert Pfeiffer()(setting(tiny_model("bert"))).ranks() == {}


def test_without_a_plan_or_a_width_they_are_64_wide() -> None:
    state = Pfeiffer()(setting(tiny_model("bert"))).model.state_dict()
    assert {len(value) for name, value in state.items() if name.endswith("down.weight")} == {64}


def test_a_model_that_holds_some_is_refused_as_it_is(tmp_path: Path) -> None:
    first = Pfeiffer(width=4)(setting(tiny_model("bert")))
    first.save(tmp_path)
    before = list(first.model.state_dict())
    flags = [parameter.requires_grad for parameter in first.model.parameters()]
    message = r"`model` holds bottlenecks already, the first at 'encoder.layer.0.output.dense.bottleneck': give the pre"
    with pytest.raises(ValueError, match=message):
        Houlsby(width=4)(setting(first.model))
    with pytest.raises(ValueError, match=message):
        Pfeiffer.attach(first.model, tmp_path, {})
    assert list(first.model.state_dict()) == before
    assert flags == [parameter.requires_grad for parameter in first.model.parameters()]


def test_what_cannot_be_attached_leaves_no_bottleneck_behind(tmp_path: Path) -> None:
    Houlsby(width=4)(setting(tiny_model("bert"))).save(tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    model = tiny_model("bert")
    names, before = list(model.state_dict()), hidden(model, "bert").detach()
    with pytest.raises(ValueError, match=r"adapter.safetensors' is missing or damaged"):
        Houlsby.attach(model, tmp_path, {})
    assert list(model.state_dict()) == names
    assert torch.equal(hidden(model, "bert").detach(), before)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"widths": {}, "activation": "gelu"},
        {"widths": 3, "activation": "gelu"},
        {"widths": {"encoder.layer.0.output.dense": "4"}, "activation": "gelu"},
        {"widths": {"encoder.layer.0.output.dense": 0}, "activation": "gelu"},
        {"widths": {"encoder.layer.0.output.dense": True}, "activation": "gelu"},
        {"widths": {"encoder.layer.0.output.dense": 4}, "activation": "tanh"},
        {"widths": {"encoder.layer.0.output.dense": 4}},
    ],
)
def test_options_that_make_no_sense_are_laid_to_the_folder(shape: dict[str, Any], tmp_path: Path) -> None:
    Pfeiffer(width=4)(setting(tiny_model("bert"))).save(tmp_path)
    (tmp_path / "adapter.json").write_text(json.dumps(shape), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"adapter.json' is damaged, it must hold the widths of bottlenecks and an activation of gelu,"
    ):
        Pfeiffer.attach(tiny_model("bert"), tmp_path, {})


def test_an_attention_without_output_matrix_and_a_feed_forward_of_another_width_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    from gelora.blocks import Block, find_blocks
    from gelora.finetuning import bottleneck

    def without_output(model: Any) -> list[Block]:
        return [replace(block, roles={"query": block.roles["query"]}) for block in find_blocks(model)]

    with monkeypatch.context() as patch:
        patch.setattr(bottleneck, "find_blocks", without_output)
        with pytest.raises(ValueError, match=r"the attention of 'encoder.layer.0' has no output matrix: give another"):
            Houlsby()(setting(tiny_model("bert")))
    model = tiny_model("bert")
    model.encoder.layer[1].output.dense = torch.nn.Linear(48, 31)
    with pytest.raises(ValueError, match=r"of 'encoder.layer.1' has 32 outputs: give another adapter"):
        Pfeiffer()(setting(model))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("bottleneck" in name for name in model.state_dict())
