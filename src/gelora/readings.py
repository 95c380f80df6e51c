"""What an estimator says of one layer, and files that keep it beside a store: a call that was cut off goes on."""

import builtins
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gelora.files import atomic_path, make_folder, to_json
from gelora.provenance import fingerprint, package_versions
from gelora.registry import describe_estimator
from gelora_estimators.protocol import DimensionEstimate

# What an estimator warned of.
Entry = tuple[type[Warning], str]
Covariates = tuple[dict[str, float], float]  # of a layer, and the seconds of the search
READINGS = "readings"
_OURS = "gelora_estimators."
Content = TypeVar("Content")
_log = logging.getLogger("gelora")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one estimator says of one layer.

    Parameters
    ----------
    estimate : DimensionEstimate
        Of the whole cloud; NaN where undefined.
    reason : str
        Why it is undefined, else empty.
    halves : list of DimensionEstimate or None
        Of each half, None where undefined.
    seconds : float
        Time of it all, without the shared search.
    """

    estimate: DimensionEstimate
    reason: str
    halves: list[DimensionEstimate | None]
    seconds: float


Told = tuple[Reading, list[Entry]]


@dataclass(frozen=True, slots=True)
class KeptReadings:
    """Files of what was read from the layers of one store, each under a name that says what it depends on.

    Parameters
    ----------
    folder : Path
        Where they lie.
    identity : str
        Of the states, the halves and the seed.
    """

    folder: Path
    identity: str

    @classmethod
    def beside(cls, store: Path, identity: Mapping[str, Any], n_replicates: int, seed: int) -> "KeptReadings":
        """Return those of a store with these states, for halves and draws of this seed."""
        depends = [dict(identity), n_replicates, seed, package_versions()]
        return cls(store.absolute() / READINGS, fingerprint([to_json(depends, sort_keys=True).encode()]))

    def file_of(self, place: tuple[str, str], label: str, function: Any) -> Path | None:
        """Return where an estimator's reading of a layer belongs; None where its code may be another next time.

        Our own estimators change with the version of gelora alone; of others nobody can tell.
        """
        described = describe_estimator(function)
        if not str(described["class"]).startswith(_OURS):
            return None
        return self._file(place, label, to_json(described, sort_keys=True))

    def covariates_of(self, place: tuple[str, str]) -> Path:
        """Return where the covariates of a layer belong."""
        return self._file(place, "", "covariates")

    def _file(self, *parts: Any) -> Path:
        mark = fingerprint([self.identity.encode(), *(repr(part).encode() for part in parts)])
        return self.folder / f"{mark[:32]}.json"


def kept_reading(file: Path | None) -> Told | None:
    """Return the reading in a file, None where there is none, or none that is whole."""
    return _kept(file, _told)


def kept_covariates(file: Path | None) -> Covariates | None:
    """Return the covariates in a file, None where there are none, or none that are whole."""
    return _kept(file, _covariates)


def keep(file: Path | None, found: Any) -> None:
    """Write a reading or covariates; what cannot be kept is made again another time."""
    if file is None:
        return
    if isinstance(found[0], Reading):
        reading, entries = found
        if any(_warning(category.__name__) is not category for category, _ in entries):
            return
        content: Any = {
            "estimate": _plain(reading.estimate),
            "reason": reading.reason,
            "halves": [None if half is None else _plain(half) for half in reading.halves],
            "seconds": reading.seconds,
            "told": [[category.__name__, message] for category, message in entries],
        }
    else:
        content = {"covariates": found[0], "seconds": found[1]}
    text = to_json(content)
    try:
        make_folder(file.parent)
        with atomic_path(file) as temporary:
            temporary.write_text(to_json({"digest": _digest(text), "content": text}), encoding="utf-8")
    except OSError as error:
        _log.warning("`store`: a reading is not kept in %r: %s", str(file), error)


def forget_readings(store: Path) -> None:
    """Remove what was read from states that are made again."""
    for file in (store / READINGS).glob("*.json"):
        file.unlink(missing_ok=True)


def _kept(file: Path | None, build: Callable[[Any], Content]) -> Content | None:
    if file is None:
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["digest"] != _digest(stored["content"]):
            raise ValueError("it does not have the digest that it was written with")
        return build(json.loads(stored["content"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("`store`: the reading in %r is damaged (%s) and made again", str(file), error)
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _told(content: Mapping[str, Any]) -> Told:
    halves = [None if half is None else _estimate(half) for half in content["halves"]]
    reading = Reading(_estimate(content["estimate"]), str(content["reason"]), halves, float(content["seconds"]))
    return reading, [(_warning(name), str(message)) for name, message in content["told"]]


def _covariates(content: Mapping[str, Any]) -> Covariates:
    return {str(name): float(value) for name, value in content["covariates"].items()}, float(content["seconds"])


def _warning(name: str) -> type[Warning]:
    """Return the warning of Python's own with a name; a UserWarning where it has none."""
    found = getattr(builtins, name, UserWarning)
    return found if isinstance(found, type) and issubclass(found, Warning) else UserWarning


def _plain(one: DimensionEstimate) -> dict[str, Any]:
    """Return an estimate as JSON has it: its floats come back to the bit."""
    return {
        "dimension": float(one.dimension),
        "standard_error": float(one.standard_error),
        "interval": [float(end) for end in one.interval],
        "n_points": int(one.n_points),
        "scales": None if one.scales is None else np.asarray(one.scales).tolist(),
        "dimension_by_scale": None if one.dimension_by_scale is None else np.asarray(one.dimension_by_scale).tolist(),
        "diagnostics": {name: np.asarray(value).tolist() for name, value in one.diagnostics.items()},
    }


def _estimate(stored: Mapping[str, Any]) -> DimensionEstimate:
    def array(values: Any) -> Any:
        return None if values is None else np.array(values, dtype=np.float64)

    low, high = stored["interval"]
    return DimensionEstimate(
        dimension=float(stored["dimension"]),
        standard_error=float(stored["standard_error"]),
        interval=(float(low), float(high)),
        n_points=int(stored["n_points"]),
        scales=array(stored["scales"]),
        dimension_by_scale=array(stored["dimension_by_scale"]),
        diagnostics={
            str(name): array(value) if isinstance(value, list) else _number(value)
            for name, value in stored["diagnostics"].items()
        },
    )


def _number(value: Any) -> Any:
    """Return a diagnostic as it was: a number, whole or not, or a word."""
    return value if isinstance(value, str | bool | int) else math.nan if value is None else float(value)
