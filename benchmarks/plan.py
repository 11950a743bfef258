"""Does `llb-ray plan` foretell what a run takes?  A plan and then the run, side by side, several times.

    python benchmarks/plan.py --out runs/plan

The demo (220 training images, autoencoder) with the serial executor and on a local Ray, its photographs and magnetic
tile (720 training images) with a memory bank on MobileNetV2, whose members are densities, with the serial executor.
Plan and run have a process each, with one thread as a worker has by default, and follow each other at once; of runs on
Ray, memory is the proportional set size of all their processes, looked at twice a second.  Data and weights of
magnetic tile are looked for under LLB_DATA (default ../shared/data).  Writes benchmarks/plan.md and the raw rows
beside it.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from harness import software, wait_for_calm, write_rows
from purification_magnetic_tile import DATA, HERE, WEIGHTS

import llb_ray
from llb_ray.config import load
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.report.plan_tables import forecast_json

CASES = {
    "demo, serial": "serial",
    "demo, Ray": "ray",
    "gears, memory bank, serial": "serial",
    "magnetic tile, serial": "serial",
}
SMALL = ("manifest", "labels", "partition", "scores", "purify")  # stages that a plan counts as other
GIB = 2**30
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a calm machine, each time")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--do", nargs=3, metavar=("WHAT", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        what, case, folder = arguments.do
        print(json.dumps({"plan": _plan, "run": _run}[what](case, arguments.out, Path(folder))))
        return
    write_synthetic(arguments.out / "photos", SyntheticConfig(("gear",), alpha=0.2))
    rows = list(_rows(arguments.out, arguments.cases, arguments.rounds, arguments.patience))
    write_rows(rows, HERE / "plan.csv")
    (HERE / "plan.md").write_text(_report(rows))
    print((HERE / "plan.md").read_text())


def _rows(out: Path, cases: Sequence[str], rounds: int, patience_s: float) -> Iterator[Row]:
    for number in range(rounds):
        for case in cases:
            if case.startswith("magnetic") and not (DATA / "magnetic_tile").is_dir():
                sys.exit(f"{DATA}/magnetic_tile is missing: set LLB_DATA to the folder that holds it")
            wait_for_calm(0.5, patience_s)
            folder = out / f"{case.replace(', ', '-').replace(' ', '_')}-{number}"
            told, came = (_in_a_process(what, case, out, folder) for what in ("plan", "run"))
            names = {"case": case, "round": number, "plan_s": told["wall_s"], "load": os.getloadavg()[0]}
            for stage in [*told["seconds"], *(name for name in came["seconds"] if name not in told["seconds"])]:
                yield names | {
                    "quantity": stage,
                    "predicted": told["seconds"].get(stage, 0),
                    "measured": came["seconds"].get(stage, 0),
                }
            if CASES[case] == "serial":
                told["cpu_s"] = told["seconds"]["all"] * told["cpu_share"]
                yield names | {"quantity": "all_cpu_s", "predicted": told["cpu_s"], "measured": came["cpu_s"]}
            for name in ("memory_gib", "disk_gib"):
                yield names | {"quantity": name, "predicted": told[name], "measured": came[name]}


def _in_a_process(what: str, case: str, out: Path, folder: Path) -> Row:
    command = [sys.executable, __file__, "--out", str(out), "--do", what, case, str(folder)]
    started_s = time.perf_counter()
    row: Row = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    print(what, case, row, file=sys.stderr, flush=True)
    return row | {"wall_s": time.perf_counter() - started_s}


def _config(case: str) -> llb_ray.RunConfig:
    if case.startswith("demo"):
        return load(HERE.parent / "configs" / "autoencoder.yaml")
    settings = [
        "detector.backbone.name=mobilenetv2_100",
        f"detector.backbone.weights={DATA / WEIGHTS}",
        "resources.num_cpus=1",
    ]
    return load(HERE.parent / "configs" / "memory_bank.yaml", settings)


def _images(case: str, out: Path) -> Path:
    return DATA / "magnetic_tile" if case.startswith("magnetic") else out / "photos" / "gear"


def _plan(case: str, out: Path, folder: Path) -> Row:
    config = _config(case)
    manifest = llb_ray.read_folder(_images(case, out), config)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    told = forecast_json(llb_ray.plan(config, manifest, out=folder, executor=CASES[case]))
    share = (time.process_time() - cpu_s) / (time.perf_counter() - started_s)
    seconds = {stage["stage"]: stage["seconds"] for stage in told["stages"]}
    seconds["other"] += seconds.pop("ray", 0)
    needed = {need["name"]: need["needed_bytes"] / GIB for need in told["needs"]}
    all_s = {"all": sum(seconds.values())}
    sizes = {"memory_gib": needed["memory"], "disk_gib": needed["disk"]}
    return {"seconds": seconds | all_s, "cpu_share": share, **sizes}


def _run(case: str, out: Path, folder: Path) -> Row:
    config = _config(case)
    manifest = llb_ray.read_folder(_images(case, out), config)
    with _Watched() as watched:
        started_s, cpu_s = time.perf_counter(), time.process_time()
        result = llb_ray.run(config, manifest, out=folder, executor=CASES[case])
        all_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    seconds = {one.stage: one.seconds for one in result.times if one.stage not in SMALL}
    seconds["other"] = all_s - sum(seconds.values())
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = own if CASES[case] == "serial" else watched.peak_bytes
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sizes = {"memory_gib": memory / GIB, "disk_gib": disk / GIB}
    return {"seconds": seconds | {"all": all_s}, "cpu_s": cpu_s, **sizes}


class _Watched:
    """The most memory that this process and those that it started had between them."""

    def __enter__(self) -> "_Watched":
        self.peak_bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, sum(map(_share_bytes, _family(os.getpid()))))


def _family(root: int) -> set[int]:
    """The process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    family, found = set[int](), {root}
    while found - family:
        family |= found
        found = {pid for pid, parent in parents.items() if parent in family}
    return family


def _share_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _report(rows: Sequence[Row]) -> str:
    lines = ["| case | quantity | predicted | measured | off by, each round | median |", "|---|---|---|---|---|---|"]
    for case in dict.fromkeys(row["case"] for row in rows):
        for name in dict.fromkeys(row["quantity"] for row in rows if row["case"] == case):
            chosen = [row for row in rows if (row["case"], row["quantity"]) == (case, name)]
            told, came = (median(row[which] for row in chosen) for which in ("predicted", "measured"))
            if max(told, came) < (0.001 if name.endswith("gib") else 0.3):
                continue  # of nothing, any error is a large one
            off = [row["predicted"] / row["measured"] - 1 if row["measured"] else float("inf") for row in chosen]
            unit, digits = ("GiB", 3) if name.endswith("gib") else ("s", 1)
            title = f"**{name}**" if name in ("all", "all_cpu_s", "memory_gib", "disk_gib") else name
            cells = f"{told:.{digits}f} {unit} | {came:.{digits}f} {unit}"
            lines.append(f"| {case} | {title} | {cells} | {', '.join(f'{o:+.0%}' for o in off)} | {median(off):+.0%} |")
    plans = {row["case"]: row["plan_s"] for row in rows}
    took = ", ".join(f"{case} {seconds:.0f} s" for case, seconds in plans.items())
    return f"""# What a run takes, foretold and measured, {date.today()}

{software("python benchmarks/plan.py " + shlex.join(sys.argv[1:]))}
Load of the machine meanwhile: {", ".join(f"{row['load']:.1f}" for row in rows if row["quantity"] == "all")}

{chr(10).join(lines)}

Predicted and measured are medians over the rounds.  Stages below 0.3 s are left out, `all` has them; it begins when
the folder has been read.  `other` is what no stage above has: imports, small stages, the start and end of Ray.
`all_cpu_s` leaves out what others on the machine took meanwhile: seconds of CPU that the run had, against the foretold
time at the plan's own share of a core.  Memory is the peak of the process, of runs on Ray of all processes together.
The last plans took, imports and reading of the folder included: {took}.

Raw rows: plan.csv
"""


if __name__ == "__main__":
    main()
