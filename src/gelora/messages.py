"""Checks and hints that many modules need, in one wording."""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np


def nearest(name: str, available: Iterable[str]) -> str:
    """Return a hint at the nearest of ``available``, whatever its case; empty where none is near.

    Examples
    --------
    >>> nearest("colla", ["cola", "rte"])
    "; did you mean 'cola'?"
    """
    lowered = {candidate.lower(): candidate for candidate in available}
    found = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[found[0]]!r}?" if found else ""


def check_integer(name: str, value: Any, least: int, more: str = "") -> int:
    """Return ``value`` as an int.

    Raises
    ------
    ValueError
        If it is no integer of at least ``least``; ``more`` says what else would do.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}{more}, got {value!r}")
    return int(value)


def check_confidence(confidence: float) -> float:
    """Return ``confidence`` if it is a number in (0, 1).

    Raises
    ------
    ValueError
        If it is not.
    """
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be a number between 0 and 1, got {confidence!r}")
    return float(confidence)


def check_replicates(n_replicates: int) -> int:
    """Return ``n_replicates`` if it is an even number of at least 0.

    Raises
    ------
    ValueError
        If it is not.
    """
    number = check_integer("n_replicates", n_replicates, 0)
    if number % 2:
        raise ValueError(
            f"`n_replicates` must be even, two for each split into halves, got {number}: give {number + 1}"
        )
    return number
