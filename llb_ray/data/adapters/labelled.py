"""Images with labels of an annotation tool: shapes round defects become masks for evaluation.

Images that a label file lists are labelled: anomalous with a shape, normal without.  All others below the root are
unlabelled.  In a tree the splits are its folders'; in any other folder labelled images are for tests, the others for
training.  The masks are written to the folder `MASKS` in the root.  Paths in a label file are compared with those that
are there, and nothing is opened by them.
"""

import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.candidate_files import File
from llb_ray.data.directory_tree import LeftOut, found_below, require_folder
from llb_ray.data.groups import Grouping
from llb_ray.data.image_files import upright_size
from llb_ray.data.label_shapes import Shape, mask_of
from llb_ray.data.layout import is_tree_on_disk
from llb_ray.data.listing_problems import Problem
from llb_ray.data.manifest import TEST, path_text
from llb_ray.data.mask_files import LARGEST_MASK
from llb_ray.data.name_conventions import is_notes, means_normal
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.disk import write_atomic
from llb_ray.errors import DataError
from llb_ray.names import below

MASKS = "masks_png"


@dataclass(frozen=True)
class Labels:
    """The labels of one image."""

    source: str
    number: int | None
    size: tuple[int, int] | None  # width and height that they are for; None: not said
    shapes: Sequence[tuple[str, Shape]]  # each with its label
    tags: Sequence[str] = ()  # labels of the whole image
    problem: str = ""  # why they cannot be used

    @property
    def kinds(self) -> list[str]:
        """The labels that mean a defect, sorted."""
        names = {label for label, _ in self.shapes} | set(self.tags)
        return sorted(name for name in names if not means_normal(name))

    def defects(self) -> list[Shape]:
        """The shapes round defects."""
        return [shape for label, shape in self.shapes if not means_normal(label)]


class Labelled(Adapter):
    """Reads the labels of one tool."""

    @abstractmethod
    def labels(self, config: DatasetConfig, sources: dict[str, str]) -> Mapping[str, Labels]:
        """The labels of images by their path below the root; the files read are added to `sources`, by sha256.

        Raises DataError for a file that is not of this form.
        """

    def read(self, config: DatasetConfig) -> Draft:
        """Every image below the root; masks of the labelled anomalous ones are written."""
        require_folder(config.root)
        sources: dict[str, str] = {}
        labels = self.labels(config, sources)
        grouping = Grouping.of(config.group_pattern, "group_pattern")
        found = [file for file in found_below(config.root, LeftOut()) if not is_notes(file.path)]
        grouping.require_match(config.root, [file.path for file in found])
        if not labels.keys() & {file.path for file in found}:
            first = next(iter(labels), "none")
            raise DataError(
                f"{config.root}: no labelled image is there (the first is {path_text(first)}); give the folder that "
                "paths in the labels are relative to"
            )
        is_tree = is_tree_on_disk(config.root)
        items = [_item(config.root, file, labels.get(file.path), grouping, is_tree) for file in found]
        missing = sorted(labels.keys() - {file.path for file in found})
        items += [Problem(labels[path].source, labels[path].number, path, "no such image") for path in missing]
        return Draft(config.root, [Part.of("", items)], sources)


def _item(root: Path, file: File, labels: Labels | None, grouping: Grouping, is_tree: bool) -> Entry | Problem:
    category = path_text(root.name or "images")
    if file.problem is not None:
        return Problem("", None, file.path, file.problem)
    group = grouping.group(category, file.path)
    if labels is None:
        defect = None if file.defect_type is None else path_text(file.defect_type)
        return Entry(None, file.path, category, file.split, file.label, defect, None, group)
    split = file.split if is_tree else TEST
    kind = "+".join(labels.kinds) or None
    try:
        mask = _mask(root, file.path, labels) if labels.defects() and not labels.problem else None
    except (ValueError, UnreadableImage) as error:
        return Problem(labels.source, labels.number, file.path, str(error))
    if labels.problem:
        return Problem(labels.source, labels.number, file.path, labels.problem)
    return Entry(labels.number, file.path, category, split, int(kind is not None), kind, mask, group)


def _mask(root: Path, path: str, labels: Labels) -> str:
    """The path of the mask that is written for an image; raises ValueError for labels that do not fit it."""
    width, height = upright_size(root / path)
    if labels.size is not None and labels.size != (width, height):
        raise ValueError("the labels are for {} x {} pixels, the image has {} x {}".format(*labels.size, width, height))
    if width * height > LARGEST_MASK:
        raise ValueError(f"{width} x {height} pixels are too many for a mask")
    mask_HW = mask_of(labels.defects(), width, height)
    if not mask_HW.any():
        raise ValueError("no shape covers a pixel of the image")
    name = f"{MASKS}/{path}.png"
    with io.BytesIO() as file:
        Image.fromarray(mask_HW).save(file, "PNG")
        try:
            write_atomic(below(root, name), file.getvalue())
        except OSError as error:
            raise DataError(f"{root / MASKS}: masks cannot be written ({error.strerror}); copy the images") from error
    return name


def text_of(config: DatasetConfig, sources: dict[str, str], what: str) -> tuple[Source, str]:
    """The label file that `config.table` names, and its text."""
    assert config.table is not None, f"kind {what} needs it"
    source = Source.read(config.root, config.table)
    sources[source.name] = source.sha256
    return source, source.text()


def by_path(found: Iterator[tuple[str, Labels]], where: Path) -> dict[str, Labels]:
    """The labels by path; raises DataError for an image that is there twice."""
    labels: dict[str, Labels] = {}
    for path, said in found:
        if path in labels:
            raise DataError(f"{where}: {path_text(path)} is there twice; leave one entry for every image")
        labels[path] = said
    return labels
