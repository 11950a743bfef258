"""Long-tailed draws of real images: three normal patterns in unequal shares, and anomalies.

Images are looked for under LLB_DATA (default ../shared/data) and are not part of the repository.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from llb_ray.seeding import stream

DATA = Path(os.environ.get("LLB_DATA", Path(__file__).parents[2] / "shared" / "data"))
PATTERNS = ("head", "middle", "rarest")
ODD = len(PATTERNS)
NUM_TEST = 100  # of each normal digit; as many anomalies as normals


class Draw(NamedTuple):
    """The pictures of one seed, by kind: the three normal patterns, head first, and the anomalies."""

    train: Sequence[Sequence[Path | Image.Image]]
    test: Sequence[Sequence[Path | Image.Image]]


def mnist(alpha: float, seed: int) -> Draw:
    """1000, 100 and 20 images of three digits; the other seven are anomalies."""
    digits = [int(digit) for digit in stream(seed, "long_tail", "digits").permutation(10)]
    kinds, rng = [[digit] for digit in digits[:ODD]] + [digits[ODD:]], stream(seed, "long_tail", "images")
    draws = []
    for part, counts in (("train", _with_odd((1000, 100, 20), alpha)), ("test", (*[NUM_TEST] * ODD, ODD * NUM_TEST))):
        with np.load(DATA / "mnist" / "mnist.npz") as file:
            image_NHW, digit_N = np.pad(file[f"x_{part}"], ((0, 0), (2, 2), (2, 2))), file[f"y_{part}"]
        pools = [np.flatnonzero(np.isin(digit_N, kind)) for kind in kinds]
        chosen = [rng.choice(pool, count, replace=False) for pool, count in zip(pools, counts, strict=True)]
        draws.append([[Image.fromarray(image) for image in image_NHW[rows]] for rows in chosen])
    return Draw(*draws)


def juice_bottle(alpha: float, seed: int) -> Draw:
    """112, 20 and 4 bottles of three fillings; every good test bottle, and the anomalies that are not trained on."""
    root, rng = DATA / "mvtec_loco_juice_bottle", stream(seed, "long_tail", "bottles")
    with (root / "pattern_labels.csv").open() as file:
        pattern = {row["path"]: row["pattern"] for row in csv.DictReader(file)}
    names = sorted(set(pattern.values()))
    order = [names[(seed + shift) % ODD] for shift in range(ODD)]

    def bottles(folder: str, fillings: Sequence[str]) -> list[Path]:
        """In random order; the table names the originals, which were .png."""
        found = [path for path, name in pattern.items() if path.startswith(folder) and name in fillings]
        return [(root / found[row]).with_suffix(".jpg") for row in rng.permutation(len(found))]

    *counts, num_odd = _with_odd((112, 20, 4), alpha)
    train = [bottles("train/good", [name])[:count] for name, count in zip(order, counts, strict=True)]
    test, odd = [bottles("test/good", [name]) for name in order], bottles("test/logical_anomalies", names)
    return Draw([*train, odd[:num_odd]], [*test, odd[num_odd:]])


DRAWS = {"mnist": mnist, "juice_bottle": juice_bottle}


def _with_odd(counts: Sequence[int], alpha: float) -> tuple[int, ...]:
    return (*counts, round(alpha / (1 - alpha) * sum(counts)))
