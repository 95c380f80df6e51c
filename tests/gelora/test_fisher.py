"""The spectra of the Fisher information against brute force and closed forms."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from gelora.fisher import FisherSpectrum, energy_rank, fisher_spectra, parameter_spectrum
from tiny_models import ragged_batch, tiny_model

QKV = {
    "bert": ["bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1.output.dense", "classifier"],
    "gpt2": ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"],
    "deberta-v2": ["deberta.encoder.layer.1.attention.self.query_proj"],
    "llama": ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"],
}


def classifier(name: str) -> Any:
    return tiny_model(name, hf.AutoModelForSequenceClassification.from_config).double()


def labelled(n: int = 6) -> dict[str, torch.Tensor]:
    return {**ragged_batch(n), "labels": torch.arange(n) % 2}


def gradients(model: Any, parameter: torch.nn.Parameter, batch: dict[str, torch.Tensor]) -> Any:
    """One row an example, by plain autograd on a batch of one."""
    rows = []
    for i in range(len(batch["labels"])):
        loss = model(**{key: value[i : i + 1] for key, value in batch.items()}).loss
        rows.append(torch.autograd.grad(loss, parameter)[0].flatten())
    return torch.stack(rows).detach().numpy()


def brute_force(rows: Any) -> Any:
    """All eigenvalues of the n_parameters × n_parameters information."""
    return np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]


class Regression(torch.nn.Module):
    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(n_inputs, 1, bias=False).double()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.linear(x)[:, 0] - labels) ** 2).mean()}


@pytest.mark.parametrize("name", QKV)
def test_the_spectrum_of_a_module_is_that_of_the_whole_information_matrix(name: str) -> None:
    model, batch = classifier(name), labelled()
    found = fisher_spectra(model, [batch], QKV[name])
    assert list(found) == QKV[name]
    for path, spectrum in found.items():
        rows = gradients(model, model.get_submodule(path).weight, batch)
        expected = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)
        np.testing.assert_allclose(spectrum.eigenvalues, expected[: len(spectrum.eigenvalues)], rtol=1e-9, atol=1e-18)
        assert spectrum.n_parameters == rows.shape[1]


def test_the_products_of_examples_have_the_eigenvalues_of_the_squared_number_of_parameters() -> None:
    model, batch = classifier("bert"), labelled()
    spectrum = fisher_spectra(model, [batch], ["classifier"])["classifier"]
    every = brute_force(gradients(model, model.classifier.weight, batch))
    np.testing.assert_allclose(spectrum.eigenvalues, every[:6], rtol=1e-9)
    np.testing.assert_allclose(every[6:], 0.0, atol=1e-12 * every[0])


def test_float32_gives_the_float64_spectrum_to_single_precision() -> None:
    model, batch = classifier("bert"), labelled()
    names = QKV["bert"]
    wide = fisher_spectra(model, [batch], names)
    narrow = fisher_spectra(model.float(), [batch], names)
    for name in names:
        reference = wide[name].eigenvalues
        np.testing.assert_allclose(narrow[name].eigenvalues, reference, atol=1e-4 * reference[0])
        assert narrow[name].tolerance > wide[name].tolerance


def test_batches_padding_and_batch_size_do_not_change_the_spectrum() -> None:
    model, batch = classifier("bert"), labelled(8)
    padded = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in batch.items() if key != "labels"}
    loader = [{key: value[i : i + 3] for key, value in batch.items()} for i in range(0, 8, 3)]
    names = QKV["bert"]
    one = fisher_spectra(model, [batch], names)
    for other in (
        fisher_spectra(model, iter(loader), names),
        fisher_spectra(model, [{**padded, "labels": batch["labels"]}], names),
    ):
        for name in names:
            np.testing.assert_allclose(other[name].eigenvalues, one[name].eigenvalues, rtol=1e-9, atol=1e-18)


def test_only_the_first_examples_are_used() -> None:
    model, batch = classifier("bert"), labelled(8)
    few = {key: value[:5] for key, value in batch.items()}
    found = fisher_spectra(model, [batch, batch], ["classifier"], max_examples=5)["classifier"]
    assert found.n_examples == 5
    np.testing.assert_allclose(
        found.eigenvalues, fisher_spectra(model, [few], ["classifier"])["classifier"].eigenvalues
    )


def test_little_memory_means_more_passes_and_the_same_numbers() -> None:
    model, batch = classifier("bert"), labelled()
    names = [f"bert.encoder.layer.{i}.attention.self.{role}" for i in range(2) for role in ("query", "key", "value")]
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    plenty = fisher_spectra(model, [batch], names)
    assert len(runs) == 6
    scarce = fisher_spectra(model, [batch], names, max_bytes=50_000)
    handle.remove()
    assert len(runs) > 12
    for name in names:
        np.testing.assert_array_equal(plenty[name].eigenvalues, scarce[name].eigenvalues)


def test_a_long_text_is_kept_as_a_whole_gradient_and_gives_the_same_numbers() -> None:
    x = torch.randn(5, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Long(Regression):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.linear(x).tanh().sum() - labels.sum()) ** 2}

    model = Long(2)
    batch = {"x": x, "labels": torch.arange(5.0)}
    found = fisher_spectra(model, [batch], ["linear"])["linear"]
    rows = np.stack(
        [
            torch.autograd.grad(model(x[i : i + 1], batch["labels"][i : i + 1])["loss"], model.linear.weight)[0]
            .flatten()
            .numpy()
            for i in range(5)
        ]
    )
    np.testing.assert_allclose(found.eigenvalues, brute_force(rows), rtol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_linear_regression_has_the_rank_of_its_design(rank: int) -> None:
    rng = np.random.default_rng(rank)
    design = rng.normal(size=(40, rank)) @ rng.normal(size=(rank, 7))
    batch = {"x": torch.from_numpy(design), "labels": torch.from_numpy(rng.normal(size=40))}
    spectrum = fisher_spectra(Regression(7), [batch], ["linear"])["linear"]
    assert spectrum.rank == rank
    assert not spectrum.saturated
    assert spectrum.energy_rank(1.0) <= rank
    assert 1 <= spectrum.effective_rank <= rank + 1e-9


def test_a_tied_weight_counts_everything_it_does() -> None:
    model = tiny_model("gpt2", hf.AutoModelForCausalLM.from_config).double()
    ids = ragged_batch(4)["input_ids"].clamp(min=3)
    batch = {"input_ids": ids, "labels": ids}
    rows = gradients(model, model.lm_head.weight, batch)
    spectrum = fisher_spectra(model, [batch], ["lm_head"])["lm_head"]
    expected = np.linalg.svd(rows, compute_uv=False) ** 2 / 4
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-9)


def test_named_parameters_and_groups_are_those_of_the_joined_gradients() -> None:
    model, batch = classifier("bert"), labelled()
    names = ["classifier.weight", "classifier.bias", "bert.embeddings.LayerNorm.weight"]
    parts = {name: gradients(model, model.get_parameter(name), batch) for name in names}
    single = fisher_spectra(model, [batch], names)
    for name, rows in parts.items():
        expected = np.linalg.svd(rows, compute_uv=False) ** 2 / 6
        found = single[name].eigenvalues
        rounding = 4 * np.finfo(np.float64).eps * expected[0]  # of an eigenvalue that is zero
        np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-8, atol=rounding)
    joined = fisher_spectra(model, [batch], {"head": names})["head"]
    whole = np.linalg.svd(np.concatenate(list(parts.values()), axis=1), compute_uv=False) ** 2 / 6
    np.testing.assert_allclose(joined.eigenvalues, whole, rtol=1e-8)
    assert joined.n_parameters == sum(rows.shape[1] for rows in parts.values())


def test_parameters_together_are_the_joined_gradients_and_count_once() -> None:
    model, batch = classifier("bert"), labelled()
    names = ["classifier.weight", "classifier.bias"]
    rows = np.concatenate([gradients(model, model.get_parameter(name), batch) for name in names], axis=1)
    found = parameter_spectrum(model, [batch], [*names, "classifier", "classifier.bias"])
    np.testing.assert_allclose(found.eigenvalues, np.linalg.svd(rows, compute_uv=False) ** 2 / 6, rtol=1e-9)
    assert found.n_parameters == rows.shape[1]


def test_what_follows_in_place_does_not_change_the_gradients() -> None:
    class Rectified(Regression):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.linear(x).relu_()[:, 0] - labels).square().mean()}

    model = Rectified(3)
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0] = model.linear.weight[0].detach()  # the first example passes, x[1] does not
    x[1] = -x[0]
    batch = {"x": x, "labels": torch.ones(8)}
    found = fisher_spectra(model, [batch], ["linear", "linear.weight"])
    np.testing.assert_allclose(found["linear"].eigenvalues, found["linear.weight"].eigenvalues, rtol=1e-12)


def test_tensors_made_in_inference_mode_and_left_out_ones_are_taken() -> None:
    model, batch = Regression(3), {"x": torch.eye(3, dtype=torch.float64), "labels": torch.ones(3)}
    expected = fisher_spectra(model, [batch], ["linear"])["linear"]
    with torch.inference_mode():
        made = {"x": batch["x"].clone(), "labels": torch.ones(3), "mask": None}
        found = fisher_spectra(model, [made], ["linear"])["linear"]
    np.testing.assert_array_equal(found.eigenvalues, expected.eigenvalues)


def test_the_layers_of_an_adapted_model_are_found_under_their_own_names() -> None:
    import peft

    model, batch = classifier("bert"), labelled()
    plain = fisher_spectra(model, [batch], ["bert.encoder.layer.0.attention.self.query"])
    adapted = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    )
    path = "base_model.model.bert.encoder.layer.0.attention.self.query"
    found = fisher_spectra(adapted, [batch], [path, f"{path}.lora_B.default", f"{path}.lora_A.default.weight"])
    (reference,) = plain.values()
    np.testing.assert_allclose(found[path].eigenvalues, reference.eigenvalues, rtol=1e-9)
    assert found[f"{path}.lora_B.default"].rank > 0
    assert found[f"{path}.lora_A.default.weight"].rank == 0  # B = 0: A is not felt yet


def test_the_model_is_left_exactly_as_found() -> None:
    model, batch = classifier("bert").float(), labelled()
    model.train()
    model.bert.encoder.layer[0].eval()
    model.bert.embeddings.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    before = (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.random.get_rng_state(),
    )
    with torch.no_grad():
        first = fisher_spectra(model, [batch], QKV["bert"])
    second = fisher_spectra(model, [batch], QKV["bert"])
    assert [module.training for module in model.modules()] == before[0]
    assert [parameter.requires_grad for parameter in model.parameters()] == before[1]
    for parameter, gradient in zip(model.parameters(), before[2], strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert all(torch.equal(value, before[3][name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), before[4])
    assert not any(module._forward_hooks for module in model.modules())
    for name in first:  # dropout is off
        np.testing.assert_array_equal(first[name].eigenvalues, second[name].eigenvalues)


class Root(Regression):
    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.linear(x) - self.linear(x)).abs().sum().sqrt()}


def test_the_model_is_left_as_found_after_an_error_too() -> None:
    model = classifier("bert").train()
    batch = {**labelled(), "labels": torch.full((6,), -100)}
    with pytest.raises(ValueError, match=r"`batches`: the loss of example 0 is nan: drop that example"):
        fisher_spectra(model, [batch], ["classifier"])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="the gradient of 'linear' at example 0 is not finite: drop that example"):
        fisher_spectra(Root(3), [GOOD], ["linear"])


def test_a_rank_that_grows_with_every_example_is_called_saturated() -> None:
    rng = np.random.default_rng(0)
    batch = {"x": torch.from_numpy(rng.normal(size=(4, 9))), "labels": torch.zeros(4)}
    spectrum = fisher_spectra(Regression(9), [batch], ["linear"])["linear"]
    assert (spectrum.rank, spectrum.saturated) == (4, True)


def test_a_weight_that_the_loss_does_not_feel_has_rank_zero() -> None:
    model = Regression(3)
    model.add_module("idle", torch.nn.Linear(2, 2).double())
    batch = {"x": torch.ones(2, 3, dtype=torch.float64), "labels": torch.ones(2)}
    spectrum = fisher_spectra(model, [batch], ["idle"])["idle"]
    assert (spectrum.rank, spectrum.effective_rank, spectrum.energy_rank(0.9)) == (0, 0.0, 0)


def test_the_effective_rank_of_equal_eigenvalues_is_their_number() -> None:
    spectrum = FisherSpectrum(eigenvalues=np.array([2.0, 2.0, 2.0, 0.0]), n_examples=9, n_parameters=4)
    assert spectrum.effective_rank == pytest.approx(3.0)
    assert (spectrum.rank, spectrum.energy_rank(0.5), spectrum.energy_rank(1.0)) == (3, 2, 3)


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import gelora.fisher, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def _half() -> Any:
    return Regression(3).to(torch.bfloat16)


GOOD = {"x": torch.ones(2, 3), "labels": torch.ones(2)}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: fisher_spectra(m, [{"x": GOOD["x"]}], ["linear"]), ValueError, "must hold `labels` for the loss"),
        (lambda m: fisher_spectra(m, [], ["linear"]), ValueError, "`batches` must hold at least one labelled example"),
        (
            lambda m: fisher_spectra(m, [[1]], ["linear"]),
            TypeError,
            "`batches` must be mappings of tensors, .* got list",
        ),
        (lambda m: fisher_spectra(m, GOOD, ["linear"]), TypeError, "got dict alone: put it in a list"),
        (
            lambda m: fisher_spectra(m, [{**GOOD, "labels": torch.tensor(1.0)}], ["linear"]),
            TypeError,
            "`batches`: 'labels' must be a tensor with the examples along its first axis, got 1.0 alone",
        ),
        (
            lambda m: fisher_spectra(m, [{**GOOD, "x": "a"}], ["linear"]),
            TypeError,
            "`batches`: 'x' must be a tensor with the examples along its first axis, got str",
        ),
        (
            lambda m: fisher_spectra(m, [{**GOOD, "labels": torch.ones(3)}], ["linear"]),
            ValueError,
            r"must have one length, got \[2, 3\]",
        ),
        (
            lambda m: fisher_spectra(m, [GOOD], ["liner"]),
            ValueError,
            "`names`: the model has no module or parameter 'liner'; did you mean 'linear'",
        ),
        (lambda m: fisher_spectra(m, [GOOD], [""]), ValueError, "'' is a Regression, no linear layer: name its param"),
        (lambda m: fisher_spectra(m, [GOOD], "linear"), TypeError, "`names` must be a list of module or parameter"),
        (lambda m: fisher_spectra(m, [GOOD], {"all": "linear"}), TypeError, "`names` must be a list of module or"),
        (lambda m: parameter_spectrum(m, [GOOD], "linear"), TypeError, "`names` must be a list of module or parameter"),
        (lambda m: parameter_spectrum(m, [GOOD], []), ValueError, "`names` must name at least one linear layer"),
        (lambda m: fisher_spectra(m.to("meta"), [GOOD], ["linear"]), ValueError, "but 'linear' is on the meta device"),
        (lambda m: fisher_spectra(m, [GOOD], []), ValueError, "`names` must name at least one linear layer"),
        (lambda m: fisher_spectra(_half(), [GOOD], ["linear"]), ValueError, "eigenvalues need float32 or float64"),
        (lambda m: fisher_spectra(m, [GOOD], ["linear"], max_examples=0), ValueError, "`max_examples` must be an int"),
        (
            lambda m: fisher_spectra(m, [GOOD], ["linear"], max_bytes=8),
            ValueError,
            "`max_bytes` must hold the gradients of one module: those of 'linear' exceed 8 bytes",
        ),
        (lambda m: energy_rank(np.ones(2), 1.5), ValueError, "`share` must lie above 0 and not above 1, got 1.5"),
    ],
)
def test_a_wrong_call_is_refused_with_the_remedy(
    call: Callable[[Any], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        call(Regression(3))


def test_a_model_without_loss_or_parameters_is_refused() -> None:
    bare = tiny_model("bert")

    class NoLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = bare

        def forward(self, labels: torch.Tensor, **batch: torch.Tensor) -> Any:
            return self.inner(**batch)

    with pytest.raises(ValueError, match="`model` must return a scalar `loss` for a batch with `labels`"):
        fisher_spectra(NoLoss(), [labelled()], ["inner.encoder.layer.0.output.dense"])
