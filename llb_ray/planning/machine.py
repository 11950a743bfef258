"""Free resources of this machine: cores, memory, shared memory, disk, GPUs; a container's limits count."""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")
# NVIDIA, AMD, WSL, Jetson: without one of these devices torch finds no GPU on Linux.
_GPU_DRIVERS = [Path("/dev") / name for name in ("nvidiactl", "kfd", "dxg", "nvmap", "nvhost-gpu")]


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees; bytes."""

    name: str
    total_bytes: int
    free_bytes: int


def find_abandoned_ray(processes: Path = Path("/proc")) -> list[int]:
    """The helper processes of a Ray whose raylet is gone, by number; empty where there is no Linux's /proc."""
    found: dict[int, tuple[str, int]] = {}
    for path in processes.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            found[int(path.parent.name)] = name, int(rest.split()[1])
    names = {number: name for number, (name, _) in found.items()}
    return sorted(
        n for n, (name, parent) in found.items() if name.startswith("ray::") and names.get(parent) != "raylet"
    )


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_bytes() -> int:
    """Memory that programs can still have without swapping; all there is where Linux's /proc is missing."""
    free = _meminfo().get("MemAvailable", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used)


def shared_memory_bytes() -> int | None:
    """The size of /dev/shm, where Ray keeps its objects; None where there is none."""
    return shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else None


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def free_disk_bytes(path: Path) -> int:
    """Free disk where `path` is, or will be."""
    return shutil.disk_usage(existing(path)).free


def has_gpu_driver() -> bool:
    """True if there may be a GPU for torch here; False is certain."""
    return sys.platform != "linux" or any(path.exists() for path in _GPU_DRIVERS)


def gpus() -> list[Gpu]:
    """The GPUs that torch can use here."""
    if not has_gpu_driver():
        return []  # torch, which takes a second to import, could not find one either

    import torch

    if not torch.cuda.is_available():
        return []
    numbers = range(torch.cuda.device_count())
    memory = [torch.cuda.mem_get_info(number) for number in numbers]
    return [Gpu(torch.cuda.get_device_name(number), memory[number][1], memory[number][0]) for number in numbers]


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes, or nothing."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return {}
    rows = (line.split() for line in path.read_text().splitlines())
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in rows}


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no such file, or it says ``max``."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else None
