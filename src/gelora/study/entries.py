"""Values of a study and where they stand, so that an error names the line and the key."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from gelora.messages import nearest

# A study is written by hand: whatever is larger was meant for something else.
MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Entry:
    """One value, its key from the top of the study, and its line where it came from a file.

    Parameters
    ----------
    value : object
        Mappings and lists hold plain values.
    key : str
        As in ``tasks[1].data_dir``; empty at the top.
    source : str
        Name of the file, empty where the study came as a mapping.
    lines : mapping of str to int
        Line of each key, from 1.
    root : str
        What the whole is called in errors.

    Examples
    --------
    >>> entry = Entry({"seeds": [0, "x"]})
    >>> [seed.key for seed in entry["seeds"].list()]
    ['seeds[0]', 'seeds[1]']
    """

    value: Any
    key: str = ""
    source: str = ""
    lines: Mapping[str, int] = field(default_factory=dict, repr=False)
    root: str = "study"

    def __getitem__(self, name: str) -> "Entry":
        return self._child(self.value[name], f"{self.key}.{name}" if self.key else str(name))

    def __contains__(self, name: str) -> bool:
        return name in self.value

    def fail(self, message: str) -> NoReturn:
        """Raise ValueError: ``message`` goes on after the key, as in "must be a number"."""
        line = self.lines.get(self.key)
        place = "".join((f"{self.source}, " if self.source else "", f"line {line}: " if line else ""))
        raise ValueError(f"{place}`{self.key or self.root}` {message}")

    def mapping(self, *allowed: str, needed: tuple[str, ...] = ()) -> "Entry":
        """Return this entry if it is a mapping with no other keys than those, and all that are needed."""
        if not isinstance(self.value, Mapping):
            self.fail(f"must be a mapping of {', '.join(allowed) or 'names to values'}, got {_shown(self.value)}")
        for name in self.value:
            if not isinstance(name, str):
                self.fail(f"must have names as keys, got {name!r}")
            if allowed and name not in allowed:
                self[name].fail(f"is not known here, choose of {', '.join(allowed)}{nearest(name, allowed)}")
        for name in needed:
            if name not in self.value:
                self.fail(f"must have the key {name!r}, it has {', '.join(map(str, self.value)) or 'none'}")
        return self

    def items(self) -> "Iterator[tuple[str, Entry]]":
        """Yield names and entries of a mapping."""
        for name in self.value:
            yield str(name), self[name]

    def list(self, least: int = 1) -> "list[Entry]":
        """Return the entries of a list of at least ``least`` values."""
        if not isinstance(self.value, list | tuple):
            self.fail(f"must be a list, got {_shown(self.value)}")
        if len(self.value) < least:
            self.fail(f"must have at least {least} {'value' if least == 1 else 'values'}, got {len(self.value)}")
        return [self._child(value, f"{self.key}[{place}]") for place, value in enumerate(self.value)]

    def text(self, what: str = "a text") -> str:
        """Return the value if it is a text with something in it."""
        if not isinstance(self.value, str | Path) or not str(self.value).strip():
            self.fail(f"must be {what}, got {_shown(self.value)}")
        return str(self.value)

    def integer(self, least: int) -> int:
        """Return the value if it is an integer of at least ``least``."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            self.fail(f"must be an integer of at least {least}, got {_shown(self.value)}")
        return int(self.value)

    def number(self, what: str, above: float = -math.inf, below: float = math.inf) -> float:
        """Return the value if it is a finite number in the open interval."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < below:
            self.fail(f"must be {what}, got {_shown(value)}")
        return float(value)

    def flag(self) -> bool:
        """Return the value if it is true or false."""
        if not isinstance(self.value, bool):
            self.fail(f"must be true or false, got {_shown(self.value)}")
        return self.value

    def choice(self, *allowed: str) -> str:
        """Return the value if it is one of ``allowed``."""
        if self.value not in allowed:
            self.fail(f"must be one of {', '.join(allowed)}, got {_shown(self.value)}")
        return str(self.value)

    def _child(self, value: Any, key: str) -> "Entry":
        return replace(self, value=value, key=key)


def read_yaml(path: str | Path, root: str = "study") -> Entry:
    """Read a YAML file into an entry that knows the line of every key; ``root`` is what errors call the whole.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no YAML, names a key twice, or is far larger than what is written by hand; naming the line.
    """
    import yaml

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"`{root}`: there is no file {str(path)!r}; give a YAML file as the documentation shows"
        )
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"`{root}`: {file.name} has more than {MAX_BYTES:,} bytes: that is no {root}")
    try:
        node = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=_loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise ValueError(f"{file.name} is not readable YAML: {reason}") from error
    lines: dict[str, int] = {}
    value = _Values(file.name, lines, root).read(node, "") if node is not None else None
    return Entry(value, "", file.name, lines, root)


def _loader() -> Any:
    """Return PyYAML's safe loader, which reads 1e-3 as a number too, as YAML 1.2 does; it knows 1.0e-3 alone."""
    import yaml

    class Loader(yaml.SafeLoader):
        """With a rule of its own, and a bound on the depth, with whose square PyYAML's time grows."""

        _depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise yaml.YAMLError("it nests values without end")
            node = super().compose_node(parent, index)
            self._depth -= 1
            return node

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


class _Values:
    """Turn the nodes of a YAML file into plain values, noting lines; bounded, whatever aliases the file has."""

    def __init__(self, source: str, lines: dict[str, int], root: str) -> None:
        import yaml

        self._source, self._lines, self._root, self._count = source, lines, root, 0
        self._constructor = yaml.SafeLoader("")
        self._open: list[int] = []

    def read(self, node: Any, key: str) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self._lines.setdefault(key, line)
        self._count += 1
        if self._count > MAX_VALUES or id(node) in self._open or len(self._open) > MAX_DEPTH:
            raise ValueError(f"{self._source}, line {line}: `{key}` repeats or nests values without end: write it out")
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, key)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(child, f"{key}[{place}]") for place, child in enumerate(node.value)]
            return self._scalar(node, key, line)
        finally:
            self._open.pop()

    def _mapping(self, node: Any, key: str) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for name_node, child in node.value:
            line = name_node.start_mark.line + 1
            name = self._scalar(name_node, key, line) if isinstance(name_node.value, str) else None
            if name is None:
                raise ValueError(f"{self._source}, line {line}: `{key or self._root}` must have names as keys")
            inner = f"{key}.{name}" if key else str(name)
            if name in found:
                raise ValueError(f"{self._source}, line {line}: `{inner}` stands there twice: keep one")
            self._lines[inner] = line
            found[name] = self.read(child, inner)
        return found

    def _scalar(self, node: Any, key: str, line: int) -> Any:
        import yaml

        try:
            return self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{self._source}, line {line}: `{key}` has a value that is no plain YAML") from error


def _shown(value: Any) -> str:
    return f"{value!r:.80}"
