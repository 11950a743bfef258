"""How many decisions of a person reach what share of the oracle, in the order in which a live review asks?

    python benchmarks/review.py --set fabric=.../fabric --set commutator=.../commutator --out runs/review

Of each labelled set (MVTec layout), a fifth of defects is mixed into the training images, and the default detector is
trained.  The person is played by the labels and asked in the order of the report, *answer changes most, first*; an
answer holds for the whole group of look-alikes.  Counted is how many decisions on training images are wrong after so
many answers; after `TRAINED` answers in that order, and with the truth about every image, the run is repurified, too.
Beside it, the orders *nearest to the cut* and *at random*.  Rows of a set stay in `--out`, so that an interrupted
benchmark is resumed.  Writes benchmarks/review.md and the raw rows beside it.
"""

import argparse
import csv
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, kept_rows, software, training_labels, write_rows

import llb_ray
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.report.gallery import gallery
from llb_ray.report.member_agreement import Votes

HERE = Path(__file__).parent
ALPHA, TRAINED = 0.2, 20
ORDERS = ("answer changes most", "nearest to the cut", "at random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--answers", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--result", type=Path, default=HERE / "review.md")
    arguments = parser.parse_args()
    named = [one.partition("=")[::2] for one in arguments.sets]
    rows = [
        row
        for name, data in named
        for row in kept_rows(
            arguments.out / f"{name}.json",
            partial(measured, name, Path(data), arguments.out / name, arguments.answers),
        )
    ]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows))
    print(arguments.result.read_text())


def measured(name: str, data: Path, out: Path, counts: Sequence[int]) -> Iterator[Row]:
    """A row without answers, one for each order and number of them, and one for the truth about all images."""
    shutil.rmtree(out, ignore_errors=True)
    photos = contaminated(data, out / "photos")
    config = llb_ray.load_config(None, [])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out / "run", executor="serial")
    run = FinishedRun(RunFolder.open(out / "run"), None)
    truth, columns = training_labels(run), gallery(run, Votes.of(run), lambda done, total: None).columns
    # The final detector alone is compared: without a threshold it is all that is trained again.
    config = llb_ray.load_config(None, ["threshold.method=none"])
    first = llb_ray.run(config, llb_ray.read_folder(photos, config), out=out / "run", executor="serial")
    yield row_of(name, "-", 0, {}, columns, truth, first.metrics)
    for order in ORDERS:
        for count in counts:
            said = answers(columns, truth, order, count)
            trains = order == ORDERS[0] and count == TRAINED
            metrics = repurified(out, said, f"after-{count}") if trains else {}
            yield row_of(name, order, count, said, columns, truth, metrics)
    yield row_of(name, "oracle", len(truth), truth, columns, truth, repurified(out, truth, "oracle"))


def contaminated(data: Path, out: Path) -> Path:
    """A tree with a share `ALPHA` of defects among the training images, and the others as test images."""
    kinds = [kind for kind in sorted((data / "test").iterdir()) if kind.name != "good"]
    defects = [path for kind in kinds for path in sorted(kind.iterdir())]
    good = sorted((data / "train" / "good").iterdir())
    count = min(round(len(good) * ALPHA / (1 - ALPHA)), len(defects) // 2)
    mixed = {defects[at] for at in np.random.default_rng(0).permutation(len(defects))[:count]}
    parts = [(path, f"train/good/{path.name}") for path in good]
    parts += [(path, f"train/{path.parent.name}/{path.parent.name}-{path.name}") for path in sorted(mixed)]
    parts += [(path, f"test/good/{path.name}") for path in (data / "test" / "good").iterdir()]
    parts += [(path, f"test/{path.parent.name}/{path.name}") for path in defects if path not in mixed]
    for path, place in parts:
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out / place)
    return out


def answers(columns: Mapping[str, Any], truth: Mapping[str, int], order: str, count: int) -> dict[str, int]:
    """The label of each image that so many answers are about."""
    ids, families = columns["image_id"], columns["family"] or [None] * len(columns["image_id"])
    rows = list(range(len(ids)))
    if order == ORDERS[0]:
        rows.sort(key=lambda at: -columns["worth"][at])
    elif order == ORDERS[2]:
        rows = np.random.default_rng(0).permutation(len(ids)).tolist()
    said: dict[str, int] = {}
    for at in rows:
        if count == 0:
            break
        if ids[at] in said:
            continue
        alike = [at] if families[at] is None else [one for one in rows if families[one] == families[at]]
        said |= {ids[one]: truth[ids[at]] for one in alike}
        count -= 1
    return said


def repurified(out: Path, said: Mapping[str, int], name: str) -> Mapping[str, Any]:
    """The metrics of the run with these decisions."""
    table, folder = out / f"{name}.csv", out / f"run-{name}"
    with table.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image_id", "decision"])
        lines.writerows([image_id, "reject" if label else "keep"] for image_id, label in said.items())
    metrics = llb_ray.repurify(out / "run", table, out=folder, executor="serial").metrics
    shutil.rmtree(folder)
    return metrics


def row_of(
    name: str,
    order: str,
    asked: int,
    said: Mapping[str, int],
    columns: Mapping[str, Any],
    truth: Mapping[str, int],
    metrics: Mapping[str, Any],
) -> Row:
    """A row with the metrics, and how many training images are wrongly kept or rejected after the answers."""
    decided = {image_id: 1 - kept for image_id, kept in zip(columns["image_id"], columns["kept"], strict=True)} | said
    wrong = sum(decided[image_id] != label for image_id, label in truth.items())
    facts = {"set": name, "order": order, "answers": asked, "images": len(said), "wrong": wrong}
    return facts | {"i_auroc": metrics.get("i_auroc")}


def page(rows: Sequence[Row]) -> str:
    titles = ("set", "asked in the order", "answers", "images decided", "wrong decisions", "share of the oracle")
    lines = ["| " + " | ".join((*titles, "I-AUROC")) + " |", "|" + "---|" * (len(titles) + 1)]
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        for row in mine:
            share = 1 - row["wrong"] / mine[0]["wrong"] if mine[0]["wrong"] else float("nan")
            counts = [str(row[key]) for key in ("answers", "images", "wrong")]
            auroc = "-" if row["i_auroc"] is None else f"{row['i_auroc']:.3f}"
            lines.append(f"| {' | '.join([name, row['order'], *counts, f'{share:.2f}', auroc])} |")
    said = (
        f"The default memory bank, {ALPHA:.0%} of defects in training (fewer where a set has few), one seed.  *wrong "
        "decisions*: training images that are kept and anomalous, or rejected and normal.  *share of the oracle*: how "
        "many of those without an answer are right now; the oracle knows the truth about every image.  One answer "
        "holds for a group of look-alikes."
    )
    command = "python benchmarks/review.py " + " ".join(sys.argv[1:])
    title = f"# Decisions of a person beside the oracle, {date.today()}\n\n{software(command)}"
    return "\n\n".join([title, said, "\n".join(lines), "Raw rows: review.csv"]) + "\n"


if __name__ == "__main__":
    main()
