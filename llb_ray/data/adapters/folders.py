"""A plain folder, an MVTec-style tree, or a folder of such trees, one per category (`data.directory_tree`)."""

from collections.abc import Iterator
from pathlib import Path

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part, pick_categories
from llb_ray.data.directory_tree import Found, plain_files, require_folder, tree_files
from llb_ray.data.groups import Grouping
from llb_ray.data.layout import is_tree_on_disk, subfolders
from llb_ray.data.listing_problems import Problem
from llb_ray.data.manifest import path_text
from llb_ray.errors import DataError


class PlainFolder(Adapter):
    """Any folder of images, unlabelled."""

    options = frozenset({"group_pattern"})

    def read(self, config: DatasetConfig) -> Draft:
        """Every file below the root as an unlabelled training image; raises DataError for a tree or several."""
        require_folder(config.root)
        if is_tree_on_disk(config.root):
            raise DataError(f"{config.root}: is laid out as train/ and test/; read it as kind mvtec")
        grouping = Grouping.of(config.group_pattern, "group_pattern")
        found = plain_files(config.root)
        grouping.require_match(config.root, [file.path for file in found.files])
        category = path_text(config.root.name or "images")
        return Draft(config.root, [Part.of("", _entries(config.root, found, category, grouping))], notes=found.notes())


class Trees(Adapter):
    """MVTec's layout: train/good, test/<type>, ground_truth/<type>; one category, or a folder of them."""

    options = frozenset({"categories", "group_pattern"})

    def read(self, config: DatasetConfig) -> Draft:
        """Every input of one tree, or of all trees directly below the root; raises DataError where there is none."""
        require_folder(config.root)
        grouping = Grouping.of(config.group_pattern, "group_pattern")
        trees = {name: config.root / folder for name, folder in _trees(config.root).items()}
        chosen = pick_categories(config.root, trees, config.categories)
        found = {name: tree_files(trees[name]) for name in chosen}
        grouping.require_match(config.root, [file.path for tree in found.values() for file in tree.files])
        parts = [
            Part.of("", _entries(config.root, tree, name, grouping), _base(config.root, tree.root))
            for name, tree in found.items()
        ]
        return Draft(config.root, parts, notes=[note for tree in found.values() for note in tree.notes()])


def _trees(root: Path) -> dict[str, str]:
    """Category to folder: the root itself, or its children."""
    if is_tree_on_disk(root):
        return {path_text(root.name or "images"): "."}
    found = {path_text(name): name for name in subfolders(root) if is_tree_on_disk(root / name)}
    if not found:
        raise DataError(
            f"{root}: neither it nor a folder in it is laid out as train/good and test/; "
            "name the folder above the categories, or read it as kind folder"
        )
    return found


def _base(root: Path, tree: Path) -> str:
    return "" if tree == root else f"{tree.name}/"


def _entries(root: Path, found: Found, category: str, grouping: Grouping) -> Iterator[Entry | Problem]:
    masks = found.masks(found.files)
    for file in found.files:
        if file.problem is not None:
            yield Problem("", None, _base(root, found.root) + file.path, file.problem)
            continue
        defect = None if file.defect_type is None else path_text(file.defect_type)
        group, mask = grouping.group(category, file.path), masks.get(file.path)
        yield Entry(None, file.path, category, file.split, file.label, defect, mask, group)
