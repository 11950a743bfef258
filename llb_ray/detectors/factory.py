"""From a configuration to the detector and the encoder that it names."""

from collections.abc import Mapping
from typing import Any

import torch

from llb_ray.config import DetectorConfig, ImportanceConfig, Role
from llb_ray.detectors.base import Detector, Encoder
from llb_ray.detectors.tiles import Tiled, tiled_fingerprint


def build_encoder(config: DetectorConfig, device: torch.device) -> Encoder:
    """The frozen encoder in front of the detector; raises WeightsError if its weights cannot be had."""
    if config.network is None:
        return _pixels(config, device)
    # timm takes seconds to import: only those who need a backbone wait for it.
    from llb_ray.detectors.backbones import Backbone

    if config.tiling is None:
        return Backbone(config.network, config.image_size_px, device, config.reads_context)
    of_tiles = Backbone(config.network, config.tiling.size_px, device, config.reads_context)
    return Tiled(of_tiles, config.image_size_px, config.size, config.tiling)


def build_detector(
    config: DetectorConfig, role: Role, device: torch.device, importance: ImportanceConfig | None = None
) -> Detector:
    """An unfitted detector with the training budget of a sub-model or of the final detector.

    `importance` weights its training loss; only fitting needs to know.
    """
    assert importance is None or config.trains_by_gradient, "RunConfig refuses a weighted loss for a detector without"
    detector: Detector = config.build(role, device, importance)
    return detector


def encoder_fingerprint(config: DetectorConfig) -> Mapping[str, Any]:
    """Everything the encoder's output depends on, without building it; raises WeightsError without a weights file."""
    if config.network is None:
        return _pixels(config, torch.device("cpu")).fingerprint()
    from llb_ray.detectors.backbones import fingerprint

    if config.tiling is None:
        return fingerprint(config.network, config.image_size_px, config.reads_context)
    of_tiles = fingerprint(config.network, config.tiling.size_px, config.reads_context)
    return tiled_fingerprint(of_tiles, config.image_size_px, config.tiling)


def weights_origin(config: DetectorConfig) -> dict[str, str]:
    """Network, SHA-256, licence and citation of pretrained weights, as far as known; empty where there are none."""
    if config.network is None:
        return {}
    from llb_ray.detectors.backbones import weights_origin

    return weights_origin(config.network)


def learner_settings(config: DetectorConfig, role: Role) -> Mapping[str, Any]:
    """Settings that the fitted detector depends on besides its encoder and images, without the other role's budget."""
    unused = {"backbone", "final_steps" if role == "member" else "member_steps"}
    unused |= {"tiles"} if config.tiling is None else set()  # so that runs without keep the keys that they had
    return config.model_dump(mode="json", exclude=unused)


def _pixels(config: DetectorConfig, device: torch.device) -> Encoder:
    from llb_ray.detectors.autoencoder import Pixels

    return Pixels(config.image_size_px, device)
