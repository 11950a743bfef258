"""Classes that a configuration chooses by name: classes of ours, and those that installed packages add by entry points.

A module is imported when one of its names is first used.  So this one costs nothing, knows no class, and is below the
configuration, which checks names by it.
"""

import difflib
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import TypeVar

from llb_ray.errors import ConfigError
from llb_ray.names import shown

T = TypeVar("T")


class Extensions:
    """The classes of one kind by name: `ours` are given as ``module:class``, others are entry points of `group`."""

    def __init__(self, kind: str, ours: Mapping[str, str], group: str | None = None) -> None:
        self.kind = kind
        self._ours = [EntryPoint(name, value, group or "") for name, value in ours.items()]
        self._group = group

    def names(self) -> tuple[str, ...]:
        """All names: ours in their order, then those of other packages by alphabet."""
        return tuple(dict.fromkeys(point.name for point in [*self._ours, *self._others()]))

    def problem(self, name: object) -> str:
        """A phrase that says which name was probably meant; empty where this one is known."""
        if name in self.names():
            return ""
        nearest = difflib.get_close_matches(str(name), self.names(), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose {', '.join(self.names())}"
        return f"there is no such {self.kind}; {hint}"

    def load(self, name: str, base: type[T]) -> type[T]:
        """The class of this name, a subclass of `base`.

        Raises ConfigError, naming package and entry point, for one that cannot be imported, is no such class, or has a
        name that two packages claim.
        """
        point = self._only(name)
        try:
            loaded = point.load()
        except Exception as error:  # whatever a module of others raises as it is imported
            reason = shown(f"{type(error).__name__}: {error}")
            raise ConfigError(f"{_origin(point)} cannot be loaded ({reason}); repair or uninstall it") from error
        if not isinstance(loaded, type) or not issubclass(loaded, base) or isabstract(loaded):
            wanted = f"{base.__module__}.{base.__qualname__}"
            raise ConfigError(f"{_origin(point)} is no complete subclass of {wanted}; repair or uninstall it")
        return loaded

    def origin(self, name: str) -> str:
        """The package and the entry point of a name, for messages."""
        return _origin(self._only(name))

    def _only(self, name: str) -> EntryPoint:
        found = [point for point in [*self._ours, *self._others()] if point.name == name]
        if not found:
            raise ConfigError(f"{self.kind} {name!r}: {self.problem(name)}")
        if len(found) > 1:
            claims = " and ".join(_package(point) for point in found)
            raise ConfigError(f"{self.kind} {name!r}: {claims} both have an entry point of this name; uninstall one")
        return found[0]

    def _others(self) -> list[EntryPoint]:
        return [] if self._group is None else _installed(self._group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> list[EntryPoint]:
    """The entry points of packages on this path, by name and package; reading them takes tens of milliseconds."""
    return sorted(entry_points(group=group), key=lambda point: (point.name, _package(point)))


def _package(point: EntryPoint) -> str:
    return "llb-ray" if point.dist is None else f"package {shown(point.dist.name)}"


def _origin(point: EntryPoint) -> str:
    """``package llb-tukey: entry point tukey = llb_tukey:Tukey (llb_ray.filters)``."""
    return f"{_package(point)}: entry point {shown(point.name)} = {shown(point.value)} ({point.group})"


FILTERS = Extensions(
    "filter",
    {
        "llb": "llb_ray.ensemble.filters.llb:Llb",
        "none": "llb_ray.ensemble.filters.none:NoFilter",
        "random": "llb_ray.ensemble.filters.random:Random",
        "oracle": "llb_ray.ensemble.filters.oracle:Oracle",
        "softpatch": "llb_ray.ensemble.filters.softpatch:SoftPatch",
        "memory_ensemble": "llb_ray.ensemble.filters.memory_ensemble:MemoryEnsemble",
        "srr": "llb_ray.ensemble.filters.srr:Srr",
    },
    "llb_ray.filters",
)
DETECTORS = Extensions(
    "detector",
    {
        "autoencoder": "llb_ray.detectors.autoencoder_config:AutoencoderConfig",
        "memory_bank": "llb_ray.detectors.memory_bank_config:MemoryBankConfig",
        "density": "llb_ray.detectors.density_config:DensityConfig",
        "reconstruction": "llb_ray.detectors.reconstruction_config:ReconstructionConfig",
    },
    "llb_ray.detectors",
)
DATASETS = Extensions(
    "data set layout",
    {
        "folder": "llb_ray.data.adapters.folders:PlainFolder",
        "mvtec": "llb_ray.data.adapters.folders:Trees",
        "visa": "llb_ray.data.adapters.visa:Visa",
        "real_iad": "llb_ray.data.adapters.real_iad:RealIad",
        "table": "llb_ray.data.adapters.image_list:ImageList",
        "imagefolder": "llb_ray.data.adapters.image_folder:ImageFolder",
        "huggingface": "llb_ray.data.adapters.huggingface:HuggingFace",
        "coco": "llb_ray.data.adapters.coco:Coco",
        "labelme": "llb_ray.data.adapters.labelme:Labelme",
        "cvat": "llb_ray.data.adapters.cvat:Cvat",
        "arrays": "llb_ray.data.adapters.arrays:Arrays",
    },
)
