"""Sources of a backbone's weights: a package, a local file, or what timm publishes on the Hugging Face hub."""

import urllib.request
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from llb_ray.config import WEIGHTS_BY_NAME, BackboneConfig
from llb_ray.detectors.backbones.bundled import weights_package
from llb_ray.detectors.backbones.timm_import import check_name, timm
from llb_ray.detectors.weight_packages import CITATION, LICENSE, REMEDY, SETTING
from llb_ray.disk import file_digest
from llb_ray.errors import WeightsError

_HUB_FILE = "model.safetensors"  # what timm publishes for every model it hosts
_PROBE_TIMEOUT_S = 5


def weights_file(config: BackboneConfig) -> Path | None:
    """The local file of the weights, fetched if they are on the hub; None if random was asked for.

    Raises WeightsError where there is none, or the file of a package is not the recorded one.
    """
    if config.weights == "random":
        return None
    if config.weights == "bundled":
        return weights_package(config.name).find()
    if config.weights == "hub":
        return _hub_file(config.name)
    path = Path(config.weights).expanduser()
    if not path.is_file():
        raise WeightsError(f"{SETTING} = {path}: no such file; {REMEDY}")
    return path


def weights_origin(config: BackboneConfig) -> dict[str, str]:
    """Origin of the weights, JSON-ready: `network`, `weights`, and where known `sha256`, `license`, `citation`."""
    path, named = weights_file(config), config.weights in WEIGHTS_BY_NAME
    origin = {"network": config.name, "weights": config.weights if named else "file"}
    if path is not None:
        origin["sha256"] = file_digest(path)
    if config.weights == "bundled":
        origin |= {"package": weights_package(config.name).requirement, "license": LICENSE, "citation": CITATION}
    if config.weights == "hub" and (published := timm.models.get_pretrained_cfg(config.name)):
        origin["license"] = published.license or "not stated"
    return origin


def _hub_file(name: str) -> Path:
    """The file timm publishes for `name`: from the local cache, else downloaded."""
    return hub_cache(name) or _download(name, _repository(name))


def hub_cache(name: str) -> Path | None:
    """The file timm publishes for `name` where it was downloaded before, else None; raises as `_repository` does."""
    cached = huggingface_hub.try_to_load_from_cache(_repository(name), _HUB_FILE)
    return Path(cached) if isinstance(cached, str) else None


def _repository(name: str) -> str:
    """Repository of the weights on the hub; raises ConfigError for an unknown name, WeightsError if there is none."""
    check_name(name)
    published = timm.models.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        raise WeightsError(f"{SETTING} = hub: timm publishes no weights for {name}; {REMEDY}")
    repository: str = published.hf_hub_id
    return repository


def _download(name: str, repository: str) -> Path:
    try:
        # Asked once first: without a network the hub's client retries for 46 s before it gives up (version 2.4).
        address = huggingface_hub.hf_hub_url(repository, _HUB_FILE)
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_S).close()
        return Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE))
    except (OSError, HTTPError) as error:
        raise WeightsError(
            f"{SETTING} = hub: the weights of {name} could not be fetched ({' '.join(str(error).split())}); {REMEDY}"
        ) from error
