"""Checks of estimator options, each with a message that says what to do."""

import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral, Real
from types import ModuleType

_DEVICE = re.compile("auto|cpu|cuda(:[0-9]+)?")
_NEIGHBORS = ("exact", "faiss", "pynndescent")


def check_integer(option: str, value: object, *, minimum: int, remedy: str = "") -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``; ``remedy`` ends the message.

    Raises
    ------
    ValueError
        Naming the option, the requirement and the value received.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < minimum:
        raise ValueError(
            f"`{option}` must be an integer of at least {minimum}, got {value!r}: pass {option}={minimum} or "
            f"more{remedy}."
        )


def check_orders(option: str, value: object, *, names: tuple[str, str], minimum: int, gap: int) -> None:
    """Raise unless ``value`` is a pair of integers from ``minimum`` on, the second at least ``gap`` above the first.

    Raises
    ------
    ValueError
        Naming the option, the requirement on the two ``names`` and the value received.
    """
    pair = value if isinstance(value, tuple | list) else ()
    integers = [int(order) for order in pair if not isinstance(order, bool) and isinstance(order, Integral)]
    if len(pair) != 2 or len(integers) != 2 or integers[0] < minimum or integers[1] < integers[0] + gap:
        first, last = names
        raise ValueError(
            f"`{option}` must be a pair of integers ({first}, {last}) with {first} of at least {minimum} and {last} of "
            f"at least {first}{f' + {gap}' if gap else ''}, got {value!r}: pass such a pair, as ({minimum}, "
            f"{minimum + gap})."
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


def check_applies(option: str, value: object, *, default: object, other: str, needed: str, chosen: str) -> None:
    """Raise if ``value`` is not the default although the option has no effect.

    Parameters
    ----------
    option : str
        The option.
    value, default : object
        What it is, and what it may always be.
    other, needed, chosen : str
        The option that decides, its value under which ``option`` has an effect, and its value.

    Raises
    ------
    ValueError
        Naming both options, the default and the value received.
    """
    if chosen != needed and value != default:
        raise ValueError(
            f"`{option}` must be left at {default!r} with `{other}`={chosen!r}, got {value!r}: it would do nothing; "
            f"pass {other}={needed!r} to use it."
        )


def check_device(value: object) -> None:
    """Raise unless ``value`` is the name of a device that computes in float64.

    Only the name is checked, without torch; whether the device is there shows when it is used.

    Raises
    ------
    ValueError
        Naming the requirement and the value received.
    """
    if not isinstance(value, str) or _DEVICE.fullmatch(value) is None:
        raise ValueError(
            f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:<number>', got {value!r}: pass one of these names; "
            "other devices lack float64."
        )


def check_search(device: object, neighbors: object) -> None:
    """Raise unless ``device`` passes `check_device` and ``neighbors`` passes `check_neighbors`.

    Raises
    ------
    ValueError, ImportError
        As those do.
    """
    check_device(device)
    check_neighbors(neighbors)


def check_neighbors(neighbors: object) -> None:
    """Raise unless ``neighbors`` names a search whose library is installed.

    Raises
    ------
    ValueError
        Naming the option, the choices and the value received.
    ImportError
        For a library that is not installed, with what to install; it is looked for, not imported.
    """
    check_choice("neighbors", neighbors, _NEIGHBORS)
    if neighbors != "exact" and find_spec(str(neighbors)) is None:
        raise _missing(str(neighbors))


def load_neighbor_library(name: str) -> ModuleType:
    """Return the module that ``neighbors=name`` needs.

    Raises
    ------
    ImportError
        Where it is not installed, with what to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise _missing(name) from error


def _missing(name: str) -> ImportError:
    return ImportError(
        f"`neighbors={name!r}` needs {name}, which is not installed: pip install 'gelora[approximate]', or pass "
        "neighbors='exact'."
    )


def check_flag(option: str, value: object) -> None:
    """Raise unless ``value`` is True or False.

    Raises
    ------
    ValueError
        Naming the option and the value received.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{option}` must be True or False, got {value!r}: pass a bool.")
