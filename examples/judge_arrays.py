"""Images from memory to scores, decisions and heatmaps.

python examples/judge_arrays.py runs/first/run photos/test/good/*.png --out heatmaps
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import llb_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder for the heatmaps")
    args = parser.parse_args()

    detector = llb_ray.Detector.load(args.run)  # once: it takes longer than judging an image
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in args.images]  # as a camera would give them
    first = detector.predict(arrays[0])  # one image, one verdict
    print(f"the first: {first.score_N[0]:.3f}, {first.decisions[0]}")

    verdicts = detector.predict(arrays)  # many at once are faster
    args.out.mkdir(parents=True, exist_ok=True)
    highest = float(verdicts.map_NHW.max())  # one scale for all, or every image would look defective
    for path, score, decision, map_HW in zip(
        args.images, verdicts.score_N, verdicts.decisions, verdicts.map_NHW, strict=True
    ):
        print(f"{path}: {score:.3f}, {decision}")
        plt.imsave(args.out / f"{path.stem}.png", map_HW, vmin=0, vmax=highest, cmap="inferno")


if __name__ == "__main__":
    main()
