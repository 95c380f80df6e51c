"""Ranks of Jacobians against closed forms and plain autograd."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gelora.ranks import plan_ranks
from gelora.theory import jacobian_spectra
from gelora.theory.adapted import lora_at_generic_point, lora_factors, planned_matrices
from gelora.theory.block_jacobian import numerical_rank
from gelora.theory.float64 import Float64, double_copy
from tiny_models import WIDTH, ragged_batch, tiny_model, tiny_texts, tiny_tokenizer

LAST_NORM = ("bert", "roberta", "electra", "deberta-v2", "mpnet", "distilbert", "bart")


class Block(torch.nn.Module):
    """x + M x or M x, with M of a known rank."""

    def __init__(self, width: int, rank: int, residual: bool, seed: int = 0) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(seed)
        self.linear = torch.nn.utils.skip_init(torch.nn.Linear, width, width, bias=False)
        product = torch.randn(width, rank, generator=own).double() @ torch.randn(rank, width, generator=own).double()
        self.linear.weight = torch.nn.Parameter(product)
        self.residual = residual

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden_states) + (hidden_states if self.residual else 0)


def tokens(n: int = 3, width: int = 8, length: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, length, width, generator=torch.Generator().manual_seed(seed))


def spectra_of(*blocks: torch.nn.Module, data: Any = None, **options: Any) -> Any:
    layers = [str(i) for i in range(len(blocks))]
    model = torch.nn.Sequential(*blocks)
    return jacobian_spectra(model, tokens() if data is None else data, layers=layers, progress=False, **options)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "tokens"])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_linear_map_has_its_rank_and_with_a_residual_full_rank(rank: int, pooling: str) -> None:
    found = spectra_of(Block(8, rank, residual=False), Block(8, rank, residual=True), pooling=pooling)
    assert found["rank"].sel(respect="input", block=1).values.tolist() == [rank] * 3
    assert found["rank"].sel(respect="input", block=2).values.tolist() == [8] * 3
    assert found["width"].values.tolist() == [8, 8]


def test_the_largest_of_each_coordinate_may_come_from_other_tokens_and_adds_ranks() -> None:
    block = Block(8, 2, residual=False)
    several = spectra_of(block, pooling="max")["rank"].values
    assert ((several >= 2) & (several <= 8)).all()
    assert several.max() > 2
    one = spectra_of(block, pooling="max", data=tokens(length=1))["rank"].values
    assert (one == 2).all()


def test_mean_pooling_divides_the_singular_values_of_a_linear_map_by_the_root_of_the_length() -> None:
    block = Block(8, 3, residual=False)
    expected = torch.linalg.svdvals(block.linear.weight.detach().double()).numpy() / np.sqrt(5)
    found = spectra_of(block)["singular_values"].sel(respect="input").values[0]
    for point in found:
        np.testing.assert_allclose(point, expected, atol=1e-12)


def test_a_product_stored_in_float32_has_full_rank_but_for_a_tolerance() -> None:
    block = Block(8, 3, residual=False).float()
    assert spectra_of(block)["rank"].values.ravel().tolist() == [8] * 3
    assert spectra_of(block, tolerance=1e-5)["rank"].values.ravel().tolist() == [3] * 3


def test_energy_ranks_count_the_squares() -> None:
    block = Block(4, 1, residual=False)
    with torch.no_grad():
        block.linear.weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.0])))
    found = spectra_of(block, data=tokens(width=4))
    # 9, 1, 0.25: of their sum 10.25 the first holds 88 %, the first two 97.6 %.
    assert found["energy_rank_90"].values.ravel().tolist() == [2, 2, 2]
    assert found["energy_rank_99"].values.ravel().tolist() == [3, 3, 3]
    assert found["rank"].values.ravel().tolist() == [3, 3, 3]


@pytest.mark.parametrize("r", [1, 2])
def test_lora_factors_before_a_projection_reach_its_rank_and_a_alone_reaches_that_of_b(r: int) -> None:
    import peft

    class Projected(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block(8, 8, residual=False)
            self.outer = Block(8, 5, residual=False, seed=3)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return self.outer(self.inner(hidden_states))

    model = peft.get_peft_model(
        torch.nn.Sequential(Projected()), peft.LoraConfig(r=r, target_modules=["0.inner.linear"])
    )
    found = jacobian_spectra(model, tokens(), layers=["0"], progress=False)
    assert found["n_adapted"].values.tolist() == [r * 16]
    # B = 0: the update's derivative is dB A x, any vector, and the projection leaves 5 directions of it.
    assert found["rank"].sel(respect="parameters").values.tolist() == [[5, 5, 5]]
    assert found["rank"].sel(respect="both").values.tolist() == [[5, 5, 5]]
    factors = lora_factors(model)
    (path,) = [path for path in factors if "lora_B" in path]
    with torch.no_grad():
        torch.nn.init.normal_(factors[path].weight, generator=torch.Generator().manual_seed(0))
        model.base_model.model[0].inner.linear.lora_A.default.weight.zero_()
    # A = 0: only B dA x is left, of the rank of B.
    changed = jacobian_spectra(model, tokens(), layers=["0"], progress=False)
    assert changed["rank"].sel(respect="parameters").values.tolist() == [[r, r, r]]


def plain_jacobians(model: Any, plan: Any, feature: dict[str, torch.Tensor], index: int) -> dict[str, Any]:
    """The Jacobian of one block, by torch.autograd.functional, with nothing of our own but the LoRA factors."""
    block = f"encoder.layer.{index}"
    with torch.no_grad():
        states = model.double()(**feature, output_hidden_states=True).hidden_states
    module = model.get_submodule(block)
    matrices = [m for found in planned_matrices(plan, model).values() for m in found if m.block == index + 1]
    with lora_at_generic_point(module, matrices, 0, prefix=f"{block}."):
        factors = lora_factors(module)
        names = [f"{path}.weight" for path in factors]
        weights = tuple(factor.weight.detach().clone() for factor in factors.values())

        def pooled(hidden: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (hidden,))[0].mean(0)

        parts = torch.autograd.functional.jacobian(pooled, (states[index], *weights))
    flat = [part.reshape(WIDTH, -1).numpy() for part in parts]
    return {"input": flat[0], "parameters": np.concatenate(flat[1:], 1), "both": np.concatenate(flat, 1)}


def test_every_spectrum_of_a_block_is_that_of_plain_autograd() -> None:
    model = tiny_model("bert")
    plan = plan_ranks(None, model, "uniform", rank=2)
    batch = ragged_batch(1, longest=4)
    length = int(batch["attention_mask"].sum())
    found = jacobian_spectra(model, [batch], plan=plan, n_points=1, chunk_size=5, progress=False)
    assert found["n_tokens"].values.tolist() == [length]
    feature = {key: value[:, :length] for key, value in batch.items()}
    for index in range(2):
        for respect, jacobian in plain_jacobians(copy.deepcopy(model), plan, feature, index).items():
            values = found["singular_values"].sel(respect=respect).values[index, 0]
            expected = np.linalg.svd(jacobian, compute_uv=False)
            # The block's inputs are those of the float32 model.
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "deberta-v2", "mpnet", "modernbert", "t5", "gemma"])
def test_blocks_of_every_family_run_by_themselves_as_in_the_model(name: str) -> None:
    model = tiny_model(name)
    plan = plan_ranks(None, model, "uniform", rank=1)
    data = [ragged_batch(3, seed=2)]
    found = jacobian_spectra(model, data, plan=plan, n_points=2, progress=False)
    stacks = {str(stack) for stack in found["stack"].values}
    assert stacks == {"decoder" if name in ("gpt2", "llama", "gemma") else "encoder"}
    ranks = found["rank"].sel(respect="both").values
    assert (ranks == WIDTH - (name in LAST_NORM)).all()
    assert (found["rank"].sel(respect="input").values <= ranks).all()
    assert found["n_adapted"].values.tolist() == [
        sum(m.n_parameters for m in plan.modules if (m.stack, m.block) == (str(s), int(b)))
        for s, b in zip(found["stack"].values, found["block"].values, strict=True)
    ]


def test_encoder_and_decoder_are_read_where_the_decoder_has_texts() -> None:
    model, texts = tiny_model("bart"), tiny_texts(4)
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "n_points": 2, "progress": False}
    both = jacobian_spectra(model, texts, decoder_texts=texts, **options)
    alone = jacobian_spectra(model, texts, **options)
    assert both["stack"].values.tolist() == ["encoder"] * 2 + ["decoder"] * 2
    assert alone["stack"].values.tolist() == ["encoder"] * 2
    np.testing.assert_allclose(both["singular_values"].values[:, :2], alone["singular_values"].values, rtol=1e-5)
    assert (both["rank"].values == WIDTH - 1).all()


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_factors_of_a_cross_attention_have_the_spectrum_of_plain_autograd(name: str) -> None:
    import peft

    keys = {"bart": r"decoder.*encoder_attn\.(k|v)_proj", "t5": r"decoder.*EncDecAttention\.(k|v)"}
    config = peft.LoraConfig(r=2, target_modules=keys[name], init_lora_weights=False)
    model, texts = peft.get_peft_model(tiny_model(name), config), tiny_texts(2)
    found = jacobian_spectra(
        model, texts, decoder_texts=texts, tokenizer=tiny_tokenizer(), n_points=1, progress=False
    ).sel(respect="parameters")
    decoder = found["stack"].values == "decoder"
    # B (2 × width) and A (width × 2), of two matrices.
    assert found["n_adapted"].values.tolist() == [0, 0] + [2 * 4 * WIDTH] * 2
    assert (found["rank"].values[~decoder] == 0).all()

    row = int(found["row"].values[0])
    module, call = decoder_call(model, found["name"].values[2], texts[row])
    names, weights = zip(*[(n, w.detach().clone()) for n, w in module.named_parameters() if "lora_" in n], strict=True)

    def pooled(*values: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(module, dict(zip(names, values, strict=True)), *call)
        return (output if isinstance(output, torch.Tensor) else output[0]).mean((0, 1))

    parts = torch.autograd.functional.jacobian(pooled, weights)
    jacobian = np.concatenate([part.reshape(WIDTH, -1).numpy() for part in parts], 1)
    expected = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(found["singular_values"].values[2, 0], expected, rtol=1e-4, atol=1e-7)


def decoder_call(model: Any, name: str, text: str) -> tuple[torch.nn.Module, tuple[Any, dict[str, Any]]]:
    """The block of this name in float64, and what the model in float64 calls it with for one text."""
    double = copy.deepcopy(model).double().eval()
    module = double.get_base_model().get_submodule(name)
    calls: list[Any] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    batch = tiny_tokenizer()([text], return_tensors="pt")
    ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        double(**ids, decoder_input_ids=decoder_ids(model, text), use_cache=False)
    handle.remove()
    return module, calls[0]


def decoder_ids(model: Any, text: str) -> torch.Tensor:
    from gelora.encoding import encode

    base = model.get_base_model()
    examples = encode(base, [text], decoder_texts=[text], tokenizer=tiny_tokenizer())
    return examples.features[0]["decoder_input_ids"][None]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(mode: Any) -> None:
    model = tiny_model("bert")
    options: dict[str, Any] = {"plan": plan_ranks(None, model, "uniform", rank=1), "n_points": 1, "progress": False}
    expected = jacobian_spectra(model, [ragged_batch(2)], **options)
    with mode():
        found = jacobian_spectra(model, [ragged_batch(2)], **options)
    np.testing.assert_array_equal(found["singular_values"].values, expected["singular_values"].values)


def test_images_are_points_too() -> None:
    pixels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = jacobian_spectra(tiny_model("vit"), pixels, n_points=2, progress=False)
    assert found["n_tokens"].values.tolist() == [5, 5]
    assert (found["rank"].values == WIDTH).all()


def test_a_block_that_asks_for_float32_runs_in_float64() -> None:
    norm = tiny_model("llama").layers[0].input_layernorm
    x = torch.randn(7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    single = double_copy(norm)(x)
    with Float64():
        double = double_copy(norm)(x)
    assert double.dtype == torch.float64
    assert (single - expected).abs().max() > 1e-10
    assert (double - expected).abs().max() < 1e-14


def test_ranks_do_not_depend_on_the_copies_that_run_together() -> None:
    model, texts = tiny_model("bert"), tiny_texts(4)
    plan = plan_ranks(None, model, "uniform", rank=1)
    few, many = (
        jacobian_spectra(
            model, texts, plan=plan, tokenizer=tiny_tokenizer(), n_points=2, chunk_size=size, progress=False
        )
        for size in (3, 64)
    )
    np.testing.assert_allclose(few["singular_values"].values, many["singular_values"].values, rtol=1e-5, atol=1e-12)
    assert (few["rank"] == many["rank"]).all()


def test_a_bare_model_and_the_same_under_a_head_have_the_same_ranks() -> None:
    import transformers as hf

    headed = tiny_model("bert", hf.AutoModelForSequenceClassification.from_config)
    plan = plan_ranks(None, headed, "uniform", rank=1)
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "plan": plan, "n_points": 1, "progress": False}
    one, two = (jacobian_spectra(m, tiny_texts(2), **options) for m in (headed, headed.bert))
    np.testing.assert_array_equal(one["singular_values"].values, two["singular_values"].values)


def test_an_adapted_model_is_read_with_its_own_factors() -> None:
    import peft

    model = tiny_model("gpt2")
    plan = plan_ranks(None, model, "uniform", rank=3)
    adapted = peft.get_peft_model(copy.deepcopy(model), plan.to_lora_config())
    options: dict[str, Any] = {"n_points": 1, "progress": False}
    own = jacobian_spectra(adapted, [ragged_batch(2)], **options)
    planned = jacobian_spectra(model, [ragged_batch(2)], plan=plan, **options)
    assert own["n_adapted"].values.tolist() == planned["n_adapted"].values.tolist()
    # B = 0 at the start: the model computes what it did.
    inputs = [one["singular_values"].sel(respect="input").values for one in (own, jacobian_spectra(
        model, [ragged_batch(2)], **options))]  # fmt: skip
    np.testing.assert_allclose(*inputs, rtol=1e-6)


@pytest.mark.parametrize(("n_probes", "rank"), [(3, 3), (6, 5), (100, 5)])
def test_probes_find_the_rank_up_to_their_number_and_say_where_they_run_out(n_probes: int, rank: int) -> None:
    found = spectra_of(Block(8, 5, residual=False), n_probes=n_probes)
    assert found["rank"].values.ravel().tolist() == [rank] * 3
    assert found["lower_bound"].values.ravel().tolist() == [n_probes == 3] * 3
    assert found.sizes["value"] == min(n_probes, 8)
    full = spectra_of(Block(8, 5, residual=False))
    least = np.minimum(found["singular_values"].values, full["singular_values"].values[..., : min(n_probes, 8)])
    np.testing.assert_allclose(least, found["singular_values"].values, rtol=1e-9, atol=1e-12)  # they interlace


def test_the_model_is_left_exactly_as_found() -> None:
    model = tiny_model("bert").train()
    model.encoder.layer[1].eval()
    model.embeddings.requires_grad_(False)
    plan = plan_ranks(None, model, "uniform", rank=1)
    before = (
        [module.training for module in model.modules()],
        {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()},
        torch.random.get_rng_state(),
        list(dict(model.named_modules())),
    )
    options: dict[str, Any] = {"plan": plan, "n_points": 1, "progress": False}
    first, second = (jacobian_spectra(model, [ragged_batch(2)], **options) for _ in range(2))
    np.testing.assert_array_equal(first["singular_values"].values, second["singular_values"].values)
    assert [module.training for module in model.modules()] == before[0]
    assert list(dict(model.named_modules())) == before[3]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[1][name][0]
        assert torch.equal(parameter, before[1][name][1])
        assert parameter.grad is None
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_generic_point_is_small_is_not_zero_and_is_taken_off_again() -> None:
    model = tiny_model("gpt2")
    plan = plan_ranks(None, model, "uniform", rank=2)
    matrices = [m for found in planned_matrices(plan, model).values() for m in found]
    with lora_at_generic_point(model, matrices, seed=4):
        factors = lora_factors(model)
        assert len(factors) == 2 * len(matrices)
        for matrix in matrices:
            assert not factors[f"{matrix.name}.lora_A"].weight.requires_grad
            update = factors[f"{matrix.name}.lora_B"].weight @ factors[f"{matrix.name}.lora_A"].weight
            size = matrix.alpha / matrix.rank * update.norm() / model.get_submodule(matrix.name).weight.norm()
            assert size.item() == pytest.approx(0.01, rel=1e-4)
    assert not lora_factors(model)


def test_the_numerical_rank_leaves_rounding_out() -> None:
    assert numerical_rank(np.array([1.0, 1e-3, 1e-13]), 4) == 3
    assert numerical_rank(np.array([1.0, 1e-3, 1e-16]), 4) == 2
    assert numerical_rank(np.zeros(3), 4) == 0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: spectra_of(Block(8, 2, True), n_points=0), ValueError, "`n_points` must be an integer of at least 1"),
        (lambda: spectra_of(Block(8, 2, True), n_probes=0), ValueError, "`n_probes` must be an integer .* or None for"),
        (lambda: spectra_of(Block(8, 2, True), tolerance=2), ValueError, "`tolerance` must lie between 0 and 1, or be"),
        (lambda: spectra_of(Block(8, 2, True), pooling="avg"), ValueError, "`pooling` must be one of mean, last"),
        (
            lambda: spectra_of(Block(8, 2, True), with_respect_to=["both"]),
            ValueError,
            "`plan` must say which parameters are adapted, since `model` has no LoRA factors",
        ),
        (
            lambda: spectra_of(Block(8, 2, True), with_respect_to="input"),
            ValueError,
            "`with_respect_to` must be a list of some of input, parameters, both, got 'input'",
        ),
        (
            lambda: spectra_of(Block(8, 2, True), max_bytes=100),
            ValueError,
            "`max_bytes` must hold one Jacobian of the block '0', 2,560 bytes, got 100: raise it, give `n_probes`",
        ),
        (lambda: jacobian_spectra(3, ["a"]), TypeError, "`model` must be a loaded model, a folder or a hub name"),
    ],
)
def test_a_wrong_call_is_refused_with_the_remedy(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
