"""Log of a fit by gradient descent, stored beside the detector, and messages about it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.config import DetectorConfig, Role
from llb_ray.data.tables import read_table, write_table
from llb_ray.detectors.base import FitLog
from llb_ray.engine import filenames


def write_log(folder: Path, log: FitLog | None, image_ids: Sequence[str]) -> None:
    """The log by step as an Arrow file, and by image where the loss was weighted; no file where nothing was noted."""
    if log is None:
        return
    write_table(folder / filenames.TRAINING_LOG, pa.table(dict(log.steps)))
    if log.images:
        write_table(folder / filenames.IMPORTANCE, pa.table({"image_id": image_ids, **log.images}))


def fall_back_notices(name: str, fitted: Artifact) -> list[str]:
    """One sentence if the weights of some steps were worthless and the plain mean was taken."""
    fell_back = _fell_back(fitted)
    count = fell_back.count(True)
    if not count:
        return []
    return [
        f"{name}: {count} of {len(fell_back)} steps were not weighted, because too few images of the batch counted; "
        "widen importance.sigma or sigma_scale, or set importance.log_scores=true"
    ]


def short_fit_notices(name: str, detector: DetectorConfig, role: Role, num_images: int) -> list[str]:
    """One sentence if the steps of a fit are fewer than it takes to see each of so many images once."""
    steps, batch = detector.num_steps(role), detector.images_per_step
    if not 0 < steps * batch < num_images:
        return []
    setting = f"detector.{'member' if role == 'member' else 'final'}_steps"
    return [
        f"{name}: {setting}={steps} in batches of {batch} is {steps * batch / num_images:.2g} passes over "
        f"{num_images} images, so it does not learn from all of them; raise {setting}"
    ]


def fall_back_share(fitted: Artifact) -> float | None:
    """The share of such steps; None where the loss was not weighted."""
    fell_back = _fell_back(fitted)
    return fell_back.count(True) / len(fell_back) if fell_back else None


def _fell_back(fitted: Artifact) -> list[bool]:
    """By step; empty where the loss was not weighted."""
    if filenames.IMPORTANCE not in fitted.files:
        return []
    by_step: list[bool] = read_table(fitted.file(filenames.TRAINING_LOG))["fell_back"].to_pylist()
    return by_step
