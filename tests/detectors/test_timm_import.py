"""timm is imported without what this package never uses, and nothing of that is broken by it."""

import subprocess
import sys

PROGRAM = """
import sys
from llb_ray.detectors.backbones.timm_import import timm
assert not [name for name in ("torch._dynamo", "torch._dynamo.utils", "wandb") if name in sys.modules]
assert timm.is_model("tf_efficientnet_lite0")
import torch._dynamo.utils
from torchvision.ops import roi_align
from llb_ray.detectors.backbones.timm_import import _is_compile_supported
assert _is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
assert torch.compiler.disable.__module__ == "torch.compiler"
assert torch.compiler.disable(len)([1]) == 1
"""


def test_neither_torchs_compiler_nor_a_logger_is_loaded_and_the_compiler_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
