"""How a run grows with its training images: CPU seconds of its parts, and its peak memory.

    python benchmarks/growth.py --out runs/growth                     # about an hour on one core; or:
    python benchmarks/growth.py --out runs/growth --sizes 300 1000 --many 0

Photographs of LLB_DATA/suite/commutator (LLB_DATA: default ../shared/data), each several times with small changes:
moved by a few pixels, a little brighter or darker, compressed again, one in twenty with a dark scratch.  The default
detector at 64 px, then its page.  `--many` images go through a small autoencoder at 32 px, for the handling
of so many files and rows.  Each line is a process of its own with one thread, the serial executor, and at most 1,024
open files.  Seconds are CPU time, so that other programs on the machine count little; `to linear` is the time of an
image over its time in the first line.  The million scores of 16 members are those of `scaling.py --driver`.

Writes benchmarks/growth.md and the raw rows, with every stage, beside it.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, kept_rows, software, tell, write_rows
from PIL import Image, ImageDraw, ImageEnhance

HERE = Path(__file__).parent
PHOTOS = Path(os.environ.get("LLB_DATA", HERE.parents[1] / "shared" / "data")) / "suite/commutator/train/good"
PARTS = {
    "encode": ("features",),
    "fit": ("members", "final"),
    "scores": ("member-scores", "final-scores", "held-out-maps"),
    "folds": ("folds", "fold-scores"),
    "purify": ("partition", "purify", "scores", "threshold"),
    "report": ("report",),
}
DEFAULT = ["detector.image_size_px=64"]
SMALL = ["detector.name=autoencoder", "detector.image_size_px=32", "detector.channels=4", "members.count=3"]
SMALL += ["detector.member_steps=60", "detector.final_steps=120"]
MOVED_PX, BRIGHTER, SCRATCHED_EVERY, OPEN_FILES = 6, 0.04, 20, 1024
MEMORY = {"peak_mib": "peak MiB", "peak_with_report_mib": "with report", "cache_mib": "cache, MiB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 3000, 10_000])
    parser.add_argument("--many", type=int, default=131_073, help="images of 32 px; 0 leaves them out")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        detector, size = arguments.one
        print(json.dumps(measured(arguments.out, detector, int(size))))
        return
    if not PHOTOS.is_dir():
        sys.exit(f"{PHOTOS} is missing: set LLB_DATA to the folder that holds suite/")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [_kept(arguments.out, "default", size) for size in arguments.sizes]
    many = [_kept(arguments.out, "small", arguments.many)] if arguments.many else []
    (driver,) = kept_rows(arguments.out / "driver.json", lambda: [_driver(arguments.out)])
    write_rows([*rows, *many, {"detector": "matrix of 1,000,000 x 16", **driver}], HERE / "growth.csv")
    (HERE / "growth.md").write_text(page(rows, many, driver))
    print((HERE / "growth.md").read_text())


def _kept(out: Path, detector: str, size: int) -> Row:
    (row,) = kept_rows(
        out / f"{detector}-{size}.json", lambda: [_in_process(out / f"{detector}-{size}", detector, size)]
    )
    return row


def _in_process(folder: Path, detector: str, size: int) -> Row:
    """The row of one size; its photographs and its run are removed, for the next one is larger."""
    shutil.rmtree(folder, ignore_errors=True)
    write_photographs(folder / "photos" / "train" / "good", size, 32 if detector == "small" else None)
    command = [sys.executable, __file__, "--out", str(folder), "--one", detector, str(size)]
    row: Row = json.loads(subprocess.check_output(command, env=os.environ | _one_thread()).splitlines()[-1])
    tell(f"{row}")
    shutil.rmtree(folder)
    return row


def _driver(out: Path) -> Row:
    command = [sys.executable, str(HERE / "scaling.py"), "--out", str(out), "--driver"]
    row: Row = json.loads(subprocess.check_output(command, env=os.environ | _one_thread()))
    shutil.rmtree(out / "driver")
    return row


def _one_thread() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}


def write_photographs(folder: Path, size: int, side_px: int | None) -> None:
    """So many photographs, no two alike, the same ones at every call; `side_px` makes them small squares."""
    folder.mkdir(parents=True)
    originals = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.iterdir())]
    for number in range(size):
        changed(originals[number % len(originals)], number, side_px).save(folder / f"{number:06d}.jpg", quality=95)


def changed(original: Image.Image, number: int, side_px: int | None) -> Image.Image:
    rng = np.random.default_rng(number)
    left, top = rng.integers(0, MOVED_PX, 2)
    image = original.crop((left, top, original.width - MOVED_PX + left, original.height - MOVED_PX + top))
    image = ImageEnhance.Brightness(image).enhance(1 + rng.uniform(-BRIGHTER, BRIGHTER))
    if number % SCRATCHED_EVERY == 0:
        x, y = rng.integers(image.width // 4, image.width // 2, 2)
        ImageDraw.Draw(image).line((x, y, x + image.width // 4, y + 10), fill=(20, 20, 20), width=3)
    return image if side_px is None else image.resize((side_px, side_px))


def measured(out: Path, detector: str, size: int) -> Row:
    """CPU seconds of every stage of a run and of its page, and the peak memory of this process after each."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    time.perf_counter = time.process_time  # stages are timed by the clock that other programs do not move
    import llb_ray

    config = llb_ray.load_config(None, [*(SMALL if detector == "small" else DEFAULT), "resources.num_cpus=1"])
    began_s = time.process_time()
    manifest = llb_ray.read_folder(out / "photos", config)
    read_s = time.process_time() - began_s
    result = llb_ray.run(config, manifest, out=out / "run", executor="serial", tell=_tell)
    ran_s, run_mib, run_bytes = time.process_time() - began_s, _peak_mib(), result.passes.cached_bytes
    stages = Counter[str]()
    for one in result.times:
        stages[one.stage] += one.seconds
    llb_ray.write_report(out / "run", times=result.times)
    all_s = time.process_time() - began_s
    stages |= {"report": all_s - ran_s}
    memory = dict(zip(MEMORY, (run_mib, _peak_mib(), run_bytes / 2**20), strict=True))
    return {"detector": detector, "images": size, "read": read_s, **stages, "all": all_s, **memory}


def _tell(line: str) -> None:
    tell(f"{_peak_mib():5.0f} MiB  {line}")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def page(rows: Sequence[Row], many: Sequence[Row], driver: Row) -> str:
    """Seconds of the parts by size, and how they compare with linear growth from the first size."""
    parts = ["read", *PARTS, "other", "all"]
    tables = [_table([f"{part}, s" for part in parts] + [*MEMORY.values()], rows, parts), _ratios(rows, parts)]
    if many:
        tables.append(_table([f"{part}, s" for part in parts] + [*MEMORY.values()], many, parts))
    tables.append(
        f"A matrix of 1,000,000 images x 16 members: assembled and written in {driver['assemble_and_write_s']:.1f} s, "
        f"purified in {driver['purify_s']:.1f} s, peak memory {driver['peak_mib']:,.0f} MiB."
    )
    command = software("python benchmarks/growth.py " + " ".join(sys.argv[1:]))
    joined = "\n\n".join(tables)
    return f"# Growth with the number of images, {date.today()}\n\n{command}\n\n{joined}\n\nRaw rows: growth.csv\n"


def _table(titles: Sequence[str], rows: Sequence[Row], parts: Sequence[str]) -> str:
    lines = [f"| images | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for row in rows:
        seconds = _parts(row)
        cells = [f"{seconds[part]:,.1f}" for part in parts] + [f"{row[name]:,.0f}" for name in MEMORY]
        lines.append(f"| {row['images']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratios(rows: Sequence[Row], parts: Sequence[str]) -> str:
    lines = [f"| to linear | {' | '.join(parts)} | peak memory |", "|---|" + "---|" * (len(parts) + 1)]
    first = _parts(rows[0])
    for row in rows[1:]:
        own, times = _parts(row), row["images"] / rows[0]["images"]
        cells = " | ".join(f"{own[part] / max(0.01, first[part]) / times:.2f}" for part in parts)
        lines.append(f"| {row['images']:,} | {cells} | {row['peak_mib'] / rows[0]['peak_mib']:.2f} times |")
    return "\n".join(lines)


def _parts(row: Mapping[str, float]) -> dict[str, float]:
    seconds = {"read": row["read"]}
    seconds |= {part: sum(row.get(stage, 0.0) for stage in stages) for part, stages in PARTS.items()}
    return seconds | {"other": row["all"] - sum(seconds.values()), "all": row["all"]}


if __name__ == "__main__":
    main()
