"""Are defects found as regions, and is the stated false-area rate kept?  Real sets that have masks.

    OMP_NUM_THREADS=1 python benchmarks/regions.py --out runs/regions

Every set is trained on its clean training images, without a filter.  A defect is a connected part of a mask; it is
found if a region overlaps it, and a region that overlaps no mask is false.  The pixel threshold is moved over a grid to
where one false region per test image is left (*recall at 1*), and is then the run's own, of a false-area rate of 0.001.
Data is looked for under LLB_DATA (default ../shared/data).  Writes benchmarks/regions.md and the raw rows beside it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from certify import DATA, HERE
from harness import Row, setting, tell, write_rows
from scipy import ndimage

import llb_ray
from llb_ray.config import Size
from llb_ray.data.mask_files import read_mask

SETS = ("lenses", "glass_fabric", "commutator", "fabric")
RATES = np.geomspace(1e-5, 0.2, 60)
MAX_PIXELS = 10**8
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--result", type=Path, default=HERE / "regions.md")
    arguments = parser.parse_args()
    rows = [row for name in arguments.sets for row in _measured(name, arguments.out / name)]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(_document(rows))
    print(arguments.result.read_text())


def _measured(name: str, run: Path) -> Iterator[Row]:
    """A row at the run's own pixel threshold, and one for each of the grid."""
    root = DATA / "suite" / name
    if not root.is_dir():
        sys.exit(f"{root} is missing: set LLB_DATA to the folder that holds suite/")
    config = llb_ray.load_config(None, ["purify.filter=none", "resources.num_cpus=1"])
    llb_ray.run(config, llb_ray.read_folder(root, config), out=run, executor="serial", tell=tell)
    detector = llb_ray.Detector.load(run)
    own = detector.calibration.regions
    assert own is not None, "a run without a filter has detectors without a fold"
    masks = dict(_masks(root, own.grid.size))
    maps = [own.smooth(map_HW) for map_HW in detector.predict(list(masks)).map_NHW]
    yield _row(name, "own", own.level, maps, list(masks.values()))
    levels = np.quantile(np.stack(maps), 1 - RATES)
    for rate, level in zip(RATES, levels, strict=True):
        yield _row(name, f"{rate:.3g}", float(level), maps, list(masks.values()))


def _masks(root: Path, size: Size) -> Iterator[tuple[Path, Bools]]:
    """The mask of every test image that is normal or has one."""
    for path in sorted((root / "test").glob("*/*")):
        mask = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        if mask.exists():
            yield path, read_mask(mask, size, MAX_PIXELS)
        elif path.parent.name == "good":
            yield path, np.zeros(size, bool)


def _row(name: str, grid: str, level: float, maps: Sequence[Floats], masks: Sequence[Bools]) -> Row:
    found = defects = false = false_on_normal = flagged = 0
    area = []
    for map_SS, mask_SS in zip(maps, masks, strict=True):
        above_SS = map_SS > level
        defect_SS, num_defects = ndimage.label(mask_SS, np.ones((3, 3)))
        region_SS, num_regions = ndimage.label(above_SS)
        missed = num_regions - len(np.unique(region_SS[mask_SS & above_SS]))
        defects, found = defects + num_defects, found + len(np.unique(defect_SS[mask_SS & above_SS]))
        false += missed
        if not num_defects:
            area.append(above_SS.mean())
            flagged, false_on_normal = flagged + bool(num_regions), false_on_normal + num_regions
    return {
        "set": name,
        "grid": grid,
        "level": level,
        "images": len(maps),
        "defects": defects,
        "recall": found / defects,
        "false_per_image": false / len(maps),
        "false_per_normal": false_on_normal / len(area),
        "normal_with_region": flagged / len(area),
        "normal_area": float(np.mean(area)),
    }


def _document(rows: Sequence[Row]) -> str:
    lines = [
        "| set | test images | defects | recall at 1 | recall | false regions per image | normal images with a region "
        "| area of normal images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for own in (row for row in rows if row["grid"] == "own"):
        grid = [row for row in rows if row["set"] == own["set"] and row["grid"] != "own"]
        best = max((row["recall"] for row in grid if row["false_per_image"] <= 1), default=0.0)
        said = [own["recall"], own["false_per_image"], own["normal_with_region"]]
        figures = " | ".join(f"{value:.2f}" for value in (best, *said))
        lines.append(f"| {own['set']} | {own['images']} | {own['defects']} | {figures} | {own['normal_area']:.4f} |")
    command = "python benchmarks/regions.py " + " ".join(sys.argv[1:])
    said = (
        "*Recall at 1*: share of the defects (connected parts of masks) that a region overlaps, at the pixel threshold "
        "that leaves one false region per test image at most.  The columns after it are at the run's own pixel "
        "threshold, from held-out maps of training images, which 0.001 of the area of normal images should exceed."
    )
    title = f"# Regions on real sets with masks, {date.today()}\n\n{setting(command)}"
    return "\n\n".join([title, said, "\n".join(lines), "Raw rows: regions.csv"]) + "\n"


if __name__ == "__main__":
    main()
