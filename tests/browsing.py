"""A headless browser whose page must stay silent: no console errors, no request beyond its own address."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A page with storage of its own; leaving it fails the test where the browser complained or was asked for another host."""
    wrong: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda request: None if _own(request.url, address) else wrong.append(f"request: {request.url}"))
    page.goto(address)
    yield page
    page.close()
    assert wrong == []


def _own(url: str, address: str) -> bool:
    wanted, own = urlsplit(url), urlsplit(address)
    return wanted.scheme in ("data", "blob") or (wanted.scheme, wanted.netloc) == (own.scheme, own.netloc)
