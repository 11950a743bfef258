"""Real-IAD (Wang et al., CVPR 2024) by its official JSON files: clean, or contaminated for FUIAD (arXiv 2508.07441).

A file is one category: `meta` with a path prefix and the name of the normal class, and the lists `train` and `test`.
Five views (C1, the top view, to C5) of an object are in one folder and form one group.  An image is normal if its class
is the normal one or it has no mask: a view in which the object's defect is not to be seen is a normal image.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part, pick_categories
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.listing_problems import Problem
from llb_ray.data.manifest import TEST, TRAIN, path_text
from llb_ray.errors import DataError

_LISTS, _SINGLE, _FUIAD = "realiad_jsons", "realiad_jsons_sv", "realiad_jsons_fuiad_"
_IMAGES = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")
_VIEW = re.compile(r"_(C\d+)_[^/]*$")
_TOP = "C1"
_SHARE = re.compile(re.escape(_FUIAD) + r"0\.\d+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_MASK = (None, "None", "")


class RealIad(Adapter):
    """Real-IAD, by its official JSON files, clean or contaminated (FUIAD)."""

    options = frozenset({"categories", "views", "images", "alpha"})

    def read(self, config: DatasetConfig) -> Draft:
        """Every image of the official lists of one protocol: clean, or contaminated at `config.alpha`."""
        folder, single_list = _lists(config)
        images, notes = _images(config)
        files = {path.stem: path for path in folder.glob("*.json")}
        sources = [Source.read(config.root, files[name]) for name in pick_categories(folder, files, config.categories)]
        view = _TOP if config.views == "single" and not single_list else None
        parts = [part for source in sources for part in _parts(source, view, images)]
        return Draft(config.root, parts, {source.name: source.sha256 for source in sources}, notes)

    def official_alphas(self, root: Path) -> list[float]:
        """See `Adapter`: those of the contaminated (FUIAD) lists below `root`."""
        return _official_alphas(root)


def _lists(config: DatasetConfig) -> tuple[Path, bool]:
    """The folder of the JSON files, and whether they name the top view alone."""
    if config.alpha is not None:
        return _folder(config.root, f"{_FUIAD}{float(config.alpha)}", _alphas(config.root)), False
    if config.views == "single" and (found := _found(config.root, _SINGLE)):
        return found, True
    return _folder(config.root, _LISTS, "name the folder that has realiad_jsons"), False


def _found(root: Path, name: str) -> Path | None:
    """The folder of that name that holds lists: as published, one level down, or directly below the root."""
    folders = (folder for folder in (root / _LISTS / name, root / name) if any(folder.glob("*.json")))
    return next(folders, None)


def _folder(root: Path, name: str, remedy: str) -> Path:
    found = _found(root, name)
    if found is None:
        raise DataError(f"{root}: holds no {name} with the official .json files; {remedy}")
    return found


def _alphas(root: Path) -> str:
    there = ", ".join(map(str, _official_alphas(root)))
    if there:
        return f"those of alpha {there} are there"
    return "none of any alpha is there; `llb-ray contaminate` makes such sets of the clean lists"


def _official_alphas(root: Path) -> list[float]:
    """The anomalous shares that the official contaminated (FUIAD) lists below `root` are there for, rising."""
    folders = [*root.glob(f"{_FUIAD}*"), *(root / _LISTS).glob(f"{_FUIAD}*")]
    return sorted({float(folder.name.removeprefix(_FUIAD)) for folder in folders if _SHARE.fullmatch(folder.name)})


def _images(config: DatasetConfig) -> tuple[str, list[str]]:
    """The folder of the images as a path's beginning, and what to say about the choice."""
    there = [name for name in _IMAGES if (config.root / name).is_dir()]
    if config.images is not None:
        return f"{config.images}/", []
    if len(there) > 1:
        raise DataError(f"{config.root}: holds {' and '.join(there)}; choose one with images={there[0]}")
    if not there and config.check_files:
        raise DataError(
            f"{config.root}: holds none of {', '.join(_IMAGES)}; put the images there, "
            "or list them without looking for files (check_files=false, --no-check)"
        )
    note = f"{config.root} holds no images: their paths are listed as if they were in {_IMAGES[0]}"
    return (f"{there[0]}/", []) if there else (f"{_IMAGES[0]}/", [note])


def _parts(source: Source, view: str | None, images: str) -> Iterator[Part]:
    """The two lists of one file, without the views that are not asked for."""
    category = path_text(source.path.stem)
    try:
        tree = json.loads(source.content)
        prefix, normal_class = tree["meta"]["prefix"], tree["meta"]["normal_class"]
        lists = {split: list(tree[split]) for split in (TRAIN, TEST)}
        if not (_is_text(prefix) and _is_text(normal_class)):
            raise TypeError("prefix and normal_class have to be text")
    except (ValueError, KeyError, TypeError) as error:
        what = f"not one of Real-IAD's lists ({type(error).__name__}: {error})"
        yield Part.of(source.name, [Problem(source.name, None, "", what)])
        return
    rules = _Rules(category, prefix, normal_class, view)
    for split, entries in lists.items():
        name = f"{source.name} {split}"
        read = (rules.entry(name, number, split, entry) for number, entry in enumerate(entries, 1))
        yield Part.of(name, (entry for entry in read if entry is not None), images)


class _Rules(NamedTuple):
    """Rules for reading one file."""

    category: str
    prefix: str
    normal_class: str
    view: str | None

    def entry(self, source: str, number: int, split: str, said: Any) -> Entry | Problem | None:
        """The row of one entry; None where it is another view's."""
        if not _is_entry(said):
            return Problem(source, number, "", "not an entry with category, anomaly_class, image_path and mask_path")
        image, mask, defect = said["image_path"], said.get("mask_path"), said["anomaly_class"]
        if said["category"] != self.category:
            return Problem(source, number, image, f"is of category {said['category']!r}, the file of {self.category!r}")
        if self.view is not None:
            view = _VIEW.search(image)
            if view is None:
                return Problem(source, number, image, "names no view (C1 to C5)")
            if view[1] != self.view:
                return None
        group = path_text(f"{self.category}/{image.rpartition('/')[0]}")
        normal = mask in _NO_MASK or defect == self.normal_class
        entry = Entry(number, self._placed(image), self.category, split, 0, group=group)
        if normal:
            return entry
        return entry._replace(label=1, defect_type=path_text(defect), mask_path=self._placed(mask))

    def _placed(self, path: str) -> str:
        """Below the prefix, unless that would hide that the path is absolute."""
        return path if path.startswith("/") else self.prefix + path


def _is_entry(said: Any) -> bool:
    if not isinstance(said, dict):
        return False
    texts = (said.get("category"), said.get("anomaly_class"), said.get("image_path"))
    return all(map(_is_text, texts)) and (said.get("mask_path") is None or _is_text(said["mask_path"]))


def _is_text(said: Any) -> bool:
    """True if it is text that can be written: JSON may hold half a surrogate pair."""
    return isinstance(said, str) and (said.isascii() or not _SURROGATE.search(said))
