"""How much of the harm that anomalies do does each filter undo?  The tables behind the default configuration.

    OMP_NUM_THREADS=1 python benchmarks/certify.py magnetic_tile --out runs/certify_tile
    OMP_NUM_THREADS=1 python benchmarks/certify.py mvtec_loco_juice_bottle --out runs/certify_juice
    OMP_NUM_THREADS=1 python benchmarks/certify.py synthetic --out runs/certify_synthetic

Every alpha x seed x filter, as `llb-ray certify` runs them; what is there already is not run again, so that a table can
be made of a part.  `none` and `oracle` are the same detector on all training images and on the normal ones: the gap
between them is what a filter can close.  `softpatch` has a memory of its own, which weighs distances.  Data and weights
are looked for under LLB_DATA (default ../shared/data); the synthetic photographs are drawn first.  Writes
benchmarks/certify_<set>_<detector>.md, and the raw rows as Parquet beside it.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from harness import setting, spread, tell

import llb_ray
from llb_ray.config import ScanConfig, load_scan
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.scans.job_results import DONE
from llb_ray.scans.robustness import Robustness, mean_gap_closed, robustness

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data"))
WEIGHTS = "weights/mobilenetv2_100.safetensors"
TRAINING = {"magnetic_tile": 600, "mvtec_loco_juice_bottle": 200, "synthetic": 110}  # objects
SYNTHETIC = ("wood", "metal")
FILTERS = ("none", "oracle", "llb", "softpatch", "srr", "memory_ensemble", "random")
ALPHAS = (0, 0.1, 0.2, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=list(TRAINING))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="memory_bank", help="a file in configs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--filters", nargs="+", default=FILTERS)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="further settings")
    parser.add_argument("--result", type=Path)
    parser.add_argument("--table-only", action="store_true", help="of what is there")
    parser.add_argument("--rows", type=Path, nargs="*", default=[], help="tables of earlier parts, whose rows join in")
    arguments = parser.parse_args()
    result = arguments.result or HERE / f"certify_{arguments.dataset}_{arguments.config}.md"
    config = configured(arguments)
    if arguments.table_only:
        rows = llb_ray.table(arguments.out / "scan")
    else:
        rows = llb_ray.scan(config, out=arguments.out / "scan", executor="serial", tell=tell)
    rows = joined(rows, [pq.read_table(path) for path in arguments.rows])
    pq.write_table(rows, result.with_suffix(".parquet"))
    done = [row for row in rows.to_pylist() if row["status"] == DONE]
    command = "python benchmarks/certify.py " + " ".join(sys.argv[1:])
    result.write_text(
        f"# Filters on {arguments.dataset.replace('_', ' ')}, {config.detector.name.replace('_', ' ')}, "
        f"{date.today()}\n\n{setting(command)}\n\n"
        f"{TRAINING[arguments.dataset]} training objects, {len(done)} runs; mean ± sd over seeds.  *closed*: share of "
        "the gap between none and oracle in I-AUROC, 95 % bootstrap interval over seeds.  *harm*: points of I-AUROC "
        "below none.  *left*: anomalous share of the kept images; *lost*: share of the normal ones rejected.  "
        "*alpha*: mean error of the estimated share.  *s*: wall time of a run whose features are there.\n\n"
        f"{overview(done, robustness(rows))}\n\n{table(done)}\n\n{summary(robustness(rows))}\n\n"
        f"Raw rows: {result.stem}.parquet\n"
    )
    print(result.read_text())


def configured(arguments: argparse.Namespace) -> ScanConfig:
    """The scan; draws the synthetic photographs where they are missing."""
    root, categories = DATA, [arguments.dataset]
    if arguments.dataset == "synthetic":
        root, categories = arguments.out / "photographs", list(SYNTHETIC)
        if not root.exists():
            write_synthetic(root, SyntheticConfig(train_objects=120, test_objects=160, alpha=0.0, seed=0))
    elif not (DATA / arguments.dataset).is_dir():
        sys.exit(f"{DATA / arguments.dataset} is missing: set LLB_DATA to the folder that holds it")
    overrides = [
        "detector.backbone.name=mobilenetv2_100",
        f"detector.backbone.weights={DATA / WEIGHTS}",
        "resources.num_cpus=1",
        "scan.dataset.kind=mvtec",
        f"scan.dataset.root={root}",
        f"scan.dataset.categories=[{', '.join(categories)}]",
        f"scan.num_objects={TRAINING[arguments.dataset]}",
    ]
    usual = {"alphas": list(ALPHAS), "seeds": list(range(arguments.seeds)), "filters": list(arguments.filters)}
    path = HERE.parent / "configs" / f"{arguments.config}.yaml"
    return load_scan(path, [*overrides, *arguments.overrides], usual)


def joined(rows: pa.Table, earlier: Sequence[pa.Table]) -> pa.Table:
    """The rows, and those of earlier tables whose jobs are not among them."""
    keys = ("category", "alpha", "filter", "seed")
    by_job = {tuple(row[key] for key in keys): row for table in (*earlier, rows) for row in table.to_pylist()}
    return pa.Table.from_pylist(list(by_job.values()), rows.schema).sort_by([(key, "ascending") for key in keys])


def overview(rows: Sequence[dict[str, object]], made: Sequence[Robustness]) -> str:
    """Markdown: image AUROC, a line per category and filter and a column per alpha, and the mean share closed."""
    lines = [
        "| set | filter | " + " | ".join(f"alpha {alpha:g}" for alpha in ALPHAS) + " | gap closed |",
        "|---|---|" + "---|" * (len(ALPHAS) + 1),
    ]
    for category, name in dict.fromkeys((row["category"], row["filter"]) for row in rows):
        mine = [row for row in rows if (row["category"], row["filter"]) == (category, name)]
        cells = [spread([row["i_auroc"] for row in mine if row["alpha"] == alpha]) for alpha in ALPHAS]
        known = [line for line in made if line.category == category]
        mean = None if name in ("none", "oracle") else mean_gap_closed(known, str(name))
        cells.append("-" if mean is None else f"{mean:.2f}")
        lines.append(f"| {category} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown: a line per category, alpha and filter."""
    lines = [
        "| category | alpha | filter | seeds | I-AUROC | AUPRO | left | lost | alpha | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ("category", "alpha", "filter")
    order = {name: place for place, name in enumerate(FILTERS)}
    cells = {tuple(row[key] for key in keys) for row in rows}
    for category, alpha, name in sorted(cells, key=lambda cell: (cell[0], cell[1], order[cell[2]])):
        mine = [row for row in rows if tuple(row[key] for key in keys) == (category, alpha, name)]
        told = [spread([row[column] for row in mine]) for column in ("i_auroc", "aupro")]
        told += [_mean([row[column] for row in mine]) for column in ("residual_contamination", "normals_lost")]
        errors = [abs(found - alpha) for row in mine if (found := row["estimated_contamination"]) is not None]
        told += [_mean(errors), f"{statistics.median(row['seconds'] for row in mine):.1f}"]
        lines.append(f"| {category} | {alpha:g} | {name} | {len(mine)} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def summary(made: Sequence[Robustness]) -> str:
    """Markdown: the gap that each filter closes at each alpha, the mean, and the largest harm."""
    alphas = [alpha for alpha in ALPHAS if alpha]
    lines = [
        "| category | filter | " + " | ".join(f"closed at {alpha:g}" for alpha in alphas) + " | mean | harm at most |",
        "|---|---|" + "---|" * (len(alphas) + 2),
    ]
    for category in dict.fromkeys(line.category for line in made):
        for name in (name for name in FILTERS if name not in ("none", "oracle")):
            mine = [line for line in made if (line.category, line.filter) == (category, name)]
            closed = {line.alpha: line.gap_closed for line in mine}
            cells = [_interval(closed.get(alpha)) for alpha in alphas]
            mean = mean_gap_closed(mine, name)
            harm = max((line.harm for line in mine if line.harm is not None), default=None)
            cells += ["-" if mean is None else f"{mean:.2f}", "-" if harm is None else f"{100 * harm:.1f}"]
            if mine:
                lines.append(f"| {category} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(figure: tuple[float, float, float] | None) -> str:
    return "-" if figure is None else f"{figure[0]:.2f} ({figure[1]:.2f} to {figure[2]:.2f})"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.3f}" if known else "-"


if __name__ == "__main__":
    main()
