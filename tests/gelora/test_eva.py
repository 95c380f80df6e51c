"""EVA's ranks are peft's own, keep to a budget, and leave the model as found."""

import copy
import warnings

import numpy as np
import pytest
import torch
import transformers as hf

from gelora.blocks import find_blocks
from gelora.eva import eva_ranks
from gelora.targets import find_matrices
from tiny_models import ENCODER_DECODERS, WIDTH, ragged_batch, tiny_model

ARCHITECTURES = ("bert", "gpt2", "llama", "t5", "bart", "deberta-v2", "modernbert", "vit")


def batches_for(architecture, n_batches=3, n=24, pad=0, decoder_pad=0):
    """Ragged batches; ``pad`` more columns of padding change nothing that a model should see."""
    held = []
    for seed in range(n_batches):
        if architecture == "vit":
            generator = torch.Generator().manual_seed(seed)
            held.append({"pixel_values": torch.randn(n, 1, 8, 8, generator=generator)})
            continue
        batch = padded(ragged_batch(n, seed=seed), pad)
        if architecture in ENCODER_DECODERS:
            other = padded(ragged_batch(n, seed=100 + seed), decoder_pad)
            batch |= {f"decoder_{key}": value for key, value in other.items()}
        held.append(batch)
    return held


def padded(batch, pad):
    return {key: torch.nn.functional.pad(value, (0, pad)) for key, value in batch.items()}


def matrices_of(model, *args, **kwargs):
    return find_matrices(model, find_blocks(model), *args, **kwargs)


def cost(ranks, matrices):
    return sum(ranks[m.key] * m.n_per_rank for m in matrices)


def read_inputs(model, batches, names):
    """What each matrix reads, and a key that is the same for matrices that read the same; unpadded one by one."""
    kept = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: kept[name].append(args[0].detach().reshape(-1, args[0].shape[-1]))
        )
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            for row in range(len(next(iter(batch.values())))):
                model(**unpadded({key: value[row : row + 1] for key, value in batch.items()}))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(values).double().numpy() for name, values in kept.items()}


def unpadded(row):
    for prefix in ("", "decoder_"):
        mask = row.get(f"{prefix}attention_mask")
        if mask is not None:
            for key in (f"{prefix}input_ids", f"{prefix}attention_mask"):
                row[key] = row[key][mask.bool()][None]
    return row


def own_shares(points):
    values = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
    return values / values.sum()


def by_input(ranks, matrices, inputs):
    """Ranks of the matrices that read the same, in no order: which of them comes first is arbitrary in EVA."""
    groups = {}
    for m in matrices:
        groups.setdefault(inputs[m.name].tobytes(), []).append(ranks[m.key])
    return [sorted(group) for group in groups.values()]


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "deberta-v2", "modernbert"])
def test_with_a_rank_the_result_is_pefts_own(architecture, targets):
    from peft import EvaConfig, LoraConfig, get_eva_state_dict

    model = tiny_model(architecture)
    matrices = matrices_of(model, targets)
    held = batches_for(architecture)
    config = LoraConfig(
        r=3, target_modules=[m.name for m in matrices], init_lora_weights="eva", eva_config=EvaConfig(rho=1.7, tau=0.98)
    )
    expected = get_eva_state_dict(copy.deepcopy(model), held, config, show_progress_bar=False)
    ranks = eva_ranks(model, held, matrices, rank=3, rho=1.7, tau=0.98)
    assert ranks == {m.key: len(expected[m.name]) for m in matrices}
    assert list(ranks) == [m.key for m in matrices]
    assert sum(ranks.values()) == 3 * len(matrices)
    assert max(ranks.values()) <= round(1.7 * 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_where_costs_are_equal_a_budget_gives_pefts_redistribution(architecture):
    model = tiny_model(architecture)
    matrices = matrices_of(model)
    matrices = tuple(m for m in matrices if m.n_per_rank == matrices[0].n_per_rank)
    held = batches_for(architecture)
    inputs = read_inputs(model, held[:1], [m.name for m in matrices])
    budget = 3 * sum(m.n_per_rank for m in matrices)
    bought = eva_ranks(model, held, matrices, budget=budget, minimum=0)
    assert by_input(bought, matrices, inputs) == by_input(eva_ranks(model, held, matrices, rank=3), matrices, inputs)
    assert cost(bought, matrices) == budget


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_components_bought_explain_most_per_matrix(architecture):
    """The choice of an exact decomposition of unpadded inputs, but for components within a hair of the last one."""
    model = tiny_model(architecture)
    matrices = matrices_of(model, "all-linear")
    matrices = tuple(m for m in matrices if m.n_per_rank == matrices[0].n_per_rank)
    held = batches_for(architecture, n_batches=1, n=60, pad=2)
    inputs = read_inputs(model, held, [m.name for m in matrices])
    budget = 3 * sum(m.n_per_rank for m in matrices)
    ranks = eva_ranks(model, held, matrices, budget=budget, tau=0.9999)
    shares = {m.key: own_shares(inputs[m.name]) for m in matrices}
    last = min(shares[m.key][ranks[m.key] - 1] for m in matrices if ranks[m.key] > 1)
    first_left = max(shares[m.key][ranks[m.key]] for m in matrices if ranks[m.key] < min(6, m.out_features))
    assert first_left <= last * 1.02


@pytest.mark.parametrize("architecture", ["bert", "t5", "bart"])
def test_padding_does_not_count(architecture):
    model = tiny_model(architecture)
    matrices = matrices_of(model, "all-linear")[-12:]  # of the decoder, where there are two
    options = {"budget": 3 * sum(m.n_per_rank for m in matrices)}
    plain = eva_ranks(model, batches_for(architecture), matrices, **options)
    for pads in ((4, 4), (0, 3)):
        assert (
            eva_ranks(model, batches_for(architecture, pad=pads[0], decoder_pad=pads[1]), matrices, **options) == plain
        )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("minimum", [0, 2])
def test_a_budget_is_not_exceeded_and_used_to_within_one_rank(architecture, minimum):
    model = tiny_model(architecture)
    matrices = matrices_of(model, "all-linear")
    total = sum(m.n_per_rank for m in matrices)
    held = batches_for(architecture, n_batches=2)
    cheapest = min(m.n_per_rank for m in matrices)
    for budget in (2 * total + 77, 3 * total - 1):
        ranks = eva_ranks(model, held, matrices, budget=budget, minimum=minimum)
        assert min(ranks.values()) >= minimum
        assert budget - cheapest < cost(ranks, matrices) <= budget
        assert all(ranks[m.key] <= min(m.in_features, m.out_features) for m in matrices)


def test_without_redistribution_a_budget_is_spent_too():
    model = tiny_model("llama")
    matrices = matrices_of(model)
    total = sum(m.n_per_rank for m in matrices)
    ranks = eva_ranks(model, batches_for("llama"), matrices, budget=2 * total + total // 2, rho=1.0)
    assert max(ranks.values()) == 3
    assert total * 2.5 - 48 < cost(ranks, matrices) <= total * 2.5


def test_a_budget_beyond_all_components_gives_full_ranks():
    model = tiny_model("llama")
    matrices = matrices_of(model)
    ranks = eva_ranks(model, batches_for("llama"), matrices, budget=10**9, tau=0.0)
    assert [ranks[m.key] for m in matrices] == [32, 16, 16, 32] * 2
    narrow = eva_ranks(model, batches_for("llama"), matrices, budget=10**9, tau=0.0, rho=3.0)
    assert [narrow[m.key] for m in matrices] == [30, 16, 16, 30] * 2  # whole multiples of rho


def test_matrices_that_share_their_input_get_nearly_equal_ranks():
    model = tiny_model("bert")
    ranks = eva_ranks(model, batches_for("bert"), matrices_of(model), rank=4)
    for block in (1, 2):
        same = [ranks["encoder", block, role] for role in ("query", "key", "value")]
        assert max(same) - min(same) <= 1


def test_a_matrix_whose_inputs_lie_on_a_line_gets_one_rank():
    model = tiny_model("bert")
    with torch.no_grad():  # what the attention's output reads is then one direction times a number
        layer = model.encoder.layer[1].attention.self.value
        layer.weight.copy_(torch.outer(torch.ones(WIDTH), layer.weight[0]))
    matrices = matrices_of(model, roles=["output"])
    ranks = eva_ranks(model, batches_for("bert"), matrices, budget=6 * 2 * WIDTH, minimum=0)
    # Its first component explains more than any other, and the rest nothing.
    assert ranks["encoder", 2, "output"] <= 2
    shares = own_shares(read_inputs(model, batches_for("bert"), [matrices[1].name])[matrices[1].name])
    assert shares[0] > 0.5


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_the_model_and_the_global_generators_are_left_as_found(architecture):
    model = tiny_model(architecture)
    model.train()
    model.get_submodule(find_blocks(model)[0].name).eval()
    parameter = next(model.parameters())
    parameter.requires_grad_(False)
    handle = model.register_forward_hook(lambda *_: None)
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    state = torch.get_rng_state()
    first = eva_ranks(model, batches_for(architecture), matrices_of(model), rank=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad != (p is parameter) for p in model.parameters())
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1
    assert not hasattr(model, "peft_config")
    assert eva_ranks(model, batches_for(architecture), matrices_of(model), rank=2) == first
    handle.remove()


def test_an_error_leaves_no_hooks_and_no_output(capsys):
    model = tiny_model("t5").train()
    with pytest.raises(ValueError, match="have not settled within `max_steps`=3 forward passes"):
        eva_ranks(model, batches_for("t5"), matrices_of(model), rank=4, max_steps=3)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training
    assert capsys.readouterr().out == ""


def test_small_batches_are_passed_over_as_by_peft_without_its_notes(capsys):
    model = tiny_model("bert")
    small = ragged_batch(1, seed=50)
    matrices = matrices_of(model)
    ranks = eva_ranks(model, [*batches_for("bert"), small], matrices, rank=5)
    assert sum(ranks.values()) == 5 * len(matrices)
    assert capsys.readouterr().out == ""
    message = r"6 components of the inputs of 'encoder\.layer\.0\.\S+' need a batch of as many tokens, got at most \d:"
    with pytest.raises(ValueError, match=message):
        eva_ranks(model, [ragged_batch(1, longest=5, seed=50)], matrices, rank=3)


def test_labels_are_not_needed_and_ignored_tokens_are_left_out():
    model = tiny_model("llama", hf.AutoModelForCausalLM.from_config)
    matrices = matrices_of(model)[:4]
    held = batches_for("llama", n_batches=2)
    plain = eva_ranks(model, held, matrices, rank=3)
    labelled = [{**batch, "labels": batch["input_ids"]} for batch in held]
    assert eva_ranks(model, labelled, matrices, rank=3) == plain
    bare = model.model
    classes = [{**batch, "labels": torch.zeros(24, dtype=torch.long)} for batch in held]
    assert list(eva_ranks(bare, classes, matrices_of(bare)[:4], rank=3).values()) == list(plain.values())
    # Leaving out by label and by padding on the right is the same in a causal model.
    cut = [{**b, "attention_mask": b["attention_mask"].clone()} for b in held]
    for batch in cut:
        batch["attention_mask"][:, 5:] = 0
    ignored = [{**b, "labels": b["input_ids"].masked_fill(torch.arange(9) >= 5, -100)} for b in held]
    assert eva_ranks(model, ignored, matrices, rank=3) == eva_ranks(model, cut, matrices, rank=3)


def test_a_decoder_reads_the_labels_where_it_gets_nothing_else():
    model = tiny_model("t5", hf.AutoModelForSeq2SeqLM.from_config)
    matrices = matrices_of(model, r"decoder\.block\.1\..*\.[qko]")
    plain, labelled = [], []
    for seed in range(3):
        batch, other = ragged_batch(24, seed=seed), ragged_batch(24, seed=100 + seed)
        labels = other["input_ids"].masked_fill(other["attention_mask"] == 0, -100)
        shifted = {
            "decoder_input_ids": model._shift_right(labels),
            "decoder_attention_mask": other["attention_mask"],
        }
        plain.append(batch | shifted)
        labelled.append(batch | {"labels": labels})
    assert eva_ranks(model, labelled, matrices, rank=2) == eva_ranks(model, plain, matrices, rank=2)


def test_batches_without_a_mask_or_from_a_generator_serve():
    model = tiny_model("gpt2")
    matrices = matrices_of(model)
    ids = [{"input_ids": torch.randint(3, 60, (8, 6), generator=torch.Generator().manual_seed(s))} for s in range(3)]
    masked = [{**batch, "attention_mask": torch.ones(8, 6, dtype=torch.long), "position_ids": None} for batch in ids]
    assert eva_ranks(model, iter(ids), matrices, rank=2) == eva_ranks(model, masked, matrices, rank=2)


@pytest.mark.parametrize("name", ["mixtral", "switch"])
def test_mixtures_of_experts_serve(name):
    common = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 2}
    config = {
        "mixtral": lambda: hf.MixtralConfig(
            **common,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=16,
            num_local_experts=2,
            bos_token_id=1,
        ),
        "switch": lambda: hf.SwitchTransformersConfig(
            **common,
            d_model=WIDTH,
            d_kv=8,
            num_layers=2,
            num_decoder_layers=2,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            num_heads=4,
            d_ff=16,
            num_experts=2,
            expert_capacity=1000,
            decoder_start_token_id=0,
        ),
    }[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModel.from_config(config).eval()
    held = batches_for("t5" if name == "switch" else "llama")
    matrices = matrices_of(model, "all-linear" if name == "switch" else "attention")
    total = sum(m.n_per_rank for m in matrices)
    ranks = eva_ranks(model, held, matrices, budget=2 * total)
    assert 2 * total - max(m.n_per_rank for m in matrices) < cost(ranks, matrices) <= 2 * total
    if name == "switch":
        assert any("experts.expert_1" in role for _, _, role in ranks)


def test_a_matrix_that_no_token_reaches_is_named():
    model = tiny_model("t5", hf.AutoModelForSeq2SeqLM.from_config)

    class EncoderAlone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.whole, self.config = model, None

        def forward(self, **inputs):
            return model.encoder(**inputs)

    alone = EncoderAlone()
    blocks = find_blocks(model)
    paths = [f"whole.{block.name}" for block in (blocks[0], blocks[-1])]
    matrices = find_matrices(alone, find_blocks(alone, paths), "all-linear")
    with pytest.raises(ValueError, match=r"no token of the first batch reaches 'whole\.decoder\.block\.1\."):
        eva_ranks(alone, [ragged_batch(24)], matrices, rank=2)


def test_inputs_that_say_nothing_are_refused():
    model = tiny_model("bert")
    same = {"input_ids": torch.full((8, 6), 5)}
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
    with pytest.raises(ValueError, match="are the same for all tokens|have not settled"):
        eva_ranks(model, [same, same], matrices_of(model, roles=["query"])[:1], budget=4 * 2 * WIDTH, max_steps=30)
    broken = tiny_model("bert")
    broken.encoder.layer[0].register_forward_hook(lambda *args: args[-1] * torch.nan)
    with pytest.raises(ValueError, match=r"the inputs of 'encoder\.layer\.1\.\S+' hold NaN or infinite values"):
        eva_ranks(broken, batches_for("bert"), matrices_of(broken), rank=2)
    with torch.no_grad():
        broken.pooler.dense.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"'pooler\.dense\.bias' holds 1 NaN"):
        eva_ranks(broken, batches_for("bert"), matrices_of(broken), rank=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "EVA needs either `rank` or `budget`, got neither"),
        ({"rank": 2, "budget": 4000}, "EVA needs either `rank` or `budget`, got both"),
        ({"rank": 0}, "`rank` must be an integer of at least 1, got 0"),
        ({"budget": 2.5}, "`budget` must be an integer of at least 1, got 2.5"),
        ({"rank": 2, "minimum": -1}, "`minimum` must be an integer of at least 0"),
        ({"rank": 2, "max_steps": 0}, "`max_steps` must be an integer of at least 1"),
        ({"rank": 2, "rho": 0.5}, "`rho` must be a number from 1 to inf, got 0.5"),
        ({"rank": 2, "tau": 1.5}, "`tau` must be a number from 0 to 1, got 1.5"),
        ({"rank": 2, "rho": "2"}, "`rho` must be a number from 1 to inf, got '2'"),
        (
            {"rank": 17},
            r"`rank` times `rho` must not exceed the inputs of a matrix, 32 of '.*query', got 17 · 2: lower",
        ),
        ({"budget": 1000, "rho": 40.0}, r"must not exceed the inputs of a matrix, 32 of '.*query', got 1 · 40: lower"),
        ({"budget": 1000, "minimum": 2}, "`budget` must pay for rank 2 in every matrix, 1,024 parameters, got 1,000"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        eva_ranks(model, batches_for("bert"), matrices_of(model), **options)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "`batches` must hold at least one batch, got none"),
        (ragged_batch(), TypeError, "`batches` must be mappings of tensors, .* got dict alone: put it in a list"),
        ("texts", TypeError, "`batches` must be mappings of tensors, .* got str"),
        ([torch.zeros(3, 3)], TypeError, "`batches` must be mappings of tensors, .* got Tensor"),
        ([{"input_ids": [[1, 2]]}], TypeError, "`batches`: 'input_ids' must be a tensor, got list"),
    ],
)
def test_other_batches_are_refused(batches, error, message):
    model = tiny_model("bert")
    with pytest.raises(error, match=message):
        eva_ranks(model, batches, matrices_of(model), rank=2)


def test_other_models_and_matrices_are_refused():
    from peft import LoraConfig, get_peft_model

    model, held = tiny_model("bert"), batches_for("bert")
    matrices = matrices_of(model)
    with torch.device("meta"):
        empty = hf.AutoModel.from_config(model.config)
    with pytest.raises(ValueError, match="`model` must hold its weights, but is on the meta device"):
        eva_ranks(empty, held, matrices, rank=2)
    with pytest.raises(ValueError, match="`matrices` must hold different matrices, at least one, got 0"):
        eva_ranks(model, held, [], rank=2)
    with pytest.raises(ValueError, match="`matrices` must hold different matrices, at least one, got 2"):
        eva_ranks(model, held, [matrices[0]] * 2, rank=2)
    with pytest.raises(ValueError, match=r"must be a Linear or Conv1D layer of `model`, which has nothing there"):
        eva_ranks(tiny_model("gpt2"), held, matrices, rank=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="`model` carries adapters of peft"):
        eva_ranks(adapted, held, matrices_of(adapted), rank=2)
