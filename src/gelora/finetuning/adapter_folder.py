"""The folder of a trained adapter: PEFT's files, the tokenizer and a model card with the origin."""

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

## Origin

```json
{origin}
```
"""


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
