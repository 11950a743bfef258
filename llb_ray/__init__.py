"""llb_ray trains an image anomaly detector on photographs some of which show defects, without labels.

>>> import llb_ray
>>> manifest = llb_ray.read_folder("photos")                                    # doctest: +SKIP
>>> result = llb_ray.run(llb_ray.RunConfig(), manifest, out="runs/photos")      # doctest: +SKIP

Importing this package loads neither torch nor ray: names are resolved when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llb_ray.api import (
        audit,
        bench,
        contaminate,
        doctor,
        drift,
        export,
        init,
        manifest,
        plan,
        predict,
        read_folder,
        read_manifest,
        repurify,
        review,
        run,
        scan,
        scan_status,
        serve,
        status,
        synth,
        table,
        threshold,
        track,
        tune,
        update,
    )
    from llb_ray.api import (
        report as write_report,
    )
    from llb_ray.config import ContaminateConfig, DatasetOptions, RunConfig, ScanConfig, load_scan
    from llb_ray.config import load as load_config
    from llb_ray.data.listing import Listing
    from llb_ray.data.manifest import Manifest
    from llb_ray.engine.inference.trained_detector import TrainedDetector as Detector
    from llb_ray.engine.pipeline.pipeline import Result
    from llb_ray.errors import LlbError

__version__ = "0.1.0"
_HOMES = {
    "ContaminateConfig": ("llb_ray.config", "ContaminateConfig"),
    "DatasetOptions": ("llb_ray.config", "DatasetOptions"),
    "Listing": ("llb_ray.data.listing", "Listing"),
    "Detector": ("llb_ray.engine.inference.trained_detector", "TrainedDetector"),
    "LlbError": ("llb_ray.errors", "LlbError"),
    "Manifest": ("llb_ray.data.manifest", "Manifest"),
    "Result": ("llb_ray.engine.pipeline.pipeline", "Result"),
    "RunConfig": ("llb_ray.config", "RunConfig"),
    "ScanConfig": ("llb_ray.config", "ScanConfig"),
    "load_scan": ("llb_ray.config", "load_scan"),
    "audit": ("llb_ray.api", "audit"),
    "bench": ("llb_ray.api", "bench"),
    "contaminate": ("llb_ray.api", "contaminate"),
    "doctor": ("llb_ray.api", "doctor"),
    "drift": ("llb_ray.api", "drift"),
    "init": ("llb_ray.api", "init"),
    "export": ("llb_ray.api", "export"),
    "load_config": ("llb_ray.config", "load"),
    "manifest": ("llb_ray.api", "manifest"),
    "plan": ("llb_ray.api", "plan"),
    "predict": ("llb_ray.api", "predict"),
    "read_folder": ("llb_ray.api", "read_folder"),
    "read_manifest": ("llb_ray.api", "read_manifest"),
    "repurify": ("llb_ray.api", "repurify"),
    "review": ("llb_ray.api", "review"),
    "run": ("llb_ray.api", "run"),
    "scan": ("llb_ray.api", "scan"),
    "scan_status": ("llb_ray.api", "scan_status"),
    "serve": ("llb_ray.api", "serve"),
    "status": ("llb_ray.api", "status"),
    "synth": ("llb_ray.api", "synth"),
    "table": ("llb_ray.api", "table"),
    "threshold": ("llb_ray.api", "threshold"),
    "track": ("llb_ray.api", "track"),
    "tune": ("llb_ray.api", "tune"),
    "update": ("llb_ray.api", "update"),
    "write_report": ("llb_ray.api", "report"),  # `llb_ray.report` is the package
}
__all__ = [
    "ContaminateConfig",
    "DatasetOptions",
    "Detector",
    "Listing",
    "LlbError",
    "Manifest",
    "Result",
    "RunConfig",
    "ScanConfig",
    "audit",
    "bench",
    "contaminate",
    "doctor",
    "drift",
    "export",
    "init",
    "load_config",
    "load_scan",
    "manifest",
    "plan",
    "predict",
    "read_folder",
    "read_manifest",
    "repurify",
    "review",
    "run",
    "scan",
    "scan_status",
    "serve",
    "status",
    "synth",
    "table",
    "threshold",
    "track",
    "tune",
    "update",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llb_ray' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
