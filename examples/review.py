"""Decisions by hand: rejected images with their reasons, a file of decisions, and the run that follows them.

    python examples/review.py runs/first/run --out runs/first/reviewed

In practice the decisions are made in report.html, which exports the same file.
"""

import argparse
import csv
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

import llb_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the run with your decisions")
    parser.add_argument("--keep", type=int, default=1, help="how many of the rejected images to keep after all")
    args = parser.parse_args()

    decided = ds.dataset(args.run / "purified", format="arrow").to_table()
    rejected = decided.filter(pc.equal(decided["decision"], "rejected")).sort_by("rank").to_pylist()
    for row in rejected:
        print(f"{row['path']}: {row['reason']}")

    overrides = args.out.with_suffix(".csv")
    with overrides.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "decision", "note"])
        table.writerows([row["image_id"], "keep", "a rare normal look"] for row in rejected[: args.keep])

    result = llb_ray.repurify(args.run, overrides, out=args.out, by="examples/review.py", executor="serial")
    print(f"{result.num_kept} images kept, {result.num_rejected} rejected")
    for sentence in llb_ray.audit(args.out):
        print("ok", sentence)


if __name__ == "__main__":
    main()
