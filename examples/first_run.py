"""A folder of photographs to a detector, and its verdicts on new images.

python examples/first_run.py --out runs/first                      # on generated photographs
python examples/first_run.py --out runs/first --data photos --new new_photos
"""

import argparse
from pathlib import Path

import llb_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the run and the predictions")
    parser.add_argument("--data", type=Path, help="photographs to train on, default: generated ones")
    parser.add_argument("--new", type=Path, help="photographs to judge, default: the generated test images")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.data is None:
        (args.data,) = llb_ray.synth(args.out / "photos", categories=["weave"], alpha=0.2, size_px=224)

    config = llb_ray.load_config(None, args.settings)
    manifest = llb_ray.read_folder(args.data, config)
    result = llb_ray.run(config, manifest, out=args.out / "run", executor="serial", tell=print)
    print(f"{result.num_kept} images kept, {result.num_rejected} rejected; {result.metrics.get('i_auroc')=}")
    print(f"report: {llb_ray.write_report(args.out / 'run')}")

    prediction = llb_ray.predict(args.out / "run", args.new or args.data / "test", out=args.out / "predictions")
    print(prediction.sentence())


if __name__ == "__main__":
    main()
