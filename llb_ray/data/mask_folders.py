"""A mask for each photograph, in a folder: at the photograph's relative path, with another suffix.

The mask of ``test/crack/7.jpg`` is ``test/crack/7.png``, ``7_mask.png`` or ``7.jpg.png`` in the folder, an image in any
format, or ``7.json``, a file of labelme.  Of the two settings one may name a folder and the other a mask for all
photographs.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from llb_ray.config import DataConfig, Size
from llb_ray.data.ignored_regions import Ignored, MaskPaths
from llb_ray.data.manifest import path_text
from llb_ray.data.name_conventions import is_clutter
from llb_ray.errors import DataError


@dataclass(frozen=True)
class MaskFolders:
    """The settings that say what is ignored in each photograph; at least one of them is a folder."""

    paths: MaskPaths
    size: Size
    max_pixels: int  # of a mask's file
    _listed: dict[Path, Mapping[str, Sequence[str]]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, config: DataConfig, size: Size) -> "MaskFolders | None":
        """Those of a run; None where no setting names a folder."""
        found = cls(MaskPaths.of_settings(config), size, config.max_pixels)
        return found if found.folders else None

    @property
    def folders(self) -> list[Path]:
        """The folders among them."""
        return [path for path in self.paths if path is not None and path.is_dir()]

    @property
    def names(self) -> str:
        """The folders, for a sentence."""
        return " and ".join(map(str, self.folders))

    def refuse_photographs(self, root: Path) -> None:
        """Raise DataError for the folder of the photographs, in which each would be its own mask."""
        for folder in self.folders:
            if folder.resolve() == root.resolve():
                raise DataError(
                    f"{folder}: has the photographs in it, and nothing says which files are masks; move the masks "
                    "to a folder of their own"
                )

    def unmatched(self, paths: Callable[[], Iterable[str]]) -> str:
        """Sentence about a folder without a mask of any of these photographs; empty where each has some."""
        for folder in self.folders:
            if not any(self._names(folder, PurePosixPath(path)) for path in paths()):
                first = next(iter(paths()), "")
                return (
                    f"{folder}: has no mask of any photograph; a mask has the path of its photograph "
                    f"({path_text(first)}), relative to the data, with any suffix"
                )
        return ""

    def of_photograph(self, path: str) -> Ignored | None:
        """The pixels that are ignored in the photograph at this path; None where it has no mask.

        Raises DataError for a mask that is no mask or leaves nothing, for two that could be meant, and where
        there is none that says what is to be inspected.
        """
        ignore, inspect = (self._mask(named, path) for named in self.paths)
        if self.paths.inspect is not None and inspect is None:
            raise DataError(
                f"{self.paths.inspect}: has no mask of {path_text(path)}, so nothing says what to inspect; draw one"
            )
        return Ignored.draw(ignore, inspect, self.size, self.max_pixels)

    def _mask(self, named: Path | None, path: str) -> Path | None:
        """The mask of a photograph by one setting; None where there is none."""
        if named is None or not named.is_dir():
            return named
        folder, found = named / PurePosixPath(path).parent, self._names(named, PurePosixPath(path))
        if len(found) > 1:
            raise DataError(
                f"{folder}: {' and '.join(found[:2])} may both be the mask of {path_text(path)}; delete one"
            )
        return folder / found[0] if found else None

    def _names(self, named: Path, photograph: PurePosixPath) -> Sequence[str]:
        """The files in a folder that may be the mask of a photograph; one of its whole name counts alone."""
        if photograph.is_absolute() or ".." in photograph.parts:
            return ()  # it is not below the folder that paths are relative to
        names, stem = self._by_stem(named / photograph.parent), photograph.stem
        return names.get(photograph.name) or [*names.get(stem, ()), *names.get(f"{stem}_mask", ())]

    def _by_stem(self, folder: Path) -> Mapping[str, Sequence[str]]:
        """The files of a folder by their names without the suffix; nothing of one that is not there."""
        if folder not in self._listed:
            stems = defaultdict[str, list[str]](list)
            for name in _files(folder):
                stems[PurePosixPath(name).stem].append(name)
            self._listed[folder] = dict(stems)
        return self._listed[folder]


def _files(folder: Path) -> list[str]:
    """The names of the files in a folder, sorted; none of one that is not there.  Raises DataError for one that
    may not be read.

    A link that leads nowhere counts: it was meant as a mask.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir() and not is_clutter(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: its masks cannot be listed ({error.strerror}); make the folder readable") from error
