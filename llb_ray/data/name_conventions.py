"""Meanings of the names of files and folders: clutter that programs leave, normal parts, masks."""

import re
from pathlib import PurePath


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names that no person gave, in lower case; what begins with a dot is hidden and is one too (.DS_Store, ._x.png,
# .ipynb_checkpoints, .Trash-1000, .thumbnails).
_CLUTTER = frozenset(
    {
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "lost.dir",
        "__macosx",
        "__pycache__",
        "network trash folder",
        "temporary items",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "desktop.db",
        "picasa.ini",
        "icon\r",
    }
)
_CLUTTER_PATTERN = re.compile(r"synofile_thumb_.*|~\$.*|.*~|thumbs\.db:.*")

_FILLER = re.compile(r"(images?|imgs?|pictures?|photos?|parts?|samples?|pieces?|data|\d+)$")
_NORMAL = _words(
    "good ok okay okays normal normals negative negatives neg pass passed accept accepted healthy intact clean "
    "regular conform conforming undamaged flawless perfect io gut free defectfree anomalyfree faultfree nodefect "
    "nodefects noanomaly nondefective nodefective nondefect undefective notdefective"
)
_ANOMALOUS = _words(
    "bad ko ng nok nio notok notgood nogood abnormal anomaly anomalies anomalous positive positives pos fail "
    "failed reject rejected defect defects defective damaged faulty fault faults scrap broken schlecht"
)
NORMAL_EXAMPLES = "good, ok, normal, negative, pass, defect_free"

_MASK_FOLDER = _words("mask masks gt groundtruth groundtruths")
_BESIDE_MASK = _words("images image img imgs files defect defects binary pixel png bmp")
_MAYBE_FOLDER = _words(
    "label labels annotation annotations annot seg segs segmentation segmentations xyz depth json xml"
)
_TWIN = re.compile(
    r"(?P<base>.+?)[ _.-]?(?P<word>ground[ _-]?truth|masks?|gt|labels?|seg|segmentation|annotation)", re.I
)
_SURE = re.compile(r"ground[ _-]?truth|masks?|gt", re.I)
# Notes on an image, in formats that hold none.
_NOTES = frozenset({".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".xmp", ".toml", ".md", ".jsonl", ".geojson"})


def is_clutter(name: str) -> bool:
    """True if a program or an operating system gave this name to a file or folder of its own."""
    lower = name.lower()
    return lower.startswith(".") or lower in _CLUTTER or _CLUTTER_PATTERN.fullmatch(lower) is not None


def means_normal(folder: str) -> bool:
    """True if a folder's name is known to mean images without a defect."""
    return _plain(folder) in _NORMAL


def means_anomalous(folder: str) -> bool:
    """True if a folder's name is known to mean images with a defect, of whatever kind."""
    return _plain(folder) in _ANOMALOUS


def means_masks(folder: str) -> bool:
    """True if a folder of this name holds masks, whatever is in it."""
    tokens = [token for token in re.split(r"[^a-z]+", folder.lower()) if token]  # with_mask is no folder of masks
    return "".join(token for token in tokens if token not in _BESIDE_MASK) in _MASK_FOLDER


def may_mean_masks(folder: str) -> bool:
    """True if a folder of this name may hold what describes other images, or images of such things."""
    return re.sub(r"[^a-z]", "", folder.lower()) in _MAYBE_FOLDER


def described_stem(stem: str) -> str | None:
    """``7`` of ``7_mask``, ``7_GT``, ``7-label``: the stem of the file that a twin's name says it describes."""
    match = _TWIN.fullmatch(stem)
    return match["base"] if match else None


def is_surely_a_mask(stem: str) -> bool:
    """Of a twin, whether its name alone says that it is a mask; a label may be one that was photographed."""
    match = _TWIN.fullmatch(stem)
    return match is not None and _SURE.fullmatch(match["word"]) is not None


def is_notes(name: str) -> bool:
    """True if the suffix is one of text formats, which describe images and hold none."""
    return PurePath(name).suffix.lower() in _NOTES


def _plain(folder: str) -> str:
    """The name's letters without digits and words such as images at its end."""
    letters = re.sub(r"[^a-z0-9]", "", folder.lower())
    while (shorter := _FILLER.sub("", letters)) != letters and shorter:
        letters = shorter
    return letters
