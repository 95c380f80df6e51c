"""Fixtures for all tests: real data, the real encoder, small models of every architecture."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from required import absent

CHECKOUT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)  # several test processes share the cores


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        absent("needs a CUDA device, there is none")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real GLUE, SQuAD and WikiText files."""
    folder = Path(os.environ.get("GELORA_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        absent(f"no folder of test data at {folder}; set GELORA_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the MiniLM encoder."""
    from gelora.demo import demo_model

    try:
        return demo_model()
    except ImportError as error:
        absent(str(error))
        raise


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_260_101)
