"""Files that describe other files: masks, depth maps and notes among photographs, known by the set.

A name alone says it where it can mean nothing else (`ground_truth`, `7_mask.png` beside `7.png`).  Where it may mean a
photograph too (`label`, `7.jpg` beside `7.png`), a few of the files are looked into: a mask has two values.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, takewhile
from pathlib import Path, PurePath

from llb_ray.data.mask_files import num_mask_values
from llb_ray.data.name_conventions import (
    described_stem,
    is_clutter,
    is_notes,
    is_surely_a_mask,
    may_mean_masks,
    means_masks,
)

MASKS, NOTES, OTHER = "masks", "notes in text formats", "depth or label maps"
_LOOKED_INTO = 4  # files of each kind of name in a folder: it bounds what a listing decodes
_KINDS = 12  # of names in one folder: where there are more, no name says what its file is
_SAMPLE = 64  # names of a folder that are compared with those beside it


def describing(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Those of the `names` in `folder`, of files or folders, that describe others, and what they are."""
    files = [name for name in names if PurePath(name).suffix]
    found = _notes(files) | _twins(folder, files)
    images = [name for name in files if name not in found]
    found |= _same_stem(folder, images)
    found |= _by_pattern(folder, [name for name in images if name not in found])
    return found | _folders(folder, names)


def _notes(names: Sequence[str]) -> dict[str, str]:
    """Text files of the same stem as a file that may be an image."""
    stems = {PurePath(name).stem for name in names if not is_notes(name)}
    return {name: NOTES for name in names if is_notes(name) and not stems.isdisjoint(_stems_of_notes(name))}


def _stems_of_notes(name: str) -> set[str]:
    """``a.jpg`` and ``a``, of ``a.jpg.json``."""
    stem = PurePath(name).stem
    return {stem, PurePath(stem).stem}


def _twins(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Files whose name is another's and a word such as mask; a word that may be a photograph's is looked into."""
    stems = {PurePath(name).stem for name in names}
    twins = [name for name in names if described_stem(PurePath(name).stem) in stems]
    maybe = [name for name in twins if not is_surely_a_mask(PurePath(name).stem)]
    kept = set() if _are_masks(folder, maybe) else set(maybe)
    return {name: MASKS for name in twins if name not in kept}


def _same_stem(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Of files that differ in their suffix alone, those of a suffix whose files are masks and the other's are not."""
    by_stem = defaultdict[str, list[str]](list)
    for name in names:
        by_stem[PurePath(name).stem].append(name)
    pairs = defaultdict[tuple[str, str], list[tuple[str, str]]](list)
    for same in by_stem.values():
        for one, other in combinations(sorted(same), 2):
            pairs[PurePath(one).suffix, PurePath(other).suffix].append((one, other))
    found = dict[str, str]()
    for matched in pairs.values():
        ones, others = zip(*matched, strict=True)
        masks = _masks_of_two(folder, ones, others)
        found |= dict.fromkeys(masks, MASKS)
    return found


def _by_pattern(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Files whose names differ from others' in more than a number, and hold two values where the others do not."""
    kinds = defaultdict[str, list[str]](list)
    for name in names:
        kinds[re.sub(r"\d+", "0", name)].append(name)
    if not 1 < len(kinds) <= _KINDS:
        return {}
    masks = [kind for kind in kinds.values() if len(kind) > 1 and _are_masks(folder, kind, strictly=True)]
    return {name: MASKS for kind in masks for name in kind} if len(masks) < len(kinds) else {}


def _masks_of_two(folder: Path, ones: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """Files of the two rows that are the masks of the other; none where both or neither look like it."""
    are = _are_masks(folder, ones), _are_masks(folder, others)
    return () if are[0] == are[1] else ones if are[0] else others


def _are_masks(folder: Path, names: Sequence[str], strictly: bool = False) -> bool:
    """True if all of a few of these files look like masks; `strictly`: exactly, and not all of them empty."""
    values = list(takewhile(bool, (num_mask_values(folder / name, strictly) for name in _some(names))))
    return len(values) == len(_some(names)) > 0 and not (strictly and max(values) == 1)


def _folders(folder: Path, names: Sequence[str]) -> dict[str, str]:
    named = [name for name in names if means_masks(name) and os.path.isdir(folder / name)]
    maybe = [name for name in names if may_mean_masks(name) and os.path.isdir(folder / name)]
    others = [name for name in names if name not in {*named, *maybe}]
    found = dict.fromkeys(named, MASKS)
    return found | {name: kind for name in maybe if (kind := _what_is_in(folder / name, folder, others))}


def _what_is_in(described: Path, folder: Path, others: Sequence[str]) -> str | None:
    """Kind of the folder's files that may describe the `others` in `folder`; None where it holds images."""
    files = list(islice(_files_below(described), _SAMPLE))
    if files and all(is_notes(file) for file in files):
        return NOTES
    if _are_masks(described, files, strictly=True):
        return MASKS
    return OTHER if files and 2 * _num_paired(files, folder, others) > len(files) else None


def _num_paired(files: Sequence[str], folder: Path, others: Sequence[str]) -> int:
    """Number of the files that have a file of their stem at the same place of another folder, or in `folder` itself."""
    stems: Mapping[str, set[str]] = {
        place: {PurePath(name).stem for other in ("", *others) for name in _names(folder / other / place)}
        for place in {str(PurePath(file).parent) for file in files}
    }
    parts = ((str(PurePath(file).parent), PurePath(file).stem) for file in files)
    return sum(not stems[place].isdisjoint({stem, described_stem(stem) or stem}) for place, stem in parts)


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _files_below(folder: Path) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        below = Path(where).relative_to(folder)
        yield from (str(below / name) for name in sorted(names) if not is_clutter(name))


def _some(names: Sequence[str]) -> Sequence[str]:
    return names[:: max(1, -(-len(names) // _LOOKED_INTO))]
