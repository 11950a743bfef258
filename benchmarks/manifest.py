"""How long does it take to list a large data set, and how much memory?  The 30 official JSON files of Real-IAD.

    python benchmarks/manifest.py

The files are looked for under LLB_DATA (default ../shared/data) and are not part of the repository; nor are the images,
so nobody looks whether they are there.  Every reading is a process of its own, whose peak memory is the operating
system's figure for it, imports included.  A second part hashes and decodes 2,000 synthetic photographs of 256 px, and
does it again with what the cache remembers.  Writes benchmarks/manifest.md and the raw rows beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, software, write_rows
from PIL import Image

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data"))
NUM_PHOTOGRAPHS, SIDE_PX = 2000, 256
SETTLED_S = 3  # files younger than two seconds are not remembered
LIST = """
from llb_ray.config import DatasetOptions
from llb_ray.data.adapters import read_listing
started, busy = time.perf_counter(), time.process_time()
listing = read_listing("real_iad", root, DatasetOptions(check_files=False))
report(images=len(listing.table), seconds=time.perf_counter() - started, cpu_s=time.process_time() - busy)
"""
IDENTIFY = """
from llb_ray.data.adapters import read_listing
from llb_ray.data.listing_to_manifest import identified
listing = read_listing("folder", root)
started, busy = time.perf_counter(), time.process_time()
manifest = identified(listing, 90_000_000)
report(images=len(manifest.table), seconds=time.perf_counter() - started, cpu_s=time.process_time() - busy)
"""
PRELUDE = """
import json, resource, sys, time
root = sys.argv[1]
def report(**figures):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**figures, "peak_mib": peak}))
"""
TITLES = {
    "list": "list Real-IAD",
    "identify": f"identify {NUM_PHOTOGRAPHS:,} photographs",
    "again": "the same again, remembered",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    lists = DATA / "splits"
    if not (lists / "realiad_jsons").is_dir():
        sys.exit(f"{lists}/realiad_jsons is missing: set LLB_DATA to the folder that holds splits/")
    rows = [_measured("list", LIST, lists) for _ in range(arguments.times)]
    for _ in range(arguments.times):
        with tempfile.TemporaryDirectory() as folder:
            photographs = _photographs(Path(folder) / "photographs")
            os.environ["LLB_CACHE"] = f"{folder}/cache"
            rows += [_measured(name, IDENTIFY, photographs) for name in ("identify", "again")]
    result = HERE / "manifest.md"
    write_rows(rows, result.with_suffix(".csv"))
    command = " ".join(["python benchmarks/manifest.py", *sys.argv[1:]])
    result.write_text(
        f"# Listing a large data set, {date.today()}\n\n{software(command)}\n\n"
        f"Medians of {arguments.times} processes, slowest in brackets; other programs were at work on the machine.  "
        f"CPU seconds are of all threads.  Photographs: {SIDE_PX} px PNG.\n\n{_table(rows)}\n\nRaw rows: manifest.csv\n"
    )
    print(result.read_text())


def _measured(what: str, code: str, root: Path) -> Row:
    command = [sys.executable, "-c", PRELUDE + code, str(root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent).stdout
    return {"what": what, **json.loads(said)}


def _photographs(folder: Path) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(NUM_PHOTOGRAPHS):
        image_HW3 = noise.integers(0, 256, (SIDE_PX // 8, SIDE_PX // 8, 3), np.uint8)
        Image.fromarray(image_HW3).resize((SIDE_PX, SIDE_PX)).save(folder / f"{number:05d}.png")
    time.sleep(SETTLED_S)
    return folder


def _table(rows: Sequence[Row]) -> str:
    lines = ["| what | images | seconds | CPU seconds | peak MiB |", "|---|---|---|---|---|"]
    for what, title in TITLES.items():
        of_it = [row for row in rows if row["what"] == what]
        cells = [_median([row[name] for row in of_it], digits) for name, digits in _COLUMNS.items()]
        lines.append(f"| {title} | {of_it[0]['images']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_COLUMNS = {"seconds": 2, "cpu_s": 2, "peak_mib": 0}


def _median(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})"


if __name__ == "__main__":
    main()
