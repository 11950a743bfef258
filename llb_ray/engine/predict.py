"""New images through a run's final detector: scores for every file, maps for those who draw them."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from llb_ray.config import RunConfig
from llb_ray.data.files import File
from llb_ray.data.folder import examine
from llb_ray.data.manifest import path_text
from llb_ray.data.tables import read_batches, write_batches
from llb_ray.detectors.build import encoder_fingerprint
from llb_ray.engine.bands import read_scale
from llb_ray.engine.member import load_detector
from llb_ray.engine.photographs import Encoding, ImageRef, Photographs, layers_of
from llb_ray.engine.runfolder import RunFolder, refuse_foreign, refuse_inside
from llb_ray.engine.scoring import map_batch
from llb_ray.engine.worker import owned_threads
from llb_ray.errors import DataError, WeightsError
from llb_ray.remote import Remote

MAPS = "maps.arrow"


@dataclass(frozen=True)
class Prediction:
    """Where the scores of new images are; `files` are those scored, in the order of the tables and maps."""

    run: Path | Remote
    root: Path
    out: Path
    files: Sequence[File]
    num_quarantined: int

    def sentence(self) -> str:
        """What was done, for people."""
        aside = f", {self.num_quarantined} files put aside (quarantine.csv says why)" if self.num_quarantined else ""
        return f"{len(self.files)} images scored{aside}: {self.out / 'scores.csv'}, scores.parquet, overlays/"


def predict_folder(run: Path | Remote, data: Path, out: Path) -> Prediction:
    """Write scores.parquet, scores.csv, quarantine.csv and maps.arrow for every file under `data`.

    A row per file, copies included: path (relative to `data`), image_id, score.  Files that are not usable images are
    listed with the reason.  An image of the run itself gets the run's score, within float noise.
    Raises DataError if not one file is usable.
    """
    folder = RunFolder.open(run)
    config = folder.config()
    refuse_inside(data, out)
    refuse_foreign(out, "scores.parquet")
    files = examine(data, config.data)
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
    made = folder.made()
    fingerprint = encoder_fingerprint(config.detector)
    photographs = Photographs(data, config.data.max_pixels, config.detector, fingerprint, read_scale(made.bands))
    if photographs.key != made.final.inputs["encoder"]:
        raise WeightsError(
            f"{folder.where}: the backbone's weights or library versions are no longer those of the run; "
            "put the same file and versions back, or run again"
        )
    detector = load_detector(config.detector, made.final, config.resources)
    images = [ImageRef(file.image_id, path_text(file.path)) for file in files]
    encoding = Encoding(photographs, config.resources)
    # Through the cache's number format, so that an image gets the score that a run gives it, within float noise.
    for batch, stored in encoding.batches(images, config.resources.batch_size):
        layers = layers_of(stored, encoding.device)
        yield map_batch("the final detector", detector, [image.image_id for image in batch], layers)


def _write_tables(out: Path, scored: Sequence[File], aside: Sequence[File]) -> None:
    score = pa.concat_arrays([batch.column("score") for batch in read_batches(out / MAPS)])
    columns = {"path": [path_text(file.path) for file in scored], "image_id": [file.image_id for file in scored]}
    scores = pa.table({**columns, "score": score})
    parquet.write_table(scores, out / "scores.parquet")
    csv.write_csv(scores, out / "scores.csv")
    reasons = {"path": [path_text(file.path) for file in aside], "reason": [file.problem for file in aside]}
    csv.write_csv(pa.table(reasons, pa.schema({"path": pa.string(), "reason": pa.string()})), out / "quarantine.csv")
