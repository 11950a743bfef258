"""What the benchmark scripts share: run every (alpha, seed, filter), keep raw rows, print an honest table."""

import csv
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.manifest import TRAIN
from llb_ray.data.tables import read_table
from llb_ray.disk import write_json
from llb_ray.engine import filenames
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.scans.job_results import DONE, job_of

METRICS = {
    "i_auroc": "I-AUROC",
    "p_auroc": "P-AUROC",
    "aupro": "AUPRO",
    "residual_contamination": "residual contamination",
    "normals_lost": "normals lost",
}
LESS_IS_BETTER = ("residual_contamination", "normals_lost")
FILTERS = ("none", "random", "llb", "oracle")
Row = dict[str, Any]


def tell(line: str) -> None:
    """Print what a run or a scan says beside the page."""
    print(line, file=sys.stderr, flush=True)


def sweep(
    config: RunConfig,
    manifest_of: Callable[[float, int], Manifest],
    alphas: Sequence[float],
    seeds: Sequence[int],
    keep_ratio: Callable[[float], float],
    out: Path,
    executor: str | Executor,
) -> Iterator[Row]:
    """One row per (alpha, seed, filter); the filters of one (alpha, seed) share its features and members."""
    for alpha in alphas:
        for seed in seeds:
            manifest = manifest_of(alpha, seed)
            for name in FILTERS:
                settings = [f"seed={seed}", f"purify.filter={name}", f"purify.keep_ratio={keep_ratio(alpha)}"]
                folder = out / f"alpha{alpha:g}-seed{seed}"
                started = time.perf_counter()
                result = llb_ray.run(with_overrides(config, settings), manifest, out=folder, executor=executor)
                row: Row = {"alpha": alpha, "seed": seed, "filter": name, "seconds": time.perf_counter() - started}
                row |= {name: result.metrics.get(name) for name in METRICS}
                row |= {f"s_{time.stage}": time.seconds for time in result.times if not time.reused}
                print(
                    f"alpha {alpha:g} seed {seed} {name:7s} I-AUROC {row['i_auroc']:.4f}", file=sys.stderr, flush=True
                )
                yield row


def kept_rows(path: Path, measure: Callable[[], Iterable[Row]]) -> list[Row]:
    """The rows of `measure`, from the JSON file `path` where an earlier call left them: hours of work in parts."""
    if path.exists():
        return list(json.loads(path.read_text()))
    rows = list(measure())
    write_json(path, rows)
    return rows


def llb_runs(
    scan: Path, alphas: Sequence[float] | None = None, seeds: int | None = None
) -> Iterator[tuple[Row, FinishedRun]]:
    """The finished `llb` jobs of a scan, as rows of its table, and their runs; of these alphas and so many seeds."""
    for row in llb_ray.table(scan).to_pylist():
        wanted = (alphas is None or row["alpha"] in alphas) and (seeds is None or row["seed"] < seeds)
        if row["filter"] == "llb" and row["status"] == DONE and wanted:
            yield row, FinishedRun(RunFolder.open(scan / "jobs" / job_of(row).name), None)


def training_labels(run: FinishedRun) -> dict[str, int]:
    """What the training images are, by image_id: 0 normal, 1 anomalous."""
    labels = read_table(run.made.labels.file(filenames.LABELS)).to_pylist()
    return {row["image_id"]: row["label"] for row in labels if row["split"] == TRAIN}


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Raw data as CSV, every column that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Markdown: a line per (alpha, filter), mean ± sd over seeds."""
    lines = [
        "| alpha | filter | " + " | ".join(METRICS[name] for name in metrics) + " |",
        "|---|---|" + "---|" * len(metrics),
    ]
    for alpha in dict.fromkeys(row["alpha"] for row in rows):
        for name in dict.fromkeys(row["filter"] for row in rows):
            chosen = [row for row in rows if (row["alpha"], row["filter"]) == (alpha, name)]
            cells = " | ".join(spread([row[metric] for row in chosen]) for metric in metrics)
            lines.append(f"| {alpha:g} | {name} | {cells} |")
    return "\n".join(lines)


def stage_seconds(rows: Sequence[Row]) -> str:
    """Markdown: mean seconds of each stage where it was really run, and how often that was."""
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith("s_")))
    lines = ["| stage | times run | mean seconds |", "|---|---|---|"]
    for name in names:
        seconds = [row[name] for row in rows if name in row]
        lines.append(f"| {name.removeprefix('s_')} | {len(seconds)} | {statistics.mean(seconds):.2f} |")
    return "\n".join(lines)


def setting(command: str, hardware: str = "no GPU used") -> str:
    """Where and with what the figures were made, and how much memory that took."""
    peak_mib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    return f"{software(command, hardware)}  \nPeak memory of the largest process: {peak_mib:.0f} MiB"


def software(command: str, hardware: str = "no GPU used") -> str:
    """Where and with what the figures were made."""
    packages = ("llb-ray", "torch", "timm", "ray", "pyarrow", "numpy", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"Command: `{command}`  \n{versions}; Python {platform.python_version()}; {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} CPU cores, {hardware}"
    )


def gain(differences: Sequence[float], lower_is_better: bool = False) -> str:
    """Mean of paired differences, and in how many of them the change was for the better."""
    better = sum(difference < 0 if lower_is_better else difference > 0 for difference in differences)
    return f"{statistics.mean(differences):+.3f} ({better}/{len(differences)})"


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.3f} ± {statistics.stdev(known) if len(known) > 1 else 0:.3f}"


def machine_busy_s() -> float:
    """CPU seconds that all programs together have had since the machine started (Linux)."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def wait_for_calm(share: float, patience_s: float) -> None:
    """Until all programs together take at most `share` of the machine, or patience is at its end."""
    end_s = time.perf_counter() + patience_s
    while time.perf_counter() < end_s:
        before_s = machine_busy_s()
        time.sleep(1)
        if machine_busy_s() - before_s <= share * (os.cpu_count() or 1):
            return
