"""Peers that talk through `torch.distributed`: gloo on CPUs, nccl on GPUs."""

from collections.abc import Sequence

import torch
from torch import distributed

from llb_ray.errors import MemberError


class TorchPeers:
    """This process among those of the default group (the `ProcessGroup` protocol)."""

    def __init__(self, device: torch.device) -> None:
        self._rank, self._count = distributed.get_rank(), distributed.get_world_size()
        self._device = device

    @property
    def leads(self) -> bool:
        return self._rank == 0

    def share(self, size: int) -> slice:
        """Consecutive rows, as many for each as for any other, give or take one."""
        if size < self._count:
            raise MemberError(f"{size} images cannot be shared by {self._count} workers; lower final.num_workers")
        return slice(size * self._rank // self._count, size * (self._rank + 1) // self._count)

    def all_gather(self, mine: torch.Tensor, size: int) -> torch.Tensor:
        # A sum with zeros is exact, and unlike a gathering it takes shares of different sizes.
        rows = torch.zeros((size, *mine.shape[1:]), dtype=mine.dtype, device=mine.device)
        rows[self.share(size)] = mine.detach()
        distributed.all_reduce(rows)
        return rows

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        # In one message: a network has a hundred tensors, most of them small.
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def broadcast(self, content: bytes) -> bytes:
        size = torch.tensor(len(content), device=self._device)
        distributed.broadcast(size, src=0)
        said = torch.zeros(int(size), dtype=torch.uint8, device=self._device)
        if self.leads and content:
            said.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(said, src=0)
        return said.cpu().numpy().tobytes()
