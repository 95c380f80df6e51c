"""Which matrices are adapted: by role, by place, by expression; and plans of them bind under a head."""

import copy
import re
import warnings
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch import nn

from gelora.blocks import (
    SHARED_ROLES,
    Block,
    UnknownArchitectureError,
    architecture_of,
    find_blocks,
    is_linear,
    matrix_shape,
    weights_fingerprint,
)
from gelora.plan import ModuleRank, RankPlan
from gelora.targets import TARGETS, Matrix, find_matrices
from tiny_models import ARCHITECTURES, ENCODER_DECODERS, FUSED, WIDTH, tiny_model

MOE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    **MOE,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
EXPERT_CONFIGS = {
    "mixtral": lambda: hf.MixtralConfig(**MOE, num_local_experts=4),
    "qwen2-moe": lambda: hf.Qwen2MoeConfig(
        **MOE, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=24
    ),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(
        **MOE, num_experts=4, moe_intermediate_size=16, head_dim=8, mlp_only_layers=[0]
    ),
    "deepseek": lambda: hf.DeepseekV3Config(**LATENT, q_lora_rank=12),
    "deepseek-lite": lambda: hf.DeepseekV3Config(**LATENT, q_lora_rank=None),
    "switch": lambda: hf.SwitchTransformersConfig(
        d_model=WIDTH,
        d_kv=8,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_heads=4,
        d_ff=48,
        num_experts=3,
        vocab_size=64,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    ),
}


def expert_model(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.AutoModel.from_config(EXPERT_CONFIGS[name]()).eval()


def matrices_of(model, *args, **kwargs):
    return find_matrices(model, find_blocks(model), *args, **kwargs)


def shapes(matrices, stack, block):
    return {m.role: (m.in_features, m.out_features) for m in matrices if (m.stack, m.block) == (stack, block)}


def plan_of(model, matrices):
    """A plan whose ranks differ from matrix to matrix."""
    blocks = find_blocks(model)
    modules = (
        ModuleRank(
            stack=m.stack,
            block=m.block,
            role=m.role,
            name=m.name,
            rank=1 + position % 3,
            alpha=2.0 + 2 * (position % 3),
            in_features=m.in_features,
            out_features=m.out_features,
            transposed=m.transposed,
        )
        for position, m in enumerate(matrices)
    )
    return RankPlan(
        policy="test",
        modules=tuple(modules),
        architecture=architecture_of(model, blocks),
        weights_fingerprint=weights_fingerprint(model, blocks),
        scaling=2.0,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_and_ffn_are_all_linear_but_cross_attention(architecture):
    model = tiny_model(architecture)
    attention, ffn, every = (matrices_of(model, targets) for targets in TARGETS)
    crossed = [m for m in every if "EncDecAttention" in m.name or "encoder_attn" in m.name]
    assert len(crossed) == (8 if architecture in ENCODER_DECODERS else 0)
    assert {*attention, *ffn, *crossed} == set(every)
    assert len(attention) + len(ffn) + len(crossed) == len(every)
    expected = ["query_key_value", "output"] if architecture in FUSED else ["query", "key", "value", "output"]
    blocks = find_blocks(model)
    assert [m.role for m in attention] == expected * len(blocks)
    assert [m.role for m in every if m.role in expected] == [m.role for m in attention]
    # Every linear layer of the blocks, and no other.
    modules = dict(model.named_modules())
    linear = {name for name, module in modules.items() if is_linear(module)}
    assert {m.name for m in every} == {name for name in linear if name.startswith(tuple(b.name + "." for b in blocks))}
    for matrix in every:
        weight = modules[matrix.name].weight
        sides = (matrix.in_features, matrix.out_features)
        assert tuple(weight.shape) == (sides if matrix.transposed else sides[::-1])
        assert matrix.n_per_rank == sum(weight.shape)
        assert matrix.transposed == (architecture == "gpt2")
        assert matrix.key == (matrix.stack, matrix.block, matrix.role)
    assert len({m.key for m in every}) == len(every)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_come_in_order_attention_first_then_module_order(architecture):
    model = tiny_model(architecture)
    every = matrices_of(model, "all-linear")
    order = [(block.stack, block.index) for block in find_blocks(model)]
    places = [order.index((m.stack, m.block)) for m in every]
    assert places == sorted(places)
    names = [name for name, _ in model.named_modules()]
    attention = {m.name for m in matrices_of(model)}
    for place in set(places):
        block = [m for m, p in zip(every, places, strict=True) if p == place]
        known = [m.name in attention for m in block]
        assert known == sorted(known, reverse=True)
        rest = [names.index(m.name) for m in block if m.name not in attention]
        assert rest == sorted(rest)


def test_the_roles_of_other_matrices_are_paths_relative_to_the_block():
    assert shapes(matrices_of(tiny_model("bert"), "ffn"), "encoder", 2) == {
        "intermediate.dense": (WIDTH, 48),
        "output.dense": (48, WIDTH),
    }
    assert shapes(matrices_of(tiny_model("gpt2"), "all-linear"), "decoder", 1) == {
        "query_key_value": (WIDTH, 3 * WIDTH),
        "output": (WIDTH, WIDTH),
        "mlp.c_fc": (WIDTH, 4 * WIDTH),
        "mlp.c_proj": (4 * WIDTH, WIDTH),
    }
    assert shapes(matrices_of(tiny_model("modernbert"), "ffn"), "encoder", 1) == {
        "mlp.Wi": (WIDTH, 96),
        "mlp.Wo": (48, WIDTH),
    }


def test_grouped_keys_and_values_are_narrower():
    attention = shapes(matrices_of(tiny_model("llama")), "decoder", 1)
    assert attention == {
        "query": (WIDTH, WIDTH),
        "key": (WIDTH, WIDTH // 2),
        "value": (WIDTH, WIDTH // 2),
        "output": (WIDTH, WIDTH),
    }


def test_cross_attention_is_in_all_linear_alone():
    for architecture, path in (("t5", "layer.1.EncDecAttention.q"), ("bart", "encoder_attn.q_proj")):
        model = tiny_model(architecture)
        assert path in shapes(matrices_of(model, "all-linear"), "decoder", 1)
        assert path not in shapes(matrices_of(model, "ffn"), "decoder", 1)
        assert path not in shapes(matrices_of(model, "attention"), "decoder", 1)
        assert path not in shapes(matrices_of(model, "all-linear"), "encoder", 1)


def test_roles_choose_among_the_attention_and_a_fused_matrix_is_whole():
    assert [m.role for m in matrices_of(tiny_model("bert"), roles=["value", "query"])] == ["query", "value"] * 2
    gpt2 = tiny_model("gpt2")
    assert [m.role for m in matrices_of(gpt2, roles=["query", "key", "value"])] == ["query_key_value"] * 2
    with pytest.raises(UnknownArchitectureError, match="`roles` .* a fused query_key_value matrix is adapted whole"):
        matrices_of(gpt2, roles=["query"])
    with pytest.raises(ValueError, match="`roles` goes with targets='attention'"):
        matrices_of(gpt2, "ffn", roles=["query"])
    for roles in (["q"], [], "query"):
        with pytest.raises(ValueError, match="`roles` must be a list of some of query, key"):
            matrices_of(gpt2, roles=roles)


@pytest.mark.parametrize(
    ("architecture", "expression", "roles"),
    [
        ("bert", r".*\.(query|value)", ["query", "value"] * 2),
        ("bert", r".*\.layer\.1\..*dense", ["output", "intermediate.dense", "output.dense"]),
        (
            "llama",
            r".*\.(q_proj|up_proj)|layers\.0\.mlp\.down_proj",
            ["query", "mlp.up_proj", "mlp.down_proj", "query", "mlp.up_proj"],
        ),
        ("gpt2", r"h\.1\.(attn|mlp)\.c_proj", ["output", "mlp.c_proj"]),
        ("t5", r"decoder.*EncDecAttention\.[qv]", ["layer.1.EncDecAttention.q", "layer.1.EncDecAttention.v"] * 2),
        ("bert", r".*\.attention\..*", ["query", "key", "value", "output"] * 2),  # containers and norms are passed over
    ],
)
def test_an_expression_matches_as_pefts_does(architecture, expression, roles):
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    model = tiny_model(architecture)
    found = matrices_of(model, expression)
    assert [m.role for m in found] == roles
    config = LoraConfig(target_modules=expression)
    layers = [name for name, module in model.named_modules() if is_linear(module)]
    assert {m.name for m in found} == {name for name in layers if check_target_module_exists(config, name)}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("query", r"matches no module path as a whole, only a part of 'encoder\.layer\.0\.attention\.self\.query'"),
        ("all_linear", r"did you mean 'all-linear'\?; linear layers are 'encoder\.layer\.0"),
        (
            r"encoder.layer.0.attention.self.querry",
            r"did you mean 'encoder\.layer\.0\.attention\.self\.query'\?",
        ),
        (r".*dropout", r"must match linear layers alone, but '\.\*dropout' matches .*the first a Dropout"),
        (r".*(query|word_embeddings)", r"matches 'embeddings\.word_embeddings', the first a Embedding: narrow"),
        (
            r".*dense",
            r"must match matrices of the blocks alone, but '\.\*dense' matches 'pooler\.dense' too, outside "
            r"encoder\.layer\.0 … encoder\.layer\.1: narrow",
        ),
        ("(query", r"`targets` must be one of attention, ffn, all-linear or a regular expression, got '\(query'"),
    ],
)
def test_an_expression_that_finds_no_matrices_of_the_blocks_is_explained(expression, message):
    with pytest.raises(ValueError, match=message):
        matrices_of(tiny_model("bert"), expression)


def test_other_arguments_out_of_range_are_named():
    bert = tiny_model("bert")
    with pytest.raises(TypeError, match=r"`targets` must be one of .* got list: join names as 'a\|b'"):
        matrices_of(bert, ["query"])
    with pytest.raises(UnknownArchitectureError, match="`blocks` must name at least one block"):
        find_matrices(bert, [])
    with pytest.raises(UnknownArchitectureError, match="linear layers are none"):
        find_matrices(nn.Sequential(nn.ReLU()), [Block("encoder", 1, "0", {})], ".*x")
    without = nn.Sequential(nn.Sequential(nn.ReLU()))
    with pytest.raises(UnknownArchitectureError, match=r"block 1 of the encoder \(0\) has no such linear layer"):
        find_matrices(without, [Block("encoder", 1, "0", {})], "all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = nn.Sequential(nn.Sequential(nn.Linear(0, 3)))
    with pytest.raises(UnknownArchitectureError, match="'0.0' is 0 × 3, which leaves nothing to adapt"):
        find_matrices(empty, [Block("encoder", 1, "0", {})], "all-linear")


def test_blocks_named_by_the_caller_have_ffn_and_all_linear_but_no_roles():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2)))
    blocks = find_blocks(model, ["0", "1"])
    assert [m.name for m in find_matrices(model, blocks, "all-linear")] == ["0.0", "0.2", "1.0", "1.2"]
    assert [m.role for m in find_matrices(model, blocks, "ffn")] == ["0", "2"] * 2
    with pytest.raises(UnknownArchitectureError, match="name no matrix of Sequential"):
        find_matrices(model, blocks)


def test_what_reads_the_weight_itself_is_not_adapted():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True))
    found = find_matrices(model, find_blocks(model, ["0"]), "all-linear")
    assert [m.role for m in found] == ["linear1", "linear2"]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_model_that_peft_has_adapted_has_the_same_matrices_under_their_new_paths(architecture, targets):
    from peft import LoraConfig, get_peft_model

    model = tiny_model(architecture)
    plain = matrices_of(model, targets)
    config = LoraConfig(r=2, target_modules=[m.name for m in plain], fan_in_fan_out=architecture == "gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(copy.deepcopy(model), config)
    found = matrices_of(adapted, targets)
    assert found == tuple(replace(m, name=f"base_model.model.{m.name}") for m in plain)
    every = matrices_of(adapted, r".*\.(query|c_attn).*")  # what peft added does not count
    assert len(every) == 2


def test_quantised_layers_count_by_their_sides():
    class Quantised(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.in_features, self.out_features = matrix_shape(layer)
            self.register_buffer("qweight", torch.zeros(4, dtype=torch.int32))

    model = tiny_model("llama")
    plain = matrices_of(model, "all-linear")
    for matrix in plain:
        parent, _, child = matrix.name.rpartition(".")
        setattr(model.get_submodule(parent), child, Quantised(model.get_submodule(matrix.name)))
    assert matrices_of(model, "all-linear") == plain


@pytest.mark.parametrize(
    ("name", "block", "expected"),
    [
        ("mixtral", 1, {"query": (32, 32), "key": (32, 16), "value": (32, 16), "output": (32, 32)}),
        ("qwen2-moe", 1, {"query": (32, 32), "key": (32, 16), "value": (32, 16), "output": (32, 32)}),
        ("qwen3-moe", 2, {"query": (32, 32), "key": (32, 16), "value": (32, 16), "output": (32, 32)}),
        (
            "deepseek",
            2,
            {
                "query_down": (32, 12),
                "query": (12, 32),
                "key_value_down": (32, 12),
                "key_value": (8, 48),
                "output": (32, 32),
            },
        ),
        (
            "deepseek-lite",
            2,
            {"query": (32, 32), "key_value_down": (32, 12), "key_value": (8, 48), "output": (32, 32)},
        ),
    ],
)
def test_mixtures_of_experts_adapt_their_attention_and_refuse_fused_experts(name, block, expected):
    model = expert_model(name)
    assert shapes(matrices_of(model), "decoder", block) == expected
    first = 1 if name in ("mixtral", "qwen2-moe") else 2  # of the others the first block is dense
    for targets in ("ffn", "all-linear"):
        message = (
            rf"targets='{targets}': block {first} of the decoder keeps all its experts in one tensor "
            rf"\(layers\.{first - 1}\.mlp\.experts, \w+Experts\).* adapt the attention alone, targets='attention'"
        )
        with pytest.raises(UnknownArchitectureError, match=message):
            matrices_of(model, targets)
    with pytest.raises(UnknownArchitectureError, match="must match linear layers alone.*experts"):
        matrices_of(model, r".*\.mlp\.experts")


def test_dense_layers_beside_fused_experts_are_reached_by_an_expression():
    shared = matrices_of(expert_model("qwen2-moe"), r".*shared_expert\..*_proj")
    assert shapes(shared, "decoder", 1) == {
        "mlp.shared_expert.gate_proj": (32, 24),
        "mlp.shared_expert.up_proj": (32, 24),
        "mlp.shared_expert.down_proj": (24, 32),
    }
    dense = matrices_of(expert_model("deepseek"), r"layers\.0\.mlp\..*_proj")
    assert [m.role for m in dense] == ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    with pytest.raises(UnknownArchitectureError, match="'layers.0.mlp.shared_expert_gate', .* are never adapted"):
        matrices_of(expert_model("qwen2-moe"), r".*shared_expert_gate")


def test_experts_of_linear_layers_are_matrices_of_their_own_and_routers_are_left_out():
    model = expert_model("switch")
    ffn = matrices_of(model, "ffn")
    sparse = {m.name for m in ffn if m.block == 2}  # the first blocks are dense
    experts = {name for name in dict(model.named_modules()) if re.search(r"expert_\d\.w[io]$", name)}
    assert sparse == experts
    assert len(experts) == 2 * 3 * 2  # stacks, experts, matrices
    dense = [m.role for m in ffn if m.block == 1]
    assert dense == ["layer.1.mlp.wi", "layer.1.mlp.wo", "layer.2.mlp.wi", "layer.2.mlp.wo"]
    every = matrices_of(model, "all-linear")
    assert not [m for m in every if "router" in m.name]
    with pytest.raises(UnknownArchitectureError, match="routers of mixtures of experts are never adapted"):
        matrices_of(model, r".*router\.classifier")


def test_a_gate_is_a_router_only_beside_experts():
    class Gated(nn.Module):
        def __init__(self, with_experts):
            super().__init__()
            self.gate = nn.Linear(4, 6)
            if with_experts:
                self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    model = nn.Sequential(Gated(True), Gated(False))
    found = find_matrices(model, find_blocks(model, ["0", "1"]), "ffn")
    assert [m.name for m in found] == ["0.experts.0", "0.experts.1", "1.gate"]


def test_latent_attention_is_chosen_by_the_roles_that_each_matrix_serves():
    model = expert_model("deepseek")

    def first(roles):
        return [m.role for m in matrices_of(model, roles=roles) if m.block == 1]

    assert first(["query"]) == ["query_down", "query"]
    assert first(["key", "value"]) == ["key_value_down", "key_value"]
    assert first(["output", "key"]) == ["output"]
    assert SHARED_ROLES.keys() & {m.role for m in matrices_of(model)} == {
        "query_down",
        "key_value_down",
        "key_value",
    }


def test_the_meta_device_serves_too():
    with torch.device("meta"):
        empty = hf.AutoModel.from_config(EXPERT_CONFIGS["mixtral"]())
    assert matrices_of(empty) == matrices_of(expert_model("mixtral"))


@pytest.mark.parametrize("targets", [*TARGETS, r".*(dense|fc1|c_fc|wi|up_proj|Wi|down_proj)"])
@pytest.mark.parametrize(
    ("architecture", "auto"),
    [
        ("bert", hf.AutoModelForSequenceClassification),
        ("deberta-v2", hf.AutoModelForSequenceClassification),
        ("modernbert", hf.AutoModelForSequenceClassification),
        ("gpt2", hf.AutoModelForSequenceClassification),
        ("llama", hf.AutoModelForSequenceClassification),
        ("t5", hf.AutoModelForSequenceClassification),
        ("bart", hf.AutoModelForSequenceClassification),
        ("vit", hf.AutoModelForImageClassification),
    ],
)
def test_a_plan_of_the_bare_model_binds_under_a_head_for_all_targets(architecture, auto, targets):
    model = tiny_model(architecture)
    if targets not in TARGETS:
        targets = rf"(.*\.)?({'|'.join(re.escape(block.name) for block in find_blocks(model))})\.{targets}"
    headed = auto.from_config(model.config).eval()
    getattr(headed, headed.base_model_prefix).load_state_dict(model.state_dict(), strict=False)
    plan = plan_of(model, matrices_of(model, targets))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound = plan.bind(headed)
    direct = matrices_of(headed, targets)
    assert [m.name for m in bound.modules] == [m.name for m in direct]
    assert [m.rank for m in bound.modules] == [m.rank for m in plan.modules]
    assert plan.bind(model) == plan
    assert bound.bind(model) == plan


def test_a_bound_plan_of_all_matrices_gives_peft_exactly_those(tmp_path):
    from peft import get_peft_model

    model = tiny_model("llama")
    plan = plan_of(model, matrices_of(model, "all-linear"))
    plan = RankPlan.load(plan.save(tmp_path / "plan.json"))
    headed = hf.AutoModelForSequenceClassification.from_config(model.config)
    headed.model.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(headed, plan.to_lora_config("SEQ_CLS", model=headed))
    modules = dict(adapted.named_modules())
    got = {m.key: m for m in matrices_of(model, "all-linear")}
    assert len(plan.modules) == len(got)
    for m in plan.modules:
        assert modules[f"base_model.model.model.{m.name}"].r["default"] == m.rank


def test_a_model_without_a_planned_matrix_is_refused():
    bert = tiny_model("bert")
    plan = plan_of(bert, matrices_of(bert, "ffn"))
    lost = replace(plan, modules=(replace(plan.modules[0], role="mlp.up_proj"),))
    with pytest.raises(ValueError, match=r"adapts the mlp\.up_proj matrix of block 1, which the model lacks"):
        lost.bind(bert)
    deeper = replace(plan, modules=(replace(plan.modules[0], block=7),))
    with pytest.raises(ValueError, match=r"adapts the intermediate\.dense matrix of block 7, which the model lacks"):
        deeper.bind(bert)
    other = hf.BertModel(hf.BertConfig(**{**bert.config.to_dict(), "intermediate_size": 40}))
    with (
        pytest.warns(UserWarning, match="other weights"),
        pytest.raises(ValueError, match=r"adapts the intermediate\.dense matrix of block 1, 32 × 48, which is 32 × 40"),
    ):
        plan.bind(other)


def test_a_matrix_knows_its_key_and_price():
    matrix = Matrix(stack="decoder", block=3, role="mlp.up", name="h.2.mlp.up", in_features=5, out_features=7)
    assert (matrix.key, matrix.n_per_rank, matrix.transposed) == (("decoder", 3, "mlp.up"), 12, False)
