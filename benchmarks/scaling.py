"""How a run scales: workers, Ray against the serial executor, a million images in the driver, 200 members on 4 GPUs.

    python benchmarks/scaling.py --out runs/scaling

1. Stage 1 (four members, then their scores) on synthetic gears, one thread per worker: serial, Ray with one core, Ray
   with two.  `work` is the time of the stages `members` and `member-scores`; Ray's includes starting the processes of
   its actors, which takes seconds each.  `fitting` leaves that out: seconds of fits per core.
2. The driver's part for 1,000,000 images and 16 members: assemble the matrix, purify, write.  A process of its own.
3. 200 members of a few steps each, queued on 4 logical GPUs.

Writes benchmarks/scaling.md and the raw rows beside it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from harness import setting, write_rows

import llb_ray
from llb_ray.config import PurifyConfig, RunConfig, load, with_overrides
from llb_ray.data.manifest import IMAGES
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.data.tables import read_table, write_table
from llb_ray.ensemble.partition import PARTITION
from llb_ray.ensemble.purified_dataset import purified_dataset
from llb_ray.ensemble.score_matrix import assemble

HERE = Path(__file__).parent
NUM_IMAGES, NUM_MEMBERS = 1_000_000, 16
STAGE_1 = ("members", "member-scores")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queued", type=int, default=200)
    parser.add_argument("--driver", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.driver:
        print(json.dumps(_driver(arguments.out / "driver")))
        return
    rows = _workers(arguments.out, arguments.rounds)
    driver = json.loads(subprocess.check_output([sys.executable, __file__, "--out", str(arguments.out), "--driver"]))
    queued = _queued(arguments.out, arguments.queued)
    write_rows(rows, HERE / "scaling.csv")
    (HERE / "scaling.md").write_text(_report(rows, driver, queued))
    print((HERE / "scaling.md").read_text())


def _configs(out: Path) -> dict[str, RunConfig]:
    """Both kinds of learner; a backbone with random weights does the same work as one with real ones."""
    backbone = [
        "detector.name=memory_bank",
        "detector.backbone.name=mobilenetv2_100",
        "detector.backbone.weights=random",
        "detector.image_size_px=128",
    ]
    common = ["members.count=4", "resources.num_cpus=1"]
    return {
        "autoencoder": load(HERE.parent / "configs" / "autoencoder.yaml", [*common, "detector.member_steps=3000"]),
        "memory_bank": load(None, [*common, *backbone]),
    }


def _workers(out: Path, rounds: int) -> list[Row]:
    write_synthetic(out / "photos", SyntheticConfig(("gear",), alpha=0.2))
    rows = []
    for name, config in _configs(out).items():
        manifest = llb_ray.read_folder(out / "photos" / "gear", config)
        for number in range(rounds):
            for cores in (0, 1, 2):
                folder = out / f"{name}-{number}-{cores}"
                result = _on(cores, lambda executor: llb_ray.run(config, manifest, out=folder, executor=executor))  # noqa: B023
                seconds = {time.stage: time.seconds for time in result.times}
                where = f"Ray, {cores} workers" if cores else "serial"
                row = {"detector": name, "round": number, "where": where, "work": sum(map(seconds.get, STAGE_1))}
                rows.append(row | {"fitting": _fitting_s(folder) / max(1, cores)})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _fitting_s(run: Path) -> float:
    """Seconds between first and last sign of life of each fit, summed over the members."""
    return sum(beat.time_s - beat.since_s for beat in llb_ray.status(run).beats if beat.kind == "member")


def _on(cores: int, run: Callable[[str], Any]) -> Any:
    """`run` with the serial executor (no cores), or on a Ray of its own with so many."""
    if not cores:
        return run("serial")
    ray.init(address="local", num_cpus=cores, num_gpus=0, include_dashboard=False, log_to_driver=False)
    try:
        return run("ray")
    finally:
        ray.shutdown()


def _driver(out: Path) -> Row:
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", f"import scaling; scaling._simulate({str(out)!r})"], check=True, cwd=HERE)
    started, row = time.perf_counter(), {}
    members = range(NUM_MEMBERS)
    matrix = assemble(read_table(out / "scores.arrow"), read_table(out / "partition.arrow"), members)
    write_table(out / "matrix.arrow", matrix)
    row["assemble_and_write_s"] = time.perf_counter() - started
    del matrix
    images, matrix = read_table(out / "images.arrow"), read_table(out / "matrix.arrow")
    purified = purified_dataset(PurifyConfig(), 0, images, matrix).table
    row["purify_s"] = time.perf_counter() - started - row["assemble_and_write_s"]
    write_table(out / "purified.arrow", purified)
    row["all_s"] = time.perf_counter() - started
    return row | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _simulate(folder: str) -> None:
    out, rng, count = Path(folder), np.random.default_rng(0), NUM_IMAGES
    ids = sorted(rng.bytes(16).hex() for _ in range(count))
    paths = [f"train/{number}.png" for number in range(count)]
    write_table(out / "images.arrow", pa.table([ids, paths, ["x"] * count, ids, ["train"] * count], schema=IMAGES))
    offsets = np.arange(count + 1, dtype=np.int32) * NUM_MEMBERS
    scores = pa.ListArray.from_arrays(offsets, rng.gamma(2, size=count * NUM_MEMBERS).astype(np.float32))
    write_table(out / "scores.arrow", pa.table({"image_id": ids, "scores": scores}))
    home = rng.integers(0, NUM_MEMBERS, count).astype(np.int16)
    write_table(out / "partition.arrow", pa.table([ids, home], schema=PARTITION))


def _queued(out: Path, count: int) -> Row:
    config = load(HERE.parent / "configs" / "autoencoder.yaml", ["resources.num_gpus=1", "resources.device=cpu"])
    config = with_overrides(config, [f"members.count={count}", "detector.member_steps=2", "detector.final_steps=2"])
    write_synthetic(out / "many", SyntheticConfig(("gear",), train_objects=2 * count, test_objects=10, alpha=0.2))
    manifest = llb_ray.read_folder(out / "many" / "gear", config)
    ray.init(address="local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=False)
    try:
        result = llb_ray.run(config, manifest, out=out / "queued", executor="ray")
    finally:
        ray.shutdown()
    seconds = {time.stage: time.seconds for time in result.times}
    return {"members": count, "members_s": seconds["members"], "all_s": sum(seconds.values())}


def _against_serial(rows: Sequence[Row], detector: str, where: str, name: str) -> str:
    """Two cells: the seconds of each round, and the median of the rounds' ratios to serial."""
    serial, own = (
        np.array([row[name] for row in rows if (row["detector"], row["where"]) == (detector, place)])
        for place in ("serial", where)
    )
    return f"{', '.join(f'{seconds:.1f}' for seconds in own)} | {np.median(serial / own):.2f}"


def _report(rows: Sequence[Row], driver: Row, queued: Row) -> str:
    lines = [
        "| detector | where | s of work, each round | speed | s of fitting, each round | speed |",
        "|---|" + "---|" * 5,
    ]
    for detector in dict.fromkeys(row["detector"] for row in rows):
        for where in dict.fromkeys(row["where"] for row in rows):
            cells = " | ".join(_against_serial(rows, detector, where, name) for name in ("work", "fitting"))
            lines.append(f"| {detector} | {where} | {cells} |")
    return f"""# Scaling, {date.today()}

{setting("python benchmarks/scaling.py " + " ".join(sys.argv[1:]))}

{chr(10).join(lines)}

Driver, {NUM_IMAGES:,} images x {NUM_MEMBERS} members: matrix assembled and written in
{driver["assemble_and_write_s"]:.1f} s, purified in {driver["purify_s"]:.1f} s, {driver["all_s"]:.1f} s in all;
peak memory {driver["peak_mib"]:.0f} MiB.

{queued["members"]} members queued on 4 logical GPUs: trained in {queued["members_s"]:.0f} s, the whole run
{queued["all_s"]:.0f} s.

Raw rows: scaling.csv
"""


if __name__ == "__main__":
    main()
