"""Are rare normal images told from defective ones?  Juice bottles of three fillings, 112, 20 and 4, and anomalies.

    OMP_NUM_THREADS=1 python benchmarks/rare_normals.py --out runs/rare_normals

With `members.rescue` density members take an odd image that has a twin in another share for rare.  Every filling is the
rare one in its turn.  Data and weights are looked for under LLB_DATA (default ../shared/data).  Writes
benchmarks/rare_normals.md and the raw rows beside it.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from harness import Row, setting, spread, write_rows
from long_tail import kind_of, write_images
from long_tail_draws import DATA, PATTERNS, juice_bottle

import llb_ray
from llb_ray.config import load, with_overrides
from llb_ray.data.tables import read_table

HERE = Path(__file__).parent
KINDS = (*PATTERNS, "anomalies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.1])
    parser.add_argument("--result", type=Path, default=HERE / "rare_normals.md")
    arguments = parser.parse_args()
    if not (DATA / "mvtec_loco_juice_bottle").is_dir():
        sys.exit(f"{DATA}/mvtec_loco_juice_bottle is missing: set LLB_DATA to the folder that holds it")
    rows = [
        row
        for alpha in arguments.alphas
        for seed in range(arguments.seeds)
        for row in measured(arguments.out, alpha, seed)
    ]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/rare_normals.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# Rare normal images rescued, juice bottle 112:20:4, {date.today()}\n\n{setting(command)}\n\n"
        f"Seeds 0 to {arguments.seeds - 1}, mean ± sd; share of each kind of training image that is kept.\n\n"
        f"{table(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def measured(out: Path, alpha: float, seed: int) -> Iterator[Row]:
    """A row with the rescue, and one without."""
    config = load(
        HERE.parent / "configs" / "memory_bank.yaml",
        [
            "detector.backbone.name=mobilenetv2_100",
            f"detector.backbone.weights={DATA / 'weights' / 'mobilenetv2_100.safetensors'}",
            "members.detector=density",
            "resources.num_cpus=1",
            f"seed={seed}",
        ],
    )
    data = out / f"alpha{alpha:g}-seed{seed}"
    if not data.exists():
        write_images(data, juice_bottle(alpha, seed))
    for rescue in (True, False):
        chosen = with_overrides(config, [f"members.rescue={rescue}"])
        manifest = llb_ray.read_folder(data, chosen)
        result = llb_ray.run(chosen, manifest, out=out / f"{data.name}-run", executor="serial")
        row: Row = {"alpha": alpha, "seed": seed, "rescue": rescue, "i_auroc": result.metrics["i_auroc"]}
        decisions = read_table(result.path / "purified" / "part-0.arrow").to_pylist()
        for number, kind in enumerate(KINDS):
            of_kind = [line["decision"] == "kept" for line in decisions if kind_of(line["path"]) == number]
            row[kind] = sum(of_kind) / len(of_kind) if of_kind else None
        print(row, file=sys.stderr, flush=True)
        yield row


def table(rows: list[Row]) -> str:
    """Markdown: a line per alpha and rule."""
    lines = ["| alpha | rescue | " + " | ".join(KINDS) + " | I-AUROC |", "|---|---|" + "---|" * (len(KINDS) + 1)]
    for alpha, rescue in dict.fromkeys((row["alpha"], row["rescue"]) for row in rows):
        mine = [row for row in rows if (row["alpha"], row["rescue"]) == (alpha, rescue)]
        cells = [spread([row[name] for row in mine]) for name in (*KINDS, "i_auroc")]
        lines.append(f"| {alpha:g} | {'yes' if rescue else 'no'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
