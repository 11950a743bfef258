"""Does a threshold keep the false-alarm rate that was asked for?  Magnetic tile, MobileNetV2 memory bank.

    OMP_NUM_THREADS=1 python benchmarks/thresholds.py --out runs/thresholds

Asks for 1 % and 5 %, and counts the normal test images above the threshold, which no run looks at.  The default filter
keeps what looks normal; counted as normal are then the bulk of the kept images, all kept ones, or all training images
(`threshold.normals`).  Held-out scores come from where the default has them from: from the members, or from folds where
few images are rejected.  Data and weights are looked for under LLB_DATA (default ../shared/data).  Writes
benchmarks/thresholds.md and the raw rows beside it.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import pyarrow.compute as pc
from harness import Row, setting, write_rows
from scipy import stats

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load, with_overrides
from llb_ray.data.contaminate import contaminated
from llb_ray.data.tables import joined, read_table
from llb_ray.engine.pipeline.pipeline import Result

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data"))
WEIGHTS = "weights/mobilenetv2_100.safetensors"
RATES = (0.01, 0.05)
NOTE = """\
What any round kept (`kept`, the default) had 2.5 % or less where 1 % was asked for, and 1.7 to 9.9 % for 5 %: within
chance in the mean from alpha 0.1 on; on clean images one seed of five had 22 % for 5 %. The more anomalies were kept,
the lower the rate, and the more of them are missed. `bulk` finds twice to six times as many at 1 %, for 7 to 15 %
of false alarms: a choice for people who have looked at what stands out. `all` keeps the rate wherever there are
anomalies and finds few of them. What the run calls *at most* was exceeded on clean images: it is an estimate, no bound.
The test images are the same for every seed, so that the mean over seeds is as noisy as one of them.
"""
NORMALS = ("bulk", "kept", "all")
KEYS, MEANS = ("alpha", "normals", "asked"), ("residual", "at_most", "found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.1, 0.2, 0.4])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--result", type=Path, default=HERE / "thresholds.md")
    arguments = parser.parse_args()
    if not (DATA / "magnetic_tile").is_dir():
        sys.exit(f"{DATA}/magnetic_tile is missing: set LLB_DATA to the folder that holds it")

    overrides = [
        "detector.backbone.name=mobilenetv2_100",
        f"detector.backbone.weights={DATA / WEIGHTS}",
        "resources.num_cpus=1",
    ]
    config = load(HERE.parent / "configs" / "memory_bank.yaml", overrides)
    everything = llb_ray.read_folder(DATA / "magnetic_tile", config)
    rows: list[Row] = []
    for seed in range(arguments.seeds):
        for alpha in arguments.alphas:
            manifest = contaminated(everything, arguments.images, alpha, seed)
            folder = arguments.out / f"alpha{alpha:g}-seed{seed}"
            rows += measured(with_overrides(config, [f"seed={seed}"]), manifest, alpha, folder)
            write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/thresholds.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# False alarms asked for and had, magnetic tile, {date.today()}\n\n{setting(command)}\n\n"
        f"N = {arguments.images} training images, K = {config.members.count} members, {rows[0]['num_normal']} normal "
        f"test images (of which 1 % are {0.01 * rows[0]['num_normal']:.1f}), seeds 0 to {arguments.seeds - 1}.  "
        "*had*: mean of the seeds, smallest and largest.  *noise*: where 95 % of the seeds would lie by chance alone, "
        "if the rate were exactly what was asked for (binomial, of one seed's test images).  *at most*: what the run "
        "said the rate could be at worst, mean.  *found*: share of the anomalous test images above the threshold.  "
        "*anomalous kept*: anomalous share of the kept images.\n\n"
        f"{table(rows)}\n\n{NOTE}\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def measured(config: RunConfig, manifest: Manifest, alpha: float, folder: Path) -> Iterator[Row]:
    """A row per choice of normals and rate; all share one run's work."""
    for normals in NORMALS:
        for rate in RATES:
            settings = [f"threshold.normals={normals}", f"threshold.false_alarm_rate={rate}"]
            result = llb_ray.run(with_overrides(config, settings), manifest, out=folder, executor="serial")
            row = dict(zip(KEYS, (alpha, normals, rate), strict=True))
            row |= {"seed": config.seed, **achieved(result, manifest)}
            print(row, file=sys.stderr, flush=True)
            yield row


def achieved(result: Result, manifest: Manifest) -> Row:
    """What the labels of the test images say of the run's threshold."""
    scores = joined(read_table(result.path / "image_scores.arrow"), manifest.table)
    test = scores.filter((pc.field("split") == "test") & pc.field("label").is_valid())
    threshold = result.threshold
    above = {
        label: pc.greater(test.filter(pc.field("label") == label)["score"], threshold["threshold"]).to_pylist()
        for label in (0, 1)
    }
    return {
        "threshold": threshold["threshold"],
        "had": statistics.mean(above[0]),
        "found": statistics.mean(above[1]),
        "at_most": threshold["rate_if_all_are_normal"],
        "standing_out": threshold["num_standing_out"],
        "num_kept": result.num_kept,
        "residual": result.metrics["residual_contamination"],
        "low": threshold["false_alarm_interval"][0],
        "high": threshold["false_alarm_interval"][1],
        "num_normal": len(above[0]),
        "fits_s": sum(time.seconds for time in result.times if time.stage in ("folds", "fold-scores")),
        "final_s": sum(time.seconds for time in result.times if time.stage == "final"),
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per setting, over the seeds."""
    lines = [
        "| alpha | anomalous kept | kept that stand out | normals | asked | had | noise | at most | found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting_ in dict.fromkeys(tuple(row[key] for key in KEYS) for row in rows):
        chosen = [row for row in rows if tuple(row[key] for key in KEYS) == setting_]
        alpha, normals, asked = setting_
        had = [row["had"] for row in chosen]
        low, high = (stats.binom.ppf((0.025, 0.975), chosen[0]["num_normal"], asked) / chosen[0]["num_normal"]).tolist()
        residual, at_most, found = (statistics.mean(row[name] for row in chosen) for name in MEANS)
        standing_out = statistics.mean(row["standing_out"] / row["num_kept"] for row in chosen)
        lines.append(
            f"| {alpha:g} | {residual:.3f} | {standing_out:.3f} | {normals} | {asked:.2f} | {statistics.mean(had):.3f} "
            f"({min(had):.3f} to {max(had):.3f}) | {low:.3f} to {high:.3f} | {at_most:.3f} | {found:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
