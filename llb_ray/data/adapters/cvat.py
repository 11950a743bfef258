"""CVAT for images 1.1 (one XML file): polygons, boxes, ellipses and masks of images in a folder."""

from collections.abc import Iterator, Mapping
from typing import ClassVar
from xml.etree import ElementTree

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.labelled import Labelled, Labels, by_path, text_of
from llb_ray.data.label_shapes import Runs, Shape, ellipse, polygon, rectangle
from llb_ray.errors import DataError

_BAD = (ValueError, KeyError, TypeError, OverflowError)
_SHAPES = ("polygon", "box", "ellipse", "mask")
_DECLARATIONS = ("<!DOCTYPE", "<!ENTITY")  # which entities that expand without end, or read files, would need


class Cvat(Labelled):
    """A folder of images, and CVAT's file of their defects."""

    options = frozenset({"group_pattern", "table"})
    needs: ClassVar[Mapping[str, str]] = {"table": "the file annotations.xml of an export as CVAT for images 1.1"}

    def labels(self, config: DatasetConfig, sources: dict[str, str]) -> Mapping[str, Labels]:
        """See `Labelled`."""
        source, text = text_of(config, sources, "cvat")
        try:
            if any(word in text.upper() for word in _DECLARATIONS):
                raise ValueError("it declares a document type or entities")
            root = ElementTree.fromstring(text)
            if root.tag != "annotations":
                raise ValueError(f"its root is <{root.tag}>")
            images = [(image.attrib["name"], image) for image in root.iter("image")]
            return by_path(_labels(source.name, images), source.path)
        except (ElementTree.ParseError, RecursionError, *_BAD) as error:
            raise DataError(
                f"{source.path}: not a file of CVAT for images 1.1 ({type(error).__name__}: {error}); export it again"
            ) from error


def _labels(source: str, images: list[tuple[str, ElementTree.Element]]) -> Iterator[tuple[str, Labels]]:
    for number, (path, image) in enumerate(images, 1):
        try:
            size = int(image.attrib["width"]), int(image.attrib["height"])
            shapes = [(one.attrib["label"], _shape(one)) for one in image if one.tag != "tag"]
            tags = [one.attrib["label"] for one in image if one.tag == "tag"]
            yield path, Labels(source, number, size, shapes, tags)
        except _BAD as error:
            yield path, Labels(source, number, None, [], (), f"not CVAT's labels ({type(error).__name__}: {error})")


def _shape(element: ElementTree.Element) -> Shape:
    said = element.attrib
    if element.tag == "polygon":
        return polygon([point.split(",") for point in said["points"].split(";")])
    if element.tag == "box":
        left, top, right, bottom = (float(said[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return rectangle(left, top, right, bottom)
    if element.tag == "ellipse":
        x, y, radius_x, radius_y = (float(said[name]) for name in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, radius_x, radius_y)
    if element.tag == "mask":
        left, top, width, height = (int(float(said[name])) for name in ("left", "top", "width", "height"))
        return Runs([int(count) for count in said["rle"].split(",")], left, top, width, height, by_column=False)
    raise ValueError(f"a shape is a {element.tag}; label defects with {', '.join(_SHAPES)}")
