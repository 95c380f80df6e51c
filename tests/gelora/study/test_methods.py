"""Methods: what a name stands for, and that all have the same budget."""

import json
from typing import Any

import pytest

from gelora.finetuning.adapters import ADAPTERS
from gelora.policies import POLICIES
from gelora.study.methods import METHODS, make_method
from gelora.study.planning import Planner
from gelora.study.reading import read_study


@pytest.mark.parametrize("name", METHODS)
def test_every_name_stands_for_an_adapter_and_a_policy_that_are_there(name: str) -> None:
    method = make_method(name, {})
    assert method.adapter in ADAPTERS
    assert method.policy in ("", *POLICIES)
    assert make_method(name, {"adapter": method.adapter}) == method or not METHODS[name].get("adapter")


def test_a_rank_in_the_name_takes_the_place_of_the_budget() -> None:
    method = make_method("adalora-r8", {})
    assert (method.adapter, method.rank, method.budget) == ("adalora", 8, None)
    for name in ("gelora-r8", "full-r8", "random-r8", "lora-r0"):
        with pytest.raises(ValueError, match="must be one of"):
            make_method(name, {})


def test_a_method_of_another_name_is_its_adapter_on_its_policy() -> None:
    wide = make_method("wide", {"adapter": "geolora(tolerance=0.2)", "rank": 4})
    assert (wide.policy, wide.rank, wide.budget) == ("uniform", 4, None)
    assert make_method("mine", {"adapter": "bitfit"}).policy == ""
    assert make_method("mine", {"policy": "geometric"}).adapter == "lora"
    assert make_method("mine", {"adapter": "dora", "policy": "reversed"}).budget == "geometric"
    assert make_method("mine", {"adapter": "lora", "budget": 5000}).budget == 5000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapter": "full", "policy": "uniform"}, "must go without a policy"),
        ({"adapter": "lora", "policy": ""}, "must have a policy"),
        ({"policy": "geometric", "rank": 3}, "must go without a rank"),
        ({"adapter": "bitfit", "rank": 3}, "must go without a rank"),
        ({"adapter": "lorra"}, "`adapter` must be one of"),
        ({"adapter": "lora", "rank": 2, "budget": 7}, "a rank or a budget"),
    ],
)
def test_a_method_that_contradicts_itself_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_method("mine", given)


def test_all_have_the_budget_of_the_geometric_plan_to_less_than_a_rank_of_a_block(small: Any) -> None:
    names = ["gelora", "lora", "random", "shuffled", "reversed", "eva", "dora", "proportional", "budget", "adalora"]
    study = read_study(small(methods=names))
    planner, task = Planner(study), study.tasks[0]
    plans = {method.name: planner.plan(task, method, 0) for method in study.methods}
    geometric = plans["gelora"]
    assert geometric is not None
    unit = 4 * (32 + 32)  # one rank of query, key, value and output of a block
    for name, plan in plans.items():
        assert plan is not None
        trained = plan.n_parameters * (2 / 3 if name == "adalora" else 1)
        trained += 2 * 4 * 32 if name == "dora" else 0  # a magnitude for each output
        assert 0 <= round(geometric.n_parameters - trained) < unit, name


def test_adalora_is_planned_for_what_is_left_of_it() -> None:
    for given, kept in (({}, 2 / 3), ({"adapter": "adalora(target=0.3)"}, 0.3), ({"policy": "shuffled"}, 2 / 3)):
        method = make_method("adalora", given)
        assert (method.kept, method.budget) == (kept, "geometric")
    assert make_method("lora", {}).kept == 1.0


def test_another_adapter_leaves_the_policy_of_a_name() -> None:
    assert make_method("gelora", {"adapter": "rslora"}).policy == "geometric"
    assert make_method("random", {"adapter": "dora"}).policy == "random"
    assert make_method("lora-r8", {"adapter": "dora"}).rank == 8
    assert make_method("lora-r8", {"adapter": "lora", "rank": 8}) == make_method("lora-r8", {})
    with pytest.raises(ValueError, match="must go without a policy"):
        make_method("gelora", {"adapter": "full"})


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_and_a_decoder_are_adapted_alike_by_all_methods_of_one_budget(
    name: str, small: Any, tmp_path: Any
) -> None:
    from tiny_models import tiny_model, tiny_texts, tiny_tokenizer

    folder = tmp_path / name
    tiny_model(name).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    for split, n in (("train", 120), ("validation", 20)):
        rows = [{"sentence": text, "label": row % 2} for row, text in enumerate(tiny_texts(n, seed=n))]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes: dict[str, Any] = small()
    changes["tasks"][0]["data_dir"] = str(tmp_path)
    study = read_study(
        changes
        | {
            "model": str(folder),
            "methods": ["gelora", "lora", "random", "reversed"],
            "ranks": {"offset": 2},
            "estimation": {"estimator": "mle"},
        }
    )
    planner, task = Planner(study), study.tasks[0]
    plans = [planner.plan(task, method, 0) for method in study.methods]
    adapted = [{(module.stack, module.block) for module in plan.modules} for plan in plans if plan is not None]
    assert adapted == [adapted[0]] * 4
    costs = [plan.n_parameters for plan in plans if plan is not None]
    assert max(costs) - min(costs) < 4 * 64


def test_plans_are_made_once_and_controls_differ_by_seed(small: Any) -> None:
    study = read_study(small(methods=["gelora", "random"], ranks={"offset": 3}))
    planner, task = Planner(study), study.tasks[0]
    first = planner.plan(task, study.methods[1], 0)
    again = planner.plan(task, study.methods[1], 0)
    assert first is not None
    assert again is not None
    assert first.provenance == again.provenance  # read from its file, with the time it was made at
    assert min(module.rank for module in planner.plan(task, study.methods[0], 0).modules) >= 3  # type: ignore[union-attr]
    others = [planner.plan(task, study.methods[1], seed) for seed in range(1, 6)]
    assert any(other is not None and other.modules != first.modules for other in others)


def test_what_ranks_cost_is_counted_where_they_come_from(small: Any) -> None:
    study = read_study(small(methods=["gelora", "lora", "random", "fisher", "full", "reversed"]))
    planner, task = Planner(study), study.tasks[0]
    cost = {m.name: planner.estimation_seconds(task, m, planner.plan(task, m, 0)) for m in study.methods}
    assert cost["gelora"] > 0
    assert cost["reversed"] == cost["gelora"]
    assert cost["fisher"] > 0
    assert cost["lora"] == cost["random"] == cost["full"] == 0
