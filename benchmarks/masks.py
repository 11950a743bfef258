"""What is a mask for each photograph worth?  Real sets with something pasted that moves, and foregrounds of others.

    OMP_NUM_THREADS=1 python benchmarks/masks.py --out runs/masks

`pasted`: a bottle cap, of random size and in a random place but never over a defect, is pasted into every photograph of
two sets; they are judged without it, with it, and with it and its masks (`data.ignore_mask`).  `foreground`: three sets
whose parts are elsewhere in every photograph, whole and by their foregrounds alone (`data.inspect_mask`), which come
from brightness or colour.  One seed, clean training images.  Data is looked for under LLB_DATA (default
../shared/data).  Writes benchmarks/masks.md, and the raw rows beside it.
"""

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from certify import DATA, HERE
from harness import Row, setting, tell, write_rows
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import llb_ray
from llb_ray.data.tables import read_table
from llb_ray.engine.rundir.run_folder import RunFolder

PASTED, FOREGROUND = ("commutator", "glass_fabric"), ("bottle_cap", "toy", "brain_mri")
SETTINGS = ("purify.filter=none", "threshold.folds=2", "resources.num_cpus=1")
_SHARE = (0.25, 0.4)  # of the shorter side that the pasted cap takes
_COLOURED = 40  # levels between the channels of the toy
Bools = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=HERE / "masks.md")
    arguments = parser.parse_args()
    raw = arguments.result.with_suffix(".csv")
    rows: list[Row] = list(csv.DictReader(raw.open())) if raw.exists() else []
    for name, way, data, settings in _ways(arguments.out):
        if not any((row["set"], row["way"]) == (name, way) for row in rows):
            rows.append(_row(name, way, data, settings, arguments.out))
            write_rows(rows, raw)  # after each: a part is worth having
    arguments.result.write_text(_page([*csv.DictReader(raw.open())]))
    print(arguments.result.read_text())


def _ways(out: Path) -> Iterator[tuple[str, str, Path, Sequence[str]]]:
    for name in PASTED:
        photos, masks = _pasted(DATA / "suite" / name, out / "pasted" / name)
        yield name, "nothing pasted", DATA / "suite" / name, []
        yield name, "pasted", photos, []
        yield name, "pasted, masked", photos, [f"data.ignore_mask={masks}"]
    for name in FOREGROUND:
        masks = _foregrounds(DATA / "suite" / name, out / "foregrounds" / name)
        yield name, "whole", DATA / "suite" / name, []
        yield name, "foreground", DATA / "suite" / name, [f"data.inspect_mask={masks}"]


def _row(name: str, way: str, data: Path, settings: Sequence[str], out: Path) -> Row:
    config = llb_ray.load_config(None, [*SETTINGS, *settings])
    folder, started_s = out / f"{name}-{way.replace(', ', '-').replace(' ', '-')}", time.process_time()
    result = llb_ray.run(config, llb_ray.read_folder(data, config), out=folder, executor="serial", tell=tell)
    metrics = result.metrics
    row: Row = {"set": name, "way": way, "i_auroc": metrics["i_auroc"], "aupro": metrics.get("aupro")}
    return row | _decided(folder) | {"cpu_s": time.process_time() - started_s}


def _decided(folder: Path) -> Row:
    """Shares of the normal and of the anomalous test images above the threshold."""
    run = llb_ray.Detector.load(folder)
    labels = read_table(RunFolder.open(folder).made().labels.file("labels.arrow")).to_pylist()
    label = {row["image_id"]: row["label"] for row in labels if row["split"] == "test"}
    score = {row["image_id"]: row["score"] for row in read_table(folder / "image_scores.arrow").to_pylist()}
    above = [[score[name] > run.calibration.threshold for name in label if label[name] == kind] for kind in (0, 1)]
    return {"false_alarms": float(np.mean(above[0])), "found": float(np.mean(above[1]))}


def _foregrounds(root: Path, masks: Path) -> Path:
    for path in sorted(root.glob("t*/*/*")):
        _save(Image.fromarray(_foreground(path)), masks / path.relative_to(root))
    return masks


def _foreground(path: Path) -> Bools:
    """The largest thing in a photograph, by colour or brightness, with a margin."""
    image_HW3 = np.asarray(Image.open(path).convert("RGB"), float)
    grey_HW, name = image_HW3.mean(axis=2), path.parents[2].name
    if name == "toy":
        inside = np.ptp(image_HW3, axis=2) > _COLOURED
    else:
        level = _otsu(grey_HW)
        inside = grey_HW < level if name == "bottle_cap" else grey_HW > level / 2
    label, num = ndimage.label(ndimage.binary_opening(inside, iterations=2))
    if num:
        inside = label == 1 + np.argmax(ndimage.sum(label > 0, label, range(1, num + 1)))
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(inside, iterations=5))
    grown: Bools = ndimage.binary_dilation(filled, iterations=5)
    return grown


def _otsu(grey_HW: NDArray[np.float64]) -> int:
    """The grey level that parts dark from bright with the largest variance between the two."""
    count = np.cumsum(np.bincount(grey_HW.astype(int).ravel(), minlength=256)).astype(float)
    total = np.cumsum(np.bincount(grey_HW.astype(int).ravel(), minlength=256) * np.arange(256.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total[-1] * count / count[-1] - total) ** 2 / (count * (count[-1] - count))
    return int(np.nanargmax(np.where(np.isfinite(between), between, np.nan)))


def _pasted(root: Path, out: Path) -> tuple[Path, Path]:
    """The folders of photographs with a cap and of its masks."""
    caps = sorted((DATA / "suite" / "bottle_cap" / "train" / "good").glob("*"))
    for number, path in enumerate(sorted(root.glob("t*/*/*"))):
        image = Image.open(path).convert("RGB")
        mask = _paste_cap(image, caps, _truth(root, path, image.size), np.random.default_rng(number))
        _save(image, out / "photos" / path.relative_to(root))
        _save(mask, out / "masks" / path.relative_to(root))
    for path in (root / "ground_truth").rglob("*.png"):
        _save(Image.open(path), out / "photos" / path.relative_to(root))
    return out / "photos", out / "masks"


def _paste_cap(image: Image.Image, caps: Sequence[Path], truth_HW: Bools, rng: np.random.Generator) -> Image.Image:
    """The mask of a cap that is pasted into the image, beside its defects."""
    cap = caps[rng.integers(len(caps))]
    inside, side = Image.fromarray(_foreground(cap)), int(min(image.size) * rng.uniform(*_SHARE))
    box = inside.getbbox()
    thing, shape = (part.crop(box).resize((side, side)) for part in (Image.open(cap).convert("RGB"), inside))
    corner = _free(truth_HW, side, rng)
    image.paste(thing, corner, shape)
    white = Image.new("1", image.size)
    white.paste(shape, corner)
    return Image.fromarray(ndimage.binary_dilation(np.asarray(white), iterations=3))


def _truth(root: Path, path: Path, size: tuple[int, int]) -> Bools:
    mask = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
    if not mask.exists():
        return np.zeros(size[::-1], bool)
    return np.asarray(Image.open(mask).convert("L").resize(size)) > 0


def _free(truth_HW: Bools, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """A corner of a square without a defect, the last one tried where there is none."""
    for _ in range(500):
        top, left = (int(rng.integers(0, length - side + 1)) for length in truth_HW.shape)
        if not truth_HW[top : top + side, left : left + side].any():
            break
    return left, top


def _save(image: Image.Image, path: Path) -> None:
    path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _page(rows: Sequence[Row]) -> str:
    lines = ["| set | way | I-AUROC | AUPRO | false alarms | anomalies found | CPU, s |", "|---" * 7 + "|"]
    for row in rows:
        aupro = f"{float(row['aupro']):.3f}" if row["aupro"] else ""
        shares = f"{float(row['false_alarms']):.3f} | {float(row['found']):.3f} | {float(row['cpu_s']):.0f}"
        lines.append(f"| {row['set']} | {row['way']} | {float(row['i_auroc']):.3f} | {aupro} | {shares} |")
    parts = [
        f"# A mask for each photograph, {date.today()}\n\n"
        + setting("OMP_NUM_THREADS=1 python benchmarks/masks.py --out runs/masks")
        + ", one thread",
        "*pasted*: a bottle cap of random size is pasted somewhere into every photograph, training images too, never "
        "over a defect.  *foreground*: only the largest thing in a photograph, found by brightness or colour, is seen. "
        f"One seed, clean training images, {', '.join(SETTINGS[:2])}: differences of a hundredth say nothing.  "
        "*False alarms* are the share of normal test images above the threshold, asked for 1 %; *anomalies found* is "
        "that of anomalous ones.  CPU time is of a run from its images to its metrics.",
        "\n".join(lines),
        "Raw rows: masks.csv",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
