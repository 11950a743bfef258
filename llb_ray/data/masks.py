"""Assignment of masks to images of a tree: by place and name, in whatever format.

An image ``test/crack/7.png`` has its mask below a folder of masks (`ground_truth`, `masks`, `gt`) beside the splits, in
its own split, or beside or in its own folder, as ``7_mask``, ``7`` or another name that says so; or beside itself.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from llb_ray.data.candidate_files import File
from llb_ray.data.companions import MASKS as OF_MASKS
from llb_ray.data.companions import describing
from llb_ray.data.formats import is_image
from llb_ray.data.layout import MASKS, split_folders, subfolders
from llb_ray.data.manifest import TEST, path_text
from llb_ray.data.name_conventions import described_stem, is_clutter, means_masks

_SUFFIXES = ".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg"  # of several, the first; others by content
_NAMED = 3


class Masks:
    """The masks of the images of one tree, found as they are asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = cache(self._listed)
        # A folder may hold every image: what is known of it is found once, not for each of them.
        self._mask_folders = cache(self._listed_mask_folders)
        self._beside = cache(self._masks_beside)
        self._stems = cache(self._by_stem)

    def of(self, files: Sequence[File]) -> dict[str, str]:
        """The mask of each labelled image that has one, by path; one that several images claim is the last one's.

        `files` are in order, those of the test split last.
        """
        owner = {mask: file.path for file in files if file.kind is not None and (mask := self._mask(file.path))}
        return {path: mask for mask, path in owner.items()}

    def notes(self, files: Sequence[File]) -> Iterator[str]:
        """A sentence about masks that are none of these images', and one about test images that lack theirs."""
        claimed = {self._mask(file.path) for file in files}
        several = {str(folder) for folder in self.of_several()}
        odd = [path for path in self._all() if path not in claimed and str(PurePosixPath(path).parent) not in several]
        if odd:
            yield (
                f"{self._root}: {len(odd)} file{'s' if len(odd) > 1 else ''} among the masks belong to no image "
                f"({_shown(odd)}); a mask is named after its image, as <stem>_mask.png in {MASKS}/<type>"
            )
        tested = [file for file in files if file.split == TEST and file.label == 1 and not file.problem]
        bare = [file.path for file in tested if self._mask(file.path) is None]
        if 0 < len(bare) < len(tested):
            yield (
                f"{self._root}: {len(bare)} of {len(tested)} anomalous test images have no mask ({_shown(bare)}), so "
                "they are left out of the pixel metrics"
            )

    def of_several(self) -> list[PurePosixPath]:
        """The folders with several masks each of one image, as in MVTec LOCO: no folder of images is like them."""
        splits = split_folders(subfolders(self._root)).values()
        return [
            folder / kind / name
            for folder in map(PurePosixPath, self._mask_folders(PurePosixPath(".")))
            for kind in subfolders(self._root / folder)
            for name in subfolders(self._root / folder / kind)
            if not any(os.path.isdir(self._root / split / kind / name) for split in splits)
        ]

    def _mask(self, path: str) -> str | None:
        image = PurePosixPath(path)
        for folder in self._folders(image):
            name = self._best(folder, self._stems(folder), image)
            if name is not None and (found := str(folder / name)) != path:
                return found
        beside, stems = self._beside(image.parent)
        name = self._best(image.parent, stems, image) if image.name not in beside else None
        return None if name is None else str(image.parent / name)

    def _folders(self, image: PurePosixPath) -> Iterator[PurePosixPath]:
        """Folders where a mask of the image may be, the likeliest first."""
        split, *rest = image.parent.parts
        here, below = PurePosixPath("."), PurePosixPath(*rest)
        places = [(here, below), (here, split / below), (PurePosixPath(split), below), (image.parent, here)]
        if len(rest) > 1:  # in test/crack/rgb, beside test/crack/gt
            places.append((image.parent.parent, here))
        for place, within in places:
            yield from (place / name / within for name in self._mask_folders(place))

    def _listed_mask_folders(self, place: PurePosixPath) -> list[str]:
        return [name for name in self._names(place) if means_masks(name)]

    def _best(self, folder: PurePosixPath, names: Mapping[str, Sequence[str]], image: PurePosixPath) -> str | None:
        """Of the files that are named after the image the likeliest mask."""
        for stem in (f"{image.stem}_mask", image.stem, image.name, _of(image.stem), _of(image.name)):
            for name in sorted(names.get(stem, ()), key=_likelihood):
                if _likelihood(name) < len(_SUFFIXES) or is_image(self._root / folder / name):
                    return name
        return None

    def _listed(self, folder: PurePosixPath) -> list[str]:
        path = self._root / folder
        return sorted(name for name in os.listdir(path) if not is_clutter(name)) if os.path.isdir(path) else []

    def _by_stem(self, folder: PurePosixPath) -> dict[str, list[str]]:
        return _stems(self._names(folder))

    def _masks_beside(self, folder: PurePosixPath) -> tuple[set[str], dict[str, list[str]]]:
        """Names of the masks among the images of a folder, and the same by stem."""
        kinds = describing(self._root / folder, self._names(folder))
        names = {name for name, kind in kinds.items() if kind == OF_MASKS}
        return names, _stems(names)

    def _all(self) -> Iterator[str]:
        """Every file in a folder of masks beside the splits."""
        for folder in self._mask_folders(PurePosixPath(".")):
            for where, folders, names in os.walk(self._root / folder):
                folders[:] = sorted(name for name in folders if not is_clutter(name))
                below = PurePosixPath(Path(where).relative_to(self._root).as_posix())
                yield from (str(below / name) for name in sorted(names) if not is_clutter(name))


def _stems(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by their stem, and by the stem that they say they describe."""
    found = defaultdict[str, list[str]](list)
    for name in names:
        stem = PurePosixPath(name).stem
        found[stem].append(name)
        if (described := described_stem(stem)) is not None:
            found[_of(described)].append(name)
    return found


def _of(stem: str) -> str:
    """A key for the files whose names say that they describe the one of this stem; no file can have it as its stem."""
    return f"{stem}/"


def _likelihood(name: str) -> int:
    """The place of a name's suffix among those of masks; beyond them, its content has to say that it is an image."""
    suffix = PurePosixPath(name).suffix.lower()
    return _SUFFIXES.index(suffix) if suffix in _SUFFIXES else len(_SUFFIXES)


def _shown(paths: Sequence[str]) -> str:
    return ", ".join(path_text(path) for path in paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")
