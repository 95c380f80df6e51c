"""What a report is made of: tables of text, and charts of plotly with the table beneath each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table.

    Parameters
    ----------
    text : str
        What stands in it.
    strong : bool
        Whether it stands out.
    tint : str
        CSS colour behind it, of gelora's own making; empty for none.
    """

    text: str
    strong: bool = False
    tint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text; the first cell of a row is its heading.

    Parameters
    ----------
    caption : str
        What it holds.
    head : sequence of str
        Headings of the columns.
    rows : sequence of sequence of Cell
        As many cells each as there are headings.
    left : frozenset of int
        Columns of words, which are set flush left; the others hold numbers.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: frozenset[int] = frozenset({0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart, or several of which one is shown.

    Parameters
    ----------
    name : str
        Of its element, unique on the page.
    title : str
        What it shows, read out in its place.
    figures : mapping of str to dict
        Plotly's data and layout, by what the reader chooses; one under ``""`` where there is nothing to choose.
    choices : mapping of str to sequence of str
        What can be chosen, by the label of the choice; keys of ``figures`` are choices joined by ``"|"``.
    toggles : sequence of str
        Groups of traces that can be hidden, by their ``legendgroup``.
    errors : bool
        Whether error bars can be hidden.
    height : int
        In pixels.
    table : Table, optional
        The same numbers.
    """

    name: str
    title: str
    figures: Mapping[str, Mapping[str, Any]]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    toggles: Sequence[str] = ()
    errors: bool = False
    height: int = 380
    table: Table | None = None


def row(*texts: str) -> tuple[Cell, ...]:
    """Return a row of plain cells."""
    return tuple(Cell(text=text) for text in texts)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, anything else that a file may hold in its place as an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: float, digits: int = 1) -> str:
    """Return a number as it stands in a table, a dash where there is none.

    Examples
    --------
    >>> number(12.345), number(float("nan")), number(28877, 0), number(-0.5)
    ('12.3', '–', '28,877', '−0.5')
    """
    return "–" if value != value else f"{value:,.{digits}f}".replace("-", "−")
