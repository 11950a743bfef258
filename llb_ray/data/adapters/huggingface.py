"""Parquet shards of Hugging Face's `datasets`, as a data set of the hub is downloaded: images are in the rows.

The images, and masks where there are any, are written out as the files that they are, byte for byte.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as parquet

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part
from llb_ray.data.adapters.image_folder import SPLITS
from llb_ray.data.adapters.image_list import label_of
from llb_ray.data.adapters.written_images import mark_written, was_written
from llb_ray.data.listing_problems import Problem
from llb_ray.data.manifest import TRAIN, path_text
from llb_ray.data.name_conventions import NORMAL_EXAMPLES, means_normal
from llb_ray.data.tables import DAMAGED, first_line, validate
from llb_ray.disk import file_digest
from llb_ray.errors import DataError

_ROWS = 64  # read at once
_SUFFIX = re.compile(r"\.\w{1,5}", re.ASCII)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns of a shard that have the image, its mask and its label, and the names of the labels."""

    image: str
    mask: str | None
    label: str | None
    names: Sequence[str]

    @classmethod
    def of(cls, path: Path, schema: pa.Schema) -> "Columns":
        """Raises DataError where no column has images."""
        pictures = [field.name for field in schema if _has_bytes(field.type)]
        masks = [name for name in pictures if "mask" in name.lower()]
        images = [name for name in pictures if name not in masks]
        if not images:
            raise DataError(f"{path}: no column has images, as `datasets` stores them; use kind imagefolder or table")
        label = "label" if "label" in schema.names else None
        return cls(images[0], masks[0] if masks else None, label, _label_names(schema, label))

    def known(self, row: Row) -> tuple[int | None, str | None, str]:
        """The label of a row and its type of defect, None where they are unknown, and what is wrong with the row."""
        if not row[self.image] or not row[self.image]["bytes"]:
            return None, None, "has no image in it"
        said = None if self.label is None else row[self.label]
        if said is None:
            return None, None, ""
        name = self.names[said] if isinstance(said, int) and 0 <= said < len(self.names) else str(said)
        label = label_of(name)
        if label is None and any(map(means_normal, self.names)):  # the others are types of defects
            return 1, name, ""
        what = f"unknown label {name!r}; use 0 or {NORMAL_EXAMPLES}, 1 or anomalous, bad"
        return label, None, what if label is None else ""


class HuggingFace(Adapter):
    """A folder with Parquet shards of images, written out as files."""

    options = frozenset({"write_to"})
    needs: ClassVar[Mapping[str, str]] = {"write_to": "the folder that the images are written to"}

    def read(self, config: DatasetConfig) -> Draft:
        """Every row of every shard, as ``<write_to>/<split>/<shard>-<row>``; written unless it exists."""
        assert config.write_to is not None, "DatasetConfig requires it"
        folder, shards = config.write_to.absolute(), sorted(config.root.rglob("*.parquet"))
        if not shards:
            raise DataError(f"{config.root}: has no .parquet files; name the folder that was downloaded")
        sources = {path_text(path.relative_to(config.root).as_posix()): file_digest(path) for path in shards}
        sha256 = hashlib.sha256(repr(sources).encode()).hexdigest()
        into = None if was_written(folder, sha256) else folder
        category = path_text(config.root.name or "images")
        parts = [
            Part.of(name, _entries(name, path, category, into)) for name, path in zip(sources, shards, strict=True)
        ]
        if into is not None:
            mark_written(folder, sha256)
        return Draft(folder, parts, sources)


def _entries(source: str, path: Path, category: str, into: Path | None) -> Iterator[Entry | Problem]:
    """The rows of a shard, their images written below `into` unless that is None."""
    split = _split(path)
    prefix = f"{split}/{source.removesuffix('.parquet').replace('/', '-')}"
    for number, (row, columns) in enumerate(_rows(path), 1):
        name = f"{prefix}-{number:06d}"
        label, defect_type, problem = columns.known(row)
        if problem:
            yield Problem(source, number, name, problem)
            continue
        image = _written(row[columns.image], name, into)
        masked = row[columns.mask] if columns.mask is not None and label else None
        mask = _written(masked, f"{name}_mask", into) if masked else None
        yield Entry(number, image, category, split, label, defect_type, mask)


def _rows(path: Path) -> Iterator[tuple[Row, Columns]]:
    """The rows of a shard, a few at a time in memory; raises DataError where it cannot be read."""
    try:
        file = parquet.ParquetFile(path)
        columns = Columns.of(path, file.schema_arrow)
        wanted = [one for one in (columns.image, columns.mask, columns.label) if one is not None]
        for batch in file.iter_batches(_ROWS, columns=wanted):
            yield from ((row, columns) for row in validate(batch).to_pylist())
    except (*DAMAGED, OSError) as error:
        raise DataError(f"{path}: not readable ({first_line(error)}); download it again") from error


def _split(path: Path) -> str:
    """The split that a shard's name begins with (``train-00000-of-00004``), or its folder's; train for any other."""
    names = (re.split(r"[-._]", path.name)[0], path.parent.name)
    return next((SPLITS[name.lower()] for name in names if name.lower() in SPLITS), TRAIN)


def _written(picture: Mapping[str, Any], name: str, into: Path | None) -> str:
    """The name of a picture's file below `into`, where its bytes are written unless that is None."""
    suffix = PurePosixPath(picture.get("path") or "").suffix
    name += suffix if _SUFFIX.fullmatch(suffix) else ""
    if into is not None:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_bytes(picture["bytes"])
    return name


def _has_bytes(kind: pa.DataType) -> bool:
    """True for the type of the feature Image: a structure of bytes and path."""
    return pa.types.is_struct(kind) and {kind.field(at).name for at in range(kind.num_fields)} == {"bytes", "path"}


def _label_names(schema: pa.Schema, label: str | None) -> Sequence[str]:
    """The names of a ClassLabel, by their numbers; none for another kind of label, or no label."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[str(label)]["names"]
    except (KeyError, ValueError, TypeError):
        return ()
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
