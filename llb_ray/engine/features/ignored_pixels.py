"""The ignored pixels of a run: drawn from its settings once, and kept with it, so that only new photographs need files.

Either the same pixels of all photographs, or of each its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe
from llb_ray.config import RunConfig
from llb_ray.data.candidate_files import THREADS
from llb_ray.data.decoding import content_id
from llb_ray.data.ignored_regions import Ignored, MaskPaths
from llb_ray.data.image_masks import IgnoredPixels, ImageMasks, keys_digest, write_masks
from llb_ray.data.manifest import Manifest, path_from_text
from llb_ray.data.mask_files import read_mask
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.engine import filenames
from llb_ray.errors import ConfigError, DataError

_AT_ONCE = 16  # masks that are held; of large photographs in tiles each takes megabytes


def masks_recipe(keys: Mapping[str, str]) -> Recipe:
    """Recipe of the pixels of each photograph, from the key of each mask, by image_id."""
    return Recipe("ignored", {}, {"masks": keys_digest(keys)})


def ignored_recipe(ignored: IgnoredPixels) -> Recipe:
    """Recipe of the pixels, the same of all photographs or of each its own."""
    if isinstance(ignored, ImageMasks):
        return masks_recipe(ignored.keys)
    return Recipe("ignored", {}, {"pixels": ignored.key})


def write_ignored(folder: Path, ignored: Ignored) -> None:
    """Write the pixels of all photographs."""
    (folder / filenames.IGNORED).write_bytes(ignored.png())


def refuse_common_cells(config: RunConfig) -> None:
    """Raise ConfigError for a detector that compares the same cells of all photographs: each would show others."""
    if any(getattr(config.detector_of(role), "memory", None) == "softpatch" for role in ("member", "final")):
        raise ConfigError(
            "data.ignore_mask, data.inspect_mask: a memory by softpatch compares the same cells of all photographs, so "
            "it takes one mask for all and no folder of masks; choose another purify.filter or detector.memory"
        )


def refuse_unfit_folders(config: RunConfig, manifest: Manifest) -> None:
    """Raise DataError for a folder of masks that is the photographs', or has the ground truth in it, which says where
    defects are."""
    MaskPaths.of_settings(config.data).refuse_missing()
    folders = MaskFolders.of(config.data, config.detector.size)
    if folders is None:
        return
    folders.refuse_photographs(manifest.root)
    for folder in folders.folders:
        for path in manifest.table["mask_path"].drop_null().to_pylist():
            if (manifest.root / path_from_text(path)).resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"{folder}: has the ground truth in it ({path}), which says where defects are; make other masks"
                )


class DrawnMasks:
    """The masks in folders of some images, by `image_id`."""

    def __init__(self, folders: MaskFolders, images: pa.Table) -> None:
        """Raises DataError for a mask that cannot be used, and for a folder without any."""
        self._folders = folders
        self._images = list(zip(images["image_id"].to_pylist(), images["path"].to_pylist(), strict=True))
        if problem := folders.unmatched(lambda: (path_from_text(path) for _, path in self._images)):
            raise DataError(problem)
        self.keys = {image_id: ignored.key for image_id, ignored in self._drawn()}

    @property
    def num_whole(self) -> int:
        """Number of images without a mask."""
        return len(self._images) - len(self.keys)

    def write(self, folder: Path) -> None:
        """Write the masks."""
        write_masks(folder / filenames.MASKS, self._drawn())

    def refuse_unlike_copies(self, root: Path, quarantined: Sequence[str]) -> None:
        """Raise DataError for a file among these that has the content of an image and another mask."""
        kept = dict(self._images)
        for path in quarantined:
            image_id = _image_id(root / path_from_text(path))
            if image_id in kept and self._key(path) != self.keys.get(image_id):
                raise DataError(
                    f"{root}: {path} and {kept[image_id]} are the same photograph and have different masks in "
                    f"{self._folders.names}; give them the same one, or delete one photograph"
                )

    def _key(self, path: str) -> str | None:
        mask = self._folders.of_photograph(path_from_text(path))
        return None if mask is None else mask.key

    def _drawn(self) -> Iterator[tuple[str, Ignored]]:
        """The images that have a mask, with it, in their order; a few are held."""
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(self._images), _AT_ONCE):
                some = self._images[start : start + _AT_ONCE]
                masks = pool.map(self._folders.of_photograph, [path_from_text(path) for _, path in some])
                for (image_id, _), ignored in zip(some, masks, strict=True):
                    if ignored is not None:
                        yield image_id, ignored


def read_ignored(artifact: Artifact | None, config: RunConfig) -> IgnoredPixels | None:
    """The pixels in their artifact; None for a run that looks at whole photographs."""
    if artifact is None:
        return None
    if filenames.MASKS in artifact.files:
        return ImageMasks(artifact.file(filenames.MASKS), config.detector.size)
    return Ignored(read_mask(artifact.file(filenames.IGNORED), config.detector.size, config.data.max_pixels))


def _image_id(path: Path) -> str:
    """The image_id of a file; empty of one that cannot be read."""
    try:
        return content_id(path)
    except UnreadableImage:
        return ""
