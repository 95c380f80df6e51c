"""Ranks follow the rule, plans bind to every form of their model, and to no other."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
import transformers as hf

from gelora.blocks import UnknownArchitectureError
from gelora.estimation import estimate, estimate_representations
from gelora.plan import RankPlan
from gelora.profile import open_profile, save_profile
from gelora.ranks import geometric_ranks, plan_ranks
from tiny_models import ARCHITECTURES, FUSED, WIDTH, ragged_batch, tiny_model


def profile_of(model, dimensions):
    """A real profile of ``model`` whose dimensions are then set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        profile = estimate(model, ragged_batch(40), estimator="mle(k1=3, k2=5)", progress=False)
    return profile.assign(dimension=(("estimator", "layer"), np.array([dimensions], dtype=float)))


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert")


@pytest.fixture(scope="module")
def profile(bert):
    return profile_of(bert, [4.0, 6.3, 5.0])


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (4, 1)),
        ({"rounding": "round"}, (3, 1)),
        ({"rounding": "floor", "offset": 2}, (4, 2)),
        ({"offset": 0}, (3, 1)),  # never below the minimum
        ({"minimum": 2}, (4, 2)),
        ({"maximum": 3}, (3, 1)),
        ({"maximum": 3, "minimum": 3}, (3, 3)),
    ],
)
def test_the_rank_of_a_block_is_the_rise_of_dimension_plus_one(bert, profile, options, expected):
    plan = plan_ranks(profile, bert, **options)
    assert plan.block_ranks == {("encoder", 1): expected[0], ("encoder", 2): expected[1]}
    assert all(module.alpha == 2.0 * module.rank for module in plan.modules)
    assert plan.n_parameters == sum(expected) * 4 * 2 * WIDTH
    assert [m.role for m in plan.modules] == ["query", "key", "value", "output"] * 2


def test_differences_do_not_cross_stacks():
    dimensions = {("encoder", 0): 1.0, ("encoder", 1): 9.0, ("decoder", 0): 2.0, ("decoder", 1): 3.0}
    assert geometric_ranks(dimensions) == {("encoder", 1): 9, ("decoder", 1): 2}


def test_an_undefined_layer_is_an_error_that_names_it_or_the_minimum(bert, profile):
    holed = profile_of(bert, [4.0, np.nan, 5.0])
    with pytest.raises(ValueError, match="dimension of layer 1 of the encoder is undefined, so block 1"):
        plan_ranks(holed, bert)
    assert set(plan_ranks(holed, bert, undefined="minimum", minimum=2).block_ranks.values()) == {2}
    first = profile_of(bert, [np.nan, 4.0, 7.5])
    with pytest.raises(ValueError, match="dimension of layer 0 of the encoder"):
        plan_ranks(first, bert)
    assert list(plan_ranks(first, bert, undefined="minimum").block_ranks.values()) == [1, 5]


def test_a_profile_of_several_estimators_needs_one_named(bert, profile):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        several = estimate(bert, ragged_batch(60), estimator=["twonn", "mle(k1=3, k2=5)"], progress=False)
    with pytest.raises(ValueError, match=r"`estimator` must say which.*'twonn'"):
        plan_ranks(several, bert)
    with pytest.raises(ValueError, match="has no 'twon'.*did you mean 'twonn'"):
        plan_ranks(several, bert, estimator="twon")
    assert plan_ranks(several, bert, estimator="twonn").provenance["profile"]["estimator"] == "twonn"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_key_of_the_lora_config_hits_exactly_one_module_with_its_rank(name, tmp_path):
    from peft import get_peft_model

    model = tiny_model(name)
    plan = plan_ranks(None, model, "uniform", budget=4 * plan_ranks(None, model, "uniform", rank=1).n_parameters)
    # Different ranks a block, so that a key that hits a wrong module is seen.
    ranks = {(m.stack, m.block): 1 + i for i, m in enumerate(plan.modules)}
    plan = RankPlan.load(_rewrite(plan, ranks, tmp_path / "plan.json"))
    config = plan.to_lora_config()
    wrapped = get_peft_model(model, config)
    adapted = {
        path.removeprefix("base_model.model."): module
        for path, module in wrapped.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "scaling")
    }
    assert set(adapted) == {m.name for m in plan.modules}
    assert len(config.rank_pattern) == len(config.alpha_pattern) == len(plan.modules)
    for entry in plan.modules:
        assert adapted[entry.name].r["default"] == entry.rank
        assert adapted[entry.name].scaling["default"] == plan.scaling
    trainable = sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
    assert trainable == plan.n_parameters
    assert config.r == max(ranks.values())
    assert config.lora_alpha == plan.scaling * config.r
    assert len(plan.modules) == len(ranks) * (2 if name in FUSED else 4)


def _rewrite(plan, ranks, path):
    plan.save(path)
    record = json.loads(path.read_text())
    for entry in record["modules"]:
        entry["rank"] = ranks[entry["stack"], entry["block"]]
        entry["alpha"] = plan.scaling * entry["rank"]
    path.write_text(json.dumps(record))
    return path


def test_a_plan_of_the_bare_model_binds_to_the_model_under_a_head(bert, profile):
    from peft import get_peft_model

    plan = plan_ranks(profile, bert)
    headed = hf.AutoModelForSequenceClassification.from_config(bert.config)
    headed.bert.load_state_dict(bert.state_dict(), strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound = plan.bind(headed)
    assert [m.name for m in bound.modules] == ["bert." + m.name for m in plan.modules]
    assert bound.block_ranks == plan.block_ranks
    config = plan.to_lora_config("SEQ_CLS", model=headed, lora_dropout=0.1)
    assert all(key.startswith("^bert") for key in config.rank_pattern)
    for use in (config, plan.to_lora_config("SEQ_CLS")):  # with and without naming the model
        wrapped = get_peft_model(copy.deepcopy(headed), use)
        modules = dict(wrapped.named_modules())
        adapted = {m.name: modules["base_model.model." + m.name].r["default"] for m in bound.modules}
        assert adapted == {m.name: m.rank for m in bound.modules}
        assert sorted(set(adapted.values())) == [1, 4]
    assert config.target_modules == {m.name for m in bound.modules}
    assert config.lora_dropout == 0.1
    assert str(config.task_type).endswith("SEQ_CLS")
    with pytest.raises(ValueError, match="`r` follows from the plan"):
        plan.to_lora_config(r=3)


def test_other_weights_are_a_warning_and_another_architecture_is_an_error(bert, profile):
    plan = plan_ranks(profile, bert)
    other = tiny_model("bert", seed=1)
    for use in (lambda: plan_ranks(profile, other), lambda: plan.bind(other)):
        with pytest.warns(UserWarning, match="made with other weights"):
            use()
    deeper = hf.BertModel(hf.BertConfig(**{**bert.config.to_dict(), "num_hidden_layers": 3}))
    wider = hf.BertModel(hf.BertConfig(**{**bert.config.to_dict(), "hidden_size": 64}))
    for wrong in (tiny_model("roberta"), deeper, wider):
        with pytest.raises(ValueError, match=r"the profile was made for bert with 2 encoder blocks of width 32"):
            plan_ranks(profile, wrong)
        with pytest.raises(ValueError, match="the plan was made for bert"):
            plan.bind(wrong)


def test_a_model_on_the_meta_device_gets_the_same_plan_without_its_weights(bert, profile):
    with torch.device("meta"):
        empty = hf.AutoModel.from_config(bert.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_ranks(profile, empty)
    assert plan.modules == plan_ranks(profile, bert).modules
    assert plan.weights_fingerprint == profile.attrs["weights_fingerprint"]


def test_clouds_of_no_model_serve_a_model_of_their_depth_and_no_other(bert):
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(200, d)) for d in (2, 5, 5)]
    profile = estimate_representations(clouds, progress=False)
    assert plan_ranks(profile, bert).block_ranks["encoder", 1] >= 3
    with pytest.raises(ValueError, match="the profile has 2 layers, but `model` has blocks for 3"):
        plan_ranks(estimate_representations(clouds[:2], progress=False), bert)


def test_an_encoder_profile_of_an_encoder_decoder_adapts_the_encoder_alone():
    model = tiny_model("t5")
    plan = plan_ranks(profile_of(model, [1.0, 2.0, 3.0]), model)
    assert {m.stack for m in plan.modules} == {"encoder"}
    assert list(plan.block_ranks.values()) == [2, 2]


def test_uniform_ranks_fill_a_budget_from_below(bert):
    unit = plan_ranks(None, bert, "uniform", rank=1).n_parameters
    block = unit // 2
    for budget, floor, raised in ((unit, 1, 0), (3 * unit + block, 3, 1), (2 * unit - 1, 1, 1)):
        plan = plan_ranks(None, bert, "uniform", budget=budget, seed=1)
        assert sorted(plan.block_ranks.values()) == sorted([floor] * (2 - raised) + [floor + 1] * raised)
        assert budget - block < plan.n_parameters <= budget
        assert plan.modules == plan_ranks(None, bert, "uniform", budget=budget, seed=1).modules
    draws = {
        tuple(plan_ranks(None, bert, "uniform", budget=unit + block, seed=seed).block_ranks.values())
        for seed in range(8)
    }
    assert draws == {(1, 2), (2, 1)}
    with pytest.raises(ValueError, match=f"must pay for rank 1 in every block, {unit:,} parameters"):
        plan_ranks(None, bert, "uniform", budget=unit - 1)
    for options in ({}, {"rank": 1, "budget": unit}):
        with pytest.raises(ValueError, match="needs either `rank` or `budget`"):
            plan_ranks(None, bert, "uniform", **options)


def test_no_rank_exceeds_its_matrix(bert):
    plan = plan_ranks(None, bert, "uniform", rank=1000)
    assert {m.rank for m in plan.modules} == {WIDTH}


def test_roles_choose_the_matrices(bert):
    plan = plan_ranks(None, bert, "uniform", rank=2, roles=["query", "value"])
    assert [m.role for m in plan.modules] == ["query", "value"] * 2
    with pytest.raises(UnknownArchitectureError, match="a fused query_key_value matrix is adapted whole"):
        plan_ranks(None, tiny_model("gpt2"), "uniform", rank=2, roles=["query"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "geometrical"}, "`policy` must be one of geometric, .*did you mean 'geometric'"),
        ({"rounding": "up"}, "`rounding` must be one of"),
        ({"offset": -1}, "`offset` must be an integer of at least 0"),
        ({"minimum": 0}, "`minimum` must be an integer of at least 1"),
        ({"minimum": 3, "maximum": 2}, "`maximum` must be an integer of at least 3"),
        ({"undefined": "skip"}, "`undefined` must be one of"),
        ({"scaling": 0.0}, "`scaling` must be a positive number"),
        ({"roles": ["q"]}, "`roles` must be a list of some of"),
        ({"rank": 3}, "`rank` does not go with policy='geometric'.*it goes with uniform, eva"),
        ({"budget": 3}, "`budget` does not go with policy='geometric', the ranks follow from the profile"),
        ({"policy": "proportional", "rank": 3}, "it takes `budget`"),
        ({"data": []}, "`data` goes with policies eva and fisher"),
        ({"statistic": "max"}, "`statistic` must be one of point, mean, median, upper"),
        ({"statistic": "upper"}, "needs the spread.*n_replicates=50"),
        ({"combine": "sum"}, "`combine` must be one of max, mean"),
        ({"confidence": 1.0}, "`confidence` must be a number between 0 and 1"),
        ({"scale": 7.0}, r"`scale` must be one of the estimator's scales \[3.0, 4.0, 5.0\], got 7.0"),
        ({"policy": "recommended"}, "policy='recommended' reads .*but the profile has"),
    ],
)
def test_options_out_of_range_are_named(bert, profile, options, message):
    with pytest.raises(ValueError, match=message):
        plan_ranks(profile, bert, **options)


def test_a_geometric_plan_needs_a_profile_and_a_model(bert, profile):
    with pytest.raises(ValueError, match="`profile` must be given"):
        plan_ranks(None, bert)
    with pytest.raises(TypeError, match="`model` must be a loaded model"):
        plan_ranks(profile, 3)


def test_weights_that_are_not_numbers_are_named(bert):
    broken = copy.deepcopy(bert)
    with torch.no_grad():
        broken.pooler.dense.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"'pooler\.dense\.bias' holds 1 NaN or infinite values of 32"):
        plan_ranks(None, broken, "uniform", rank=1)


def test_a_profile_of_another_model_is_refused_by_every_policy(profile):
    with pytest.raises(ValueError, match="the profile was made for bert"):
        plan_ranks(profile, tiny_model("roberta"), "uniform", rank=1)
    damaged = profile.assign_attrs(architecture='{"blocks": 3}')
    with pytest.raises(ValueError, match="its attribute `architecture` is damaged"):
        plan_ranks(damaged, tiny_model("bert"))


def test_the_record_of_a_profile_is_the_same_in_memory_and_from_its_file(bert, profile, tmp_path):
    opened = open_profile(save_profile(profile, tmp_path / "p.nc"))
    assert plan_ranks(opened, bert).provenance["profile"] == plan_ranks(profile, bert).provenance["profile"]


def test_numpy_integers_are_saved_like_others(bert, tmp_path):
    plan = plan_ranks(None, bert, "uniform", rank=np.int64(3), seed=np.int64(1))
    assert RankPlan.load(plan.save(tmp_path / "plan.json")).block_ranks == plan.block_ranks


@pytest.mark.smoke
def test_a_saved_plan_loads_equal(bert, profile, tmp_path):
    plan = plan_ranks(profile, bert)
    assert RankPlan.load(plan.save(tmp_path / "plan.json")) == plan
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_plan_are_refused_with_the_reason(bert, profile, tmp_path):
    path = plan_ranks(profile, bert).save(tmp_path / "plan.json")
    record = json.loads(path.read_text())
    with pytest.raises(FileNotFoundError, match="there is no file"):
        RankPlan.load(tmp_path / "absent.json")
    for content, message in (
        (path.read_text()[:-50], "not a JSON file, or truncated"),
        ("[" * 100_000, "not a JSON file, or truncated"),
        ("{}", "is not a gelora rank plan"),
        (json.dumps({**record, "schema_version": 9}), "install a newer gelora"),
        (json.dumps({**record, "modules": []}), "it adapts no module"),
        (json.dumps({**record, "modules": [{"rank": 1}]}), "damaged rank plan"),
        (json.dumps({**record, "modules": [{**record["modules"][0], "rank": 0}]}), "rank must be a positive integer"),
        (json.dumps({**record, "modules": [record["modules"][0]] * 2}), "it has a matrix twice"),
        (json.dumps({**record, "scaling": float("nan")}), "scaling must be a positive number"),
        (json.dumps({**record, "architecture": {"blocks": []}}), "no architecture"),
        (json.dumps({k: v for k, v in record.items() if k != "scaling"}), "damaged rank plan: KeyError"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            RankPlan.load(tmp_path / "bad.json")
