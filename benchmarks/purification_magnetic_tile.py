"""What does the plain recipe do on real photographs?  Magnetic tile, MobileNetV2 memory bank, four noise levels.

    python benchmarks/purification_magnetic_tile.py --out runs/magnetic_tile

Data and weights are looked for under LLB_DATA (default ../shared/data) and are not part of the repository.  llb keeps
1 - alpha (the true share, which a user does not know: read its rows as what the ranking allows), random likewise.
Writes benchmarks/purification_magnetic_tile.md and the raw rows beside it.
"""

import argparse
import os
import sys
from datetime import date
from pathlib import Path

from harness import METRICS, setting, stage_seconds, sweep, table, write_rows

import llb_ray
from llb_ray.config import load
from llb_ray.data.contaminate import contaminate_manifest

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data"))
WEIGHTS = "weights/mobilenetv2_100.safetensors"
# Sub-models are memory banks as the final detector is, and that one is as PatchCore has it.
RECIPE = ("members.detector=same", "detector.memory=plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.1, 0.2, 0.4])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--result", type=Path, default=HERE / "purification_magnetic_tile.md")
    arguments = parser.parse_args()
    if not (DATA / "magnetic_tile").is_dir():
        sys.exit(f"{DATA}/magnetic_tile is missing: set LLB_DATA to the folder that holds it")

    network = ["detector.backbone.name=mobilenetv2_100", f"detector.backbone.weights={DATA / WEIGHTS}"]
    config = load(HERE.parent / "configs" / "memory_bank.yaml", [*network, *RECIPE])
    everything = llb_ray.read_folder(DATA / "magnetic_tile", config)
    rows = list(
        sweep(
            config,
            lambda alpha, seed: contaminate_manifest(everything, arguments.images, alpha, seed),
            arguments.alphas,
            range(arguments.seeds),
            lambda alpha: 1 - alpha,
            arguments.out,
            "serial",
        )
    )
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/purification_magnetic_tile.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# Purification on magnetic tile, {date.today()}\n\n{setting(command)}\n\n"
        f"N = {arguments.images} training images, K = {config.members.count} members, "
        f"{config.detector.image_size_px} px, seeds 0 to {arguments.seeds - 1}; mean ± sd over seeds.  "
        "The test set is the same at every alpha.\n\n"
        f"{table(rows, list(METRICS))}\n\n{stage_seconds(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


if __name__ == "__main__":
    main()
