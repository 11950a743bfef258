"""Known facts about a run's images: labels, objects and masks.  Only `evaluate` and the oracle ask."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import digest
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.manifest import TEST, path_from_text
from llb_ray.disk import file_digest
from llb_ray.errors import DataError

UNTYPED = "anomalous"  # the kind of a defect that has no name
NORMAL = ""  # the kind of an image without a defect


@dataclass(frozen=True)
class KnownImage:
    """A labelled test image, the kind of its defect, and where its mask is, if it has one."""

    image_id: str
    kind: str  # of its defect, or `NORMAL`
    mask: Path | None
    mask_digest: str | None  # of the file's bytes


@dataclass(frozen=True)
class GroundTruth:
    """Labels and masks; `table` has the LABELS columns beside image_id, split, group and category."""

    table: pa.Table
    root: Path
    max_pixels: int
    ignored: IgnoredPixels | None = None  # pixels that are not compared

    def known(self, split: str) -> dict[str, int]:
        """image_id -> label of the labelled images of a split."""
        return self._column(split, "label", pc.field("label").is_valid())

    def groups(self, split: str) -> dict[str, str]:
        """image_id -> the photographed object, of the images of a split."""
        return self._column(split, "group", pc.scalar(True))

    def by_category(self, split: str) -> "dict[str, GroundTruth]":
        """Labels and masks of each category that has labelled images in a split, by its name."""
        names = sorted(set(self._column(split, "category", pc.field("label").is_valid()).values()))
        return {name: replace(self, table=self.table.filter(pc.field("category") == name)) for name in names}

    def types(self, split: str) -> dict[str, list[str]]:
        """Kind of defect -> image_ids of the anomalous images of a split that are of it, in the order of the kinds.

        Those of which no kind is known are of the kind `UNTYPED`.
        """
        kinds: dict[str, list[str]] = {}
        for image_id, kind in self._column(split, "defect_type", pc.field("label") == 1).items():
            kinds.setdefault(kind or UNTYPED, []).append(image_id)
        return dict(sorted(kinds.items()))

    def masks(self, split: str) -> dict[str, Path]:
        """image_id -> mask file of the images of a split that have one."""
        paths = self._column(split, "mask_path", pc.field("mask_path").is_valid())
        return {image_id: self.root / path_from_text(path) for image_id, path in paths.items()}

    def masks_digest(self) -> str:
        """Digest of the test split's masks by content, whatever their names; raises DataError for one that is gone."""
        return digest(self._mask_digests)

    def known_images(self) -> Iterator[KnownImage]:
        """The labelled test images; raises DataError for a mask that is gone."""
        masks = self.masks(TEST)
        kind_of = {image_id: kind for kind, image_ids in self.types(TEST).items() for image_id in image_ids}
        for image_id in self.known(TEST):
            kind = kind_of.get(image_id, NORMAL)
            yield KnownImage(image_id, kind, masks.get(image_id), self._mask_digests.get(image_id))

    @cached_property
    def _mask_digests(self) -> dict[str, str]:
        try:
            return {image_id: file_digest(path) for image_id, path in self.masks(TEST).items()}
        except OSError as error:
            raise DataError(f"{error.filename}: the mask cannot be read ({error.strerror}); put it back") from error

    def _column(self, split: str, name: str, condition: pc.Expression) -> dict[str, Any]:
        rows = self.table.filter((pc.field("split") == split) & condition)
        return dict(zip(rows["image_id"].to_pylist(), rows[name].to_pylist(), strict=True))
