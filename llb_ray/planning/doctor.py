"""Is everything there that a run needs?  One line each, with what to do where it is not."""

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from filelock import FileLock
from packaging.requirements import Requirement

from llb_ray.config import BackboneConfig, DetectorConfig, RunConfig
from llb_ray.detectors.weight_packages import LICENSE, PACKAGES
from llb_ray.errors import LlbError
from llb_ray.planning.machine import (
    existing,
    find_abandoned_ray,
    free_disk_bytes,
    free_memory_bytes,
    gpus,
    num_cores,
    shared_memory_bytes,
)
from llb_ray.remote import Remote

if TYPE_CHECKING:
    from llb_ray.engine.execution.executor import Executor

State = Literal["ok", "warn", "fail"]
_GIB = 2**30
_PACKAGE = "llb-ray"
_SHOWN = ("torch", "ray", "timm", "pyarrow", "numpy")
# A worker with torch and timm loaded holds 0.4 to 0.6 GiB; Ray's own processes about as much again.
_LEAST_MEMORY_GIB, _GOOD_MEMORY_GIB = 1.0, 3.0
_LEAST_DISK_GIB, _GOOD_DISK_GIB = 0.2, 5.0
_GOOD_SHARED_GIB = 1.0  # Docker's default is 0.06: Ray then keeps its objects on the disk


@dataclass(frozen=True)
class Check:
    """One check and its result; `fix` says what to do unless it passed."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine(
    config: RunConfig, out: Path | Remote | None, ray: "Callable[[], Executor] | None", elsewhere: bool = False
) -> Iterator[Check]:
    """A check at a time, as they are made: versions, devices, weights, Ray, `out`, disk, memory, shared memory.

    `ray` makes an executor on the cluster, which may be one that is started for the moment; None leaves Ray out.
    `elsewhere`: workers run on other machines, so that this one needs no GPU.
    """
    yield from _versions()
    yield _devices(config, elsewhere)
    yield _weights(config.detector)
    if ray is not None:
        yield from _abandoned()
        yield _workers(config, ray)
    if out is not None:
        yield _writable(out)
    yield _disk(Path.cwd() if out is None else out.copy if isinstance(out, Remote) else out)
    yield _memory()
    if ray is not None:
        yield _shared_memory()


def _versions() -> Iterator[Check]:
    try:
        wanted = [Requirement(text) for text in requires(_PACKAGE) or ()]
    except PackageNotFoundError:
        yield Check("versions", "warn", f"{_PACKAGE} is not installed, so what it needs is unknown", "pip install -e .")
        return
    unmet = [one for one in wanted if (one.marker is None or one.marker.evaluate({"extra": ""})) and not _met(one)]
    for one in unmet:
        yield Check("versions", "fail", f"{one} is needed, found {_version(one.name)}", f"pip install '{one}'")
    if not unmet:
        shown = ", ".join(f"{name} {_version(name)}" for name in (_PACKAGE, *_SHOWN))
        yield Check("versions", "ok", f"Python {platform.python_version()}, {shown}")


def _met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _devices(config: RunConfig, elsewhere: bool) -> Check:
    cards = [f"{gpu.name} with {gpu.free_bytes / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB free" for gpu in gpus()]
    found = f"{num_cores()} CPU cores, {', '.join(cards) if cards else 'no GPU that torch can use'}"
    if not config.resources.num_gpus:
        idle = (f"{found}, which this configuration leaves idle", "set resources.num_gpus=1")
        return Check("devices", "warn", *idle) if cards else Check("devices", "ok", found)
    from llb_ray.engine.execution.protocols import device_for

    try:
        device_for(config.resources)
    except LlbError as error:
        if elsewhere:
            return Check("devices", "ok", f"{found}; the workers are on other machines")
        return Check("devices", "fail", found, _remedy(error))
    return Check("devices", "ok", found)


def _weights(detector: DetectorConfig) -> Check:
    """An image goes through the network, unless it is the default one: that the file is there is not enough."""
    network = detector.network
    if network is None:
        return Check("weights", "ok", f"detector {detector.name} needs none")
    if network == BackboneConfig():
        return _default_weights(network.name)
    from llb_ray.detectors.backbones import hub_cache
    from llb_ray.detectors.factory import weights_origin
    from llb_ray.engine.features.cache_budget import trial

    name, weights = network.name, network.weights
    try:
        if weights == "hub" and hub_cache(name) is None:
            fix = "have the machine online at the first run, or set detector.backbone.weights to bundled or PATH"
            return Check("weights", "warn", f"those of {name} are yet to be downloaded; not tried here", fix)
        trial(detector)
    except LlbError as error:
        return Check("weights", "fail", *_halves(error))
    if weights == "random":
        return Check("weights", "warn", "random ones, for tests only", "set detector.backbone.weights=bundled")
    origin = weights_origin(detector)
    where = origin.get("package") or (hub_cache(name) if weights == "hub" else weights)
    license_name = origin.get("license", "not known here")
    return Check("weights", "ok", f"{name} from {where}, licence {license_name}, SHA-256 {origin['sha256']}")


def _default_weights(name: str) -> Check:
    """Of the default backbone: its bytes are those that it was tried with, so torch need not be imported."""
    package = PACKAGES[name]
    try:
        package.find()
    except LlbError as error:
        return Check("weights", "fail", *_halves(error))
    return Check("weights", "ok", f"{name} from {package.requirement}, licence {LICENSE}, SHA-256 {package.sha256}")


def _abandoned() -> Iterator[Check]:
    """A check only where there is something to say."""
    left = find_abandoned_ray()
    if left:
        numbers = " ".join(map(str, left))
        fix = f"they end within two minutes of their driver's death; if not, kill {numbers}"
        yield Check("ray", "warn", f"{len(left)} helper processes of a Ray that is gone are still there", fix)


def _workers(config: RunConfig, ray: "Callable[[], Executor]") -> Check:
    started_s = time.perf_counter()
    try:
        with ray() as executor:
            took_s, slots = time.perf_counter() - started_s, executor.slots(config.resources)
    except LlbError as error:
        return Check("ray", "fail", *_halves(error))
    at_once = f"workers at once: {slots}, each with {config.resources.description}"
    return Check("ray", "ok", f"answers after {took_s:.1f} s; {at_once}")


def _writable(out: Path | Remote) -> Check:
    """Access that a run needs there: write, lock, rename; or put and delete an object."""
    try:
        if isinstance(out, Remote):
            probe = out.copy / f".doctor-{uuid.uuid4().hex}"
            out.write(probe, b"")
            out.delete(probe)
        else:
            _write_lock_rename(existing(out))
    except OSError as error:
        fix = "choose another --out, or fix its permissions or the connection"
        return Check("out", "fail", f"{out}: cannot be written ({' '.join(str(error).split())})", fix)
    return Check("out", "ok", f"{out} can be written")


def _write_lock_rename(folder: Path) -> None:
    with TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
        file = Path(name) / "a"
        file.write_bytes(b"x")
        with FileLock(Path(name) / "lock", timeout=10):
            os.rename(file, file.with_name("b"))


def _disk(place: Path) -> Check:
    free = free_disk_bytes(place) / _GIB
    found = f"{free:.1f} GiB free at {existing(place)}"
    return _enough("disk", free, _LEAST_DISK_GIB, _GOOD_DISK_GIB, found, "make room, or choose another --out")


def _memory() -> Check:
    free = free_memory_bytes() / _GIB
    fix = "end other programs, take a larger machine, or use --executor serial"
    return _enough("memory", free, _LEAST_MEMORY_GIB, _GOOD_MEMORY_GIB, f"{free:.1f} GiB free", fix)


def _shared_memory() -> Check:
    size = shared_memory_bytes()
    if size is None:
        return Check("shared memory", "ok", "none here: Ray keeps its objects on the disk")
    fix = "give the container more, docker run --shm-size=2g: Ray keeps its objects on the disk otherwise"
    return _enough("shared memory", size / _GIB, 0, _GOOD_SHARED_GIB, f"{size / _GIB:.1f} GiB in /dev/shm", fix)


def _enough(name: str, gib: float, least: float, good: float, found: str, fix: str) -> Check:
    if gib >= good:
        return Check(name, "ok", found)
    return Check(name, "warn" if gib >= least else "fail", found, fix)


def _halves(error: LlbError) -> tuple[str, str]:
    """Problem and remedy of a message: the remedy is the last clause of every message of ours."""
    found, _, fix = str(error).rpartition("; ")
    return (found, fix) if found else (fix, "see above")


def _remedy(error: LlbError) -> str:
    return _halves(error)[1]
