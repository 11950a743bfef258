"""What a person's one decision per family of look-alikes is worth, beside one per image, and none.

    LLB="--filters llb --seeds 3 --set threshold.method=members"
    OMP_NUM_THREADS=1 python benchmarks/certify.py magnetic_tile $LLB --out runs/families_tile --result runs/tile.md
    OMP_NUM_THREADS=1 python benchmarks/lookalikes.py runs/families_tile/scan --out runs/families

Reads the `llb` jobs of such scans.  The odd images are those that the report sorts: rejected ones, and kept ones that
stand out.  The person is played by the labels: of a family, what most of its images are is said of all of them.  The
run is then repurified with these words, and with the truth about each odd image.  Writes benchmarks/lookalikes.md and
the raw rows beside it.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from harness import Row, llb_runs, setting, spread, training_labels, write_rows

import llb_ray
from llb_ray.artifacts import digest
from llb_ray.engine.evaluation.run_threshold import standing_out_ids
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.report.lookalike_groups import families_of

HERE = Path(__file__).parent
NOBODY, FAMILIES, IMAGES = "nobody", "a family at a time", "an image at a time"
MEASURED = ("residual_contamination", "normals_lost", "i_auroc", "aupro")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.1, 0.2, 0.4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, default=HERE / "lookalikes.md")
    arguments = parser.parse_args()
    rows = [row for scan in arguments.scans for row in measured(scan, arguments)]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/lookalikes.py " + " ".join(sys.argv[1:])
    seeds = len({row["seed"] for row in rows})
    arguments.result.write_text(
        f"# One decision for all look-alikes, {date.today()}\n\n{setting(command)}\n\n"
        f"{seeds} seeds, mean ± sd.  *odd*: rejected images, and kept ones that stand out.  *words*: decisions that "
        "the person takes on them.  *right*: share of the odd images that these words are true of.  *left*: anomalous "
        "share of the kept images; *lost*: share of the normal ones rejected.\n\n"
        f"{table(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def measured(scan: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """A row per job and way of deciding."""
    for job, run in llb_runs(scan, arguments.alphas, arguments.seeds):
        truth, odd, family = odd_images(run)
        known: Row = {key: job[key] for key in ("category", "alpha", "seed")}
        known |= {"detector": run.config.detector.name, "odd": len(odd)}
        yield known | {"words_by": NOBODY, "words": 0, "right": None} | {key: job[key] for key in MEASURED}
        for how, words, said in (
            (FAMILIES, len(set(family)), by_family(truth, odd, family)),
            (IMAGES, len(odd), truth),
        ):
            of_odd = {image_id: said[image_id] for image_id in odd}
            out = arguments.out / scan.parent.name / f"{run.folder.path.name}-{digest(of_odd)[:8]}"
            metrics = repurified(run, of_odd, out)
            right = [said[image_id] == truth[image_id] for image_id in odd]
            row = known | {"words_by": how, "words": words, "right": sum(right) / len(odd) if odd else None}
            row |= {key: metrics.get(key) for key in MEASURED}
            print(row, file=sys.stderr, flush=True)
            yield row


def odd_images(run: FinishedRun) -> tuple[dict[str, int], list[str], list[int]]:
    """The labels of the training images by image_id, the odd ones, and the family of each of these."""
    truth = training_labels(run)
    standing_out = standing_out_ids(run.made)
    odd = sorted((set(truth) - set(kept_ids(run.purified))) | set(standing_out))
    family = families_of(run, odd, standing_out)
    assert not isinstance(family, str), family
    return truth, odd, family


def by_family(truth: Mapping[str, int], odd: list[str], family: list[int]) -> dict[str, int]:
    """What is said of each odd image: what most of its family are; anomalous, where these are as many either way."""
    members = defaultdict[int, list[str]](list)
    for image_id, number in zip(odd, family, strict=True):
        members[number].append(image_id)
    said = {number: int(2 * sum(truth[one] for one in ids) >= len(ids)) for number, ids in members.items()}
    return {image_id: said[number] for number, ids in members.items() for image_id in ids}


def repurified(run: FinishedRun, said: Mapping[str, int], out: Path) -> Mapping[str, Any]:
    """The metrics of the run with these words laid over its decisions."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "overrides.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image_id", "decision"])
        lines.writerows([image_id, "reject" if label else "keep"] for image_id, label in sorted(said.items()))
    result = llb_ray.repurify(run.folder.path, out / "overrides.csv", out=out / "run", executor="serial")
    return result.metrics


def table(rows: list[Row]) -> str:
    """Markdown: a line per detector, set, alpha and way of deciding."""
    lines = [
        "| detector | set | alpha | decided by | odd | words | right | left | lost | I-AUROC | AUPRO |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ("detector", "category", "alpha", "words_by")
    for cell in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        mine = [row for row in rows if tuple(row[key] for key in keys) == cell]
        counts = [f"{sum(row[key] for row in mine) / len(mine):.0f}" for key in ("odd", "words")]
        told = [spread([row[key] for row in mine]) for key in ("right", *MEASURED)]
        lines.append(f"| {' | '.join(map(str, (*cell, *counts, *told)))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
