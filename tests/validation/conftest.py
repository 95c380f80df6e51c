"""What the tests of this folder share: the benchmark scripts as modules, and hidden states of a real model."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script(path: str) -> ModuleType:
    """Return a script of the checkout as a module, though its folder is no package."""
    name = "validated_" + Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    return load_script


@pytest.fixture(scope="session")
def hidden_states(minilm: Path, data_dir: Path) -> dict[int, np.ndarray]:
    """Mean-pooled hidden states (float32) of 200 SST-2 phrases, by layer of MiniLM."""
    import pyarrow.parquet as pq

    from gelora.models import load_pretrained
    from gelora.representations import extract_representations

    rows = pq.read_table(data_dir / "sst2" / "validation.parquet", columns=["sentence"])["sentence"].to_pylist()
    found = extract_representations(
        load_pretrained(minilm), sorted(rows, key=len)[:200], tokenizer=minilm, progress=False
    )
    return {layer: np.asarray(found[layer]) for layer in range(len(found))}
