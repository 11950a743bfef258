"""Finished runs, scans and searches in experiment trackers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.remote import local_folder

if TYPE_CHECKING:
    from llb_ray.config import Tracker


def track(folder: str | Path, *, trackers: "Sequence[Tracker]") -> list[str]:
    """One sentence for each of the trackers that has the finished run, scan or search of a local folder now.

    Settings become parameters; metrics, counts and threshold metrics; losses curves; report, card, purified set and
    model artifacts.  Jobs of a scan and trials of a search become runs below it.  Where a tracker sends to is its own
    client's matter (environment variables).  Sent again, a run is found again by its id in the folder's tracking.json.
    Raises ConfigError where a client is not installed, ResourceError where a tracker cannot be reached.
    """
    from llb_ray.tracking.track import record_of, send

    where = local_folder("track", folder).absolute()
    return send(record_of(where), trackers, where)
