"""EVA: A starts as the top right singular vectors of the inputs, and ranks are as planned or dealt out again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gelora.finetuning.adaptation import Setting
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.encoded import make_inputs
from gelora.finetuning.eva_adapter import EVA
from gelora.finetuning.tasks import load_task


def make_setting(folder: Path, plan: Any, task: Any, batch_size: int = 16) -> Setting:
    torch.manual_seed(5)
    data = load_task(task)
    classifier = load_classifier(folder, data)
    inputs = make_inputs(classifier, data, 128)
    bound = plan.bind(classifier.model)
    return Setting(
        classifier=classifier, plan=bound, dropout=0.0, seed=0, batches=lambda: inputs.batches(batch_size, 0)
    )


def layers_of(adapted: Any) -> dict[str, Any]:
    return {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.model.named_modules()
        if hasattr(module, "lora_A")
    }


def capture_inputs(setting: Setting, name: str) -> torch.Tensor:
    """Return the inputs of a module at all tokens that are no padding."""
    model, seen = setting.classifier.model.eval(), []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        for batch in setting.batches():
            model(**{key: value for key, value in batch.items() if key != "labels"})
            seen[-1] = seen[-1][batch["attention_mask"].bool()]
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_the_rows_of_a_span_the_top_right_singular_vectors_of_the_inputs(
    architecture: str, folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    plan = plan_for(architecture)
    whole = 64  # all rows in a batch: the decomposition sees what is captured, whole
    setting = make_setting(folder_of(architecture), plan, sentiment, whole)
    name = setting.ranks.modules[0].name
    inputs = capture_inputs(setting, name)
    layer = layers_of(EVA()(setting))[name]
    rows = layer.lora_A["default"].weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
    top = torch.linalg.svd(inputs - inputs.mean(0), full_matrices=False).Vh[: len(rows)]
    distance = torch.linalg.matrix_norm(top.T @ top - rows.T @ rows, ord=2)
    assert distance < 0.02
    other = torch.linalg.svd(inputs - inputs.mean(0), full_matrices=False).Vh[-len(rows) :]
    assert torch.linalg.matrix_norm(other @ rows.T, ord=2) < 0.02
    assert (layer.lora_B["default"].weight == 0).all()


def test_ranks_and_scales_are_as_planned_at_rho_1(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    plan = plan_for("bert")
    # another rank for matrices that share their inputs: query, key and value of a block
    modules = tuple(replace(m, rank=1 + i % 4, alpha=2.0 * (1 + i % 4)) for i, m in enumerate(plan.modules))
    adapted = EVA()(make_setting(folder_of("bert"), replace(plan, modules=modules), sentiment))
    layers = layers_of(adapted)
    assert [layer.r["default"] for layer in layers.values()] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert adapted.ranks() == {name: layer.r["default"] for name, layer in layers.items()}
    assert {layer.scaling["default"] for layer in layers.values()} == {2.0}
    first, second = list(layers.values())[:2]
    assert torch.equal(first.lora_A["default"].weight, second.lora_A["default"].weight[:1])


def test_the_same_seed_gives_the_same_directions(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    runs = [layers_of(EVA()(make_setting(folder_of("bert"), plan_for("bert"), sentiment))) for _ in range(2)]
    for first, second in zip(*(run.values() for run in runs), strict=True):
        assert torch.equal(first.lora_A["default"].weight, second.lora_A["default"].weight)


def test_rho_2_deals_out_the_plans_total_rank_and_keeps_the_scale(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    plan = plan_for("bert")
    adapted = EVA(rho=2)(make_setting(folder_of("bert"), plan, sentiment))
    ranks = adapted.ranks()
    assert sum(ranks.values()) == sum(module.rank for module in plan.modules) == 20
    assert list(ranks.values()) != [2, 2, 2, 2, 3, 3, 3, 3]
    assert max(ranks.values()) <= 6
    layers = layers_of(adapted)
    assert ranks == {name: layer.r["default"] for name, layer in layers.items()}
    assert {layer.scaling["default"] for layer in layers.values()} == {2.0}
    assert adapted.count() == 20 * 64
    for layer in layers.values():
        rows = layer.lora_A["default"].weight.detach()
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)


def test_padding_does_not_move_the_directions(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    def padded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: torch.nn.functional.pad(value, (0, 9)) if value.ndim == 2 else value for name, value in batch.items()
        }

    setting = make_setting(folder_of("bert"), plan_for("bert"), sentiment, 64)
    more = make_setting(folder_of("bert"), plan_for("bert"), sentiment, 64)
    more = replace(more, batches=lambda given=more.batches: (padded(batch) for batch in given()))
    for first, second in zip(*(layers_of(EVA()(s)).values() for s in (setting, more)), strict=True):
        rows, others = (layer.lora_A["default"].weight.detach() for layer in (first, second))
        torch.testing.assert_close(rows, others, rtol=0, atol=1e-4)


def test_directions_that_do_not_settle_are_taken_with_a_warning(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    setting = make_setting(folder_of("bert"), plan_for("bert", (6, 6)), sentiment, 4)
    adapter = EVA(tau=1.0, max_batches=3)
    with pytest.warns(UserWarning, match=r"directions of EVA have not settled in `max_batches` batches: .*; raise"):
        adapted = adapter(setting)
    assert set(adapted.ranks().values()) == {6}


def test_patches_of_images_serve_as_well(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    """A model fed with embeddings, as one of images is fed with pixels, has no padding to leave out."""
    setting = make_setting(folder_of("bert"), plan_for("bert"), sentiment)
    draws = torch.randn(2, 8, 6, 32, generator=torch.Generator().manual_seed(2))
    adapted = EVA()(replace(setting, batches=lambda: ({"inputs_embeds": rows} for rows in draws)))
    for layer in layers_of(adapted).values():
        rows = layer.lora_A["default"].weight.detach()
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)


def test_batches_with_too_few_tokens_are_refused_before_the_model_is_changed(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    setting = make_setting(folder_of("bert"), plan_for("bert", (2, 31)), sentiment, 1)
    with pytest.raises(ValueError, match=r"`batch_size`: no batch of train rows has the 31 tokens that EVA needs"):
        EVA()(setting)
    assert not any(hasattr(module, "lora_A") for module in setting.classifier.model.modules())


def test_a_rank_that_rho_lifts_above_its_matrix_is_refused(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    setting = make_setting(folder_of("bert"), plan_for("bert", (2, 20)), sentiment)
    with pytest.raises(ValueError, match=r"`rho` of 2 allows '.*' the rank 40, but its smaller side is 32: lower"):
        EVA(rho=2)(setting)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.5}, r"`rho` must be a number of at least 1, which keeps the plan's ranks, got 0.5"),
        ({"rho": "2"}, r"`rho` must be a number of at least 1, .* got '2'"),
        ({"tau": 0.0}, r"`tau` must be a cosine similarity above 0 and up to 1, got 0.0"),
        ({"tau": 1.5}, r"`tau` must be a cosine similarity above 0 and up to 1, got 1.5"),
        ({"max_batches": 1}, r"`max_batches` must be .* at least 2"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EVA(**options)


def test_a_matrix_that_explains_little_is_left_out_at_a_large_rho(
    folder_of: Callable[[str], Path], plan_for: Callable[..., Any], sentiment: Any
) -> None:
    plan = plan_for("bert", (1, 1))
    setting = make_setting(folder_of("bert"), plan, sentiment, 64)
    adapted = EVA(rho=8)(setting)
    names = {module.name for module in setting.ranks.modules}
    assert sum(adapted.ranks().values()) == 8
    assert set(adapted.ranks()) < names
    assert set(layers_of(adapted)) == set(adapted.ranks())
