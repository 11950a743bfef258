"""COCO instances (one JSON file): polygons, run lengths, or boxes of images in a folder."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.labelled import Labelled, Labels, by_path, text_of
from llb_ray.data.label_shapes import MALFORMED, Runs, Shape, coco_counts, polygon, rectangle
from llb_ray.errors import DataError


class Coco(Labelled):
    """A folder of images, and a COCO file of their defects."""

    options = frozenset({"group_pattern", "table"})
    needs: ClassVar[Mapping[str, str]] = {"table": "the COCO file with images, annotations and categories"}

    def labels(self, config: DatasetConfig, sources: dict[str, str]) -> Mapping[str, Labels]:
        """See `Labelled`."""
        source, text = text_of(config, sources, "coco")
        try:
            tree = json.loads(text)
            names = {one["id"]: str(one["name"]) for one in tree["categories"]}
            images = [(one["id"], str(one["file_name"]), _size(one)) for one in tree["images"]]
            of_image: dict[Any, list[Any]] = {image_id: [] for image_id, _, _ in images}
            for one in tree["annotations"]:
                of_image[one["image_id"]].append(one)
        except (*MALFORMED, RecursionError) as error:
            raise DataError(
                f"{source.path}: not a COCO file ({type(error).__name__}: {error}); export it again"
            ) from error
        return by_path(_labels(source.name, images, of_image, names), source.path)


def _size(image: Any) -> tuple[int, int] | None:
    return (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None


def _labels(
    source: str, images: list[tuple[Any, str, Any]], of_image: Mapping[Any, Any], names: Mapping[Any, str]
) -> Iterator[tuple[str, Labels]]:
    for number, (image_id, path, size) in enumerate(images, 1):
        try:
            shapes = [(names[one["category_id"]], shape) for one in of_image[image_id] for shape in _shapes(one)]
            yield path, Labels(source, number, size, shapes)
        except MALFORMED as error:
            yield path, Labels(source, number, size, [], (), f"not COCO annotations ({type(error).__name__}: {error})")


def _shapes(annotation: Any) -> list[Shape]:
    """Polygons, or run lengths; the box of an annotation without either."""
    said = annotation.get("segmentation")
    if isinstance(said, dict):
        height, width = (int(side) for side in said["size"])
        counts = said["counts"]
        runs = coco_counts(counts) if isinstance(counts, str) else [int(count) for count in counts]
        return [Runs(runs, 0, 0, width, height, by_column=True)]
    if said:
        return [polygon(points) for points in said]
    left, top, across, down = (float(number) for number in annotation["bbox"])
    return [rectangle(left, top, left + across, top + down)]
