"""Does the importance-weighted loss help a rare kind of normal?  MNIST: three digits are normal, in shares 100:10:2.

    python benchmarks/long_tail_mnist.py --out runs/long_tail

Each seed draws three digits (1000, 100 and 20 training images); the other seven are anomalies.  At alpha above 0
anomalies are mixed into the training set, and the filter says whether they are purified away first (llb keeps
1 - alpha, the true share).  The target `fixed` is the mean and spread of the scores that a pilot seed ends with.
MNIST is looked for as mnist/mnist.npz under LLB_DATA (default ../shared/data) and is not part of the repository.
Writes benchmarks/long_tail_mnist.md and the raw rows beside it.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, setting, write_rows
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import parse, with_overrides
from llb_ray.data.tables import read_table
from llb_ray.engine.runfolder import RunFolder
from llb_ray.seeding import stream

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data"))
TAIL = (1000, 100, 20)  # training images of each normal digit
NUM_TEST = 100  # images of each normal digit, and as many anomalies as normals
PILOT = 1000  # the seed that the fixed target is taken from
ARMS = {
    "unweighted": [],
    "moments": ["importance.mode=moments"],
    "moments, log": ["importance.mode=moments", "importance.log_scores=true"],
    "robust": ["importance.mode=robust"],
    "fixed": ["importance.mode=fixed"],
}
METRICS = {
    "i_auroc": "AUROC",
    "i_ap": "AUPR",
    "rare_auroc": "AUROC, rarest digit",
    "fpr95": "FPR at 95 % TPR",
    "rare_fpr95": "the same, rarest digit",
    "ess": "ESS / B",
    "fell_back": "steps unweighted after warm-up",
    "weight_head": "weight: head",
    "weight_rare": "rarest",
    "weight_odd": "anomalies",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--result", type=Path, default=HERE / "long_tail_mnist.md")
    arguments = parser.parse_args()
    if not (DATA / "mnist" / "mnist.npz").is_file():
        sys.exit(f"{DATA}/mnist/mnist.npz is missing: set LLB_DATA to the folder that holds mnist/")

    config = parse({"detector": {"image_size_px": 32}, "purify": {"filter": "none"}})
    pilot = _run(config, arguments.out, 0.0, PILOT, ARMS["moments"])
    score_N = read_table(pilot / "importance.arrow")["score"].to_numpy()
    target = [f"importance.mu={score_N.mean():.4f}", f"importance.sigma={score_N.std():.4f}"]
    rows = list(_rows(config, arguments.out, arguments.alpha, range(arguments.seeds), target))
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/long_tail_mnist.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# Importance-weighted loss on long-tailed MNIST, {date.today()}\n\n{setting(command)}\n\n"
        f"Three normal digits with {TAIL} training images, 32 px autoencoder, default steps; seeds 0 to "
        f"{arguments.seeds - 1}, mean ± sd over seeds; fixed: {', '.join(target)} from a pilot seed.  Differences are "
        "from the unweighted loss of the same seed (mean, and seeds in which the weighted loss was better).\n\n"
        f"{_table(rows)}\n\n{_differences(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def _rows(config: RunConfig, out: Path, alpha: float, seeds: Sequence[int], target: list[str]) -> Iterator[Row]:
    for share, name in ((0.0, "none"), (alpha, "none"), (alpha, "llb")):
        for seed in seeds:
            for arm, settings in ARMS.items():
                rule = [f"purify.filter={name}", f"purify.keep_ratio={1 - share}"]
                started = time.perf_counter()
                run = _run(config, out, share, seed, rule + settings + (target if arm == "fixed" else []))
                row: Row = {"alpha": share, "filter": name, "loss": arm, "seed": seed}
                row |= {"seconds": time.perf_counter() - started} | _measured(run, seed)
                print(f"alpha {share:g} {name} seed {seed} {arm}: {row['i_auroc']:.4f}", file=sys.stderr, flush=True)
                yield row


def _run(config: RunConfig, out: Path, alpha: float, seed: int, settings: list[str]) -> Path:
    data, run = out / f"data-{alpha:g}-{seed}", out / f"run-{alpha:g}-{seed}"
    if not data.is_dir():
        _write_images(data, alpha, seed)
    chosen = with_overrides(config, [f"seed={seed}", *settings])
    llb_ray.run(chosen, llb_ray.read_folder(data, chosen), out=run, executor="serial")
    return run


def _digits(seed: int) -> list[int]:
    """All ten in the order of a seed: head, middle, rarest, and the seven anomalous."""
    return [int(digit) for digit in stream(seed, "long_tail", "digits").permutation(10)]


def _write_images(data: Path, alpha: float, seed: int) -> None:
    with np.load(DATA / "mnist" / "mnist.npz") as mnist:
        train, test = (mnist["x_train"], mnist["y_train"]), (mnist["x_test"], mnist["y_test"])
    rng = stream(seed, "long_tail", "images")
    digits = _digits(seed)
    for digit, count in zip(digits, TAIL, strict=False):
        _draw(data / "train" / "good", train, [digit], count, rng)
        _draw(data / "test" / "good", test, [digit], NUM_TEST, rng)
    _draw(data / "train" / "odd", train, digits[3:], round(alpha / (1 - alpha) * sum(TAIL)), rng)
    _draw(data / "test" / "odd", test, digits[3:], NUM_TEST * len(TAIL), rng)


def _draw(
    folder: Path, pool: tuple[np.ndarray, np.ndarray], digits: list[int], count: int, rng: np.random.Generator
) -> None:
    image_NHW, digit_N = pool
    folder.mkdir(parents=True, exist_ok=True)
    for row in rng.choice(np.flatnonzero(np.isin(digit_N, digits)), count, replace=False):
        Image.fromarray(np.pad(image_NHW[row], 2)).save(folder / f"{digit_N[row]}-{row}.png")


def _measured(run: Path, seed: int) -> Row:
    head, _, rare, *odd = _digits(seed)
    images = read_table(run / "image_scores.arrow")
    score = dict(zip(images["image_id"].to_pylist(), images["score"].to_pylist(), strict=True))
    digit = {row["image_id"]: int(Path(row["path"]).stem.partition("-")[0]) for row in images.to_pylist()}
    tested = [row["image_id"] for row in images.to_pylist() if row["split"] == "test"]
    score_N, digit_N = np.array([score[name] for name in tested]), np.array([digit[name] for name in tested])
    odd_N, rare_N = np.isin(digit_N, odd), digit_N == rare
    threshold = np.quantile(score_N[odd_N], 0.05)
    found: Row = {
        "i_auroc": roc_auc_score(odd_N, score_N),
        "i_ap": average_precision_score(odd_N, score_N),
        "rare_auroc": roc_auc_score(odd_N[odd_N | rare_N], score_N[odd_N | rare_N]),
        "fpr95": np.mean(score_N[~odd_N] >= threshold),
        "rare_fpr95": np.mean(score_N[rare_N] >= threshold),
    }
    return found | _weights(run, digit, {"head": [head], "rare": [rare], "odd": odd})


def _weights(run: Path, digit: dict[str, int], kinds: dict[str, list[int]]) -> Row:
    if not (run / "importance.arrow").exists():
        return {}
    folder = RunFolder.open(run)
    log = read_table(folder.made().final.fitted.path / "training_log.arrow")
    late = slice(int(folder.config().importance.warmup * log.num_rows), None)
    batch_size = folder.config().detector.batch_size
    row: Row = {"ess": log["ess"].to_numpy()[late].mean() / batch_size}
    row["fell_back"] = log["fell_back"].to_numpy()[late].mean()
    table = read_table(run / "importance.arrow")
    weight_N, digit_N = table["weight"].to_numpy(), np.array([digit[name] for name in table["image_id"].to_pylist()])
    of_kind = {kind: weight_N[np.isin(digit_N, digits)] for kind, digits in kinds.items()}
    return row | {f"weight_{kind}": weight.mean() for kind, weight in of_kind.items() if len(weight)}


def _table(rows: Sequence[Row]) -> str:
    lines = ["| alpha | filter | loss | " + " | ".join(METRICS.values()) + " |", "|---" * (3 + len(METRICS)) + "|"]
    for key in dict.fromkeys((row["alpha"], row["filter"], row["loss"]) for row in rows):
        chosen = [row for row in rows if (row["alpha"], row["filter"], row["loss"]) == key]
        cells = " | ".join(_spread([row[name] for row in chosen if name in row]) for name in METRICS)
        lines.append(f"| {key[0]:g} | {key[1]} | {key[2]} | {cells} |")
    return "\n".join(lines)


def _differences(rows: Sequence[Row]) -> str:
    names = list(METRICS)[:5]
    plain = {(row["alpha"], row["filter"], row["seed"]): row for row in rows if row["loss"] == "unweighted"}
    lines = ["| alpha | filter | loss | " + " | ".join(METRICS[name] for name in names) + " |", "|---" * 8 + "|"]
    for key in dict.fromkeys((row["alpha"], row["filter"], row["loss"]) for row in rows if row["loss"] != "unweighted"):
        chosen = [row for row in rows if (row["alpha"], row["filter"], row["loss"]) == key]
        cells = []
        for name in names:
            gains = [row[name] - plain[row["alpha"], row["filter"], row["seed"]][name] for row in chosen]
            better = sum(gain < 0 if "fpr" in name else gain > 0 for gain in gains)
            cells.append(f"{statistics.mean(gains):+.3f} ({better}/{len(gains)})")
        lines.append(f"| {key[0]:g} | {key[1]} | {key[2]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main()
