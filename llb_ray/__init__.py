"""llb_ray trains an image anomaly detector on photographs some of which show defects, without labels.

>>> import llb_ray
>>> manifest = llb_ray.read_folder("photos")                                    # doctest: +SKIP
>>> result = llb_ray.run(llb_ray.RunConfig(), manifest, out="runs/photos")      # doctest: +SKIP

Importing this package loads neither torch nor ray: names are resolved when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llb_ray.api import audit, predict, read_folder, repurify, run, status, synth, tune
    from llb_ray.api import report as write_report
    from llb_ray.config import RunConfig
    from llb_ray.config import load as load_config
    from llb_ray.data.manifest import Manifest
    from llb_ray.engine.pipeline import Result
    from llb_ray.errors import LlbError

__version__ = "0.1.0"
_HOMES = {
    "LlbError": ("llb_ray.errors", "LlbError"),
    "Manifest": ("llb_ray.data.manifest", "Manifest"),
    "Result": ("llb_ray.engine.pipeline", "Result"),
    "RunConfig": ("llb_ray.config", "RunConfig"),
    "audit": ("llb_ray.api", "audit"),
    "load_config": ("llb_ray.config", "load"),
    "predict": ("llb_ray.api", "predict"),
    "read_folder": ("llb_ray.api", "read_folder"),
    "repurify": ("llb_ray.api", "repurify"),
    "run": ("llb_ray.api", "run"),
    "status": ("llb_ray.api", "status"),
    "synth": ("llb_ray.api", "synth"),
    "tune": ("llb_ray.api", "tune"),
    "write_report": ("llb_ray.api", "report"),  # `llb_ray.report` is the package
}
__all__ = [
    "LlbError",
    "Manifest",
    "Result",
    "RunConfig",
    "audit",
    "load_config",
    "predict",
    "read_folder",
    "repurify",
    "run",
    "status",
    "synth",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llb_ray' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
