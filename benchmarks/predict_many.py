"""Many images judged on Ray: killed on the way, run again, and compared byte for byte with a prediction without Ray.

    python benchmarks/predict_many.py --out runs/many

Small photographs, so that it is about the batches and not about the detector.  The driver is sent SIGKILL when a third
of the batches are recorded.  A list of a million paths is then read as `predict` reads it before its first batch.
Writes benchmarks/predict_many.md and the raw rows beside it.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from harness import Row, setting, tell, write_rows
from PIL import Image

import llb_ray
from llb_ray.engine.inference.prediction_journal import UNFINISHED

HERE = Path(__file__).parent
SIDE, TRAINED, LISTED = 64, 200, 1_000_000
KILLED_AT = 1 / 3  # of the batches
SETTINGS = [f"detector.image_size_px={SIDE}", "members.count=3", "threshold.folds=2"]
LISTING = """
import json, resource, sys, time
from llb_ray.data.predict_inputs import Inputs
start_s = time.perf_counter()
count = sum(1 for _ in Inputs.of(sys.argv[1]).read())
peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"images": count, "seconds": time.perf_counter() - start_s, "peak_mib": peak_mib}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--result", type=Path, default=HERE / "predict_many.md")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    rows = list(measured(out, photographs(out / "photos", arguments.images), arguments.images))
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows, arguments.images))
    print(arguments.result.read_text())


def photographs(folder: Path, count: int) -> Path:
    """Noise of a grain and brightness of its own, a hundred to a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 100:05d}" / f"{number:08d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            grain = rng.normal(rng.uniform(90, 160), 20, (SIDE // 2, SIDE // 2)).clip(0, 255).astype(np.uint8)
            Image.fromarray(grain).resize((SIDE, SIDE)).save(path, quality=80)
    return folder


def measured(out: Path, photos: Path, count: int) -> list[Row]:
    run = trained(out)
    killed = predict(run, photos, out / "ray", "ray", batches=round(KILLED_AT * count / batch_size(run)))
    resumed = predict(run, photos, out / "ray", "ray")
    if (killed["status"], resumed["status"]) != (-signal.SIGKILL, 0):
        sys.exit(f"the first prediction was not killed, or the second one failed: {killed}, {resumed}")
    whole = predict(run, photos, out / "serial", "serial")
    same = digests(out / "ray") == digests(out / "serial")
    tell(f"the same bytes: {same}")
    rows = [{"what": "killed", **killed}, {"what": "resumed", **resumed, "same_bytes": same}]
    return [*rows, {"what": "serial, whole", **whole}, {"what": "listed", **listed(out / "million.parquet")}]


def trained(out: Path) -> Path:
    """A run of some images of the same kind."""
    config = llb_ray.load_config(None, SETTINGS)
    manifest = llb_ray.read_folder(photographs(out / "trained", TRAINED), config)
    llb_ray.run(config, manifest, out=out / "run", executor="serial", tell=tell)
    return out / "run"


def batch_size(run: Path) -> int:
    return llb_ray.load_config(run / "config.yaml", []).resources.batch_size


def predict(run: Path, photos: Path, out: Path, executor: str, batches: int | None = None) -> Row:
    """Time of a prediction, or how many batches are recorded when it is killed at this many of them."""
    command = [sys.executable, "-m", "llb_ray", "predict", str(run), str(photos), "--out", str(out)]
    before, started_s = recorded(out), time.perf_counter()
    process = subprocess.Popen([*command, "--overlays", "none", "--executor", executor], stdout=sys.stderr)
    while process.poll() is None and (batches is None or recorded(out) < batches):
        time.sleep(0.2)
    if batches is not None:
        process.send_signal(signal.SIGKILL)
    status = process.wait()
    row = {"status": status, "seconds": time.perf_counter() - started_s, "batches_before": before}
    return row | {"batches_after": recorded(out) if batches is not None else None}


def recorded(out: Path) -> int:
    return len(list((out / UNFINISHED).glob("[0-9]*")))


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}


def listed(path: Path) -> Row:
    """Time and memory of reading a list of a million paths, in a process of its own."""
    parquet.write_table(pa.table({"path": [f"{row // 1000:05d}/{row:09d}.jpg" for row in range(LISTED)]}), path)
    said = subprocess.run([sys.executable, "-c", LISTING, str(path)], check=True, capture_output=True, text=True)
    return dict(json.loads(said.stdout))


def page(rows: Sequence[Row], count: int) -> str:
    killed, resumed, serial, listing = rows
    total = -(-count // batch_size(Path(sys.argv[sys.argv.index("--out") + 1]) / "run"))
    left = total - resumed["batches_before"]
    lines = [
        f"| killed by SIGKILL | {killed['batches_after']} of {total} batches | {killed['seconds']:.0f} |",
        f"| the same command again | the other {left} | {resumed['seconds']:.0f} |",
        f"| without Ray, whole | {total} | {serial['seconds']:.0f} |",
    ]
    table = "\n".join(["| `predict` | judged | seconds |", "|---|---|---|", *lines])
    said = (
        f"{count:,} photographs of {SIDE} x {SIDE} px, `--overlays none`, Ray on {os.cpu_count()} cores; seconds "
        f"include starting Python and Ray. After the kill and the second command, tables, regions and `coco.json` "
        f"{'are' if resumed['same_bytes'] else 'ARE NOT'} those of the prediction without Ray, byte for byte."
    )
    million = (
        f"A list of {listing['images']:,} paths is read in {listing['seconds']:.1f} s with {listing['peak_mib']:.0f} "
        "MiB (the whole process), before the first batch; batches are listed as workers take them."
    )
    command = "python benchmarks/predict_many.py " + " ".join(sys.argv[1:])
    title = f"# Many images on Ray, {date.today()}\n\n{setting(command)}"
    return "\n\n".join([title, said, table, million, "Raw rows: predict_many.csv"]) + "\n"


if __name__ == "__main__":
    main()
