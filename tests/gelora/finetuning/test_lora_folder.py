"""Factors of any origin become a folder that peft alone loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gelora.blocks import is_transposed, matrix_shape
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.lora_folder import save_lora
from gelora.finetuning.tasks import load_task

SCALING = 1.75
TOKENS = torch.tensor([[2, 5, 9, 13, 3], [2, 7, 12, 3, 0]])


def make_factors(model: Any, names: list[str], ranks: list[int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for name, rank in zip(names, ranks, strict=True):
        n_in, n_out = matrix_shape(model.get_submodule(name))
        factors[name] = (
            torch.randn(rank, n_in, generator=generator) * 0.2,
            torch.randn(n_out, rank, generator=generator) * 0.2,
        )
    return factors


def fresh(architecture: str, folder_of: Callable[[str], Path], sentiment: Any) -> Any:
    torch.manual_seed(11)
    classifier = load_classifier(folder_of(architecture), load_task(sentiment))
    classifier.model.eval()
    return classifier


def predict(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, attention_mask=(TOKENS != 0).long()).logits


def by_hand(classifier: Any, factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Return what the model predicts with s B A added to its weights."""
    with torch.no_grad():
        for name, (a, b) in factors.items():
            module = classifier.model.get_submodule(name)
            update = SCALING * b @ a
            module.weight += update.T if is_transposed(module) else update
    return predict(classifier.model)


def load_peft(architecture: str, folder: Path, folder_of: Callable[[str], Path], sentiment: Any) -> Any:
    from peft import PeftModel

    torch.manual_seed(99)  # another random head: that of the folder must take its place
    base = load_classifier(folder_of(architecture), load_task(sentiment)).model
    return PeftModel.from_pretrained(base, str(folder)).eval()


MATRICES = {
    "bert": [f"bert.encoder.layer.{i}.attention.self.{role}" for i in (0, 1) for role in ("query", "value")],
    "gpt2": ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc"],
}


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_peft_predicts_as_the_base_plus_the_scaled_factors_also_where_a_rank_is_zero(
    architecture: str, folder_of: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    names = MATRICES[architecture]
    classifier = fresh(architecture, folder_of, sentiment)
    factors = make_factors(classifier.model, names, [1, 0, 3, 2][: len(names)])
    save_lora(tmp_path, factors, SCALING, classifier)
    plain = predict(classifier.model)
    wanted = by_hand(classifier, factors)
    loaded = load_peft(architecture, tmp_path, folder_of, sentiment)
    assert (wanted - plain).abs().max() > 1e-2
    torch.testing.assert_close(predict(loaded), wanted, rtol=0, atol=1e-6)
    adapted = {name.removeprefix("base_model.model.") for name, m in loaded.named_modules() if hasattr(m, "lora_A")}
    assert adapted == {name for name in names if name != names[1]}


def test_ranks_and_alphas_are_written_under_anchored_names(
    folder_of: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    classifier = fresh("bert", folder_of, sentiment)
    factors = make_factors(classifier.model, MATRICES["bert"], [1, 2, 3, 4])
    save_lora(tmp_path, factors, 2.0, classifier)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(folder_of("bert"))
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert set(config["modules_to_save"]) >= set(classifier.head)
    assert config["rank_pattern"][r"^bert\.encoder\.layer\.1\.attention\.self\.query"] == 3
    assert config["alpha_pattern"][r"^bert\.encoder\.layer\.1\.attention\.self\.query"] == 6


def test_ranks_that_are_all_zero_still_make_a_folder_that_adds_nothing(
    folder_of: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    classifier = fresh("bert", folder_of, sentiment)
    factors = make_factors(classifier.model, MATRICES["bert"], [0, 0, 0, 0])
    save_lora(tmp_path, factors, SCALING, classifier)
    loaded = load_peft("bert", tmp_path, folder_of, sentiment)
    assert sum(hasattr(module, "lora_A") for module in loaded.modules()) == 1
    torch.testing.assert_close(predict(loaded), predict(classifier.model), rtol=0, atol=1e-6)


def test_the_trained_head_is_saved_where_peft_put_a_copy_in_its_place(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any, tmp_path: Path
) -> None:
    import peft
    from safetensors.torch import load_file

    classifier = fresh("bert", folder_of, sentiment)
    factors = make_factors(classifier.model, MATRICES["bert"], [1, 2, 3, 4])
    plan = plan_for("bert").bind(classifier.model)
    config = plan.to_lora_config(task_type="SEQ_CLS", modules_to_save=list(classifier.head))
    wrapped: Any = peft.get_peft_model(classifier.model, config)
    trained = wrapped.base_model.model.classifier.modules_to_save["default"].weight
    trained.data += 1.0
    save_lora(tmp_path, factors, SCALING, classifier)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(stored["base_model.model.classifier.weight"], trained)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, r"`factors` must name at least one module, got none: give A and B"),
        (
            {"x": (torch.zeros(2, 4), torch.zeros(4, 3))},
            r"`factors`: A \(rank × inputs\) and B .* of 'x' must share their rank, got shapes \(2, 4\) and \(4, 3\)",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused_before_anything_is_written(
    factors: Any, message: str, folder_of: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    classifier = fresh("bert", folder_of, sentiment)
    with pytest.raises(ValueError, match=message):
        save_lora(tmp_path, factors, SCALING, classifier)
    assert list(tmp_path.iterdir()) == []
