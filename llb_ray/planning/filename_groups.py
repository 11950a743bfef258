"""Groups of images of the same object, guessed from file names."""

import re
from collections import Counter
from collections.abc import Sequence

# A number after one of these tells pictures of one object apart: obj12_view0.png, 0007-cam2.jpg, x_NG_C3_2023.jpg.
_VIEWS = "view", "cam", "camera", "angle", "side", "shot", "pose", "C"
_BY_NUMBER = r"([^/]*[^/\d])[_-]\d{1,2}\.[^./]+$"
_MATCHED, _ALIKE = 0.9, 0.8  # least shares: of files that the pattern matches, of groups that have the usual size
_SIZES = range(2, 31)  # usual size of a group


def by_view(paths: Sequence[str]) -> str | None:
    """A `data.group_pattern` for names that count views; None where they do not."""
    patterns = (rf"([^/]+?)[_-]{word}[_-]?\d+(?=[_.-])" for word in _VIEWS)
    return next((pattern for pattern in patterns if _groups(pattern, paths)), None)


def by_number(paths: Sequence[str]) -> str | None:
    """A `data.group_pattern` for names that end in a short number: they may be views of an object, or may not."""
    return _BY_NUMBER if _groups(_BY_NUMBER, paths) else None


def num_groups(pattern: str | None, paths: Sequence[str]) -> int:
    """Number of objects that result; a file that the pattern does not match is one of its own."""
    found = [(path, re.search(pattern, path) if pattern else None) for path in paths]
    return len({match[1] if match else path for path, match in found})


def _groups(pattern: str, paths: Sequence[str]) -> bool:
    """True if nearly all names match, in groups nearly all of which are of one size."""
    matches = [match for path in paths if (match := re.search(pattern, path))]
    if len(matches) < _MATCHED * len(paths):
        return False
    sizes = Counter(Counter(match[1] for match in matches).values())
    ((usual, number),) = sizes.most_common(1)
    return usual in _SIZES and number >= _ALIKE * sizes.total() and sizes.total() > 1
