"""What is the default worth on sets that nobody tuned it to?  Ten real sets, clean and contaminated, one command.

    OMP_NUM_THREADS=1 python benchmarks/suite.py --out runs/suite

Every set x alpha x filter x seed is a run of the default configuration, as `llb-ray certify` makes them; `none`, `llb`
and `oracle` share one final detector, and `patchcore` is the plain memory bank on all images.  What is there already
is not run again, and `--table-only` makes the tables of what there is.  Data is looked for under LLB_DATA (default
../shared/data).  Writes benchmarks/suite.md, and the raw rows as Parquet beside it.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from certify import DATA, HERE
from harness import Row, setting, spread, tell

import llb_ray
from llb_ray.config import ScanConfig, load_scan
from llb_ray.scans.job_results import DONE

# Training objects, and the alphas at which half of the anomalies are enough to mix them.
ALL, TO_FIFTH, TO_TENTH = (0, 0.1, 0.2, 0.4), (0, 0.1, 0.2), (0, 0.1)
SETS: Mapping[str, tuple[int, tuple[float, ...]]] = {
    "lenses": (48, ALL),
    "glass_fabric": (50, TO_FIFTH),
    "commutator": (120, TO_FIFTH),
    "fabric": (140, TO_FIFTH),
    "solar_mono": (180, ALL),
    "bottle_cap": (100, TO_TENTH),
    "toy": (37, ALL),
    "brain_mri": (66, ALL),
    "magnetic_tile": (200, ALL),
    "mvtec_loco_juice_bottle": (170, ALL),
}
PATCHCORE = "patchcore"
PLAIN = ["detector.memory=plain", "detector.patches=averaged"]  # as anomalib has it
FILTERS = ("none", "llb", "oracle")
HARMS = (0.5, 1, 2)  # points below which a cell is counted as harmed
Cell = tuple[str, float]
Figures = Mapping[str, Mapping[Cell, float]]  # mean over seeds by filter and cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--filters", nargs="+", default=FILTERS, help="rivals too: softpatch, srr, random ...")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="further settings")
    parser.add_argument("--result", type=Path, default=HERE / "suite.md")
    parser.add_argument("--table-only", action="store_true", help="of what is there")
    arguments = parser.parse_args()
    for name in [] if arguments.table_only else arguments.sets:
        for config, out in _scans(arguments, name):
            llb_ray.scan(config, out=out, executor="serial", tell=tell)
    rows = [row for name in arguments.sets for row in _rows(arguments.out / name)]
    pq.write_table(pa.Table.from_pylist(rows), arguments.result.with_suffix(".parquet"))
    arguments.result.write_text(_document(rows))
    print(arguments.result.read_text())


def _scans(arguments: argparse.Namespace, name: str) -> Iterator[tuple[ScanConfig, Path]]:
    """The scan of the filters behind one final detector, and that of the plain memory bank."""
    yield _config(arguments, name, arguments.filters, []), arguments.out / name / "scan"
    yield _config(arguments, name, ["none"], PLAIN), arguments.out / name / PATCHCORE


def _config(arguments: argparse.Namespace, name: str, filters: Sequence[str], further: Sequence[str]) -> ScanConfig:
    return suite_config(name, filters, SETS[name][1], range(arguments.seeds), [*further, *arguments.overrides])


def suite_root(name: str) -> Path:
    """The folder of a set; ends the program where it is missing."""
    root = DATA / "suite" / name if (DATA / "suite" / name).is_dir() else DATA / name
    if not root.is_dir():
        sys.exit(f"{root} is missing: set LLB_DATA to the folder that holds it")
    return root


def suite_config(
    name: str,
    filters: Sequence[str],
    alphas: Sequence[float],
    seeds: Sequence[int],
    overrides: Sequence[str],
    recipe: str = "memory_bank",
) -> ScanConfig:
    """The scan of one set by the default configuration or another recipe of configs/, but for `overrides`."""
    root = suite_root(name).parent
    everywhere = [
        "resources.num_cpus=1",
        "scan.dataset.kind=mvtec",
        f"scan.dataset.root={root}",
        f"scan.dataset.categories=[{name}]",
        f"scan.num_objects={SETS[name][0]}",
    ]
    usual = {"alphas": list(alphas), "seeds": list(seeds), "filters": list(filters)}
    return load_scan(HERE.parent / "configs" / f"{recipe}.yaml", [*everywhere, *overrides], usual)


def _rows(out: Path) -> Iterator[Row]:
    """The finished jobs of a set's two scans; those of the plain memory bank have a filter name of their own."""
    for path in (out / "scan", out / PATCHCORE):
        if (path / "results.parquet").exists():
            done = llb_ray.table(path).filter(pc.equal(llb_ray.table(path)["status"], DONE)).to_pylist()
            yield from (row | {"filter": PATCHCORE} if path.name == PATCHCORE else row for row in done)


def _document(rows: Sequence[Row]) -> str:
    command = "python benchmarks/suite.py " + " ".join(sys.argv[1:])
    auroc, aupro = (means_by_filter(rows, name) for name in ("i_auroc", "aupro"))
    return (
        f"# The default on ten real sets, {date.today()}\n\n{setting(command)}\n\n{len(rows)} runs of the default "
        "configuration; mean ± sd over seeds.  *left*: anomalous share of the kept images; *lost*: share of the normal "
        "ones rejected; *estimate*: share taken for anomalous.  Gains are points, mean over sets.\n\n"
        f"## Image AUROC against {PATCHCORE}\n\n{_summary(auroc, PATCHCORE)}\n\n"
        f"## AUPRO against {PATCHCORE}\n\n{_summary(aupro, PATCHCORE)}\n\n"
        f"## Image AUROC against no filter, same final detector\n\n{_summary(auroc, 'none')}\n\n"
        f"## Every cell\n\n{_cells(rows)}\n\nRaw rows: suite.parquet\n"
    )


def means_by_filter(rows: Sequence[Row], metric: str) -> Figures:
    """Means over seeds of a metric, where every row of the cell has it."""
    found: dict[str, dict[Cell, list[float | None]]] = {}
    for row in rows:
        found.setdefault(row["filter"], {}).setdefault((row["category"], row["alpha"]), []).append(row[metric])
    return {
        name: {cell: statistics.mean(values) for cell, values in cells.items() if None not in values}
        for name, cells in found.items()
    }


def _summary(figures: Figures, base: str) -> str:
    """Markdown: a line per filter: gain over `base` by alpha, the worst cell, harmed cells, pooled gap closed.

    The pooled gap is the sum of gains over the sum of the oracle's gains, at alphas above 0: a mean of ratios would be
    decided by cells in which there is next to nothing to gain.
    """
    harms = " | ".join(f"cells < -{harm:g}" for harm in HARMS)
    lines = [
        f"| filter | {' | '.join(f'alpha {alpha:g}' for alpha in ALL)} | worst cell | {harms} | gap closed |",
        "|---|" + "---|" * (len(ALL) + len(HARMS) + 2),
    ]
    for name in (name for name in figures if name != base and base in figures):
        gain = points_gained(figures, name, base)
        if not gain:
            continue
        worst = min(gain, key=lambda cell: gain[cell])
        by_alpha = [points_at(gain, alpha) for alpha in ALL]
        cells = [f"{statistics.mean(points):+.1f}" if points else "-" for points in by_alpha]
        cells += [f"{gain[worst]:+.1f} ({worst[0]}, {worst[1]:g})"]
        cells += [f"{sum(points < -harm for points in gain.values())} of {len(gain)}" for harm in HARMS]
        lines.append(f"| {name} | " + " | ".join([*cells, _pooled(figures, name, base)]) + " |")
    return "\n".join(lines)


def points_gained(figures: Figures, name: str, base: str) -> dict[Cell, float]:
    """What a filter has more than another in each cell that both have, in points."""
    return {cell: 100 * (figures[name][cell] - figures[base][cell]) for cell in figures[name] if cell in figures[base]}


def points_at(gain: Mapping[Cell, float], alpha: float) -> list[float]:
    """The gains of the cells at one alpha."""
    return [points for cell, points in gain.items() if cell[1] == alpha]


def _pooled(figures: Figures, name: str, base: str) -> str:
    if name == "oracle" or "oracle" not in figures:
        return "-"
    cells = [cell for cell in figures[name] if cell[1] > 0 and cell in figures["oracle"] and cell in figures[base]]
    gained, gap = (sum(figures[which][cell] - figures[base][cell] for cell in cells) for which in (name, "oracle"))
    return f"{gained / gap:.2f}" if gap > 0 else "-"


def _cells(rows: Sequence[Row]) -> str:
    lines = [
        "| set | alpha | filter | seeds | I-AUROC | AUPRO | left | lost | estimate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = (PATCHCORE, *FILTERS)
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["category"], row["alpha"], row["filter"]), []).append(row)
    for key in sorted(groups, key=lambda key: (key[:2], order.index(key[2]) if key[2] in order else len(order))):
        mine = groups[key]
        told = [spread([row[name] for row in mine]) for name in ("i_auroc", "aupro")]
        told += [_mean(mine, name) for name in ("residual_contamination", "normals_lost", "estimated_contamination")]
        named = [f"{value:g}" if isinstance(value, float) else str(value) for value in key]
        lines.append("| " + " | ".join([*named, str(len(mine)), *told]) + " |")
    return "\n".join(lines)


def _mean(rows: Sequence[Row], name: str) -> str:
    known = [row[name] for row in rows if row[name] is not None]
    return f"{statistics.mean(known):.3f}" if known else "-"


if __name__ == "__main__":
    main()
