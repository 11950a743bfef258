"""The README's picture of a report, from the demo's: `make demo && python benchmarks/screenshot.py`, with Chromium."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.browser import chromium, until  # noqa: E402

WIDTH_PX, HEIGHT_PX = 1240, 1240
DECIDE = """
const cards = [...document.querySelectorAll('.card')];
const decide = (place, word) => cards[place].querySelector(`[data-word=${word}]`).click();
decide(0, 'keep'), decide(1, 'reject'), decide(4, 'unsure');
"""


def main() -> None:
    """docs/report.png: summary, charts and the first images, with three decisions made."""
    page = HERE.parent / "runs" / "demo" / "run" / "report.html"
    size = {"width": WIDTH_PX, "height": HEIGHT_PX, "deviceScaleFactor": 1, "mobile": False}
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as driver:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driver.get(page.as_uri())
        until(driver, "return [...document.querySelectorAll('.card canvas')].every((one) => one.width !== 300)")
        driver.execute_script(DECIDE)
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    small = picture.resize((WIDTH_PX * 4 // 5, HEIGHT_PX * 4 // 5), Image.Resampling.LANCZOS)
    small.quantize(64).save(HERE.parent / "docs" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
