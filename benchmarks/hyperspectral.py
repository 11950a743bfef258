"""Images of two hundred bands, end to end: tiles of three aerial scenes (ABU), some with a plane, a boat or a car.

    python benchmarks/hyperspectral.py --out runs/hyperspectral

Data are looked for under LLB_DATA (default ../shared/data) and are not part of the repository.  A scene of 100 x 100
pixels is cut into 25 blocks; a seed deals 13 of them to training and 12 to test, so that no pixel is in both, and each
block gives nine overlapping tiles of 16 x 16.  A tile is anomalous if the scene's map marks a pixel of it.  No tile is
dropped by its label.  A draw that leaves either side without an anomaly is drawn again.  llb keeps 1 - alpha, the true
share, which a user does not know.  Writes benchmarks/hyperspectral.md and the raw rows beside it.
"""

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from harness import METRICS, Row, setting, spread, write_rows
from PIL import Image
from sklearn.metrics import roc_auc_score

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import parse, with_overrides
from llb_ray.data.bands import read_bands
from llb_ray.data.manifest import path_from_text
from llb_ray.detectors.autoencoder import Autoencoder
from llb_ray.detectors.autoencoder_config import AutoencoderConfig
from llb_ray.detectors.base import Layers
from llb_ray.engine.features.measured_bands import read_scale
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.stage_keys import fit_settings

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data")) / "hyperspectral"
SCENES = ("abu-airport-2", "abu-beach-2", "abu-urban-1")
FILTERS = ("none", "llb", "oracle")
BLOCK, TILE, STRIDE, SIDE = 20, 16, 2, 100


def lay_out(scene: str, seed: int, root: Path) -> int:
    """Write the tiles as an MVTec-style tree of arrays with masks; returns the number of bands."""
    with np.load(DATA / f"{scene}.npz") as file:
        value_HWC, anomalous_HW = file["data"], file["map"] > 0
    corners = [(row, column) for row in range(0, SIDE, BLOCK) for column in range(0, SIDE, BLOCK)]
    strange = np.array([anomalous_HW[row : row + BLOCK, column : column + BLOCK].any() for row, column in corners])
    rng = np.random.default_rng(seed)
    trains = rng.permutation(len(corners)) <= len(corners) // 2
    while not (strange[trains].any() and strange[~trains].any()):
        trains = rng.permutation(len(corners)) <= len(corners) // 2
    shutil.rmtree(root, ignore_errors=True)
    for block, (corner, train) in enumerate(zip(corners, trains, strict=True)):
        for number, (row, column) in enumerate(np.ndindex(3, 3)):
            top, left = corner[0] + STRIDE * row, corner[1] + STRIDE * column
            tile, split = np.s_[top : top + TILE, left : left + TILE], "train" if train else "test"
            _write(root / split, f"block{block:02d}_{number}", value_HWC[tile], anomalous_HW[tile])
    return int(value_HWC.shape[2])


def _write(split: Path, name: str, value_HWC: npt.NDArray[np.generic], mask_HW: npt.NDArray[np.bool_]) -> None:
    kind = "anomaly" if mask_HW.any() else "good"
    (split / kind).mkdir(parents=True, exist_ok=True)
    np.save(split / kind / f"{name}.npy", value_HWC)
    if mask_HW.any():
        masks = split.parent / "ground_truth" / kind
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_HW).save(masks / f"{name}_mask.png")


def one_draw(scene: str, seed: int, out: Path) -> Iterator[Row]:
    """A row per filter, and one for the detector that no filter and no 8 bits stood before."""
    data, folder = out / "data" / f"{scene}-{seed}", out / "runs" / f"{scene}-{seed}"
    bands = lay_out(scene, seed, data)
    config = parse(
        {
            "seed": seed,
            "data": {"bands": bands, "group_pattern": r"(block\d+)", "category": scene},
            "detector": {"name": "autoencoder", "image_size_px": TILE},
        }
    )
    manifest = llb_ray.read_folder(data, config)
    alpha = statistics.mean(manifest.split("train")["label"].to_pylist())
    facts: Row = {"scene": scene, "bands": bands, "seed": seed, "alpha": alpha}
    for name in FILTERS:
        settings = [f"purify.filter={name}", f"purify.keep_ratio={1 - alpha}"]
        result = llb_ray.run(with_overrides(config, settings), manifest, out=folder, executor="serial")
        yield facts | {"filter": name} | {metric: result.metrics.get(metric) for metric in METRICS}
    yield facts | {"filter": "none, float32", "i_auroc": unrounded_auroc(config, manifest, folder)}


class Tiles:
    """A `Source` over pixels that no cache has rounded."""

    def __init__(self, image_NCHW: torch.Tensor, image_ids: Sequence[str]) -> None:
        self.image_ids = image_ids
        self.image_NCHW = image_NCHW

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        """The pixels at `rows`."""
        return (self.image_NCHW[torch.from_numpy(rows)],)


def unrounded_auroc(config: RunConfig, manifest: Manifest, run: Path) -> float:
    """I-AUROC of the final detector without a filter, had its pixels been neither rounded nor cut off."""
    scale, settings = read_scale(RunFolder.open(run).made().bands), fit_settings(config, "final")
    assert scale is not None, "a run on bands has one"
    assert isinstance(config.detector, AutoencoderConfig)
    low_C, high_C = np.array(scale.low_C), np.array(scale.high_C)

    def pixels(split: str) -> torch.Tensor:
        paths = [manifest.root / path_from_text(path) for path in manifest.split(split)["path"].to_pylist()]
        tile_NHWC = np.stack([read_bands(path, scale.num_bands, config.data.max_pixels) for path in paths])
        whole_NHWC = 64 + 127 * (tile_NHWC - low_C) / (high_C - low_C)  # as BandScale.to_bytes places them
        return torch.from_numpy(whole_NHWC).float().permute(0, 3, 1, 2).contiguous()

    detector = Autoencoder(config.detector, config.detector.final_steps, torch.device("cpu"))
    detector.fit(Tiles(pixels("train"), manifest.image_ids("train")), settings["seed"])
    labels = manifest.split("test")["label"].to_pylist()
    return float(roc_auc_score(labels, detector.score((pixels("test"),)).score_N))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, default=HERE / "hyperspectral.md")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is missing: set LLB_DATA to the folder that holds it")
    rows: list[Row] = []
    for scene in SCENES:
        for seed in range(arguments.seeds):
            rows += one_draw(scene, seed, arguments.out)
            areas = {row["filter"]: round(row["i_auroc"], 3) for row in rows[-len(FILTERS) - 1 :]}
            print(f"{scene} seed {seed}: I-AUROC {areas}", file=sys.stderr, flush=True)
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/hyperspectral.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# Two hundred bands: aerial scenes in tiles, {date.today()}\n\n{setting(command)}\n\n"
        f"{arguments.seeds} draws of blocks a scene, 117 training and 108 test tiles each, {TILE} px, the default "
        "autoencoder; mean ± sd over draws.  The last row of a scene is the detector of its first, had the pixels been "
        "neither rounded to 8 bits nor cut off.\n\n"
        f"{_table(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def _table(rows: Sequence[Row]) -> str:
    lines = ["| scene | bands | alpha | filter | " + " | ".join(METRICS.values()) + " |", "|---|" + "---|" * 8]
    for scene in SCENES:
        for name in (*FILTERS, "none, float32"):
            chosen = [row for row in rows if (row["scene"], row["filter"]) == (scene, name)]
            cells = " | ".join(spread([row.get(metric) for row in chosen]) for metric in METRICS)
            alpha = spread([row["alpha"] for row in chosen])
            lines.append(f"| {scene} | {chosen[0]['bands']} | {alpha} | {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
