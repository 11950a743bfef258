"""Outlier factors by hand, and which patches of contaminated images count as dense."""

import numpy as np
import pytest
import torch

from llb_ray.detectors.local_outlier_factor import (
    MAX_REFERENCES,
    SCREENING,
    apart,
    distances,
    loneliness,
    mutual_factors,
    num_neighbours,
    outlier_factors,
    reaches,
    references,
    score_outliers,
    score_outliers_in_blocks,
)

LINE = torch.tensor([0.0, 1.0, 2.0, 10.0]).view(1, 4, 1)  # one place, four images, one dimension
NUMBERS = torch.arange(4)


def test_distances_are_euclidean_at_each_place() -> None:
    left, right = torch.randn(3, 5, 7), torch.randn(3, 4, 7)
    assert torch.allclose(distances(left, right), torch.cdist(left, right), atol=1e-4)


def test_the_reach_is_the_mean_distance_to_the_nearest_others() -> None:
    assert reaches(LINE, NUMBERS, 2).tolist() == [[1.5, 1.0, 1.5, 8.5]]


def test_copies_are_no_neighbours() -> None:
    twice = torch.cat([LINE, LINE], dim=1)
    assert reaches(twice, torch.arange(8) % 4, 2).tolist() == [[1.0, 1.0, 1.0, 8.0] * 2]


def test_factors_by_hand() -> None:
    distance = apart(distances(LINE, LINE), NUMBERS, NUMBERS)
    factor, usual = outlier_factors(distance, reaches(LINE, NUMBERS, 2), 2)
    # The odd one: 8.5 over the mean of 1.0 and 1.5; the first: 1.5 over the same neighbours' mean.
    expected = np.log([1.5 / 1.25, 1.0 / 1.5, 1.5 / 1.25, 8.5 / 1.25])
    assert factor[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert usual.tolist() == [[1.25, 1.5, 1.25, 1.25]]


def test_doubles_are_dense() -> None:
    same = torch.ones(1, 4, 2)
    factor, _ = outlier_factors(apart(distances(same, same), NUMBERS, NUMBERS), reaches(same, NUMBERS, 2), 2)
    assert factor.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "share", "copies", "count"),
    [(2, 0.2, 1, 1), (3, 0.2, 1, 2), (10, 0.2, 1, 3), (100, 0.2, 1, 20), (100, 0.05, 1, 5), (4, 0.2, 2, 2)],
)
def test_neighbours_are_a_share_of_the_references(rows: int, share: float, copies: int, count: int) -> None:
    assert num_neighbours(rows, share, copies) == count


def test_references_are_bounded_and_drawn_by_the_seed() -> None:
    assert references(20, 0).tolist() == list(range(20))
    many = references(5000, 0)
    assert len(set(many.tolist())) == MAX_REFERENCES
    assert (np.diff(many) > 0).all()
    assert not np.array_equal(many, references(5000, 1))


def _images(count: int = 60, defects: int = 0) -> torch.Tensor:
    """Patches [N, L, D] about a mean of each place; the first `defects` images share a defect at places 0 to 4."""
    generator = torch.Generator().manual_seed(0)
    patch_NLD = torch.randn(1, 25, 6, generator=generator) * 5 + torch.randn(count, 25, 6, generator=generator)
    patch_NLD[:defects, :5] += 9
    return patch_NLD


@pytest.mark.parametrize("defects", [1, 2])
def test_patches_that_hardly_another_image_has_stand_out(defects: int) -> None:
    factor_NL = mutual_factors(_images(defects=defects), 60, 6)
    assert factor_NL[:defects, :5].median() > factor_NL[defects:].quantile(0.99)


@pytest.mark.parametrize("count", [300, 600])
def test_as_many_neighbours_are_looked_at_in_large_sets(count: int) -> None:
    """Six of all, not six in proportion to a sample of 256: what seven images share is usual at any size."""
    few, more = (mutual_factors(_images(count, defects), count, 6)[:defects, :5].mean() for defects in (5, 7))
    assert few > 3 * more


def test_equal_images_are_all_usual() -> None:
    assert (mutual_factors(torch.ones(5, 3, 2), 5, 6) == 0).all()


def test_the_order_of_the_images_does_not_matter() -> None:
    patch_NLD, order = _images(defects=4), torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(mutual_factors(patch_NLD[order], 60, 6), mutual_factors(patch_NLD, 60, 6)[order], atol=1e-4)


def test_the_lonely_have_no_twin_over_the_odd_half_of_their_places() -> None:
    factor_LB = torch.tensor([[3.0, 3.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0]])  # the first two places are odd
    # Two images against three references: the first has two twins there, the second at one place each.
    ratio_LBR = torch.tensor([[[1.0, 1, 9], [1, 9, 9]], [[1, 1, 9], [9, 1, 9]], [[5, 5, 5], [1, 1, 1]]])
    ratio_LBR = torch.cat([ratio_LBR, ratio_LBR[2:]])
    assert loneliness(ratio_LBR, factor_LB).exp().tolist() == pytest.approx([1, 5])


def test_a_rare_pattern_is_less_lonely_than_a_defect_as_odd() -> None:
    patch_NLD = _images(62)
    patch_NLD[60:] += 9  # rare, but the whole of it, and the references have another two
    references_NLD = torch.cat([_images(), patch_NLD[60:] + 0.1])
    reference_LRD = references_NLD.transpose(0, 1).contiguous()
    reach_LR = reaches(reference_LRD, torch.arange(62), 12)
    defect_NLD = _images(1)
    defect_NLD[0] += torch.randn(25, 6, generator=torch.Generator().manual_seed(3)) * 9
    odd_LBD = torch.cat([patch_NLD[60:61], defect_NLD]).transpose(0, 1)
    rare, defective = score_outliers(odd_LBD, reference_LRD, reach_LR, SCREENING).loneliness_B.tolist()
    assert rare < defective - 1


def test_blocks_judge_an_image_alike_in_any_batch() -> None:
    reference_LRD = _images(20).transpose(0, 1).contiguous()
    reach_LR = reaches(reference_LRD, torch.arange(20), 4)
    patch_LBD = _images(33).transpose(0, 1)
    whole = score_outliers_in_blocks(patch_LBD, reference_LRD, reach_LR, SCREENING)
    last = score_outliers_in_blocks(patch_LBD[:, -2:], reference_LRD, reach_LR, SCREENING)
    assert torch.equal(whole.factor_LB[:, -2:], last.factor_LB)
    assert torch.equal(whole.loneliness_B[-2:], last.loneliness_B)
    alone = score_outliers_in_blocks(patch_LBD[:, -1:], reference_LRD, reach_LR, SCREENING)
    torch.testing.assert_close(whole.factor_LB[:, -1:], alone.factor_LB, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.loneliness_B[-1:], alone.loneliness_B, rtol=0, atol=1e-5)
