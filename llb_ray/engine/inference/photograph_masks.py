"""Masks of new photographs, for a run in which each photograph has its own.

A mask that is given is used; else the one that the run keeps of the same photograph, by its content.  Without either
all of a photograph is looked at, unless the run was made with what is to be inspected.
"""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from llb_ray.artifacts import digest
from llb_ray.config import RunConfig
from llb_ray.data.ignored_regions import Ignored, MaskPaths, Region
from llb_ray.data.image_masks import IgnoredPixels, ImageMasks
from llb_ray.data.manifest import path_text
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
MADE_WITHOUT = (
    "a mask for each photograph: the run was made without, so it has not learnt what to ignore; make one with "
    "data.ignore_mask or data.inspect_mask naming a folder"
)
_REMEDY = "give its mask (--ignore-mask, --inspect-mask; of Detector.predict, ignore_mask, inspect_mask)"


@dataclass(frozen=True)
class PhotographMasks:
    """Masks of photographs, by what is given for them and what the run keeps."""

    kept: ImageMasks
    given: MaskFolders
    is_needed: bool  # to know what to inspect
    _warned: set[str] = field(default_factory=set, compare=False, repr=False)  # that were reported once

    @classmethod
    def of(cls, ignored: IgnoredPixels | None, config: RunConfig, given: MaskPaths) -> "PhotographMasks | None":
        """Those for a run, with those that are given; None for a run in which photographs have no masks of their own.

        Raises ConfigError for masks that such a run is given, and DataError for a file or folder that is not there.
        """
        if not isinstance(ignored, ImageMasks):
            if any(given):
                raise ConfigError(MADE_WITHOUT)
            return None
        paths = MaskPaths(*(None if path is None else Path(os.path.abspath(path)) for path in given))
        paths.refuse_missing()
        ignore, inspect = (path if path is not None and path.is_file() else None for path in paths)
        # Where masks of all photographs cannot be used, that is refused once and not for each photograph.
        Ignored.draw(ignore, inspect, config.detector.size, config.data.max_pixels)
        folders = MaskFolders(paths, config.detector.size, config.data.max_pixels)
        return cls(ignored, folders, config.data.inspect_mask is not None)

    @property
    def key(self) -> str:
        """Digest of what the run keeps and of the files that are given."""
        return digest([self.kept.key, self.given.paths.key])

    @property
    def notice(self) -> str:
        """Sentence for the user before photographs are judged; empty where masks are given, or have to be."""
        if self.is_given or self.is_needed:
            return ""
        return (
            "the run was made with a mask for each photograph, and none are given: of photographs that are not the "
            f"run's own, everything is looked at; {_REMEDY}"
        )

    @property
    def is_given(self) -> bool:
        """True where masks of new photographs are given."""
        return any(self.given.paths)

    def of_file(self, path: str, image_id: str) -> Ignored | None:
        """The pixels that are ignored in a photograph, by its path as it is given; raises DataError for a mask that
        cannot be used, and where one is needed and there is none."""
        found = self.given.of_photograph(path) if self.is_given else None
        return found or self._kept(image_id, path_text(path))

    def of_picture(self, ignore: Region | None, inspect: Region | None, image_id: str) -> Ignored | None:
        """The same of one picture, by what is given for it alone."""
        found = Ignored.draw(ignore, inspect, self.given.size, self.given.max_pixels)
        return found or self._kept(image_id, "an image")

    def _kept(self, image_id: str, name: str) -> Ignored | None:
        found = self.kept.of_image(image_id)
        if found is None and self.is_needed:
            raise DataError(f"{name}: nothing says what to inspect; {_REMEDY}")
        if found is None and "whole" not in self._warned:
            self._warned.add("whole")
            _log.warning("%s has no mask, so all of it is looked at, and so of others without", name)
        return found
