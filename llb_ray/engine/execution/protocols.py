"""Interfaces of what an executor runs: plain objects with named steps, given a place and resources.

A worker's steps are idempotent: each one's result is an artifact, and a step whose artifact exists returns at
once.  So an executor may kill, move or repeat a worker at any time and nothing changes in the result.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from llb_ray.artifacts import Store
from llb_ray.config import ResourcesConfig
from llb_ray.detectors.data_parallel import ALONE, ProcessGroup
from llb_ray.errors import ResourceError


@dataclass(frozen=True)
class WorkerContext:
    """Places where a worker finds and leaves things, and the resources that it owns while it runs."""

    store: Store
    progress: Path  # on its own machine
    resources: ResourcesConfig
    category: str = ""  # for people who watch: in actors' names and metrics' tags

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.progress.parent


class Worker(Protocol):
    """Made from a picklable spec; construction must not fail and must not work (Ray would lose the error's type)."""

    STEPS: ClassVar[tuple[str, ...]]  # methods without arguments, called in this order

    def __init__(self, spec: Any) -> None: ...


class PeerWorker(Protocol):
    """A worker that can also be one of several that go through the same steps together."""

    STEPS: ClassVar[tuple[str, ...]]

    def __init__(self, spec: Any, peers: ProcessGroup = ALONE) -> None: ...


class Spec(Protocol):
    """Specification of a worker: picklable, named, and placed."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """The name, and what it stands for, as an error's first words."""

    @property
    def context(self) -> WorkerContext: ...


def device_for(resources: ResourcesConfig) -> torch.device:
    """The device a worker computes on; Ray has narrowed CUDA to the GPU it assigned to a worker that asked for one.

    Raises ResourceError when a GPU is asked for and torch finds none: falling back to the CPU would hide it.
    """
    wants_cuda = resources.device == "cuda" or (resources.device == "auto" and resources.num_gpus > 0)
    if wants_cuda and not torch.cuda.is_available():
        raise ResourceError(
            f"resources.num_gpus={resources.num_gpus:g}, resources.device={resources.device} ask for a GPU and torch "
            "finds none here; set resources.num_gpus=0, or resources.device=cpu where the GPUs are only logical"
        )
    return torch.device("cuda" if wants_cuda else "cpu")


@contextlib.contextmanager
def owned_threads(resources: ResourcesConfig) -> Iterator[None]:
    """Inside, torch uses as many threads as the worker owns cores.

    The sums of a parallel reduction depend on the number of threads: this is also what makes the serial executor
    and the Ray executor agree to the last bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(resources.num_cpus)
    try:
        yield
    finally:
        torch.set_num_threads(before)
