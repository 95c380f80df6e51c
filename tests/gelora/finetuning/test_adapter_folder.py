"""The card of an adapter says what chose the ranks, from what, and how certain they are, and nothing it cannot know."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gelora.finetuning.adaptation import Adapted
from gelora.finetuning.adapter_folder import describe_ranks, read_facts, save_adapter
from gelora.plan import RankPlan
from gelora.plan_uncertainty import PlanUncertainty
from gelora.ranks import plan_ranks

PROFILE = {
    "estimator": "TwoNN(discard=0.1)",
    "dimensions": {"encoder 0": 4.0},
    "fingerprint": "ab",
    "model": "base",
    "data": "cola",
    "data_fingerprint": "cd12",
    "pooling": "mean",
    "n_points": 900,
    "n_replicates": 16,
}


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every table."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line)
    ]


@pytest.fixture
def plan(plan_for: Callable[..., Any]) -> Any:
    return plan_for("bert", (2, 3))


def uncertain(plan: RankPlan) -> RankPlan:
    n = len(plan.modules)
    found = PlanUncertainty(
        ranks=(1, 2, 3),
        probabilities=((0.25, 0.5, 0.25),) * n,
        expected=(2.0,) * n,
        module_stability=(0.5,) * n,
        stability=0.125,
        n_examples=900,
        n_settling=5000.0,
        confidence=0.9,
        n_replicates=16,
    )
    provenance = {"options": {"rounding": "ceil", "budget": None}, "profile": PROFILE, "more_profiles": []}
    return replace(plan, policy="geometric", provenance=provenance, uncertainty=found)


def test_the_ranks_are_a_table_of_blocks_and_matrices(plan: Any) -> None:
    head, *rows = rows_of(describe_ranks(plan))
    assert head == ["block", "`query`", "`key`", "`value`", "`output`"]
    assert rows == [["encoder 1", "2", "2", "2", "2"], ["encoder 2", "3", "3", "3", "3"]]


def test_a_matrix_that_a_block_lacks_is_an_empty_cell(plan: Any) -> None:
    some = replace(plan, modules=plan.modules[:3] + plan.modules[4:])
    assert [row[-1] for row in rows_of(describe_ranks(some))] == ["`output`", "", "3"]


def test_the_profile_the_options_and_the_certainty_are_told(plan: Any) -> None:
    text = describe_ranks(uncertain(plan))
    assert "Policy: geometric; α / r = 2 for every matrix." in text
    assert 'Options: rounding = "ceil", budget = null.' in text
    assert (
        "Profile of intrinsic dimensions: estimator TwoNN(discard=0.1); model base; data cola; data fingerprint cd12; "
        "pooling mean; points 900; replicates 16." in text
    )
    assert "gives the same ranks with probability 0.12, by resampling" in text
    head, first, *_ = rows_of(text)[3:]
    assert head == ["matrix", "rank", "P(1)", "P(2)", "P(3)"]
    assert first == ["encoder 1 `query`", "2", "0.25", "0.50", "0.25"]
    assert len(rows_of(text)) == 3 + 1 + len(plan.modules)


def test_ranks_that_training_moved_are_told_beside_the_planned_ones(plan: Any) -> None:
    final = {module.name: 1 if module.role == "query" else 0 for module in plan.modules}
    text = describe_ranks(plan, final)
    saved, planned = text.split("As planned:")
    assert saved.startswith("As saved, after training moved them:")
    assert rows_of(saved)[1][1:] == ["1", "0", "0", "0"]
    assert planned.strip() == describe_ranks(plan)
    assert describe_ranks(plan, {module.name: module.rank for module in plan.modules}) == describe_ranks(plan)


def test_several_profiles_are_told_one_by_one(plan: Any) -> None:
    record = {"profile": PROFILE, "more_profiles": [PROFILE | {"data": "sst2"}]}
    text = describe_ranks(replace(plan, provenance=record))
    assert [re.findall("data (cola|sst2);", line) for line in text.splitlines() if "Profile of" in line] == [
        ["cola"],
        ["sst2"],
    ]


@pytest.mark.parametrize("provenance", [{}, {"profile": {}, "more_profiles": []}, {"profile": None, "options": None}])
def test_what_is_not_known_is_not_told(plan: Any, provenance: dict[str, Any]) -> None:
    text = describe_ranks(replace(plan, provenance=provenance))
    assert "Not taken from a profile of intrinsic dimensions." in text
    assert "How certain the ranks are is not known: the plan comes without replicates." in text
    assert not re.search(r"nan|None|Options|P\(", text)
    bare = describe_ranks(replace(plan, provenance={"profile": {"estimator": "", "n_points": 3}}))
    assert "Profile of intrinsic dimensions: points 3." in bare


def test_a_plan_of_a_policy_tells_its_own_options(folder_of: Callable[[str], Path]) -> None:
    text = describe_ranks(plan_ranks(None, folder_of("bert"), "uniform", rank=3, targets="ffn"))
    assert 'targets = "ffn"' in text
    assert "rank = 3" in text
    assert rows_of(text)[0] == ["block", "`intermediate.dense`", "`output.dense`"]


def test_the_card_holds_the_ranks_and_replaces_an_older_one_whole(plan: Any, tmp_path: Path) -> None:
    def save(folder: str, **_: Any) -> None:
        Path(folder).mkdir(exist_ok=True)

    facts = dict.fromkeys(("base", "dtype", "adapter", "task", "version", "created", "metrics", "labels"), "x")
    facts |= {"policy": "geometric", "n_adapter": 1, "n_head": 2, "n_validation": 3, "score": 0.5}  # type: ignore[dict-item]
    facts |= {"num_labels": 2, "load_options": "num_labels=2", "ranks": describe_ranks(uncertain(plan))}  # type: ignore[dict-item]
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "old").touch()
    facts |= {"auto_class": "AutoModel", "processor_class": "AutoTokenizer", "processor_name": "tokenizer"}
    processor: Any = SimpleNamespace(save_pretrained=save)
    model: Any = SimpleNamespace()
    adapted = Adapted(model=model, save=lambda folder: None, kind="peft", count=lambda: 1, ranks=dict)
    folder = save_adapter(adapted, processor, tmp_path / "adapter", facts, {"policy": "geometric"})
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "gelora_adapter.json"]
    assert read_facts(folder)["n_head"] == 2
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert describe_ranks(uncertain(plan)) in card.split("## Ranks")[1].split("## Origin")[0]
