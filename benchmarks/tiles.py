"""What size and tiles gain, and what they cost: real sets, and synthetic photographs with small defects.

    OMP_NUM_THREADS=1 python benchmarks/tiles.py --out runs/tiles
    OMP_NUM_THREADS=1 python benchmarks/tiles.py --out runs/tiles --memory

Each set is trained without and with a tenth of anomalies among its training images (alpha), one seed; without the
filter in the first case and with it in the second.  `ms` are of one core, for an image: encoding, and scoring by the
final detector.  Sets of the suite have at most 300 px, `lenses_2448` has its originals (LLB_LENSES: a checkout of
HumbleBean001/MTOC-Dataset), and `synthetic_2000` has photographs of 2000 x 2000 px with defects of 10 to 40 px.
`--memory` measures 40 photographs of 4000 x 3000 px from `run` to `report`, and adds a section.
Data is looked for under LLB_DATA (default ../shared/data).  Writes benchmarks/tiles.md and the raw rows beside it.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from certify import DATA, HERE
from harness import Row, software, tell, write_rows
from PIL import Image
from scipy import ndimage

import llb_ray

ALPHAS = (0.0, 0.1)
SIZES = {  # settings of the detector, by set
    "lenses": ["224", "320"],
    "glass_fabric": ["224", "320"],
    "commutator": ["224", "320"],
    "juice_bottle": ["224", "320", "[448, 224]"],
    "lenses_2448": ["224", "448", "[1024, 1216]", "[1024, 1216] tiles 224"],
    "synthetic_2000": ["224", "448", "1984", "1984 tiles 224"],
}
MOST = 40  # images of each kind and split, of the large sets
SIDE, DEFECT_PX = 2000, (10, 40)
LARGE, NUM_LARGE, PREDICTED = (3000, 4000), 40, 6  # for --memory
Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=list(SIZES))
    parser.add_argument("--alphas", nargs="*", type=float, default=ALPHAS)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--result", type=Path, default=HERE / "tiles.md")
    arguments = parser.parse_args()
    raw = arguments.result.with_suffix(".csv")
    rows = list(csv.DictReader(raw.open())) if raw.exists() else []
    for row in [_memory(arguments.out)] if arguments.memory else _rows(arguments):
        rows = [one for one in rows if any(str(one[key]) != str(row[key]) for key in ("set", "size", "alpha"))] + [row]
        write_rows(rows, raw)  # after each: a part is worth having
    arguments.result.write_text(_document([*csv.DictReader(raw.open())]))
    print(arguments.result.read_text())


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    for name in arguments.sets:
        for alpha in arguments.alphas:
            tree = _tree(name, alpha, arguments.out)
            for size in SIZES[name]:
                yield _row(name, size, alpha, tree, arguments.out / f"{name}-{alpha:g}-{size.replace(' ', '')}")


def _row(name: str, size: str, alpha: float, tree: Path, run: Path) -> Row:
    whole, _, tile = size.partition(" tiles ")
    settings = [f"detector.image_size_px={whole}", "threshold.method=none", "seed=0", "features.max_gib=30"]
    settings += [f"detector.tiles={{size_px: {tile}, overlap_px: 32}}"] if tile else []
    settings += [
        "resources.num_cpus=1",
        "resources.batch_size=4" if whole.startswith("1") else "resources.batch_size=16",
    ]
    config = llb_ray.load_config(None, [*settings, f"purify.filter={'llb' if alpha else 'none'}"])
    started_s = time.perf_counter()
    manifest = llb_ray.read_folder(tree, config)
    result = llb_ray.run(config, manifest, out=run, executor="serial", tell=tell)
    times = {one.stage: one.seconds for one in result.times if not one.reused}
    tell(f"{name} {size} alpha {alpha:g}: I-AUROC {result.metrics['i_auroc']:.3f}")
    return {
        "set": name,
        "size": size,
        "alpha": alpha,
        "train": result.num_input,
        "test": result.metrics["num_test"],
        "i_auroc": result.metrics["i_auroc"],
        "aupro": result.metrics["aupro"],
        "encode_ms": 1000 * times.get("features", 0) / len(manifest.table),
        "score_ms": 1000 * times.get("final-scores", 0) / len(manifest.table),
        "seconds": time.perf_counter() - started_s,
    }


def _tree(name: str, alpha: float, out: Path) -> Path:
    """A folder of the set whose training images are anomalous to this share; those are not in its test split."""
    source = _source(name, out)
    tree = out / f"{name}-{alpha:g}"
    most = MOST if name in ("lenses_2448", "synthetic_2000") else None
    good, tested = (sorted((source / split / "good").iterdir())[:most] for split in ("train", "test"))
    bad = [path for path in sorted((source / "test").glob("*/*")) if path.parent.name != "good"]
    rng = np.random.default_rng(0)
    bad = [bad[row] for row in rng.permutation(len(bad))]
    count = round(alpha / (1 - alpha) * len(good))
    for split, paths in (("train/good", [*good, *bad[:count]]), ("test/good", tested)):
        _copy(paths, tree / split)
    for path in bad[count:][:most]:
        _copy([path], tree / "test" / path.parent.name)
        mask = source / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        _copy([mask] if mask.exists() else [], tree / "ground_truth" / path.parent.name)
    return tree


def _copy(paths: Sequence[Path], folder: Path) -> None:
    """Named after their kind too: numbers alone are not unique."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / f"{path.parent.name}_{path.name}")


def _source(name: str, out: Path) -> Path:
    if name == "synthetic_2000":
        return _synthetic(out / "synthetic")
    places = {
        "juice_bottle": DATA / "mvtec_loco_juice_bottle",
        "lenses_2448": Path(os.environ.get("LLB_LENSES", "none")),
    }
    root = places.get(name, DATA / "suite" / name)
    if not root.is_dir():
        sys.exit(f"the set {name} is missing: set LLB_DATA to the folder that holds suite/, LLB_LENSES to the lenses")
    return root


def _synthetic(root: Path) -> Path:
    """A woven surface under uneven light; defects are a thread missing, a stain or a fold of 10 to 40 px."""
    if root.exists():
        return root
    rng = np.random.default_rng(0)
    for split, kind, count in (("train", "good", 36), ("test", "good", 16), ("test", "spot", 24)):
        for number in range(count):
            image, mask = surface(rng, (SIDE, SIDE)), np.zeros((SIDE, SIDE), bool)
            if kind == "spot":
                image, mask = damaged(image, rng)
                folder = root / "ground_truth" / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"{number:03d}_mask.png")
            save(image, root / split / kind / f"{number:03d}.jpg")
    return root


def surface(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """A weave of threads 12 px wide, each of its own brightness, under light that is brighter at one side."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    warp = rng.normal(0, 6, width // 12 + 2).astype(np.float32)[(x // 12).astype(int)]
    weft = rng.normal(0, 6, height // 12 + 2).astype(np.float32)[(y // 12).astype(int)]
    over = np.sin(np.pi * x / 12) * np.sin(np.pi * y / 12)
    light = 20 * np.cos(rng.uniform(0, 6) + (x * rng.uniform(-1, 1) + y) / (height * 0.6))
    image: Floats = 130 + 26 * over + np.where(over > 0, warp, weft) + light + rng.normal(0, 5, size).astype(np.float32)
    return image.astype(np.float32)


def damaged(image: Floats, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The surface with one defect, and its mask."""
    height, width = image.shape
    long, short = rng.uniform(*DEFECT_PX), rng.uniform(*DEFECT_PX)
    cy, cx, angle = rng.uniform(60, height - 60), rng.uniform(60, width - 60), rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width] - np.array([cy, cx])[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    mask = (2 * u / long) ** 2 + (2 * v / short) ** 2 <= 1
    kind = rng.integers(3)
    if kind == 0:  # a stain
        other = image + rng.choice([-25, 25])
    elif kind == 1:  # threads pressed flat
        other = ndimage.gaussian_filter(image, 6)
    else:  # threads out of place
        other = np.roll(image, 6, axis=int(rng.integers(2)))
    return np.where(mask, other, image).astype(np.float32), mask


def save(image: Floats, path: Path) -> None:
    """As a grey JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def _memory(out: Path) -> Row:
    """Peak memory of run, predict and report of large photographs, each a process of its own."""
    root, run, rng = out / "large", out / "large-run", np.random.default_rng(1)
    if not root.exists():
        for number in range(NUM_LARGE):
            image = surface(rng, LARGE)
            save(damaged(image, rng)[0] if number % 10 == 9 else image, root / f"{number:03d}.jpg")
    detector = "detector={image_size_px: [3008, 4000], tiles: {size_px: 224, overlap_px: 32}}"
    settings = [detector, "members.count=2", "resources.num_cpus=1"]
    started_s = time.perf_counter()
    _llb(
        "run",
        "--data",
        root,
        "--out",
        run,
        "--executor",
        "serial",
        *(part for one in settings for part in ("--set", one)),
    )
    ran_s = time.perf_counter() - started_s
    _llb("predict", run, *sorted(root.iterdir())[:PREDICTED], "--out", out / "large-predictions")
    _llb("report", run)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "set": "memory",
        "size": "[3008, 4000] tiles 224",
        "alpha": 0.1,
        "train": NUM_LARGE,
        "peak_mib": peak,
        "seconds": ran_s,
    }


def _llb(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "llb_ray", *map(str, arguments)], check=True, stdout=sys.stderr)


def _document(rows: Sequence[Row]) -> str:
    lines = [
        "| set | alpha | train / test | size | I-AUROC | AUPRO | encode, ms | score, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["set"] != "memory":
            figures = " | ".join(f"{float(row[name]):.3f}" if row[name] else "-" for name in ("i_auroc", "aupro"))
            costs = " | ".join(f"{float(row[name]):.0f}" for name in ("encode_ms", "score_ms"))
            first = f"| {row['set']} | {float(row['alpha']):g} | {row['train']} / {row['test']} | {row['size']}"
            lines.append(f"{first} | {figures} | {costs} |")
    said = [
        "A tenth of anomalies among the training images with the filter (alpha 0.1), none without it (alpha 0); one "
        "seed, 0, so that differences below a few hundredths say nothing.  The test images of the two are not quite "
        "the same.  Times are of a machine that others used too."
    ]
    for row in rows:
        if row["set"] == "memory":
            said.append(
                f"**Memory.** `run` (2 members), `predict` of a few and `report`, of {row['train']} photographs of "
                f"4000 x 3000 px, {row['size']}, a process each (`--memory`): at most "
                f"**{float(row['peak_mib']):.0f} MiB**; the run took {float(row['seconds']) / 60:.0f} minutes."
            )
    sets, alphas = (dict.fromkeys(row[name] for row in rows if row["set"] != "memory") for name in ("set", "alpha"))
    command = "OMP_NUM_THREADS=1 python benchmarks/tiles.py --out runs/tiles"
    command += f" --sets {' '.join(sets)} --alphas {' '.join(f'{float(alpha):g}' for alpha in alphas)}"
    title = f"# Size and tiles, {date.today()}\n\n{software(command)}, one thread"
    return "\n\n".join([title, said[0], "\n".join(lines), *said[1:], "Raw rows: tiles.csv"]) + "\n"


if __name__ == "__main__":
    main()
