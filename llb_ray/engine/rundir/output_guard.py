"""Rejects output folders that hold something else or are inside the input."""

from pathlib import Path

from llb_ray.engine.rundir.run_index import INDEX
from llb_ray.errors import ArtifactError
from llb_ray.names import refuse_links
from llb_ray.remote import Remote

LOCK, EVENTS = ".lock", "events.jsonl"


def refuse_foreign(out: Path | Remote, *belongs: str) -> None:
    """Raise ArtifactError if `out` holds files, but none that ours hold, or a link out of it; or is inside a run.

    We clear and overwrite there, and a run's audit tells of every file that is not its own.
    """
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(f"{str(out)!r}: Arrow needs a name in UTF-8; choose another --out") from error
    if isinstance(out, Remote):
        names = out.names()
    else:
        names = {path.name for path in out.iterdir()} - {LOCK} if out.is_dir() else set()
    if names and names.isdisjoint(belongs):
        raise ArtifactError(
            f"{out}: holds files of another kind ({min(names)}); choose a new or empty folder for --out"
        )
    if not isinstance(out, Remote):
        refuse_links(out)
        _refuse_in_run(out.absolute())


def _refuse_in_run(out: Path) -> None:
    for home in out.parents:
        hidden = any(part.startswith(".") for part in out.relative_to(home).parts)  # ours, for as long as `plan` takes
        if not hidden and (home / INDEX).is_file() and (home / EVENTS).is_file():
            raise ArtifactError(f"{out}: is inside the finished run {home}; choose an --out beside it")


def refuse_inside(data: Path, out: Path) -> None:
    """Raise ArtifactError if `out` is in `data`: the next reading of `data` would take results for photographs."""
    if out.resolve().is_relative_to(data.resolve()):
        raise ArtifactError(f"{out}: is inside the images' folder {data}; choose an --out beside it")
