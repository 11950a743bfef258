"""The coreset covers its points, is deterministic, and picks what greedy k-centre picks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llb_ray.detectors.coreset import k_center, random_subset


def clusters(num_clusters: int = 8, each: int = 50, dims: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Points far apart between clusters and close within, and the cluster of each."""
    rng = np.random.default_rng(0)
    centre_KD = rng.normal(size=(num_clusters, dims)) * 20
    label_P = np.repeat(np.arange(num_clusters), each)
    point_PD = centre_KD[label_P] + rng.normal(size=(len(label_P), dims)) * 0.1
    return torch.from_numpy(point_PD.astype(np.float32)), torch.from_numpy(label_P)


@pytest.mark.parametrize("projection_dim", [8, 16])
def test_k_center_takes_one_point_of_every_cluster_first(projection_dim: int) -> None:
    point_PD, label_P = clusters()
    rows = k_center(point_PD, 8, seed=3, projection_dim=projection_dim)
    assert sorted(label_P[rows].tolist()) == list(range(8))


def test_k_center_picks_the_farthest_point_each_time() -> None:
    line_PD = torch.tensor([[0.0], [1.0], [2.0], [10.0], [4.9]])
    rows = k_center(line_PD, 4, seed=0, projection_dim=8).tolist()
    for picks in range(1, 4):
        distance_PK = (line_PD - line_PD[rows[:picks]].T).abs()
        assert distance_PK.amin(dim=1)[rows[picks]] == distance_PK.amin(dim=1).max()


def test_equal_points_are_still_different_rows() -> None:
    rows = k_center(torch.ones(20, 4), 12, seed=0, projection_dim=4)
    assert len(set(rows.tolist())) == 12


def test_a_large_offset_does_not_spoil_the_picks() -> None:
    point_PD, label_P = clusters()
    rows = k_center(point_PD + 1000, 8, seed=3, projection_dim=32)
    assert sorted(label_P[rows].tolist()) == list(range(8))


def test_the_seed_decides() -> None:
    point_PD, _ = clusters()
    first, again, other = (k_center(point_PD, 30, seed, 8) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_asking_for_all_gives_all_in_order() -> None:
    assert k_center(torch.rand(5, 3), 9, seed=0, projection_dim=2).tolist() == [0, 1, 2, 3, 4]
    assert random_subset(5, 5, seed=0).tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(num_points=st.integers(1, 60), count=st.integers(1, 80), seed=st.integers(0, 5))
def test_both_give_different_rows_of_the_right_number(num_points: int, count: int, seed: int) -> None:
    point_PD = torch.from_numpy(np.random.default_rng(seed).normal(size=(num_points, 5)).astype(np.float32))
    for rows in (k_center(point_PD, count, seed, 3), random_subset(num_points, count, seed)):
        assert len(set(rows.tolist())) == len(rows) == min(count, num_points)
        assert rows.dtype == torch.int64
