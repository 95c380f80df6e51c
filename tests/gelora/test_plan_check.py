"""A plan is proven on a model without its weights, and the first disagreement is named."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch import nn

from adapted import adapters, plan_of
from gelora.export import make_lora_config
from gelora.plan import ModuleRank
from gelora.plan_check import bare_model, check_adaptation
from tiny_models import ARCHITECTURES, tiny_model


def with_module(plan, place, **changes):
    modules = list(plan.modules)
    modules[place] = replace(modules[place], **changes)
    return replace(plan, modules=tuple(modules))


@pytest.fixture
def bert():
    return tiny_model("bert")


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_report_of_a_check_is_what_peft_makes_of_the_model(name, targets):
    from peft import get_peft_model

    model = tiny_model(name)
    plan = plan_of(model, targets)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = plan.check(model)
    assert not report.adapted
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    for config in (plan.to_lora_config(), plan.to_lora_config(model=model)):  # anchored keys and free ones
        wrapped = get_peft_model(copy.deepcopy(model), config)
        assert {m.name: (m.rank, plan.scaling, m.n_parameters) for m in report.modules} == adapters(wrapped)
        trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        assert report.n_parameters == trainable == plan.n_parameters
    carried = plan.check(wrapped)
    assert carried.adapted
    assert carried.modules == report.modules
    assert [m.alpha for m in report.modules] == [m.alpha for m in plan.modules]


def test_a_plan_of_feed_forward_matrices_hits_no_attention_output(bert):
    from peft import get_peft_model

    plan = plan_of(bert, "ffn")
    assert "encoder.layer.0.output.dense" in {m.name for m in plan.modules}
    headed = hf.AutoModelForSequenceClassification.from_config(bert.config)
    headed.bert.load_state_dict(bert.state_dict(), strict=False)
    for config in (plan.to_lora_config("SEQ_CLS"), plan.to_lora_config("SEQ_CLS", model=headed)):
        plan.check(headed, config)
        found = adapters(get_peft_model(copy.deepcopy(headed), config))
        assert set(found) == {"bert." + m.name for m in plan.modules}


def test_a_model_is_checked_on_the_meta_device_however_large():
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128_256}
    config = hf.LlamaConfig(**sizes, num_attention_heads=64, num_key_value_heads=8)
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(config)  # 140 GB in half precision
    plan = plan_of(model)
    assert len(plan.modules) == 320
    report = plan.check(model)
    assert report.n_parameters == plan.n_parameters
    assert report.modules[0].key == r"^model\.layers\.0\.self_attn\.q_proj"


def test_linear_layers_of_other_libraries_are_checked_by_their_shape(bert):
    class Packed(nn.Module):
        """A linear layer that keeps its weight as bytes."""

        def __init__(self, layer):
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.weight = nn.Parameter(torch.zeros(layer.weight.numel() // 2, dtype=torch.uint8), requires_grad=False)

    plan = plan_of(bert)
    for m in plan.modules:
        parent, _, child = m.name.rpartition(".")
        setattr(bert.get_submodule(parent), child, Packed(bert.get_submodule(m.name)))
    assert plan.check(bert).n_parameters == plan.n_parameters


def test_another_adapter_than_the_plan_is_named(bert):
    from peft import get_peft_model

    plan = plan_of(bert)
    other = get_peft_model(copy.deepcopy(bert), with_module(plan, 2, rank=9, alpha=18.0).to_lora_config())
    with pytest.raises(
        RuntimeError,
        match=r"'encoder\.layer\.0\.attention\.self\.value' should have rank 3, α/r 2 and 192 parameters, but the "
        r"model carries rank 9, α/r 2 and 576 parameters: adapt the model with",
    ):
        plan.check(other)
    more = get_peft_model(copy.deepcopy(bert), plan_of(bert, "all-linear").to_lora_config())
    some = replace(plan, modules=plan_of(bert, "all-linear").modules[:4])
    with pytest.raises(RuntimeError, match=r"is not in the plan, but the model carries an adapter of rank \d there"):
        some.check(more)


def test_an_adapter_of_another_kind_is_named(bert):
    from peft import AdaLoraConfig, get_peft_model

    plan = plan_of(bert)
    targets = [m.name for m in plan.modules]
    wrapped = get_peft_model(bert, AdaLoraConfig(init_r=7, target_modules=targets, total_step=9))
    with pytest.raises(RuntimeError, match="should have rank 1, α/r 2 and 64 parameters, but the model carries rank 7"):
        plan.check(wrapped)


def test_a_trained_adapter_is_checked_without_a_warning_of_other_weights(bert):
    from peft import get_peft_model

    plan = plan_of(bert)
    wrapped = get_peft_model(bert, plan.to_lora_config())
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert plan.check(wrapped).adapted
    assert bare_model(wrapped) is wrapped.base_model.model


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (0, {"rank": 33, "alpha": 66.0}, "the rank 33 of 'encoder.layer.0.attention.self.query' exceeds its matrix"),
        (1, {"alpha": 3.0}, r"α / r of '.*key' is 1\.5, but the plan's scaling is 2: make the plan again"),
        (3, {"transposed": True}, r"the weight of '.*output\.dense' as \(in, out\), but the model keeps it as \(out"),
        (0, {"in_features": 31}, "query matrix of block 1, 31 × 32, which is 32 × 32 in the model"),
    ],
)
def test_a_plan_that_does_not_fit_is_named(bert, place, changes, message):
    with pytest.raises(ValueError, match=message):
        with_module(plan_of(bert), place, **changes).check(bert)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_pattern": {"query": 3}}, "the key 'query' of `rank_pattern` must match one module.* but matches 2: "),
        ({"alpha_pattern": {"self.qeury": 3}}, "the key 'self.qeury' of `alpha_pattern` must .* matches 0: make the"),
        (
            {"target_modules": ["query", "key", "value", "output.dense"]},
            r"`target_modules` matches 'encoder\.layer\.0\.output\.dense', which",
        ),
        ({"target_modules": r".*\.query"}, r"`target_modules` misses '.*output\.dense', which the plan adapts: make"),
    ],
)
def test_a_configuration_whose_keys_match_otherwise_is_named(bert, changes, message):
    plan = plan_of(bert)
    config = plan.to_lora_config()
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        plan.check(bert, config)


def test_two_keys_of_one_module_are_named(bert):
    plan = plan_of(bert)
    config = plan.to_lora_config()
    config.rank_pattern |= {"layer.0.attention.self.query": 4}
    with pytest.raises(
        ValueError, match=r"'layer\.0\.attention\.self\.query' of .* matches 1: .*, which .* matches too"
    ):
        plan.check(bert, config)


def test_a_configuration_that_peft_reads_otherwise_is_named(bert):
    plan = plan_of(bert)
    config = plan.to_lora_config(modules_to_save=["layer.1"])  # peft adapts nothing inside what is trained whole
    with pytest.raises(RuntimeError, match=r"layer\.1\..*query' should .*, but peft would make of the plan rank 0"):
        plan.check(bert, config)
    assert config.target_modules == {m.name for m in plan.modules}  # as it was


class Towers(nn.Module):
    """Two towers: the path of a matrix of the second ends as one of the first."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 4) for _ in range(2))
        self.vision = nn.Module()
        self.vision.layers = nn.ModuleList(nn.Linear(6, 4) for _ in range(2))


def matrix(name, rank):
    return ModuleRank(
        stack="encoder", block=1, role=name, name=name, rank=rank, alpha=2.0 * rank, in_features=6, out_features=4
    )


def test_a_name_that_ends_as_another_is_told_apart_by_an_anchor():
    from peft import inject_adapter_in_model

    modules = [matrix("layers.0", 3), matrix("vision.layers.0", 2)]
    for model in (Towers(), None):
        config = make_lora_config(modules, 2.0, None, model, {})
        assert check_adaptation(modules, 2.0, Towers(), config).n_parameters == 50
        found = adapters(inject_adapter_in_model(config, Towers()))
        assert {name: rank for name, (rank, _, _) in found.items()} == {"layers.0": 3, "vision.layers.0": 2}


def test_a_module_outside_the_plan_whose_name_ends_as_a_planned_one_stays_as_it_is():
    from peft import inject_adapter_in_model

    modules = [matrix("layers.0", 3), matrix("layers.1", 1)]
    config = make_lora_config(modules, 2.0, None, Towers(), {})
    assert config.target_modules == r"layers\.0|layers\.1"
    assert set(adapters(inject_adapter_in_model(config, Towers()))) == {"layers.0", "layers.1"}
    with pytest.raises(
        ValueError, match="must match one module of the model, but matches 2: layers.0, vision.layers.0"
    ):
        check_adaptation(modules, 2.0, Towers(), make_lora_config(modules, 2.0, None, None, {}))


@pytest.mark.parametrize("option", ["use_rslora", "exclude_modules", "layers_to_transform", "target_modules"])
def test_options_that_would_change_the_plan_are_refused(bert, option):
    with pytest.raises(ValueError, match=f"`{option}` follows from the plan: change the plan instead"):
        plan_of(bert).to_lora_config(**{option: ["query"]})


def test_the_keys_of_an_adapted_model_are_those_of_the_model_inside(bert):
    from peft import get_peft_model

    plan = plan_of(bert)
    wrapped = get_peft_model(copy.deepcopy(bert), plan.to_lora_config())
    assert plan.to_lora_config(model=wrapped).rank_pattern == plan.to_lora_config(model=bert).rank_pattern


def test_a_name_is_no_model_to_check():
    from examples import example_plan

    with pytest.raises(TypeError, match="`model` must be a loaded model, got str: load it first"):
        example_plan([1, 2]).check("bert")
