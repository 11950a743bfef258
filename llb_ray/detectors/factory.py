"""From a configuration to the detector and the encoder it names: the one place that knows them all."""

from collections.abc import Mapping
from typing import Any, Literal, assert_never

import torch

from llb_ray.config import (
    AutoencoderConfig,
    DensityConfig,
    DetectorConfig,
    ImportanceConfig,
    MemoryBankConfig,
    ReconstructionConfig,
)
from llb_ray.detectors.autoencoder import Autoencoder, Pixels
from llb_ray.detectors.base import Detector, Encoder, Layers
from llb_ray.detectors.density import Density
from llb_ray.detectors.local_outlier_factor import MAX_REFERENCES
from llb_ray.detectors.memory_bank import MemoryBank
from llb_ray.detectors.reconstruction import Reconstruction

Role = Literal["member", "final"]
_TRIAL_CORESET = 4000  # entries are chosen in seconds


def build_encoder(config: DetectorConfig, device: torch.device) -> Encoder:
    """The frozen encoder in front of the detector; raises WeightsError if its weights cannot be had."""
    if isinstance(config, MemoryBankConfig | DensityConfig | ReconstructionConfig):
        # timm takes seconds to import: only those who need a backbone wait for it.
        from llb_ray.detectors.backbones import Backbone

        return Backbone(config.backbone, config.image_size_px, device, _with_context(config))
    if isinstance(config, AutoencoderConfig):
        return Pixels(config.image_size_px, device)
    assert_never(config)


def _with_context(config: DetectorConfig) -> bool:
    return isinstance(config, MemoryBankConfig) and config.reads_context


def build_detector(
    config: DetectorConfig, role: Role, device: torch.device, importance: ImportanceConfig | None = None
) -> Detector:
    """An unfitted detector with the training budget of a sub-model or of the final detector.

    `importance` weights its training loss; only fitting needs to know.
    """
    if isinstance(config, MemoryBankConfig | DensityConfig):
        assert importance is None, "RunConfig refuses a weighted loss for a detector without one"
        return MemoryBank(config, device) if isinstance(config, MemoryBankConfig) else Density(config, device)
    steps = config.member_steps if role == "member" else config.final_steps
    if isinstance(config, AutoencoderConfig):
        return Autoencoder(config, steps, device, importance)
    if isinstance(config, ReconstructionConfig):
        return Reconstruction(config, steps, device, importance)
    assert_never(config)


def encoder_fingerprint(config: DetectorConfig) -> Mapping[str, Any]:
    """Everything the encoder's output depends on, without building it; raises WeightsError without a weights file."""
    if isinstance(config, MemoryBankConfig | DensityConfig | ReconstructionConfig):
        from llb_ray.detectors.backbones import fingerprint

        return fingerprint(config.backbone, config.image_size_px, _with_context(config))
    if isinstance(config, AutoencoderConfig):
        return Pixels(config.image_size_px, torch.device("cpu")).fingerprint()
    assert_never(config)


def weights_origin(config: DetectorConfig) -> dict[str, str]:
    """Network, SHA-256, licence and citation of pretrained weights, as far as known; empty where there are none."""
    if isinstance(config, AutoencoderConfig):
        return {}
    from llb_ray.detectors.backbones import weights_origin

    return weights_origin(config.backbone)


def learner_settings(config: DetectorConfig, role: Role) -> Mapping[str, Any]:
    """Settings that the fitted detector depends on besides its encoder and images, without the other role's budget."""
    unused = {"backbone", "final_steps" if role == "member" else "member_steps"}
    return config.model_dump(mode="json", exclude=unused)


def refuse_unsuitable(config: DetectorConfig, layers: Layers) -> list[str]:
    """One sentence for each setting without effect on layers like these, an image's; raises ConfigError for a decoder
    that does not suit them.  Quick: it is asked before the first long stage."""
    if isinstance(config, ReconstructionConfig):
        return Reconstruction(config, 0, torch.device("cpu")).suits(layers)
    return []


def fit_reads(config: DetectorConfig, role: Role, num_rows: int, num_weighted: int = 0) -> int:
    """Number of images that a fit on `num_rows` rows reads from its source, repetitions counted.

    `num_weighted` images are read once more at the end, for their importance weights.
    """
    if isinstance(config, MemoryBankConfig):
        return num_rows * (2 if config.memory in ("by_filter", "placed") else 1)
    if isinstance(config, DensityConfig):
        return min(num_rows, MAX_REFERENCES)
    steps = config.member_steps if role == "member" else config.final_steps
    # To measure: the mean image before the steps and the usual errors after them, or each layer's spread.
    passes = 2 if isinstance(config, AutoencoderConfig) else config.standardize * config.backbone.num_layers
    shapes = 1  # the first image, for the sizes of the network
    return shapes + steps * min(config.batch_size, num_rows) + passes * num_rows + num_weighted


def shortened(config: DetectorConfig, steps: int) -> tuple[DetectorConfig, float]:
    """A detector that is quickly fitted, to try how long that takes: so many steps, or a small memory.

    And how many times as much the real one's memory takes to choose and to compare with.
    """
    if isinstance(config, MemoryBankConfig):
        size = min(config.coreset_size, _TRIAL_CORESET)
        return config.model_copy(update={"coreset_size": size}), config.coreset_size / size
    if isinstance(config, DensityConfig):
        return config, 1.0
    return config.model_copy(update={"member_steps": steps, "final_steps": steps}), 1.0


def num_steps(config: DetectorConfig, role: Role) -> int:
    """Optimiser steps of a fit; a memory bank and a density take none."""
    if isinstance(config, MemoryBankConfig | DensityConfig):
        return 0
    return config.member_steps if role == "member" else config.final_steps
