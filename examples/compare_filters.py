"""What a filter gains on labelled images: no filter, the default, and an oracle that reads the labels.

    python examples/compare_filters.py --out runs/filters                     # on generated photographs
    python examples/compare_filters.py --out runs/filters --data photos      # train/<type>, test/<type>

`llb-ray certify` is the same with noise levels, seeds and intervals.
"""

import argparse
from pathlib import Path

import llb_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the run")
    parser.add_argument("--data", type=Path, help="a labelled tree of photographs, default: a generated one")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.data is None:
        (args.data,) = llb_ray.synth(args.out / "photos", categories=["weave"], alpha=0.2, size_px=224)

    rows = []
    for name in ("none", "llb", "oracle"):
        config = llb_ray.load_config(None, [*args.settings, f"purify.filter={name}", "threshold.method=none"])
        manifest = llb_ray.read_folder(args.data, config)
        # In one folder: features and members of the runs before are reused, and the last run is the one published.
        result = llb_ray.run(config, manifest, out=args.out / "run", executor="serial")
        rows.append((name, result.num_rejected, result.metrics["i_auroc"]))
    print("filter   rejected   image AUROC")
    for name, num_rejected, auroc in rows:
        print(f"{name:8} {num_rejected:8} {auroc:13.3f}")


if __name__ == "__main__":
    main()
