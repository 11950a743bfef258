"""New images through a run's final detector: scores for every file, maps for those who draw them."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import torch

from llb_ray.artifacts import digest
from llb_ray.config import RunConfig
from llb_ray.data.folder import File, examine
from llb_ray.data.images import UnreadableImage, read_rgb
from llb_ray.data.manifest import path_text
from llb_ray.data.tables import read_batches, write_batches
from llb_ray.detectors.base import Detector, Encoder, row_batches
from llb_ray.detectors.build import build_encoder
from llb_ray.engine.features import layers_of, stored_layers
from llb_ray.engine.member import load_detector, score_batch
from llb_ray.engine.runfolder import RunFolder, refuse_foreign, refuse_inside
from llb_ray.engine.worker import device_for, owned_threads
from llb_ray.errors import DataError, WeightsError

MAPS = "maps.arrow"


@dataclass(frozen=True)
class Prediction:
    """Where the scores of new images are; `files` are those scored, in the order of the tables and maps."""

    run: Path
    root: Path
    out: Path
    files: Sequence[File]
    num_quarantined: int

    def sentence(self) -> str:
        """What was done, for people."""
        aside = f", {self.num_quarantined} files put aside (quarantine.csv says why)" if self.num_quarantined else ""
        return f"{len(self.files)} images scored{aside}: {self.out / 'scores.csv'}, scores.parquet, overlays/"


def predict_folder(run: Path, data: Path, out: Path) -> Prediction:
    """Write scores.parquet, scores.csv, quarantine.csv and maps.arrow for every file under `data`.

    A row per file, copies included: path (relative to `data`), image_id, score.  Files that are not usable images are
    listed with the reason.  An image of the run itself gets the run's score, within float noise.
    Raises DataError if not one file is usable.
    """
    folder = RunFolder.open(run)
    config = folder.config()
    refuse_inside(data, out)
    refuse_foreign(out, belongs="scores.parquet")
    files = examine(data, config.data.max_pixels)
    usable = [file for file in files if file.problem is None]
    if not usable:
        raise DataError(f"{data}: none of the {len(files)} files found is a readable image; give a folder of images")
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "overlays", ignore_errors=True)  # an earlier prediction's would stay beside the new ones
    with owned_threads(config.resources):
        scored = _scored(folder, config, data, usable)
        write_batches(out / MAPS, scored)
    _write_tables(out, usable, [file for file in files if file.problem is not None])
    return Prediction(run, data, out, usable, len(files) - len(usable))


def _scored(folder: RunFolder, config: RunConfig, data: Path, files: Sequence[File]) -> Iterator[pa.RecordBatch]:
    device = device_for(config.resources)
    fitted = folder.made().final.fitted
    encoder = build_encoder(config.detector, device)
    if digest(dict(encoder.fingerprint())) != fitted.inputs["encoder"]:
        raise WeightsError(
            f"{folder.path}: the backbone's weights or library versions are no longer those of the run; "
            "put the same file and versions back, or run again"
        )
    detector = load_detector(config.detector, "final", fitted, device)
    for rows in row_batches(len(files), config.resources.batch_size):
        yield _score(encoder, detector, device, config, data, [files[row] for row in rows])


def _score(
    encoder: Encoder, detector: Detector, device: torch.device, config: RunConfig, data: Path, files: Sequence[File]
) -> pa.RecordBatch:
    images = [_read(data / file.path, encoder.image_size_px, config.data.max_pixels) for file in files]
    # Through the cache's number format, so that an image gets the score that a run gives it, within float noise.
    layers = layers_of(stored_layers(encoder, np.stack(images)), device)
    return score_batch("final detector", [file.image_id for file in files], detector.score(layers), keeps_maps=True)


def _read(path: Path, size_px: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    try:
        return read_rgb(path, size_px, max_pixels)
    except UnreadableImage as error:
        raise DataError(f"{path}: {error} although it was readable a moment ago; run the same command again") from error


def _write_tables(out: Path, scored: Sequence[File], aside: Sequence[File]) -> None:
    score = pa.concat_arrays([batch.column("score") for batch in read_batches(out / MAPS)])
    columns = {"path": [path_text(file.path) for file in scored], "image_id": [file.image_id for file in scored]}
    scores = pa.table({**columns, "score": score})
    parquet.write_table(scores, out / "scores.parquet")
    csv.write_csv(scores, out / "scores.csv")
    reasons = {"path": [path_text(file.path) for file in aside], "reason": [file.problem for file in aside]}
    csv.write_csv(pa.table(reasons, pa.schema({"path": pa.string(), "reason": pa.string()})), out / "quarantine.csv")
