"""Order in which a person is best asked about images: first those whose answer is likely to change most.

An answer changes much where many images look alike, since it holds for all of them (one of a group is asked about for
all), and where the filter was unsure, near its cut.
"""

from collections import Counter
from collections.abc import Sequence


def worth_of(families: Sequence[int | None], num_near: int) -> list[float]:
    """Worth of an answer about each image, in the order of the report: the nearest to the cut first.

    `families` has the group of look-alikes of each, None of a usual image; of a group, the image nearest to the cut
    counts for all, and the others are worth nothing more.  `num_near` images are borderline.
    """
    sizes = Counter(family for family in families if family is not None)
    seen: set[int] = set()
    found = []
    for place, family in enumerate(families):
        alike = 1 if family is None else 0 if family in seen else sizes[family]
        if family is not None:
            seen.add(family)
        found.append(alike / (1 + place / max(1, num_near)))
    return found
