"""The folder of a trained adapter: PEFT's files, the tokenizer and a model card with the origin."""

import json
import math
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gelora.plan import ModuleRank, RankPlan

_CARD = """---
library_name: peft
base_model: {base}
tags:
- lora
- gelora
---

# {adapter} adapter for {task}

Made by gelora {version} on {created}: ranks by the policy "{policy}", {n_adapter:,} adapter parameters and
{n_head:,} in the head. Score on {n_validation:,} validation rows ({metrics}): {score:.4f}.

```python
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

base = AutoModelForSequenceClassification.from_pretrained(
    {base!r}, num_labels={num_labels}, pad_token_id={pad_token_id}, dtype="{dtype}"
)
model = PeftModel.from_pretrained(base, "<this folder>").eval()
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```

Labels: {labels}.

## Ranks

{ranks}

## Origin

```json
{origin}
```
"""


def describe_ranks(plan: RankPlan) -> str:
    """Return what a model card says of the ranks: what chose them, from what, how certain they are, and a table.

    Parameters
    ----------
    plan : RankPlan
        With or without a profile, replicates and recorded options.

    Returns
    -------
    str
        Markdown.
    """
    parts = [_origin(plan), _certainty(plan), _table(plan), _probability_table(plan)]
    return "\n\n".join(part for part in parts if part)


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


def save_adapter(model: Any, tokenizer: Any, folder: Path, facts: Mapping[str, Any], origin: Mapping[str, Any]) -> Path:
    """Write the adapter beside ``folder`` and move it there when whole.

    Parameters
    ----------
    model
        Adapted, with ``save_pretrained``.
    tokenizer
        Saved with it, as its padding token may have been chosen here.
    folder : Path
        Replaced where it exists: an interrupted run leaves no record of it.
    facts : mapping
        What the model card says.
    origin : mapping
        Provenance, for the card.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    try:
        model.save_pretrained(str(temporary), save_embedding_layers=False)
        tokenizer.save_pretrained(str(temporary))
        card = _CARD.format(**facts, origin=json.dumps(origin, indent=1, default=str))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
