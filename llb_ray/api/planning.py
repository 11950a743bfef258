"""Before a run: is everything there, what to set, what it will take."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.api.images import read_folder
from llb_ray.api.running import make_executor
from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.disk import write_atomic
from llb_ray.engine.execution.executor import Executor, Tell
from llb_ray.errors import ConfigError
from llb_ray.remote import local_folder, locate

if TYPE_CHECKING:
    from llb_ray.planning.doctor import Check
    from llb_ray.planning.forecast import Forecast
    from llb_ray.planning.outlook import Outlook


def doctor(
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    executor: str = "ray",
    ray_address: str | None = None,
) -> "Iterator[Check]":
    """Checks that everything a run of `config` needs is there, one at a time, as they are made.

    `executor` ``ray`` reaches the cluster, or starts a local one for the moment; ``serial`` leaves Ray out.
    """
    from llb_ray.planning.doctor import examine

    if executor == "serial":
        make_executor(executor, ray_address)  # refuses an address that is not used
    elsewhere = bool(ray_address or os.environ.get("RAY_ADDRESS"))
    ray = None if executor == "serial" else partial(make_executor, executor, ray_address)
    return examine(config or RunConfig(), None if out is None else locate(out), ray, elsewhere)


def init(
    data: str | Path,
    *,
    out: str | Path = "config.yaml",
    weights: str | Path | None = None,
    backbone: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The commented configuration for a folder of images, written to `out`, which must not be there yet.

    `weights` is a file of pretrained weights (default: those of a package), of the timm network `backbone` (default:
    what the file is called).
    """
    from llb_ray.planning.config_template import suggestion

    path = local_folder("--out", out)
    if path.exists():
        raise ConfigError(f"{path}: already exists; delete it or choose another --out")
    text = suggestion(read_folder(data, progress=progress), None if weights is None else Path(weights), backbone)
    write_atomic(path, text.encode())
    return path


def plan(
    config: RunConfig,
    manifest: Manifest,
    *,
    out: str | Path = ".",
    executor: str = "ray",
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
) -> "Forecast":
    """Forecast of a run, by stage, in memory and on disk, after a calibration of a minute at most.

    `out` is where the run is to go, a folder or a URI; nothing is left there.  What cannot fit is in the forecast's
    `refusals`.  Raises a `LlbError` for a run that cannot be at all.
    """
    from llb_ray.planning.benchmark_runner import forecast_run

    where = locate(out)
    folder = where if isinstance(where, Path) else where.copy
    started_s = time.perf_counter()
    with make_executor(executor, ray_address) as workers:
        connect_s = time.perf_counter() - started_s
        return forecast_run(config, manifest, folder, workers, 0.0 if executor == "serial" else connect_s, tell)


def outlook(config: RunConfig, manifest: Manifest, *, out: str | Path, executor: Executor) -> "Outlook":
    """Expected times of a run's stages as `plan` gives them, without a calibration: for watching a run."""
    from llb_ray.planning.outlook import outlook as expected

    where = locate(out)
    return expected(config, manifest, executor, where if isinstance(where, Path) else where.copy)
