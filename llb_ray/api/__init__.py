"""The public functions, one per thing a person wants done; the command line is a thin doorway to them."""

from llb_ray.api.images import contaminate, manifest, read_folder, read_manifest, synth
from llb_ray.api.planning import doctor, init, outlook, plan
from llb_ray.api.results import audit, bench, drift, export, predict, report, status, threshold
from llb_ray.api.reviewing import review
from llb_ray.api.running import make_executor, repurify, run, update
from llb_ray.api.scanning import scan, scan_status, table
from llb_ray.api.searching import tune
from llb_ray.api.serving import serve
from llb_ray.api.tracking import track

__all__ = [
    "audit",
    "bench",
    "contaminate",
    "doctor",
    "drift",
    "export",
    "init",
    "make_executor",
    "manifest",
    "outlook",
    "plan",
    "predict",
    "read_folder",
    "read_manifest",
    "report",
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
]
