"""A finding: one thing to know before trusting a result, with what to do."""

from collections.abc import Iterable
from dataclasses import dataclass

SEVERITIES = ("problem", "caution", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know.

    Parameters
    ----------
    kind : str
        What it is about, one word for each rule.
    severity : str
        ``"problem"``: a number is missing or wrong; ``"caution"``: read it with care; ``"note"``: good to know.
    what : str
        What was found, with the numbers.
    remedy : str
        What to do.
    """

    kind: str
    severity: str
    what: str
    remedy: str


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return problems first, then cautions and notes."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
