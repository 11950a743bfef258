"""What does one encoder pass per image save?  The same run with the cache, and with the encoder at every reading.

    python benchmarks/feature_cache.py --out runs/feature_cache

Reconstruction detector, K = 5, 200 steps per member, stage 2, MobileNetV2 at 224 px, 600 magnetic-tile images with a
tenth of defects and 100 test images.  `recompute` is the run with features.max_gib=0.  It still scores an image with
all members at once; the published scheme would encode every training image K - 1 times more.  Then the run with the
cache on 600 and on 6,000 training images (the tiles, mirrored and turned), for its memory.

Each run has a process to itself and one thread, as a worker has by default, so that whoever shares the machine slows
all runs alike; peak memory is its VmHWM.  Memory does not depend on the number of steps: the last two take few.
Writes benchmarks/feature_cache.md and the raw rows beside it.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from harness import setting, write_rows
from PIL import Image
from purification_magnetic_tile import DATA, HERE, WEIGHTS

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load
from llb_ray.data.augment import augment_image
from llb_ray.data.contaminate import contaminate_manifest
from llb_ray.data.tables import read_table
from llb_ray.ensemble.purified_dataset import kept_ids

NUM_TEST = 100
TURNS: Sequence[tuple[Any, Any]] = [
    (flip, turn) for flip in (None, "hflip") for turn in (None, "rot90", "rot180", "rot270")
]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--many", type=int, default=6000)
    parser.add_argument("--run", nargs=2, metavar=("NAME", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (DATA / "magnetic_tile").is_dir():
        sys.exit(f"{DATA}/magnetic_tile is missing: set LLB_DATA to the folder that holds it")
    if arguments.run:
        print(json.dumps(_run(arguments.run[0], int(arguments.run[1]), arguments.out)))
        return
    _write_many(arguments.out / "photos", arguments.many)
    names = [("cache", arguments.images), ("recompute", arguments.images), ("few", arguments.images)]
    rows = [_in_a_process(name, count, arguments.out) for name, count in [*names, ("many", arguments.many)]]
    write_rows(rows, HERE / "feature_cache.csv")
    (HERE / "feature_cache.md").write_text(_report(rows, arguments.out))
    print((HERE / "feature_cache.md").read_text())


def _in_a_process(name: str, count: int, out: Path) -> Row:
    command = [sys.executable, __file__, "--out", str(out), "--run", name, str(count)]
    row: Row = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    print(row, file=sys.stderr, flush=True)
    return row


def _run(name: str, count: int, out: Path) -> Row:
    settings = ["detector.backbone.name=mobilenetv2_100", f"detector.backbone.weights={DATA / WEIGHTS}"]
    settings += ["features.max_gib=0"] if name == "recompute" else []
    settings += ["detector.member_steps=40", "detector.final_steps=40"] if name in ("few", "many") else []
    config = load(HERE.parent / "configs" / "reconstruction_cnn.yaml", settings)
    manifest = _tiles(config, count) if name in ("cache", "recompute") else _first(out / "photos", config, count)
    started = time.perf_counter()
    result = llb_ray.run(config, manifest, out=out / name, executor="serial")
    row: Row = {"run": name, "images": count, "seconds": time.perf_counter() - started}
    row |= {"cpu_seconds": time.process_time(), "peak_mib": _peak_mib()}
    row |= {"encoded": result.passes.done, "recomputing": result.passes.recomputing}
    row |= {"cached_mib": result.passes.cached_bytes / 2**20, "i_auroc": result.metrics.get("i_auroc")}
    return row | {f"s_{time.stage}": time.seconds for time in result.times}


def _tiles(config: RunConfig, count: int) -> Manifest:
    drawn = contaminate_manifest(llb_ray.read_folder(DATA / "magnetic_tile", config), count, 0.1, seed=0)
    train = drawn.table.filter(pc.equal(drawn.table["split"], "train"))["image_id"]
    test = drawn.table.filter(pc.equal(drawn.table["split"], "test"))["image_id"].slice(0, NUM_TEST)
    chosen = set(train.to_pylist()) | set(test.to_pylist())
    return replace(drawn, table=drawn.table.filter([name in chosen for name in drawn.table["image_id"].to_pylist()]))


def _write_many(folder: Path, count: int) -> None:
    """Distinct images: every normal tile in its eight orientations, as far as they are needed."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    tiles = sorted((DATA / "magnetic_tile").glob("*/good/*"))
    for number in range(count):
        (flip, turn), tile = TURNS[number // len(tiles)], tiles[number % len(tiles)]
        pixels = augment_image(augment_image(np.asarray(Image.open(tile).convert("RGB")), flip), turn)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number:05d}.png", compress_level=1)


def _first(folder: Path, config: RunConfig, count: int) -> Manifest:
    manifest = llb_ray.read_folder(folder, config)
    return replace(manifest, table=manifest.table.slice(0, count))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def _report(rows: Sequence[Row], out: Path) -> str:
    cache, recompute, few, many = rows
    scores = [read_table(out / name / "scores.arrow") for name in ("cache", "recompute")]
    assert scores[0].drop(["scores"]).equals(scores[1].drop(["scores"]))
    cached, anew = (pc.list_flatten(table["scores"]).to_numpy() for table in scores)
    kept = [set(kept_ids(read_table(out / name / "purified" / "part-0.arrow"))) for name in ("cache", "recompute")]
    return f"""# One encoder pass per image, {date.today()}

{setting("python benchmarks/feature_cache.py " + " ".join(sys.argv[1:]))}

| run | training images | seconds | of a core | peak memory | images encoded | features cached | I-AUROC |
|---|---|---|---|---|---|---|---|
{_line("cache", cache)}
{_line("recompute at every reading", recompute)}
{_line("cache, tiles turned", few)}
{_line("cache, tiles turned", many)}

**{recompute["seconds"] / cache["seconds"]:.1f} times faster** with the cache, and {_share(recompute, cache):.1f} times
less processor time.  Scores of the members: largest difference {np.abs(cached - anew).max():.2g}, scores between
{cached.min():.3g} and {cached.max():.3g} (Spearman
{np.corrcoef(cached.argsort().argsort(), anew.argsort().argsort())[0, 1]:.6f}); kept sets: {len(kept[0] & kept[1])} of
{len(kept[0])} images in common.  Memory at {many["images"]:,} images over that at {few["images"]}:
{many["peak_mib"] / few["peak_mib"]:.3f}.

| stage | cache, seconds | recompute | cache, {many["images"]:,} images |
|---|---|---|---|
{chr(10).join(_stages(cache, recompute, many))}

Raw rows: feature_cache.csv
"""


def _share(one: Row, other: Row) -> float:
    return float(one["cpu_seconds"] / other["cpu_seconds"])


def _line(name: str, row: Row) -> str:
    auroc = "-" if row["i_auroc"] is None else f"{row['i_auroc']:.4f}"
    return (
        f"| {name} | {row['images']:,} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} | {row['peak_mib']:.0f} MiB | "
        f"{row['encoded']:,} | {row['cached_mib']:.0f} MiB | {auroc} |"
    )


def _stages(*rows: Row) -> list[str]:
    names = [name for name in rows[0] if name.startswith("s_")]
    return [f"| {name[2:]} | " + " | ".join(f"{row.get(name, 0):.1f}" for row in rows) + " |" for name in names]


if __name__ == "__main__":
    main()
