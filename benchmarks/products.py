"""One run over several products, or a run of each: what do quality, memory and time say?

    OMP_NUM_THREADS=1 python benchmarks/products.py --out runs/products

Four real sets, each with as many training images, without and with a tenth of anomalies among them (alpha), one seed.
`each` is a run of every set by itself; `together` one run of all, with the same settings, so that its memory of patches
is a quarter of what the four have; `together, 4 x memory` has as much as the four.  Time is CPU time of a run from its
images to its metrics, on the serial executor and one thread.  Data is looked for under LLB_DATA (default
../shared/data).  Writes benchmarks/products.md, and the raw rows beside it.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from certify import DATA, HERE
from harness import Row, setting, tell, write_rows

import llb_ray
from llb_ray.config import ContaminateConfig
from llb_ray.data.listing import Listing
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.threshold import threshold_titles

SETS = {
    "glass_fabric": "suite/glass_fabric",
    "commutator": "suite/commutator",
    "fabric": "suite/fabric",
    "juice_bottle": "mvtec_loco_juice_bottle",
}
OBJECTS, MOST = 40, 30  # images for training, and images for tests of each label, of each set
ALPHAS = (0.0, 0.1)
SETTINGS = ("resources.num_cpus=1", "features.max_gib=30", "members.count=3", "threshold.folds=2")  # to save time
LARGER = ("detector.coreset_size=8000", "detector.candidates=160000")  # the defaults times the number of sets
FIGURES = {"i_auroc": "I-AUROC", "aupro": "AUPRO", "false_alarms": "false alarms", "found": "anomalies found"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--alphas", nargs="*", type=float, default=ALPHAS)
    parser.add_argument("--result", type=Path, default=HERE / "products.md")
    arguments = parser.parse_args()
    raw = arguments.result.with_suffix(".csv")
    rows: list[Row] = list(csv.DictReader(raw.open())) if raw.exists() else []
    for alpha in arguments.alphas:
        listed = _listed(alpha, arguments.out)
        for way, categories, settings in _ways():
            if not any((row["way"], float(row["alpha"])) == (way, alpha) and row["set"] in categories for row in rows):
                rows += _rows(way, alpha, categories, settings, listed, arguments.out)
                write_rows(rows, raw)  # after each: a part is worth having
    arguments.result.write_text(_page([*csv.DictReader(raw.open())]))
    print(arguments.result.read_text())


def _ways() -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    for name in SETS:
        yield "each", [name], []
    yield "together", list(SETS), []
    yield "together, 4 x memory", list(SETS), LARGER


def _listed(alpha: float, out: Path) -> Path:
    """The manifest file of all sets, each contaminated by itself; the test images are the same at every alpha."""
    parts = [_below(name, folder) for name, folder in SETS.items()]
    everything = Listing.of(DATA.absolute(), pa.concat_tables(parts))
    config = ContaminateConfig(alphas=ALPHAS, seeds=(0,), num_objects=OBJECTS)
    made = llb_ray.contaminate(config, out=out / "sets", listing=everything)
    return made[ALPHAS.index(alpha)]


def _below(name: str, folder: str) -> pa.Table:
    """The images of a set, with paths below the folder of all data."""
    table = _some(llb_ray.manifest("mvtec", DATA / folder).table)
    columns = {column: table[column].to_pylist() for column in table.column_names}
    columns["category"] = [name] * len(table)
    for column in ("path", "mask_path"):
        columns[column] = [path and f"{folder}/{path}" for path in columns[column]]
    return pa.table(columns, schema=table.schema)


def _some(table: pa.Table) -> pa.Table:
    """Enough images of each split and label, the first by name; some of the anomalous ones will be trained on."""
    left = {("train", 0): OBJECTS, ("test", 0): MOST, ("test", 1): MOST + round(max(ALPHAS) * OBJECTS)}
    rows = []
    for number, one in enumerate(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True)):
        left[one] -= 1
        if left[one] >= 0:
            rows.append(number)
    return table.take(rows)


def _rows(
    way: str, alpha: float, categories: Sequence[str], settings: Sequence[str], listed: Path, out: Path
) -> Iterator[Row]:
    """A row for each category of one run; its size and its time are in the first."""
    config = llb_ray.load_config(None, [*SETTINGS, *settings])
    manifest = llb_ray.read_manifest(listed, categories, config)
    folder = out / f"{way.replace(' ', '')}-{alpha:g}-{'+'.join(categories)}"
    started_s = time.process_time()
    result = llb_ray.run(config, manifest, out=folder, executor="serial", tell=tell)
    seconds = time.process_time() - started_s
    size = RunFolder.open(folder).made().final.file(filenames.DETECTOR).stat().st_size / 2**20
    for number, name in enumerate(categories):
        measured = result.metrics.get("by_category", {name: result.metrics})[name]
        row = {"way": way, "alpha": alpha, "set": name, "i_auroc": measured["i_auroc"], "aupro": measured.get("aupro")}
        row |= _decided(folder, result.threshold, name)
        yield row | {"detector_mib": 0 if number else size, "cpu_s": 0 if number else seconds}


def _decided(folder: Path, facts: Mapping[str, Any], name: str) -> Row:
    """Shares of the normal and of the anomalous test images of a category that are above its threshold."""
    titles = threshold_titles(facts)
    threshold = titles.get(f"threshold, {name}", titles.get("threshold"))["threshold"]  # type: ignore[index]
    labels = read_table(RunFolder.open(folder).made().labels.file(filenames.LABELS)).to_pylist()
    label = {row["image_id"]: row["label"] for row in labels}
    scored = read_table(folder / "image_scores.arrow").to_pylist()
    above: dict[int, list[bool]] = {0: [], 1: []}
    for row in scored:
        if row["split"] == "test" and row["category"] == name:
            above[label[row["image_id"]]].append(row["score"] > threshold)
    return {"false_alarms": statistics.mean(above[0]), "found": statistics.mean(above[1])}


def _page(rows: Sequence[Row]) -> str:
    parts = [
        f"# Several products in one run, {date.today()}\n\n"
        + setting("OMP_NUM_THREADS=1 python benchmarks/products.py --out runs/products")
        + ", one thread",
        f"{OBJECTS} training images of each of {len(SETS)} sets, at most {MOST} test images of each label, one seed, "
        f"{', '.join(SETTINGS[2:])}: differences below a few hundredths say nothing.  *False alarms* are the share of "
        "normal test images above the threshold of their category, asked for 1 %; *anomalies found* the share of "
        "the anomalous ones.  Size is of the final detectors, time is CPU time; "
        "those of `each` are sums of four runs.  A run together always takes folds for its thresholds, one by itself "
        "only where few images are rejected.",
        *(_table(rows, alpha) for alpha in dict.fromkeys(row["alpha"] for row in rows)),
        "Raw rows: products.csv",
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], alpha: str) -> str:
    titles = ["runs", *(f"I-AUROC, {name}" for name in SETS), *(f"mean {title}" for title in FIGURES.values())]
    titles += ["size, MiB", "CPU, s"]
    lines = [f"## alpha {float(alpha):g}\n", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        some = {row["set"]: row for row in rows if (row["way"], row["alpha"]) == (way, alpha)}
        if set(some) == set(SETS):
            own = [f"{float(some[name]['i_auroc']):.3f}" for name in SETS]
            means = [f"{statistics.mean(float(some[name][key] or 0) for name in SETS):.3f}" for key in FIGURES]
            sums = [f"{sum(float(row[key]) for row in some.values()):.0f}" for key in ("detector_mib", "cpu_s")]
            lines.append(f"| {way} | {' | '.join([*own, *means, *sums])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
