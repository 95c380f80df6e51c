"""Checks of estimator options, each with a message that says what to do."""

from collections.abc import Sequence
from numbers import Integral, Real


def check_integer(option: str, value: object, *, minimum: int) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``.

    Raises
    ------
    ValueError
        Naming the option, the requirement and the value received.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < minimum:
        raise ValueError(
            f"`{option}` must be an integer of at least {minimum}, got {value!r}: pass {option}={minimum} or more."
        )


def check_number(option: str, value: object, *, low: float, high: float, closed_low: bool = False) -> None:
    """Raise unless ``value`` is a real number in (low, high), or in [low, high) with ``closed_low``.

    Raises
    ------
    ValueError
        Naming the option, the interval and the value received.
    """
    inside = (
        not isinstance(value, bool)
        and isinstance(value, Real)
        and (low < float(value) < high or (closed_low and float(value) == low))
    )
    if not inside:
        interval = f"{'[' if closed_low else '('}{low:g}, {high:g})"
        raise ValueError(f"`{option}` must be a number in {interval}, got {value!r}: choose one inside the interval.")


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``.

    Raises
    ------
    ValueError
        Naming the option, the choices and the value received.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{option}` must be one of {listed}, got {value!r}: pick a name from the list.")


def check_flag(option: str, value: object) -> None:
    """Raise unless ``value`` is True or False.

    Raises
    ------
    ValueError
        Naming the option and the value received.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{option}` must be True or False, got {value!r}: pass a bool.")
