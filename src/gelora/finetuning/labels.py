"""Labels as people store them → class indices or numbers, checked."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gelora.finetuning.glue import is_missing
from gelora.messages import nearest

MISSING_CLASS = -1


def check_labels_present(labels: Sequence[Any], split: str, problem: str) -> None:
    """Raise ValueError if a label is missing: None, NaN, empty, or −1 as GLUE's test splits have it."""
    classes = problem == "classification"
    gone = [row for row, label in enumerate(labels) if is_missing(label) or (classes and _is_unlabelled(label))]
    if gone:
        raise ValueError(
            f"the {split} split must have a label in every row, {len(gone)} of {len(labels)} rows have none, the "
            f"first is row {gone[0]} ({labels[gone[0]]!r}): drop them, or take a split with labels"
        )


def class_names(labels: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of the classes that occur, in sorted order; numbers by value.

    Examples
    --------
    >>> class_names([10, 2, 10])
    ('2', '10')
    """
    distinct = {str(_plain(label)) for label in labels}
    if all(name.isdecimal() for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def to_classes(labels: Sequence[Any], names: Sequence[str], split: str, stored_names: Sequence[str] = ()) -> list[int]:
    """Return the index of each label in ``names``.

    Parameters
    ----------
    labels : sequence
        Names of classes, or their indices, also as text, as a CSV file has them; where the names are numbers
        themselves, names alone.
    names : sequence of str
        The classes.
    split : str
        For messages.
    stored_names : sequence of str, optional
        The classes in the order of the data's own indices, from their schema.

    Raises
    ------
    ValueError
        If a label is none of the classes.

    Examples
    --------
    >>> to_classes(["yes", "no"], ["no", "yes"], "train")
    [1, 0]
    >>> to_classes([0, 1], ["no", "yes"], "train", stored_names=["yes", "no"])
    [1, 0]
    """
    by_name = {name: position for position, name in enumerate(names)}
    by_index = {str(position): position for position in range(len(names))}
    if stored_names and set(stored_names) == set(names):
        by_index = {str(position): by_name[name] for position, name in enumerate(stored_names)}
        table = by_name | by_index
    elif all(name.isdecimal() for name in names):
        table = by_name  # a number is a name then: an index would be taken for another class
    else:
        table = by_index | by_name
    found = []
    for row, label in enumerate(labels):
        position = table.get(str(_plain(label)))
        if position is None:
            raise ValueError(
                f"the label {label!r} in row {row} of the {split} split is none of the {len(names)} classes "
                f"{list(names)[:20]}: correct it, or give `label_names`{nearest(str(label), names)}"
            )
        found.append(position)
    return found


def to_numbers(labels: Sequence[Any], split: str) -> list[float]:
    """Return each label as a number.

    Raises
    ------
    ValueError
        If a label is no finite number.

    Examples
    --------
    >>> to_numbers(["0.5", 2], "train")
    [0.5, 2.0]
    """
    numbers = []
    for row, label in enumerate(labels):
        try:
            number = math.nan if isinstance(label, bool | np.bool_) else float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"the label {label!r} in row {row} of the {split} split must be a finite number for a regression: "
                "correct it, or use problem='classification'"
            )
        numbers.append(number)
    return numbers


def _plain(label: Any) -> Any:
    """Return whole floats and truth values as int, as pandas makes floats of integers beside gaps."""
    if isinstance(label, bool | np.bool_ | int | np.integer):
        return int(label)
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return int(label)
    return label


def _is_unlabelled(label: Any) -> bool:
    return str(_plain(label)).strip() in ("", str(MISSING_CLASS))
