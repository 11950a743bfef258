"""AUPRO and P-AUROC of 1,000 maps of 392 x 392: ours, anomalib's, and the way of papers' code.

    python benchmarks/metrics.py --out runs/metrics [--anomalib FOLDER]

Smooth maps in [0, 1] and masks with several regions are drawn once (seed 0), a third of the images without a defect,
and written to two raw files that every contender reads batch by batch.  Each has a process and one thread to itself,
one after the other, so that whoever shares the machine slows all alike; seconds are of the work, without imports, and
the ratio of CPU seconds is the fairer one.  Ours and anomalib's run three times (medians), in turn; `exact` is this
package's metric for small sets, which holds all pixels: the value that the others are compared with.

anomalib and scikit-image are installed in an environment of their own in FOLDER (default: a temporary one), where there
is none.  The naive way takes seven minutes of a core.  Writes benchmarks/metrics.md and the raw rows beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, software, write_rows
from metrics_contenders import BATCH, SIZE
from scipy.ndimage import gaussian_filter

RESULT = Path(__file__).with_suffix(".md")
CONTENDERS = RESULT.with_name("metrics_contenders.py")
REPEATS, FEW = 3, 250
TORCH = ("torch==2.14.1", "torchvision==0.29.1") if os.uname().machine == "x86_64" else ("torch", "torchvision")
TITLES = {
    "counted": "ours, streaming",
    "exact": "ours, exact",
    "anomalib": "anomalib",
    "naive": "scikit-learn, 200 thresholds",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--anomalib", type=Path, help="folder of the environment that anomalib is in, or comes into")
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--draw", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.draw:
        _draw(arguments.out, arguments.maps)
        return
    # In a process of its own: what this one has held would count as the peak of those it starts.
    draw = [sys.executable, __file__, "--draw", "--out", str(arguments.out), "--maps", str(arguments.maps)]
    subprocess.run(draw, check=True)
    with tempfile.TemporaryDirectory() as folder:
        other = _other_python(arguments.anomalib or Path(folder))
        rows = list(_rows(arguments.out, arguments.maps, other))
        versions = _versions(other)
    write_rows(rows, RESULT.with_suffix(".csv"))
    RESULT.write_text(_report(rows, versions, "python benchmarks/metrics.py " + " ".join(sys.argv[1:])))
    print(RESULT.read_text())


def _draw(folder: Path, num_maps: int) -> None:
    """maps.raw (float32) and masks.raw (uint8), unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "masks.raw").is_file() and (folder / "masks.raw").stat().st_size == num_maps * SIZE**2:
        return
    rng = np.random.default_rng(0)
    with (folder / "maps.raw").open("wb") as maps, (folder / "masks.raw").open("wb") as masks:
        for start in range(0, num_maps, BATCH):
            noise_2NHW = rng.standard_normal((2, min(BATCH, num_maps - start), SIZE, SIZE), dtype=np.float32)
            mask_NHW = gaussian_filter(noise_2NHW[0], (0, 10, 10)) > 0.065
            mask_NHW[::3] = False
            blurred_NHW = gaussian_filter(mask_NHW.astype(np.float32), (0, 6, 6))
            map_NHW = 0.3 + 2.5 * gaussian_filter(noise_2NHW[1], (0, 7, 7)) + 0.35 * blurred_NHW
            np.clip(map_NHW, 0, 1).astype(np.float32).tofile(maps)
            mask_NHW.astype(np.uint8).tofile(masks)


def _other_python(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TORCH, "anomalib>=2,<3"], check=True)
    return python


def _rows(folder: Path, num_maps: int, other: Path) -> Iterator[Row]:
    here = Path(sys.executable)
    for repeat in range(REPEATS):
        yield _measured("counted", here, folder, num_maps, repeat)
        yield _measured("anomalib", other, folder, num_maps, repeat)
    yield _measured("counted", here, folder, min(FEW, num_maps), 0)
    yield _measured("exact", here, folder, num_maps, 0)
    yield _measured("naive", other, folder, num_maps, 0)


def _measured(contender: str, python: Path, folder: Path, num_maps: int, repeat: int) -> Row:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [python, CONTENDERS, contender, folder, str(num_maps)]
    said = subprocess.check_output(command, text=True, env=os.environ | threads)
    row: Row = json.loads(said.splitlines()[-1])
    print(row, file=sys.stderr, flush=True)
    return {"contender": contender, "maps": num_maps, "repeat": repeat} | row


def _versions(python: Path) -> str:
    names = ("anomalib", "torch", "torchmetrics", "scikit-learn", "scikit-image")
    code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {names!r}), sep=', ')"
    return subprocess.check_output([python, "-c", code], text=True).strip()


def _report(rows: Sequence[Row], versions: str, command: str) -> str:
    most = max(row["maps"] for row in rows)
    full = {name: [row for row in rows if (row["contender"], row["maps"]) == (name, most)] for name in TITLES}
    few = [row for row in rows if row["maps"] < most]
    true = full["exact"][0]
    lines = [_line(TITLES[name], full[name], true) for name in TITLES]
    ours, (bounds, *_) = full["counted"], full["counted"]
    ratios = [f"| {TITLES[name]} | {_ratio(full[name], ours)} |" for name in ("anomalib", "naive", "exact")]
    return f"""# Pixel metrics of {most:,} maps of {SIZE} x {SIZE}, {date.today()}

{software(command)}.
The others' environment: {versions}

AUPRO up to a false-positive rate of 0.3 and P-AUROC; one thread each, sequentially, the same files, {BATCH} maps at a
time.  Medians of {len(ours)} runs of ours and of anomalib, one run of the others.

| contender | seconds | of a core | peak memory | P-AUROC | off by | AUPRO | off by |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}
{"".join(_line(f"ours, streaming, {row['maps']} maps", [row], None) for row in few)}

| times as long as ours, streaming | seconds | of a core | peak memory |
|---|---|---|---|
{chr(10).join(ratios)}

"Off by" is the distance from the exact value.  Streaming says of itself: P-AUROC within {bounds["p_auroc_bound"]:.1e},
AUPRO within {bounds["aupro_bound"]:.1e}; it gives P-AP and P-F1-max in the same pass.

Raw rows: {RESULT.stem}.csv
"""


def _median(rows: Sequence[Row], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _ratio(rows: Sequence[Row], ours: Sequence[Row]) -> str:
    names = ("seconds", "cpu_seconds", "peak_mib")
    return " | ".join(f"{_median(rows, name) / _median(ours, name):.1f}" for name in names)


def _line(title: str, rows: Sequence[Row], true: Row | None) -> str:
    cells = [f"{_median(rows, 'seconds'):.1f}", f"{_median(rows, 'cpu_seconds'):.1f}"]
    cells.append(f"{_median(rows, 'peak_mib'):,.0f} MiB")
    for name in ("p_auroc", "aupro"):
        value = rows[0][name]
        cells += [f"{value:.6f}", "-" if true is None else f"{abs(value - true[name]):.1e}"]
    return f"| {title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
