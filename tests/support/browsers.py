"""A Chromium that is installed, for pages that are looked at as a reader sees them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from required import absent

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a headless Chromium, driven by playwright; skip where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        absent(f"needs a Chromium, there is none of {', '.join(_NAMES)} on the path")
    if find_spec("playwright") is None:
        absent("playwright is not installed: pip install 'gelora[dev]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that was opened from a file, and what it asked for and complained of.

    Parameters
    ----------
    browser : playwright.sync_api.Browser
    file : Path
    **options
        Of the browser's context, e.g. ``viewport``.
    """

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())

    def wait_until_drawn(self) -> None:
        """Wait until every chart is there."""
        for place in range(self.page.locator(".plot").count()):
            self.page.locator(".plot").nth(place).locator(".main-svg").first.wait_for(state="attached")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)
