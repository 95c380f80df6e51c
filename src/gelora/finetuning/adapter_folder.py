"""The folder of a trained adapter: its weights, the tokenizer, a model card and what is needed to load it again."""

import json
import math
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gelora.files import read_json
from gelora.finetuning.adaptation import OWN, PEFT, WHOLE, Adapted
from gelora.masking import masked
from gelora.plan import ModuleRank, RankPlan

FACTS_FILE = "gelora_adapter.json"
SCHEMA = "gelora-adapter"
SCHEMA_VERSION = 1
_LIBRARY = {PEFT: "peft", WHOLE: "transformers", OWN: "gelora"}

_LOAD = {
    PEFT: """from peft import PeftModel
from transformers import {auto_class}, {processor_class}

base = {auto_class}.from_pretrained(
    {arguments}
)
model = PeftModel.from_pretrained(base, "<this folder>").eval()
{processor_name} = {processor_class}.from_pretrained("<this folder>")""",
    WHOLE: """from transformers import {auto_class}, {processor_class}

model = {auto_class}.from_pretrained("<this folder>").eval()
{processor_name} = {processor_class}.from_pretrained("<this folder>")""",
    OWN: """from gelora.finetuning.loading import load_adapter

model, {processor_name} = load_adapter("<this folder>")  # on {base}""",
}

_CARD = """---
library_name: {library}
base_model: {base}
tags:
- {adapter}
- gelora
---

# {adapter} adapter for {task}

Made by gelora {version} on {created}: ranks by the policy "{policy}", {n_adapter:,} adapter parameters and
{n_head:,} in the head. Score on {n_validation:,} validation rows ({metrics}): {score:.4f}.

```python
{load}
```

Labels: {labels}.

## Ranks

{ranks}

## Origin

```json
{origin}
```
"""


def describe_ranks(plan: RankPlan, final: Mapping[str, int] | None = None) -> str:
    """Return what a model card says of the ranks: what chose them, from what, how certain they are, and a table.

    Parameters
    ----------
    plan : RankPlan
        With or without a profile, replicates and recorded options.
    final : mapping of str to int, optional
        Ranks at the end of a training that moved them, by module name.

    Returns
    -------
    str
        Markdown.
    """
    parts = [_origin(plan), _certainty(plan), _table(plan), _probability_table(plan)]
    told = "\n\n".join(part for part in parts if part)
    if final is None or all(final.get(module.name) == module.rank for module in plan.modules):
        return told
    ended = tuple(replace(module, rank=final.get(module.name, 0)) for module in plan.modules)
    return f"As saved, after training moved them:\n\n{_table(replace(plan, modules=ended))}\n\nAs planned:\n\n{told}"


def _origin(plan: RankPlan) -> str:
    lines = [f"Policy: {plan.policy}; α / r = {plan.scaling:g} for every matrix."]
    options = plan.provenance.get("options") or {}
    given = ", ".join(f"{name} = {json.dumps(value, default=str)}" for name, value in options.items())
    lines += [f"Options: {given}."] if given else []
    first = plan.provenance.get("profile") or {}
    profiles = [record for record in (first, *(plan.provenance.get("more_profiles") or ())) if record]
    if not profiles:
        lines.append("Not taken from a profile of intrinsic dimensions.")
    return "\n".join(["- " + line for line in [*lines, *map(_profile, profiles)]])


def _profile(record: Mapping[str, Any]) -> str:
    facts = {
        "estimator": record.get("estimator"),
        "model": record.get("model"),
        "data": record.get("data"),
        "data fingerprint": record.get("data_fingerprint"),
        "pooling": record.get("pooling"),
        "points": record.get("n_points"),
        "replicates": record.get("n_replicates"),
    }
    told = "; ".join(f"{name} {value}" for name, value in facts.items() if value not in (None, ""))
    return f"Profile of intrinsic dimensions: {told or 'nothing is recorded of it'}."


def _certainty(plan: RankPlan) -> str:
    if math.isnan(plan.stability):
        return "How certain the ranks are is not known: the plan comes without replicates."
    return (
        f"Another draw of as many examples gives the same ranks with probability {plan.stability:.2f}, by resampling."
    )


def _table(plan: RankPlan) -> str:
    """Return the ranks, a row a block and a column a matrix."""
    roles = list(dict.fromkeys(module.role for module in plan.modules))
    rows: dict[tuple[str, int], dict[str, ModuleRank]] = {}
    for module in plan.modules:
        rows.setdefault((module.stack, module.block), {})[module.role] = module
    cells = [
        [f"{stack} {block}", *(str(found[role].rank) if role in found else "" for role in roles)]
        for (stack, block), found in rows.items()
    ]
    return _markdown(["block", *(f"`{role}`" for role in roles)], cells)


def _probability_table(plan: RankPlan) -> str:
    found = plan.uncertainty
    if found is None:
        return ""
    cells = [
        [f"{module.stack} {module.block} `{module.role}`", str(module.rank), *(f"{p:.2f}" for p in row)]
        for module, row in zip(plan.modules, found.probabilities, strict=True)
    ]
    table = _markdown(["matrix", "rank", *(f"P({rank})" for rank in found.ranks)], cells)
    return "Probability of each rank, from the errors of the dimensions:\n\n" + table


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save_adapter(
    adapted: Adapted, processor: Any, folder: Path, facts: Mapping[str, Any], origin: Mapping[str, Any]
) -> Path:
    """Write the adapter beside ``folder`` and move it there when whole.

    Parameters
    ----------
    adapted : Adapted
        At the end of its training.
    processor
        The tokenizer or image processor, saved with it, as a padding token may have been chosen here.
    folder : Path
        Replaced where it exists: an interrupted run leaves no record of it.
    facts : mapping
        What the model card and the loader need, see `gelora.finetuning.run.Run.card_facts`.
    origin : mapping
        Provenance, for the card.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    temporary.mkdir(parents=True)
    try:
        adapted.save(temporary)
        processor.save_pretrained(str(temporary))
        told = dict(facts) | {"kind": adapted.kind, "library": _LIBRARY[adapted.kind]}
        arguments = (repr(told["base"]), told["load_options"], f'dtype="{told["dtype"]}"')
        load = _LOAD[adapted.kind].format(**told, arguments=", ".join(filter(None, arguments)))
        card = _CARD.format(**told, load=load, origin=masked(json.dumps(origin, indent=1, default=str)))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        record = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION} | {
            key: told[key] for key in told if key != "ranks"
        }
        (temporary / FACTS_FILE).write_text(masked(json.dumps(record, indent=1, default=str)) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what a folder says of the adapter in it.

    Raises
    ------
    FileNotFoundError
        If it holds no adapter of gelora.
    ValueError
        If what it says is damaged or newer than this gelora.
    """
    file = folder / FACTS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"`folder`: {str(folder)!r} holds no {FACTS_FILE}: give the `adapter` folder of a run of gelora.finetune"
        )
    try:
        found = read_json(file)
    except ValueError as error:
        raise ValueError(f"`folder`: {str(file)!r} is not a JSON file, or truncated: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or found.get("kind") not in _LOAD:
        raise ValueError(f"`folder`: {str(file)!r} is no {SCHEMA} record: save the adapter again")
    if not isinstance(found.get("schema_version"), int) or found["schema_version"] > SCHEMA_VERSION:
        raise ValueError(f"`folder`: {str(file)!r} was written by a newer gelora: install that one")
    return found
