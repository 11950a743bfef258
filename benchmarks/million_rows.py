"""Do `run` and `plan` stay usable on a manifest of a million rows: first line, progress, refusal, time, memory?

    python benchmarks/million_rows.py --work /tmp/million      # needs 5 GB of disk there, and about an hour

Every row is a process of the command line.  With the folder of the images missing it has to refuse at once; with it
there, `plan` goes to its end and `run` is stopped (SIGTERM) once the images are read.  Each image is a PNG of 8 px of
its own content, so that what is measured is the handling of rows and files and not the decoding of photographs.  Peak
memory is the operating system's figure for the process, imports included.  Writes
benchmarks/million_rows.md and the raw rows beside it.
"""

import argparse
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
from harness import Row, software, write_rows

from llb_ray.data.listing import LISTING, Listing

HERE = Path(__file__).parent
SIDE_PX, PER_FOLDER = 8, 1000
SETTINGS = ["detector.name=autoencoder", "detector.image_size_px=32", "detector.channels=4", "members.count=3"]
SETTINGS += ["detector.member_steps=60", "detector.final_steps=120"]
COLUMNS = {
    "command": "command",
    "images": "images",
    "exit_status": "exit status",
    "first_line_s": "first line, s",
    "first_progress_s": "first progress, s",
    "longest_silence_s": "longest silence, s",
    "seconds": "whole, s",
    "cpu_s": "CPU, s",
    "peak_mib": "peak MiB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist yet; removed at the end")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    os.environ["LLB_CACHE"] = str(options.work / "cache")
    try:
        rows = list(_measure(options.work, options.rows))
    finally:
        shutil.rmtree(options.work)
    result = HERE / "million_rows.md"
    write_rows(rows, result.with_suffix(".csv"))
    command = " ".join(["python benchmarks/million_rows.py", *sys.argv[1:]])
    result.write_text(
        f"# A manifest of {options.rows:,} rows, {date.today()}\n\n{software(command)}\n\n"
        f"PNGs of {SIDE_PX} px on a local disk; other programs were at work on the machine.  A line of progress is due "
        f"every 30 s where the output is no terminal.\n\n{_table(rows)}\n"
    )
    print(result.read_text())


def _measure(work: Path, num_rows: int) -> list[Row]:
    """Each command without and with its images; a second reading uses what the cache remembers of the first."""
    manifest, images = work / "million.arrow", work / "images"
    paths = [f"{number // PER_FOLDER:04d}/{number:07d}.png" for number in range(num_rows)]
    _listing(images, paths).save(manifest)
    rows = [_row(f"{name}, images missing", name, manifest, work, num_rows) for name in ("run", "plan")]
    for number, path in enumerate(paths):
        target = images / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_png(number))
    time.sleep(3)  # files younger than two seconds are not remembered
    rows.append(_row("plan", "plan", manifest, work, num_rows))
    rows.append(
        _row("run, until the images are read, remembered", "run", manifest, work, num_rows, ("note:", "features:"))
    )
    return rows


def _listing(root: Path, paths: Sequence[str]) -> Listing:
    none = pa.nulls(len(paths))
    columns = dict.fromkeys(LISTING.names, none)
    columns |= {"path": pa.array(paths), "category": pa.array(["million"] * len(paths))}
    columns["split"] = pa.array(["train"] * len(paths))
    return Listing.of(root, pa.table([columns[name] for name in LISTING.names], LISTING.names))


def _png(number: int) -> bytes:
    """A grey PNG whose pixels are all different for different numbers."""
    pixels = (number * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(SIDE_PX, "little") * SIDE_PX
    rows = b"".join(b"\0" + pixels[at : at + SIDE_PX] for at in range(0, len(pixels), SIDE_PX))
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _row(title: str, name: str, manifest: Path, work: Path, num_rows: int, until: tuple[str, ...] = ()) -> Row:
    command = [sys.executable, "-m", "llb_ray", name, "--manifest", str(manifest), "--executor", "serial"]
    command += ["--out", str(work / "out"), *(part for setting in SETTINGS for part in ("--set", setting))]
    started_s, at_s = time.monotonic(), [0.0]
    first_progress_s = None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HERE.parent)
    assert process.stdout is not None
    for line in process.stdout:
        at_s.append(time.monotonic() - started_s)
        print(f"{title} {at_s[-1]:.1f}: {line}", end="", file=sys.stderr)
        if first_progress_s is None and "reading:" in line:
            first_progress_s = at_s[-1]
        if until and line.startswith(until):
            process.send_signal(signal.SIGTERM)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started_s
    silences = [later - earlier for earlier, later in zip(at_s, [*at_s[1:], seconds], strict=True)]
    cpu_s = used.ru_utime + used.ru_stime
    return {
        "command": title,
        "images": num_rows,
        "exit_status": os.waitstatus_to_exitcode(status),
        "first_line_s": round(at_s[1], 1) if len(at_s) > 1 else None,
        "first_progress_s": None if first_progress_s is None else round(first_progress_s, 1),
        "longest_silence_s": round(max(silences), 1),
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu_s, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
    }


def _table(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS.values())} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = ["" if row[name] is None else row[name] for name in COLUMNS]
        lines.append("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
