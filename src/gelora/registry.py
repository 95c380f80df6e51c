"""Estimators by name: entry points in, callables out.

Whatever a distribution lists under ``[project.entry-points."gelora.estimators"]`` works by name; gelora's own
estimators have no other way in.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gelora.messages import check_option_names, nearest, parse_choice
from gelora_estimators.protocol import DimensionEstimator

GROUP = "gelora.estimators"
EstimatorChoice = str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]]


def available_estimators() -> tuple[str, ...]:
    """Return the names of all installed estimators, without importing any.

    Raises
    ------
    ValueError
        If two distributions offer one name.

    Examples
    --------
    >>> "twonn" in available_estimators()
    True
    """
    return tuple(sorted(_entry_points()))


def make_estimator(name: str, **options: Any) -> DimensionEstimator:
    """Make an estimator from its name.

    Parameters
    ----------
    name : str
        One of `available_estimators`; options may stand in it, as in ``"mle(k1=5, k2=10)"``.
    **options
        The estimator's own options.

    Returns
    -------
    callable
        From points of shape (n, d) and ``rng=`` to a ``DimensionEstimate``.

    Raises
    ------
    ValueError
        If no estimator has the name or an option does not fit, with the nearest match and the list.
        Whatever a plug-in raises when it is imported is passed on as it is.

    Examples
    --------
    >>> make_estimator("twonn", fit="likelihood").fit
    'likelihood'
    """
    bare, written = parse_estimator(name)
    both = sorted(set(written) & set(options))
    if both:
        raise ValueError(f"`{both[0]}` is given twice, in {name!r} and as an argument: leave one out")
    points = _entry_points()
    if bare not in points:
        raise ValueError(f"`estimator`: there is no {bare!r}{nearest(bare, list(points))}; there are {sorted(points)}")
    factory = points[bare].load()
    check_option_names(f"the estimator {bare!r}", factory, {**written, **options})
    made: DimensionEstimator = factory(**written, **options)
    return made


def parse_estimator(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"mle(k1=5)"`` into the name and its options, which are Python literals.

    Raises
    ------
    ValueError
        If the text is neither a name nor a name with options.

    Examples
    --------
    >>> parse_estimator("mle(k1=5, average='mean')")
    ('mle', {'k1': 5, 'average': 'mean'})
    """
    return parse_choice("estimator", text, "mle(k1=5, k2=10)")


def _entry_points() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        known = found.setdefault(point.name, point)
        # One distribution can be seen twice, installed and on the path.
        if (_origin(known), known.value) != (_origin(point), point.value):
            raise ValueError(
                f"two distributions offer the estimator {point.name!r}, {_origin(known)} and {_origin(point)}: "
                "uninstall one"
            )
    return found


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def describe_estimator(function: Any) -> dict[str, Any]:
    """Return the class and options of an estimator, for the record."""
    kind = type(function)
    if not dataclasses.is_dataclass(kind):
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "options": {"repr": repr(function)}}
    options = {field.name: getattr(function, field.name) for field in dataclasses.fields(kind)}
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "options": {key: _describe_option(value) for key, value in options.items()},
    }


def _describe_option(value: Any) -> Any:
    """Return an option as plain values; an estimator within an estimator with its class and options."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe_estimator(value)
    return value if _is_plain(value) else repr(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, str | int | float)


def resolve_estimators(choice: EstimatorChoice) -> dict[str, DimensionEstimator]:
    """Return label → estimator for whatever ``estimator=`` was given.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, nothing at all, two estimators with one label, or something that is no estimator.
    """
    if isinstance(choice, Mapping):
        entries = list(choice.items())
    else:
        many = list(choice) if isinstance(choice, Sequence) and not isinstance(choice, str) else [choice]
        entries = [(_label(entry), entry) for entry in many]
    if not entries:
        raise ValueError("`estimator` must name at least one estimator, got none")
    resolved: dict[str, DimensionEstimator] = {}
    for label, entry in entries:
        if label in resolved:
            raise ValueError(
                f"`estimator` has {label!r} twice: give a mapping from labels of your own to the two estimators"
            )
        resolved[label] = make_estimator(entry) if isinstance(entry, str) else _check_callable(entry)
    return resolved


def _label(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    own = getattr(entry, "name", None) or getattr(entry, "__name__", None)
    return str(own or type(entry).__name__.lower())


def _check_callable(entry: Any) -> DimensionEstimator:
    if isinstance(entry, type) or not callable(entry):
        raise TypeError(
            f"`estimator` must be a name, an estimator, a list of these or a mapping to these, got {entry!r:.80}"
            + ("; that is a class: pass an instance" if isinstance(entry, type) else "")
        )
    estimator: DimensionEstimator = entry
    return estimator
