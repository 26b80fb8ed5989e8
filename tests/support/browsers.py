"""A real browser for a test: a system's Chromium, led by Playwright, or why not.

Playwright's own browsers are fetched from elsewhere; the package does as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 375, "height": 740}


class NoBrowserError(Exception):
    """There is no browser that starts; says why."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a browser without a window.

    Raises:
        NoBrowserError: None is installed, or it does not start.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise NoBrowserError(f"none of {', '.join(NAMES)} is installed")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError as error:
        raise NoBrowserError("playwright is not installed") from error
    # The sandbox needs what root in a container does not have; pages here are ours.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=program,
                args=[*options, "--disable-dev-shm-usage", "--disable-gpu"],
            )
        except Error as error:
            raise NoBrowserError(f"{program} does not start: {error}") from error
        yield browser
        browser.close()
