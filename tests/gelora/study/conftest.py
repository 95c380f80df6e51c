"""A study that is done in seconds: the tiny BERT, sentences whose label is a word, two methods."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ["a", "the", "film", "play", "song", "was", "is", "very", "long", "short", "old", "new"]


def write_rows(path: Path, n: int, seed: int) -> None:
    import random

    draw = random.Random(seed)
    rows = []
    for row in range(n):
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, 9))]
        words.insert(draw.randint(0, len(words)), "good" if row % 2 else "bad")
        rows.append({"sentence": " ".join(words), "label": row % 2})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of train.jsonl and validation.jsonl."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "train.jsonl", 160, 1)
    write_rows(folder / "validation.jsonl", 40, 2)
    return folder


@pytest.fixture
def small(folder_of: Callable[[str], Path], rows_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Give a study as a mapping, with changes."""

    def study(**changes: Any) -> dict[str, Any]:
        task = {"name": "words", "data_dir": str(rows_folder), "text": "sentence", "metric": "accuracy"}
        return {
            "model": str(folder_of("bert")),
            "tasks": [task],
            "methods": ["lora", "gelora"],
            "seeds": [0, 1],
            "training": {"max_steps": 4, "batch_size": 8, "learning_rate": 5e-3},
            "output": str(tmp_path / "out"),
        } | changes

    return study
