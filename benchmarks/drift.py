"""How often does `llb-ray drift` raise an alarm, where nothing has changed and where something has?

    python benchmarks/drift.py --set runs/fabric=fabric/test/good --set runs/caps=bottle_cap/test/good

Each set is a finished run and a folder of normal images that it has not seen.  These are scored as they are, brighter,
and out of focus.  Then, a few hundred times, half of the unchanged images are drawn as a reference, and lots of 25 of
the other half, under each condition, are compared with it and with the run's held-out scores.  Where nothing has
changed, a lot should raise an alarm at most as often as the level says.  Writes benchmarks/drift.md and the rates
beside it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, software, write_rows
from PIL import Image, ImageEnhance, ImageFilter

import llb_ray
from llb_ray.engine import filenames
from llb_ray.engine.drift.alarms import Reference, interval_of, watched
from llb_ray.engine.drift.watch import HELD_OUT
from llb_ray.engine.rundir.run_folder import RunFolder

HERE = Path(__file__).parent
LOT, DRAWS, LEVEL = 25, 300, 0.05
Change = Callable[[Image.Image], Image.Image]
CHANGES: dict[str, Change] = {
    "none": lambda image: image,
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "25 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "blurred a little": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 400)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 150)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="RUN=FOLDER")
    parser.add_argument("--result", type=Path, default=HERE / "drift.md")
    arguments = parser.parse_args()
    rows = [row for run, _, data in (one.partition("=") for one in arguments.sets) for row in rates(run, Path(data))]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows))
    print(arguments.result.read_text())


def rates(run: str, data: Path) -> Iterator[Row]:
    """A row for each change and each reference."""
    detector = llb_ray.Detector.load(run)
    scores = {name: scored(detector, data, change) for name, change in CHANGES.items()}
    held_out = held_out_reference(RunFolder.open(Path(run)), detector)
    for change, score_N in scores.items():
        found: dict[str, list[tuple[str, ...]]] = {"held out": [], "another lot": []}
        generator = np.random.default_rng(0)
        for _ in range(DRAWS):
            place_N = generator.permutation(len(score_N))
            half, lot = place_N[: len(place_N) // 2], place_N[len(place_N) // 2 :][:LOT]
            accepted = reference_of(scores["none"][half], held_out.threshold)
            for name, reference in (("held out", held_out), ("another lot", accepted)):
                found[name].append(watched(reference, {"lot": score_N[lot]}, LEVEL)[0].alarms)
        for name, alarms in found.items():
            kinds = {kind: np.mean([kind in one for one in alarms]) for kind in ("shift", "share")}
            any_alarm = np.mean([bool(one) for one in alarms])
            yield {"run": Path(run).name, "change": change, "reference": name, "images": len(score_N)} | {
                "alarm": float(any_alarm),
                **{kind: float(rate) for kind, rate in kinds.items()},
            }


def scored(detector: llb_ray.Detector, data: Path, change: Change) -> np.ndarray:
    """The scores of the images of a folder, changed."""
    images = (change(Image.open(path).convert("RGB")) for path in sorted(data.iterdir()))
    return np.array(detector.predict(images).score_N, float)


def held_out_reference(folder: RunFolder, detector: llb_ray.Detector) -> Reference:
    """What `llb-ray drift` compares with by default."""
    facts = json.loads(folder.made().threshold.file(filenames.THRESHOLD).read_text())
    score_N = detector.calibration.held_out_N.astype(float)
    return Reference(HELD_OUT, score_N, detector.calibration.threshold, facts["false_alarm_interval"][1])


def reference_of(score_N: np.ndarray, threshold: float) -> Reference:
    """What it compares with where a lot was accepted."""
    above = int((score_N > threshold).sum())
    return Reference("accepted", score_N, threshold, interval_of(above, len(score_N))[1])


def page(rows: Sequence[Row]) -> str:
    lines = ["| run | change | compared with | any alarm | shift | share |", "|---" * 6 + "|"]
    for row in rows:
        numbers = " | ".join(f"{row[name]:.2f}" for name in ("alarm", "shift", "share"))
        lines.append(f"| {row['run']} | {row['change']} | {row['reference']} | {numbers} |")
    said = (
        f"Share of {DRAWS} lots of {LOT} normal images that raise an alarm at --level {LEVEL:g}: compared with the "
        "run's held-out scores, and with half of the unchanged images (the lot is from the other half).  Compared with "
        "held-out scores, `llb-ray drift` shows the test of shift and raises no alarm by it: this table is why."
    )
    command = "python benchmarks/drift.py " + " ".join(sys.argv[1:])
    return f"# Alarms of drift, {date.today()}\n\n{software(command)}\n\n{said}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
