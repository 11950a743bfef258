"""Is a run that was updated as good as one that is made of all images, and what does it save?

    python benchmarks/update.py --set glass_fabric=.../glass_fabric --set commutator=.../commutator --out runs/update

Of each labelled set (MVTec layout), training images with a tenth of defects mixed in are divided at random: a run of
three quarters, updated with the rest, is compared with one run of all, over several draws.  Rows of a draw stay in
`--out`, so that an interrupted benchmark is resumed.  Writes benchmarks/update.md and the raw rows beside it.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from harness import Row, kept_rows, software, spread, write_rows

import llb_ray
from llb_ray.disk import link_or_copy
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.purified_dataset import kept_ids

HERE = Path(__file__).parent
SHARE, ALPHA = 0.75, 0.1  # of the training images in the first run; of them anomalous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--result", type=Path, default=HERE / "update.md")
    arguments = parser.parse_args()
    named = [one.partition("=")[::2] for one in arguments.sets]
    out, draws = arguments.out, range(arguments.draws)
    parts = (
        kept_rows(out / f"{name}-{draw}.json", partial(drawn, out, name, data, draw))
        for name, data in named
        for draw in draws
    )
    rows = [row for part in parts for row in part]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows))
    print(arguments.result.read_text())


def drawn(out: Path, name: str, data: str, seed: int) -> Iterator[Row]:
    """A row for the run of all images, and one for the updated run."""
    folder = out / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    first, second, everything = divided(Path(data), folder, seed)
    seconds, made = {}, {}
    config = llb_ray.load_config(None, [f"seed={seed}"])
    for kind, images in (("first", first), ("all", everything)):
        started_s = time.perf_counter()
        made[kind] = llb_ray.run(
            config, llb_ray.read_folder(images, config), out=folder / f"run-{kind}", executor="serial"
        )
        seconds[kind] = time.perf_counter() - started_s
    started_s = time.perf_counter()
    updated = llb_ray.update(folder / "run-first", second, out=folder / "run-updated", executor="serial")
    seconds["updated"] = time.perf_counter() - started_s
    made["updated"] = updated
    kept = {kind: set(kept_ids(opened(folder / f"run-{kind}").purified)) for kind in ("all", "updated")}
    for kind in ("all", "updated"):
        result = made[kind]
        yield {
            "set": name,
            "draw": seed,
            "run": kind,
            "images": result.num_input,
            "encoded": result.passes.done,
            "seconds": seconds[kind],
            "i_auroc": result.metrics["i_auroc"],
            "residual_contamination": result.metrics["residual_contamination"],
            "normals_lost": result.metrics["normals_lost"],
            "rejected": result.num_rejected,
            "other_decisions": len(kept[kind] ^ kept["all"]),
        }
    shutil.rmtree(folder)


def divided(data: Path, folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """Three trees of links: the first images, the others, and both; those of tests go to the first and to both."""
    generator = np.random.default_rng(seed)
    good = sorted((data / "train" / "good").iterdir())
    defects = [
        path for kind in sorted((data / "test").iterdir()) if kind.name != "good" for path in sorted(kind.iterdir())
    ]
    count = min(round(len(good) * ALPHA / (1 - ALPHA)), len(defects) // 3)
    mixed = [defects[at] for at in generator.permutation(len(defects))[:count]]
    train = [(path, "good") for path in good] + [(path, path.parent.name) for path in mixed]
    turn = generator.permutation(len(train))
    cut = round(SHARE * len(train))
    for part, chosen in (("first", turn[:cut]), ("second", turn[cut:]), ("all", turn)):
        for at in chosen:
            path, kind = train[at]
            link_or_copy(path, folder / part / "train" / kind / f"{kind}-{path.name}")
    for part in ("first", "all"):
        for path in [*(data / "test" / "good").iterdir(), *(one for one in defects if one not in mixed)]:
            link_or_copy(path, folder / part / "test" / path.parent.name / path.name)
    return folder / "first", folder / "second", folder / "all"


def opened(folder: Path) -> FinishedRun:
    return FinishedRun(RunFolder.open(folder), None)


def page(rows: Sequence[Row]) -> str:
    titles = ("set", "run", "images", "encoded", "seconds", "I-AUROC", "contamination left", "normals lost", "rejected")
    lines = ["| " + " | ".join((*titles, "kept otherwise")) + " |", "|" + "---|" * (len(titles) + 1)]
    for name in dict.fromkeys(row["set"] for row in rows):
        for kind in ("all", "updated"):
            some = [row for row in rows if (row["set"], row["run"]) == (name, kind)]
            counts = [f"{np.mean([row[key] for row in some]):.0f}" for key in ("images", "encoded", "seconds")]
            shares = [
                spread([row[key] for row in some]) for key in ("i_auroc", "residual_contamination", "normals_lost")
            ]
            ends = [f"{np.mean([row[key] for row in some]):.1f}" for key in ("rejected", "other_decisions")]
            lines.append("| " + " | ".join([name, kind, *counts, *shares, *ends]) + " |")
    said = (
        f"Training images with {ALPHA:.0%} defects mixed in; *updated* is a run of {SHARE:.0%} of them, updated with "
        "the rest, *all* one run of all, with the default settings and the serial executor; its seconds are those of "
        "the update alone.  *kept otherwise* is how many images one of the two keeps and the other rejects.  Mean, and "
        f"standard deviation, over {len({row['draw'] for row in rows})} draws."
    )
    command = "python benchmarks/update.py " + " ".join(sys.argv[1:])
    title = f"# Updated runs beside new ones, {date.today()}\n\n{software(command)}"
    return "\n\n".join([title, said, "\n".join(lines), "Raw rows: update.csv"]) + "\n"


if __name__ == "__main__":
    main()
