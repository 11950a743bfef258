"""The report of a run of thousands of images: how long it takes to write, how large it is, how soon it can be used.

    python benchmarks/report_page.py --out runs/report_page        # with Chromium and its driver

Synthetic gears, 256 px; few steps, since the page does not care how well the detector does.  A new Chromium without a
window and without a network opens the page from the disk each time.  `shown` is when the first page of the gallery has
all its photographs and heatmaps; then *all* is chosen and one image's name is typed, and `usable` is when that image
and no other is there.  Both count from the start of navigation, on the page's own clock.

How photographs of a camera's size become thumbnails is measured apart: decoded whole, and as the report does it.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np
from harness import Row, software, write_rows
from PIL import Image
from selenium.webdriver.remote.webdriver import WebDriver

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import parse
from llb_ray.data.decoding import as_rgb, read_thumbnail
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.data.tables import read_table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.browser import chromium, complaints, requests, until  # noqa: E402

NUM_IMAGES, VIEWS, SIDE_PX = 5000, 20, 256
CAMERA_PX, THUMBNAIL_PX, NUM_CAMERA = (2000, 1500), 144, 20
TARGET_MB, TARGET_S = 30, 2
OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
WATCH = """
addEventListener("DOMContentLoaded", async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const names = () => [...document.querySelectorAll(".card bdi")].map((one) => one.textContent);
  const drawn = () =>
    names().length &&
    [...document.querySelectorAll(".card")].every((one) => one.querySelector("img")?.complete) &&
    [...document.querySelectorAll(".card canvas")].every((one) => one.width !== 300);
  while (!drawn()) await frame();
  const shown = performance.now();
  document.querySelector("[data-show=all]").click();
  const find = document.getElementById("find");
  find.value = WANTED;
  find.dispatchEvent(new Event("input"));
  while (!(names().length === 1 && names()[0] === WANTED && drawn())) await frame();
  window.measured = [shown, performance.now()];
});
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the photographs and the run")
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    run = _run(arguments.out)
    rows = [*_rows(run, arguments.times), *_thumbnails(arguments.times)]
    result = HERE / "report_page.md"
    write_rows(rows, result.with_suffix(".csv"))
    result.write_text(_page(rows, arguments.times))
    print(result.read_text())


def _run(out: Path) -> Path:
    """A finished run of `NUM_IMAGES` training images; photographs and run are made once."""
    gears = SyntheticConfig(("gear",), NUM_IMAGES // VIEWS, test_objects=4, alpha=0.1, size_px=SIDE_PX, views=VIEWS)
    if not (out / "photos").exists():
        write_synthetic(out / "photos", gears)
    config = _config()
    manifest = llb_ray.read_folder(out / "photos" / "gear", config)
    llb_ray.run(config, manifest, out=out / "run", executor="serial", tell=print)
    return out / "run"


def _config() -> RunConfig:
    detector = {"name": "autoencoder", "image_size_px": 64, "channels": 8, "member_steps": 30, "final_steps": 60}
    return parse({"detector": detector, "members": {"count": 5}})


def _rows(run: Path, times: int) -> Iterator[Row]:
    wanted = read_table(run / "purified" / "part-0.arrow")["path"][-1].as_py()
    for _ in range(times):
        started, busy = time.perf_counter(), time.process_time()
        page = llb_ray.write_report(run)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - busy
        yield {"what": "write", "seconds": seconds, "cpu_s": cpu_s, "mb": page.stat().st_size / 1e6}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as driver:
            yield {"what": "open", "browser": driver.capabilities["browserVersion"], **_opened(driver, page, wanted)}


def _opened(driver: WebDriver, page: Path, wanted: str) -> Row:
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    watch = WATCH.replace("WANTED", repr(wanted))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": watch})
    requests(driver)  # of the empty page that it begins with
    driver.get(page.as_uri())
    shown_ms, usable_ms = until(driver, "return window.measured")
    asked = sorted({url.partition(":")[0] for url in requests(driver)})
    facts = {"console_errors": len(complaints(driver)), "asked_for": " ".join(asked)}
    return {"shown_s": shown_ms / 1000, "usable_s": usable_ms / 1000, **facts}


def _thumbnails(times: int) -> Iterator[Row]:
    """CPU seconds of one thread for a photograph of a camera's size, mean of `NUM_CAMERA`."""
    with tempfile.TemporaryDirectory() as folder:
        photographs = [_photograph(Path(folder) / f"{number}.jpg", number) for number in range(NUM_CAMERA)]
        ways: dict[str, Callable[[Path], object]] = {"decoded whole": _whole, "as the report does": _small}
        for _ in range(times):
            for way, made in ways.items():
                started = time.thread_time()
                for path in photographs:
                    made(path)
                yield {"what": f"thumbnail, {way}", "seconds": (time.thread_time() - started) / NUM_CAMERA}


def _photograph(path: Path, seed: int) -> Path:
    rng, (width, height) = np.random.default_rng(seed), CAMERA_PX
    coarse = Image.fromarray(rng.integers(0, 256, (height // 50, width // 50, 3), np.uint8)).resize(CAMERA_PX)
    noisy_HW3 = np.asarray(coarse) + rng.normal(0, 4, (height, width, 3))
    Image.fromarray(noisy_HW3.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def _whole(path: Path) -> Image.Image:
    image = Image.fromarray(as_rgb(Image.open(io.BytesIO(path.read_bytes())), None))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return image


def _small(path: Path) -> Image.Image:
    return read_thumbnail(path, THUMBNAIL_PX, max_pixels=10**8)


def _page(rows: Sequence[Row], times: int) -> str:
    opened = [row for row in rows if row["what"] == "open"]
    errors = sum(row["console_errors"] for row in opened)
    ways = dict.fromkeys(row["what"] for row in rows if row["what"].startswith("thumbnail"))
    sizes = f"{CAMERA_PX[0]} x {CAMERA_PX[1]} JPEG to {THUMBNAIL_PX} px"
    command = " ".join(["python benchmarks/report_page.py", *sys.argv[1:]])
    return (
        f"# The page of a run of {NUM_IMAGES:,} images, {date.today()}\n\n"
        f"{software(command)}; Chromium {opened[0]['browser']}\n\n"
        f"Medians of {times}, slowest in brackets; other programs were at work on the machine.  Wanted: less than "
        f"{TARGET_MB} MB, and a filter has answered within {TARGET_S} s.  Console errors: {errors}.  "
        f"Asked for, by scheme: {', '.join(sorted({row['asked_for'] for row in opened}))}.\n\n"
        f"| | |\n|---|---|\n"
        f"| size | {_of(rows, 'write', 'mb'):} MB |\n"
        f"| writing it | {_of(rows, 'write', 'seconds')} s, {_of(rows, 'write', 'cpu_s')} s of a core |\n"
        f"| first gallery shown | {_of(rows, 'open', 'shown_s')} s |\n"
        f"| a filter has answered | {_of(rows, 'open', 'usable_s')} s |\n"
        + "".join(f"| {way} ({sizes}) | {_of(rows, way, 'seconds', 4)} s of a core |\n" for way in ways)
        + "\nRaw rows: report_page.csv\n"
    )


def _of(rows: Sequence[Row], what: str, column: str, digits: int = 2) -> str:
    values = [row[column] for row in rows if row["what"] == what]
    return f"{median(values):.{digits}f} ({max(values):.{digits}f})"


if __name__ == "__main__":
    main()
