"""Keep other libraries' noise and global state away from the caller, for as long as a block lasts."""

import logging as standard
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_THIRD_PARTY = r"(torch|transformers|accelerate|peft|datasets|huggingface_hub|tokenizers)(\.|$)"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence notes, progress bars and warnings of transformers, peft, torch and bitsandbytes; gelora's own pass."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    chatty = standard.getLogger("bitsandbytes")  # notes every product of every 8-bit matrix
    level = chatty.level
    chatty.setLevel(standard.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_THIRD_PARTY)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        chatty.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Seed the global generators that torch and transformers draw from, and give them back as they were."""
    import torch
    from transformers import set_seed

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's notes of every trial."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
