"""Selection of the few of many patches that a memory keeps: greedy k-centre, or a random subset.

Shapes: P points, D dimensions.  Both are pure functions of their arguments.
"""

import torch

from llb_ray.seeding import stream


def k_center(point_PD: torch.Tensor, count: int, seed: int, projection_dim: int) -> torch.Tensor:
    """Rows [count] (int64) of points that leave no point far from the nearest of them, in the order picked.

    Greedy minimax facility location (Sener & Savarese, arXiv 1708.00489) on a random projection, as in PatchCore
    (arXiv 2106.08265).  All rows if there are no more than `count`.  Takes O(count P projection_dim) time and O(P)
    memory besides the projection: 40,000 points, 32 dimensions and 4,000 picks are 0.7 s on one core.
    """
    if count >= len(point_PD):
        return torch.arange(len(point_PD), device=point_PD.device)
    start = int(stream(seed, "coreset", "start").integers(len(point_PD)))
    return _farthest_first(_projected(point_PD, seed, projection_dim), count, start)


def random_subset(num_points: int, count: int, seed: int) -> torch.Tensor:
    """`count` different rows [count] (int64), ascending; all rows if there are no more."""
    if count >= num_points:
        return torch.arange(num_points)
    return torch.from_numpy(stream(seed, "coreset", "subset").choice(num_points, count, replace=False)).sort().values


def _projected(point_PD: torch.Tensor, seed: int, projection_dim: int) -> torch.Tensor:
    """The points in `projection_dim` dimensions, distances nearly kept (Johnson and Lindenstrauss)."""
    num_dims = point_PD.shape[1]
    if projection_dim >= num_dims:
        return point_PD
    normal = stream(seed, "coreset", "projection").standard_normal((num_dims, projection_dim), dtype="float32")
    return point_PD @ torch.from_numpy(normal).to(point_PD.device)


def _farthest_first(point_PD: torch.Tensor, count: int, start: int) -> torch.Tensor:
    """`start`, then again and again the row whose squared distance to the nearest picked one is largest."""
    point_PD = point_PD - point_PD.mean(dim=0)  # |x|^2 + |c|^2 - 2xc cancels less near the origin
    square_P = point_PD.square().sum(dim=1)
    nearest_P = torch.full_like(square_P, torch.inf)
    picked, row = [], start
    for _ in range(count):
        picked.append(row)
        torch.minimum(nearest_P, square_P + square_P[row] - 2 * (point_PD @ point_PD[row]), out=nearest_P)
        nearest_P[row] = -torch.inf  # never twice, even among equal points
        row = int(nearest_P.argmax())
    return torch.tensor(picked, device=point_PD.device)
