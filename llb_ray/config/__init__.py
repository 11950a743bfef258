"""The configuration: a tree of frozen models, read from YAML, overridden by ``section.key=value``.

Every setting has one home, and unknown keys are refused with their dotted path and the nearest known one.
Neither torch nor ray is imported here: reading a configuration is instant.
"""

from llb_ray.config.backbone_config import WEIGHTS_BY_NAME, BackboneConfig
from llb_ray.config.contaminate_config import ContaminateConfig, TailConfig
from llb_ray.config.dataset_options import AdapterTraits, DatasetConfig, DatasetOptions
from llb_ray.config.detector_configs import (
    BackboneDetectorConfig,
    DetectorConfig,
    GradientDetectorConfig,
    Role,
    SlowCore,
    detector_class,
)
from llb_ray.config.ensemble_sections import MembersConfig, PurifyConfig
from llb_ray.config.filter_traits import FilterTraits, filter_traits
from llb_ray.config.image_size import ImageSize, Size, dump_size, format_size, sides
from llb_ray.config.reading import known_keys, load, load_scan, parse, parse_as, read_yaml, with_overrides
from llb_ray.config.run_config import UNKEYED, RunConfig, Tracker
from llb_ray.config.scan_config import ScanConfig, ScanSettings
from llb_ray.config.sections import (
    Augmentation,
    DataConfig,
    EvaluationConfig,
    FeaturesConfig,
    FinalConfig,
    ImportanceConfig,
    ResourcesConfig,
    ThresholdConfig,
)
from llb_ray.config.tiles_config import TilesConfig, tile_starts
from llb_ray.config.worker_range import ALONE, WorkerRange

__all__ = [
    "ALONE",
    "UNKEYED",
    "WEIGHTS_BY_NAME",
    "AdapterTraits",
    "Augmentation",
    "BackboneConfig",
    "BackboneDetectorConfig",
    "ContaminateConfig",
    "DataConfig",
    "DatasetConfig",
    "DatasetOptions",
    "DetectorConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "FilterTraits",
    "FinalConfig",
    "GradientDetectorConfig",
    "ImageSize",
    "ImportanceConfig",
    "MembersConfig",
    "PurifyConfig",
    "ResourcesConfig",
    "Role",
    "RunConfig",
    "ScanConfig",
    "ScanSettings",
    "Size",
    "SlowCore",
    "TailConfig",
    "ThresholdConfig",
    "TilesConfig",
    "Tracker",
    "WorkerRange",
    "detector_class",
    "dump_size",
    "filter_traits",
    "format_size",
    "known_keys",
    "load",
    "load_scan",
    "parse",
    "parse_as",
    "read_yaml",
    "sides",
    "tile_starts",
    "with_overrides",
]
