"""A real browser for tests of the dashboard."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 30_000  # of a busy machine; what is waited for comes at once on an idle one
needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or not CHROMIUM.exists(),
    reason="needs the package playwright and Debian's chromium",
)


@contextmanager
def open_browser() -> Iterator["Browser"]:
    """Start Chromium; it may run as root, where its sandbox cannot."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu"],  # drawing without a GPU's emulation: 3x faster
        )
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, what it complained of, and whom it asked."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def asked_of_others(self, address: str) -> list[str]:
        """Return requests that went anywhere but to an address."""
        return [url for url in self.asked if not url.startswith((address, "data:"))]


@contextmanager
def open_page(browser: "Browser", width: int = 1280, scheme: str = "light") -> Iterator[Watched]:
    """Open an empty page of some width in a browser without memory."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield Watched(context.new_page())
    finally:
        context.close()
