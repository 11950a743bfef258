"""A configuration for a folder of images that has none: what to set, and why, as commented YAML."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

from llb_ray.config import BackboneConfig, Size, format_size, parse
from llb_ray.data.image_files import upright_size
from llb_ray.data.manifest import TRAIN, Manifest, path_from_text
from llb_ray.detectors.weight_packages import PACKAGES
from llb_ray.errors import ConfigError, DataError
from llb_ray.names import shown
from llb_ray.planning.filename_groups import by_number, by_view, num_groups
from llb_ray.planning.machine import free_memory_bytes, gpus, num_cores
from llb_ray.planning.size_proposal import proposal, size_lines

_LOOKED_AT = 200  # images whose size is asked for
_MEMBERS, _SHARE = 5, 20  # the default number of members; objects that each should have at least
_WORKER_BYTES = 0.8 * 2**30  # of a worker with torch and a small backbone: 0.4 to 0.6 GiB on magnetic tile
_BANK_PX = {False: (128, 256), True: (128, 384)}  # smallest and largest image size, without and with a GPU


@dataclass(frozen=True)
class Surroundings:
    """Facts that the choices follow from."""

    root: Path
    num_images: int  # in training
    num_objects: int  # the same, pictures of one object counted once
    size: Size  # median of the images' heights and of their widths
    group_pattern: str | None  # names count the views of an object
    maybe_pattern: str | None  # names end in a number, whatever it counts
    num_cores: int
    num_gpus: int
    free_bytes: int

    @property
    def num_members(self) -> int:
        return min(_MEMBERS, max(2, self.num_objects // _SHARE))

    @classmethod
    def of(cls, manifest: Manifest) -> "Surroundings":
        """Of a folder of images, and of this machine."""
        paths = [path_from_text(path) for path in manifest.split(TRAIN)["path"].to_pylist()]
        pattern, number = by_view(paths), by_number(paths)
        size, objects = _size(manifest.root, paths), num_groups(pattern, paths)
        maybe = None if pattern else number
        return cls(
            *(manifest.root, len(paths), objects, size, pattern, maybe),
            *(num_cores(), len(gpus()), free_memory_bytes()),
        )


def suggestion(manifest: Manifest, weights: Path | None, backbone: str | None) -> str:
    """Commented YAML that `llb_ray.config.load` reads.

    Raises DataError for too few images, ConfigError if it is unknown which network the weights are of, WeightsError if
    they are not those of it.
    """
    here = Surroundings.of(manifest)
    if here.num_objects < 2:
        raise DataError(
            f"{here.root}: shows {here.num_objects} object, and purification takes two members with one each"
        )
    detector = _detector(here, _network(weights, backbone))
    text = "\n".join([*_head(here), *_data(here), *detector, *_ensemble(here), *_resources(here)]) + "\n"
    config = parse(yaml.safe_load(text), "llb-ray init")
    if weights is not None:
        from llb_ray.engine.features.cache_budget import trial

        trial(config.detector)  # raises now what a run would: a file that is none, or of another network
    return text


def _size(root: Path, paths: Sequence[str]) -> Size:
    chosen = paths[:: max(1, len(paths) // _LOOKED_AT)]
    widths, heights = zip(*(upright_size(root / path) for path in chosen), strict=True)
    return int(median(heights)), int(median(widths))


def _head(here: Surroundings) -> list[str]:
    gpu = f"{here.num_gpus} GPUs" if here.num_gpus else "no GPU"
    return [
        f"# Made by llb-ray init for {shown(str(here.root))}:",
        f"# {here.num_images} training images, {format_size(here.size)} px high and wide (median), on a machine with",
        f"# {here.num_cores} cores, {gpu} and {here.free_bytes / 2**30:.0f} GiB of free memory.",
        "# `llb-ray plan` says what a run of it will take; `llb-ray config` prints every other setting.",
    ]


def _data(here: Surroundings) -> list[str]:
    if here.group_pattern is not None:
        told = f"# names count views: {here.num_objects} objects, never split over members"
        return ["data:", f"  group_pattern: {_quoted(here.group_pattern)}  {told}"]
    if here.maybe_pattern is not None:
        told = "# names end in a number; if it counts views of one object, take the # away"
        return [f"# data:  {told}", f"#   group_pattern: {_quoted(here.maybe_pattern)}"]
    return []


def _network(weights: Path | None, backbone: str | None) -> BackboneConfig:
    """The network whose weights are in a file, or in a package; raises ConfigError where there are none."""
    if weights is None and backbone is None:
        return BackboneConfig()
    from llb_ray.detectors.backbones import is_known
    from llb_ray.detectors.weight_files import refuse_other_files

    if weights is None and backbone in PACKAGES:
        return BackboneConfig(name=backbone)
    if weights is None:
        raise ConfigError(
            f"--backbone {backbone}: no package has weights of it, only of {', '.join(PACKAGES)}; give --weights FILE"
        )
    refuse_other_files(weights, "--weights")
    name = backbone or weights.name.partition(".")[0]
    if not is_known(name):
        raise ConfigError(
            f"--weights {weights}: timm has no network called {name!r}; say which one it is of with --backbone NAME"
        )
    return BackboneConfig(name=name, weights=str(weights))


def _detector(here: Surroundings, network: BackboneConfig) -> list[str]:
    smallest, largest = _BANK_PX[here.num_gpus > 0]
    step = 28 if "patch14" in network.name else 32
    found = proposal(here.size, smallest, largest, step)
    return [
        "detector:",
        "  name: memory_bank        # distances to the features of normal images: suits almost everything",
        *size_lines(found, largest),
        "  backbone:",
        f"    name: {network.name}",
        f"    weights: {_quoted(network.weights)}",
    ]


def _ensemble(here: Surroundings) -> list[str]:
    count = here.num_members
    return [
        "members:",
        f"  count: {count:<18}# {_MEMBERS}, or fewer for {_SHARE} objects each; here about {here.num_objects // count}",
        "purify:",
        "  keep_ratio: auto         # as many as look normal; a number, say 0.9, keeps just that share",
    ]


def _resources(here: Surroundings) -> list[str]:
    if here.num_gpus:
        cores = max(1, min(8, here.num_cores // here.num_gpus))
        return [
            "resources:",
            "  num_gpus: 1              # of each member; they share out the GPUs",
            f"  num_cpus: {cores:<15}# of each member, mostly to read images",
            "  batch_size: 32           # images per encoder or scoring batch",
        ]
    at_once = max(1, int(min(here.num_cores, here.free_bytes / _WORKER_BYTES)))
    cores = max(1, here.num_cores // at_once)
    return [
        "resources:",
        f"  num_cpus: {cores:<15}# of each member; {at_once} running at once, as cores and memory allow",
        "  batch_size: 16           # images per encoder or scoring batch",
    ]


def _quoted(text: str) -> str:
    """As YAML in single quotes, where a backslash is one; in double quotes, if a line end or the like is in it."""
    return "'" + text.replace("'", "''") + "'" if text.isprintable() else json.dumps(text)
