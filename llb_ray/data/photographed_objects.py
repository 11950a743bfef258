"""The photographed objects of a labelled data set, and which of them make a training set: the FUIAD rule of
arXiv 2508.07441.

Everything is counted in objects.  Draws are prefixes of seeded permutations of sorted names: they depend on no order of
rows, and a larger number takes what a smaller one took and more.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.errors import DataError
from llb_ray.seeding import stream


class Drawn(NamedTuple):
    """The objects of a training set and of its test set; all others are left out."""

    train: Set[str]
    test: Set[str]


@dataclass(frozen=True)
class Objects:
    """The objects of a labelled table; `where` is what errors call it."""

    where: str
    normal: Set[str]  # of the training split: no view has a defect, and none is unlabelled
    anomalous: Set[str]  # of the test split: some view has a defect
    test: Set[str]

    @classmethod
    def of(cls, where: str, names: Sequence[str], splits: Sequence[str], labels: Sequence[int | None]) -> "Objects":
        """The objects by name, of one name, split and label per image; raises DataError for one in both splits."""
        found: dict[str, dict[str, set[int | None]]] = {TRAIN: defaultdict(set), TEST: defaultdict(set)}
        for name, split, label in zip(names, splits, labels, strict=True):
            found[split][name].add(label)
        in_both = found[TRAIN].keys() & found[TEST].keys()
        if in_both:
            raise DataError(
                f"{where}: object {min(in_both)} is in both splits, so no test set would be free of it; fix its group"
            )
        normal = {name for name, seen in found[TRAIN].items() if seen == {0}}
        return cls(where, normal, {name for name, seen in found[TEST].items() if 1 in seen}, found[TEST].keys())

    def most(self, max_alpha: float) -> int:
        """The largest training set for every alpha up to `max_alpha` that leaves half of the anomalies to the test set.

        Raises DataError if no training object is known to be normal.
        """
        most = len(self.normal)
        if not most:
            raise DataError(
                f"{self.where}: no training image is labelled as normal; label them, or name a tail of some"
            )
        while 2 * round(max_alpha * most) > len(self.anomalous):
            most -= 1
        return most

    def contaminated(self, num_objects: int, alpha: float, seed: int, max_alpha: float) -> Drawn:
        """`num_objects` for training, alpha of them anomalous, and a test set that is the same at every alpha.

        Raises DataError, with the largest alpha possible, if there are too few objects.
        """
        reserved, num_anomalous = round(max_alpha * num_objects), round(alpha * num_objects)
        self._require(f"{num_objects} objects", alpha, max_alpha, (num_anomalous, reserved), num_objects)
        num_normal = num_objects - num_anomalous
        if num_normal > len(self.normal):
            raise DataError(
                f"{self.where}: {num_objects} objects at alpha {alpha:g} need {num_normal} normal "
                f"objects and {len(self.normal)} are there; ask for fewer objects"
            )
        return self._mixed(draw_names(self.normal, num_normal, seed, "normal"), num_anomalous, reserved, seed)

    def contaminating(self, normal: Set[str], alpha: float, seed: int, max_alpha: float) -> Drawn:
        """All of these normal objects for training and so many anomalous ones that they are alpha of the whole.

        The test set is the same at every alpha.  Raises DataError, with the largest alpha possible, if there are too
        few objects.
        """
        num_anomalous, reserved = (round(share / (1 - share) * len(normal)) for share in (alpha, max_alpha))
        most = len(self.anomalous) + len(normal)
        self._require(f"{len(normal)} normal objects", alpha, max_alpha, (num_anomalous, reserved), most)
        return self._mixed(normal, num_anomalous, reserved, seed)

    def _mixed(self, normal: Iterable[str], num_anomalous: int, reserved: int, seed: int) -> Drawn:
        pool = draw_names(self.anomalous, reserved, seed, "anomalous")
        return Drawn({*normal, *pool[:num_anomalous]}, self.test - set(pool))

    def _require(self, what: str, alpha: float, max_alpha: float, needed: tuple[int, int], of: int) -> None:
        """Raise DataError unless there are the anomalous objects needed: now, and at the largest alpha."""
        num_anomalous, reserved = needed
        there = len(self.anomalous)
        if reserved > there or num_anomalous > reserved:
            raise DataError(
                f"{self.where}: {what} at alpha {alpha:g} (test set fixed up to {max_alpha:g}) need "
                f"{max(reserved, num_anomalous)} anomalous objects and {there} are there; "
                f"the largest alpha possible is {min(max_alpha, there / of):.3g}"
            )
        if alpha > 0 and num_anomalous == 0:
            raise DataError(
                f"{self.where}: alpha {alpha:g} of {what} is not one anomalous object, and {there} are there; "
                "ask for a larger alpha, or alpha 0"
            )


def draw_names(names: Set[str], count: int, seed: int, *choice: str) -> Sequence[str]:
    """The first `count` of the names in a random order that `seed` and the name of the choice decide."""
    ordered = sorted(names)
    return [ordered[row] for row in stream(seed, "contaminate", *choice).permutation(len(ordered))[:count]]
