"""The tables of a prediction, written batch by batch, and its regions as COCO JSON."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from llb_ray.data.candidate_files import File
from llb_ray.data.manifest import path_text
from llb_ray.data.streaming_writers import PARTIAL, Rows, Shards
from llb_ray.engine.features.mean_features import FEATURES, NUM_MEANS
from llb_ray.engine.inference.regions import Region
from llb_ray.engine.inference.verdicts import ANOMALOUS, Verdicts

SCORED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # as the folder or the list has it
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("quantile", pa.float64(), nullable=False),  # share of held-out normal images that score lower
        pa.field("num_regions", pa.int32()),  # null where the run has no pixel threshold
        pa.field("width", pa.int32(), nullable=False),  # of the photograph, upright
        pa.field("height", pa.int32(), nullable=False),
    ]
)
CATEGORY = pa.field("category", pa.string(), nullable=False)  # a further column, of a run of several
REGIONS = pa.schema(
    [
        *(SCORED.field(name) for name in ("path", "image_id")),
        pa.field("region", pa.int32(), nullable=False),  # 0 has the highest peak of the image
        *(pa.field(name, pa.int32(), nullable=False) for name in ("x", "y", "width", "height")),
        pa.field("area", pa.int64(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("peak", "mean")),
        pa.field("polygon", pa.list_(pa.float32()), nullable=False),
    ]
)
ASIDE = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)])
FEATURED = pa.schema([SCORED.field("image_id"), pa.field(FEATURES, pa.list_(pa.float32(), NUM_MEANS), nullable=False)])
MAPS, SCORES_FILE, REGIONS_FILE, COCO_FILE = "maps", "scores.parquet", "regions.parquet", "coco.json"
FEATURES_FILE = "features.parquet"
_MAPS_PER_SHARD = 1000


@dataclass(frozen=True)
class Judged:
    """A batch of files below `root`: those that could be read with the verdicts on them, and those quarantined."""

    root: Path
    files: Sequence[File]
    verdicts: Verdicts | None  # None where none could be read
    regions: Sequence[Sequence[Region]]  # of each file; nothing where the run has no pixel threshold
    aside: Sequence[File]
    everyone: Sequence[File]  # both, in their order


class Tables:
    """The tables of a prediction as they are written, and how many rows they have."""

    def __init__(
        self,
        out: Path,
        stack: contextlib.ExitStack,
        keep_maps: bool,
        finds_regions: bool,
        has_categories: bool = False,
    ) -> None:
        schema = SCORED.append(CATEGORY) if has_categories else SCORED
        self._scored = [stack.enter_context(Rows(out / name, schema)) for name in ("scores.csv", SCORES_FILE)]
        self._has_categories = has_categories
        self._regions = stack.enter_context(Rows(out / REGIONS_FILE, REGIONS)) if finds_regions else None
        self._features = stack.enter_context(Rows(out / FEATURES_FILE, FEATURED))
        self._aside = stack.enter_context(Rows(out / "quarantine.csv", ASIDE))
        self._maps = stack.enter_context(Shards(out / MAPS, _MAPS_PER_SHARD)) if keep_maps else None
        self.num_batches = self.num_scored = self.num_anomalous = self.num_quarantined = 0
        self.num_regions = 0 if finds_regions else None
        self.first_problem = ""  # with the name of its file

    def add(self, judged: Judged) -> None:
        """Write a batch."""
        self.num_batches += 1
        self._put_aside(judged.aside)
        if judged.verdicts is not None:
            self._write(judged, judged.verdicts)

    def _put_aside(self, files: Sequence[File]) -> None:
        self._aside.add((path_text(file.path), file.problem) for file in files)
        self.num_quarantined += len(files)
        if files and not self.first_problem:
            self.first_problem = f"{path_text(files[0].path)}: {files[0].problem}"

    def _write(self, judged: Judged, verdicts: Verdicts) -> None:
        paths, ids = [path_text(file.path) for file in judged.files], [file.image_id for file in judged.files]
        decisions, counts = verdicts.decisions, self._count(judged, list(zip(paths, ids, strict=True)))
        heights, widths = zip(*verdicts.sizes, strict=True)
        numbers = verdicts.score_N.tolist(), decisions, verdicts.quantile_N.tolist(), counts, widths, heights
        categories = [[file.category for file in judged.files]] if self._has_categories else []
        for table in self._scored:
            table.add(zip(paths, ids, *numbers, *categories, strict=True))
        self._features.add(zip(ids, verdicts.feature_NS.tolist(), strict=True))
        if self._maps is not None:
            maps = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(verdicts.map_NHW))
            self._maps.add(
                pa.RecordBatch.from_arrays([pa.array(paths), pa.array(ids), maps], [*SCORED.names[:2], "map"])
            )
        self.num_scored += len(judged.files)
        self.num_anomalous += decisions.count(ANOMALOUS)

    def _count(self, judged: Judged, named: Sequence[tuple[str, str]]) -> Sequence[int | None]:
        """The number of regions of each file, whose rows are written."""
        if self._regions is None or self.num_regions is None:
            return [None] * len(named)
        for who, regions in zip(named, judged.regions, strict=True):
            self._regions.add((*who, at, *asdict(region).values()) for at, region in enumerate(regions))
            self.num_regions += len(regions)
        return [len(regions) for regions in judged.regions]


def write_coco(out: Path) -> None:
    """Write the regions of a finished prediction as the annotations of a COCO file, a row at a time.

    Every image is one of the file's, by its number from 1 in the order of the tables; `score` is the region's peak.
    """
    partial = out / f"{COCO_FILE}{PARTIAL}"
    with partial.open("w") as file:
        file.write('{"info": {"description": "anomalous regions by llb_ray"}, ')
        file.write('"categories": [{"id": 1, "name": "anomaly"}],\n"images": [')
        _write_items(file, (_image(number, row) for number, row in enumerate(_rows(out / SCORES_FILE), 1)))
        file.write('],\n"annotations": [')
        _write_items(file, _annotations(out))
        file.write("]}\n")
    partial.replace(out / COCO_FILE)


def _write_items(file: Any, items: Iterator[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        file.write(("\n" if number == 0 else ",\n") + json.dumps(item))


def _image(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "file_name": row["path"], "width": row["width"], "height": row["height"]}


def _annotations(out: Path) -> Iterator[dict[str, Any]]:
    """Regions follow each other in the order of the images."""
    regions, next_id = _rows(out / REGIONS_FILE), 1
    for number, row in enumerate(_rows(out / SCORES_FILE), 1):
        for _ in range(row["num_regions"]):
            yield _annotation(next_id, number, next(regions))
            next_id += 1


def _annotation(number: int, image: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [row[name] for name in ("x", "y", "width", "height")],
        "area": row["area"],
        "segmentation": [[round(value, 1) for value in row["polygon"]]],
        "iscrowd": 0,
        "score": row["peak"],
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()
