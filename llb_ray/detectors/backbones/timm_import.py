"""timm, imported beside a torch that is for the CPU alone: the only module that does."""

import contextlib
import difflib
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from llb_ray.errors import ConfigError


@functools.cache  # a second define() raises
def declare_missing_torchvision_ops() -> bool:
    """Let torchvision import beside a CPU-only torch; True when its compiled operators are there.

    The registry's torchvision is a CUDA build; beside torch+cpu its library does not load and the import dies on
    operators without a schema.  Two schemas are enough (tested with torchvision 0.17 to 0.29).
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        return True
    except OSError:
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return False


_COMPILER, _LOGGER = "torch._dynamo.utils", "wandb"


@contextlib.contextmanager
def _without_unused_imports() -> Iterator[None]:
    """Inside, torch's compiler and wandb are not loaded: more than half of the time that timm takes to import.

    torchvision's RoI align asks the compiler whether it can compile, and may still do so when it is called.  Both keep
    some helpers from being compiled, which this package never does; and timm would write the figures of its training
    script to wandb.
    """
    missing = [name for name in (_COMPILER, _LOGGER) if name not in sys.modules]
    stand_in = ModuleType(_COMPILER)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    for name in missing:
        sys.modules[name] = stand_in if name == _COMPILER else None  # type: ignore[assignment]  # None: not found
    disable = torch.compiler.disable
    torch.compiler.disable = _unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in missing:
            sys.modules.pop(name, None)


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    """The function, or a decorator that returns it."""
    return _unchanged if function is None else function


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    supported: bool = is_compile_supported(device_type)
    return supported


declare_missing_torchvision_ops()

with _without_unused_imports():
    import timm

__all__ = ["Network", "check_name", "declare_missing_torchvision_ops", "is_known", "timm"]
Network = Any  # a timm model: an nn.Module with pretrained_cfg, feature_info and forward_intermediates


def is_known(name: str) -> bool:
    """True if timm has a network of this name."""
    return name in _known()


def check_name(name: str) -> None:
    """Raise ConfigError, with the nearest name that there is, for a network that timm has not."""
    if not is_known(name):
        nearest = difflib.get_close_matches(name, sorted(_known()), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "timm.list_models() names all"
        raise ConfigError(f"detector.backbone.name = {name}: timm {timm.__version__} has no such model; {hint}")


def _known() -> set[str]:
    return {*timm.list_models(), *timm.list_models(pretrained=True)}
