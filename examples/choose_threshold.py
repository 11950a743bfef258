"""Thresholds for several false-alarm rates, and one of them for good.  Nothing is trained.

python examples/choose_threshold.py runs/first/run new_photos --rate 0.001
"""

import argparse
from pathlib import Path

import numpy as np

import llb_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("images", type=Path, help="a folder of images to judge")
    parser.add_argument("--rate", type=float, help="set the run's threshold for this false-alarm rate")
    args = parser.parse_args()

    paths = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    score_N = llb_ray.Detector.load(args.run).predict(paths).score_N
    for rate in (0.05, 0.01, 0.001):
        threshold = llb_ray.Detector.load(args.run, false_alarm_rate=rate).calibration.threshold
        print(f"{rate:6.1%} false alarms: threshold {threshold:.3f}, {np.sum(score_N > threshold)} images above it")
    if args.rate is not None:
        facts = llb_ray.threshold(args.run, false_alarm_rate=args.rate)
        low, high = facts["threshold_interval"]
        print(f"the run's threshold is now {facts['threshold']:.3f} (95 % interval {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
