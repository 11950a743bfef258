"""The configuration: a tree of frozen models, read from YAML, overridden by ``section.key=value``.

Every setting has one home, and unknown keys are refused with their dotted path and the nearest known one.
Neither torch nor ray is imported here: reading a configuration is instant.
"""

from llb_ray.config.detectors import (
    AutoencoderConfig,
    BackboneConfig,
    DensityConfig,
    DetectorConfig,
    MemoryBankConfig,
    ReconstructionConfig,
)
from llb_ray.config.reading import known_keys, load, parse, with_overrides
from llb_ray.config.run import (
    Augmentation,
    DataConfig,
    EvaluationConfig,
    FeaturesConfig,
    FinalConfig,
    ImportanceConfig,
    MembersConfig,
    PurifyConfig,
    ResourcesConfig,
    RunConfig,
)

__all__ = [
    "Augmentation",
    "AutoencoderConfig",
    "BackboneConfig",
    "DataConfig",
    "DensityConfig",
    "DetectorConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "FinalConfig",
    "ImportanceConfig",
    "MembersConfig",
    "MemoryBankConfig",
    "PurifyConfig",
    "ReconstructionConfig",
    "ResourcesConfig",
    "RunConfig",
    "known_keys",
    "load",
    "parse",
    "with_overrides",
]
