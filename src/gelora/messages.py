"""Checks and hints that many modules need, in one wording."""

import ast
import difflib
import inspect
import math
from collections.abc import Callable, Iterable
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


def parse_choice(argument: str, text: str, example: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name(option=5)"`` into the name and its options, which are Python literals.

    Raises
    ------
    ValueError
        If the text is neither a name nor a name with options, naming ``argument`` and an ``example``.

    Examples
    --------
    >>> parse_choice("estimator", "mle(k1=5, average='mean')", "mle(k1=5)")
    ('mle', {'k1': 5, 'average': 'mean'})
    """
    name, bracket, rest = text.strip().partition("(")
    if not bracket:
        return name, {}
    problem = f"`{argument}` must be a name, or a name with options as in {example}, got {text!r}"
    try:
        # Only the call's keywords are read, as literals: nothing is run.
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError(problem)
        return name.strip(), {str(word.arg): ast.literal_eval(word.value) for word in call.keywords if word.arg}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(problem) from error


def check_option_names(what: str, factory: Callable[..., Any], options: Iterable[str]) -> None:
    """Raise ValueError for an option that ``factory`` does not take; ``what`` is its name in the message."""
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise ValueError(
                f"`{option}` is no option of {what}{nearest(option, list(parameters))}; it has {sorted(parameters)}"
            )


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


def check_number(
    name: str,
    value: Any,
    what: str,
    *,
    least: float = 0.0,
    below: float = math.inf,
    least_excluded: bool = False,
    most: float = math.inf,
) -> float:
    """Return ``value`` if it is a number in the range; ``what`` says in words what it must be.

    Raises
    ------
    ValueError
        If it is not.

    Examples
    --------
    >>> check_number("dropout", 0.1, "a probability below 1", below=1)
    0.1
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not least <= value < below or value > most or (least_excluded and value == least):
        raise ValueError(f"`{name}` must be {what}, got {value!r}")
    return float(value)


def check_choice(name: str, value: Any, allowed: Iterable[str], more: str = "") -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``; ``more`` says what else would do."""
    known = tuple(allowed)
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}{more}, got {value!r}{nearest(str(value), known)}")


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
