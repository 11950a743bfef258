"""A real Chromium without a window, for pages on disk; tests skip where there is none."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
_PATIENCE_S = 60


@contextmanager
def chromium(folder: Path) -> Iterator[WebDriver]:
    """A browser with a new profile in `folder`, where its downloads land too; skips where none is installed."""
    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if browser is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield made
    finally:
        made.quit()


def until(driver: WebDriver, script: str, *arguments: Any) -> Any:
    """What the script returns, once that is true."""
    return WebDriverWait(driver, _PATIENCE_S, 0.05).until(lambda one: one.execute_script(script, *arguments))


def complaints(driver: WebDriver) -> list[str]:
    """What the console has said since last time."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: WebDriver) -> set[str]:
    """The schemes of all that was asked for since last time, and of each the path or host."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {
        message["params"]["request"]["url"].partition(",")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
