"""How often does `llb-ray drift` raise an alarm, where nothing has changed and where something has?

    python benchmarks/drift.py --set runs/fabric=fabric/test/good --set runs/caps=bottle_cap/test/good

Each set is a finished run and a folder of normal images that it has not seen.  These are scored as they are, brighter,
out of focus, and with a tenth of anomalies from the folders beside it.  Then, a few hundred times, half of the
unchanged images are drawn as a reference, and lots of the other half, under each condition, are compared with it and
with the run's own images.  Where nothing has changed, a lot should raise an alarm at most as often as the level says;
whether the images of the test split are of another day than those of training is in the data.  Writes
benchmarks/drift.md and the rates beside it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, software, write_rows
from PIL import Image, ImageEnhance, ImageFilter

import llb_ray
from llb_ray.engine.drift.alarms import FEATURES, SHARE, SHIFT, Lot, Reference, interval_of, watched
from llb_ray.engine.drift.watch import held_out_reference
from llb_ray.engine.rundir.run_folder import RunFolder

HERE = Path(__file__).parent
KINDS = (SHIFT, SHARE, FEATURES)
LOT, LEVEL, DRAWS, DRAWS_UNCHANGED = 25, 0.05, 100, 400
ANOMALIES = "a tenth anomalous"
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
    detector, folder = llb_ray.Detector.load(run), RunFolder.open(Path(run))
    good = sorted(data.iterdir())
    odd = [path for kind in sorted(data.parent.iterdir()) if kind != data for path in sorted(kind.iterdir())]
    seen = {name: judged(detector, good, change) for name, change in CHANGES.items()}
    anomalous = judged(detector, odd, CHANGES["none"])
    own = own_images(folder, detector)
    for change in (*CHANGES, ANOMALIES):
        found: dict[str, list[tuple[str, ...]]] = {"the run's images": [], "another lot": []}
        generator = np.random.default_rng(0)
        for _ in range(DRAWS_UNCHANGED if change == "none" else DRAWS):
            place_N = generator.permutation(len(good))
            half, others = place_N[: len(place_N) // 2], place_N[len(place_N) // 2 :][:LOT]
            lot = drawn(seen[change], others) if change in seen else mixed(seen["none"], others, anomalous, generator)
            accepted = reference_of(drawn(seen["none"], half), own.threshold)
            for name, reference in zip(found, (own, accepted), strict=True):
                found[name].append(watched(reference, {"lot": lot}, LEVEL)[0].alarms)
        for name, alarms in found.items():
            yield {"run": Path(run).name, "change": change, "reference": name} | shares(alarms)


def shares(alarms: Sequence[tuple[str, ...]]) -> Row:
    """How often any alarm was raised, and each kind."""
    kinds = {kind: float(np.mean([kind in one for one in alarms])) for kind in KINDS}
    return {"alarm": float(np.mean([bool(one) for one in alarms])), **kinds}


def judged(detector: llb_ray.Detector, paths: Sequence[Path], change: Change) -> Lot:
    """The scores and features of images, changed."""
    verdicts = detector.predict(change(Image.open(path).convert("RGB")) for path in paths)
    return Lot(verdicts.score_N.astype(float), verdicts.feature_NS.astype(float))


def drawn(lot: Lot, place_N: np.ndarray) -> Lot:
    assert lot.feature_NS is not None
    return Lot(lot.score_N[place_N], lot.feature_NS[place_N])


def mixed(good: Lot, place_N: np.ndarray, odd: Lot, generator: np.random.Generator) -> Lot:
    """These good images, a tenth of them replaced by anomalies."""
    count = max(1, len(place_N) // 10)
    some, others = drawn(good, place_N[count:]), drawn(odd, generator.permutation(len(odd.score_N))[:count])
    assert some.feature_NS is not None
    assert others.feature_NS is not None
    return Lot(np.append(some.score_N, others.score_N), np.concatenate([some.feature_NS, others.feature_NS]))


def own_images(folder: RunFolder, detector: llb_ray.Detector) -> Reference:
    """What `llb-ray drift` compares with by default."""
    return held_out_reference(folder.made(), detector.calibration)


def reference_of(lot: Lot, threshold: float) -> Reference:
    """What it compares with where a lot was accepted."""
    above = int((lot.score_N > threshold).sum())
    most = interval_of(above, len(lot.score_N))[1]
    return Reference("accepted", lot.score_N, threshold, most, feature_MS=lot.feature_NS)


def page(rows: Sequence[Row]) -> str:
    titles = ("run", "change", "compared with", "any alarm", *KINDS)
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        numbers = [f"{row[name]:.2f}" for name in ("alarm", *KINDS)]
        lines.append(f"| {' | '.join([row['run'], row['change'], row['reference'], *numbers])} |")
    said = (
        f"Share of {DRAWS} lots of {LOT} normal images ({DRAWS_UNCHANGED} unchanged ones) that raise an alarm at "
        f"--level {LEVEL:g}, each compared with the run's own images, and with half of the unchanged ones (the lot is "
        "from the other half).  The run's own images are its held-out scores, with which the test of shift raises no "
        "alarm (they are by other detectors), and the features of those that it kept.  A lot with *a tenth anomalous* "
        "is no change of light or focus: features and shift should be quiet about it."
    )
    command = "python benchmarks/drift.py " + " ".join(sys.argv[1:])
    return f"# Alarms of drift, {date.today()}\n\n{software(command)}\n\n{said}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
