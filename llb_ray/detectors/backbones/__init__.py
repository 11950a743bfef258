"""Frozen timm networks as encoders.

Weights are read from an installed package or a local file, fetched from the Hugging Face hub, or random when that word
is typed; they are never random because something went wrong (random features: image AUROC 0.53 on magnetic tile,
trained ones 0.82).
"""

from llb_ray.detectors.backbones.backbone import Backbone, fingerprint
from llb_ray.detectors.backbones.network import layers_of
from llb_ray.detectors.backbones.timm_import import is_known
from llb_ray.detectors.backbones.weight_sources import hub_cache, weights_origin

__all__ = ["Backbone", "fingerprint", "hub_cache", "is_known", "layers_of", "weights_origin"]
