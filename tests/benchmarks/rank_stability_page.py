"""The page of the measurements on ranks."""

from typing import Any


def page(result: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    return "# How far ranks can be trusted\n"
