"""A run's report with decisions that are saved as they are made."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llb_ray.api.serving import LOOPBACK, refuse_missing
from llb_ray.errors import ArtifactError
from llb_ray.remote import local_folder


@contextlib.contextmanager
def review(
    run: str | Path,
    *,
    out: str | Path | None = None,
    decisions: str | Path | None = None,
    port: int = 8010,
    data: str | Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Inside, the address of the review of the finished `run`, and a function that serves it until it is interrupted.

    Decisions go to the file `decisions` (default: ``RUN-overrides.csv``); the page's button runs ``llb-ray repurify``
    into `out` (default: ``RUN-reviewed``) with these `options`; `data` is where the images are now, if they have moved.
    Raises a `LlbError` for a run without a report.
    """
    refuse_missing()
    import uvicorn

    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.rundir.run_folder import REPORT, RunFolder
    from llb_ray.serving.access import refuse_taken
    from llb_ray.serving.decisions import Decisions, alone_with
    from llb_ray.serving.photographs import Photographs
    from llb_ray.serving.repurify_job import RepurifyJob
    from llb_ray.serving.review import review_app, secret_path

    folder = local_folder("RUN", run).absolute()
    finished = FinishedRun(RunFolder.open(folder), None)
    page = folder / REPORT
    if not page.exists():
        raise ArtifactError(f"{folder}: has no report; write it with `llb-ray report {folder}`")
    file = Path(decisions or f"{folder}-overrides.csv").absolute()
    paths = dict(zip(*(finished.purified[name].to_pylist() for name in ("image_id", "path")), strict=True))
    target = local_folder("--out", out or f"{folder}-reviewed").absolute()
    job = RepurifyJob(folder, file, target, options, None if data is None else Path(data))
    photographs, secret = Photographs(finished.root if data is None else Path(data), paths.values()), secret_path()
    with alone_with(file):
        app = review_app(page.read_text(), Decisions(file, paths), job, photographs, secret)
        refuse_taken(LOOPBACK, port)
        server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=port, log_level="warning"))
        try:
            yield f"http://{LOOPBACK}:{port}/{secret}/", server.run
        finally:
            job.stop()
