"""The public functions, one per thing a person wants done; the command line is a thin doorway to them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.engine.executor import Executor, SerialExecutor, Tell
from llb_ray.engine.pipeline import Result, run_stages
from llb_ray.errors import ConfigError

if TYPE_CHECKING:
    from llb_ray.engine.predict import Prediction
    from llb_ray.engine.status import Status


def run(
    config: RunConfig,
    manifest: Manifest,
    *,
    out: str | Path,
    executor: str | Executor = "ray",
    tell: Tell = lambda line: None,
    store: str | Path | None = None,
) -> Result:
    """Purify the training images of `manifest`, train the final detector, and say what came of it.

    `executor` is ``ray`` (a local cluster unless RAY_ADDRESS is set), ``serial``, or an `Executor` that the caller
    has entered (so that many runs share one cluster).  `tell` receives plain progress lines.  Everything is written
    to `out`; calling again after an interruption does only what is missing.  Runs that name the same `store` keep
    their artifacts there instead, and make what they have in common once.
    Raises a `LlbError` with one sentence for whatever the user can mend.
    """
    shared = None if store is None else Path(store).absolute()
    if not isinstance(executor, str):
        return run_stages(config, manifest, Path(out), executor, tell, shared)
    with make_executor(executor) as entered:
        return run_stages(config, manifest, Path(out), entered, tell, shared)


def make_executor(name: str, address: str | None = None) -> Executor:
    """The executor called `name`; Ray is imported only if it is asked for."""
    if name == "serial" and address is not None:
        raise ConfigError(f"--ray-address {address} has no effect with the serial executor; drop one of the two")
    if name == "serial":
        return SerialExecutor()
    if name == "ray":
        from llb_ray.distributed.executor import RayExecutor

        return RayExecutor(address)
    raise ConfigError(f"executor {name!r} is unknown; choose ray or serial")


def read_folder(
    data: str | Path, config: RunConfig | None = None, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """The manifest of a folder of images, or of an MVTec-style tree; see `llb_ray.data.folder`.

    `progress` is called with (done, total) files.
    """
    from llb_ray.data.folder import read_folder as read

    return read(Path(data), (config or RunConfig()).data, progress)


def synth(folder: str | Path, *, categories: Sequence[str] = (), alpha: float = 0.2, seed: int = 0) -> list[Path]:
    """The roots of the synthetic trees written under `folder`, one per category (default: all of them)."""
    from llb_ray.data.synthetic import CATEGORIES, SyntheticConfig, write_synthetic

    recipe = SyntheticConfig(tuple(categories) or CATEGORIES, alpha=alpha, seed=seed)
    write_synthetic(Path(folder), recipe)
    return [Path(folder) / category for category in recipe.categories]


def audit(run: str | Path, *, data: str | Path | None = None) -> list[str]:
    """One sentence per check passed; raises AuditError naming the first thing that does not follow."""
    from llb_ray.engine.audit import audit_run

    return audit_run(Path(run), None if data is None else Path(data))


def predict(run: str | Path, data: str | Path, *, out: str | Path) -> "Prediction":
    """Scores and overlays of new images by the final detector of `run`, written to `out`."""
    from llb_ray.engine.predict import predict_folder
    from llb_ray.report.heatmaps import write_overlays

    prediction = predict_folder(Path(run), Path(data), Path(out))
    write_overlays(prediction)
    return prediction


def status(run: str | Path) -> "Status":
    """How far the run in the folder `run` is, from its event log and heartbeats; needs no Ray and no dashboard."""
    from llb_ray.engine.status import read_status

    return read_status(Path(run))
