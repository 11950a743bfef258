"""Where an image is unusual: where its map leaves the range of kept images, not where it is highest."""

import numpy as np
import pytest

from llb_ray.report.reasons import where
from llb_ray.report.unusual_places import Floats, Range


@pytest.fixture
def usual() -> Range:
    """Forty kept maps of 12 x 12 cells about 1, with a corner that is always high."""
    map_NHW = np.random.default_rng(0).normal(1, 0.05, (40, 12, 12)).astype(np.float32)
    map_NHW[:, :3, :3] += 5
    return Range.of(map_NHW)


def _map(**changes: tuple[slice, slice, float]) -> Floats:
    map_HW = np.ones((12, 12), np.float32)
    map_HW[:3, :3] = 6
    for rows, columns, value in changes.values():
        map_HW[rows, columns] = value
    return map_HW


@pytest.mark.parametrize(
    ("rows", "columns", "name"),
    [
        (slice(8, 11), slice(0, 2), "bottom left"),
        (slice(5, 7), slice(5, 7), "centre"),
        (slice(5, 7), slice(9, 12), "right"),
        (slice(0, 2), slice(9, 12), "top right"),
    ],
)
def test_a_place_has_a_name_a_size_and_the_range_of_others(
    rows: slice, columns: slice, name: str, usual: Range
) -> None:
    place = usual.place(_map(spot=(rows, columns, 3)))
    assert (place.name, place.stands_out) == (name, True)
    found = (place.x, place.y, place.width, place.height)
    spans = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    assert found == pytest.approx([span / 12 for span in spans])
    assert place.peak == 3
    assert 0.8 < place.low < 1 < place.high < 1.3
    at = "in the centre" if name == "centre" else f"at the {name}"
    assert where(place).startswith(f"Most unusual {at}, ")
    assert "reaches 3, 90 % of the kept images have" in where(place)


def test_a_map_like_the_others_has_no_unusual_place(usual: Range) -> None:
    place = usual.place(_map())
    assert not place.stands_out
    assert where(place).startswith("Nowhere above the range of the kept images")


def test_parts_that_are_shifted_by_a_cell_are_usual(usual: Range) -> None:
    shifted = np.roll(_map(), 1, axis=1)
    shifted[:, 0] = 1
    assert not usual.place(shifted).stands_out
