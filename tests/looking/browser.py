"""A headless Chromium with a profile of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def drawn_at_once(place: Path, file: str) -> str:
    """Return the DOM of a page once it is loaded, with no frame drawn; skip without a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    words = [
        browser,
        *_FLAGS,
        f"--user-data-dir={place / 'profile'}",
        "--dump-dom",
        f"file://{file}",
    ]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


@contextlib.contextmanager
def chromium(place: Path) -> Iterator[Any]:
    """Open a browser that has a new profile and logs its console; skip where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={place / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        page.set_page_load_timeout(60)
        yield page
    finally:
        page.quit()
