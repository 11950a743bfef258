"""The folder of a run that is being made: writable, tidied, and one process's alone."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from llb_ray.disk import clear_temporary
from llb_ray.engine.rundir.output_guard import EVENTS, LOCK, refuse_foreign
from llb_ray.engine.rundir.run_folder import ARTIFACTS, RunFolder
from llb_ray.errors import ArtifactError
from llb_ray.remote import Remote

# A killed node takes its processes along within a second.  Those of a node that is cut off from the cluster, but not
# from the storage, lived on for 2 to 4 minutes, and its task began again elsewhere after 1 to 7, by Ray's keepalive; it
# waited 61 s for this lock at most (measured).  NFS drops the locks of a machine that is gone after 90 s.
RETRY_WAIT_S = 120.0


@contextlib.contextmanager
def lock_run(where: Path | Remote, shared_store: Path | None = None, wait_s: float = 0) -> Iterator[RunFolder]:
    """The folder, made if need be, writable, and ours alone until the end of the context.

    Raises ArtifactError if it cannot be written or another process still runs in it after `wait_s`, OSError if a URI
    cannot.
    """
    folder = RunFolder.at(where, shared_store)
    # The operating system drops the lock of a killed process, so a resume here never waits for a dead one.
    lock = FileLock(folder.path / LOCK, timeout=wait_s)
    if folder.remote is not None:
        refuse_foreign(folder.remote, EVENTS, ARTIFACTS)
    try:
        if folder.remote is None:
            refuse_foreign(folder.path, EVENTS)
        folder.path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ArtifactError(f"{where}: another run is active here; wait for it or choose another --out") from error
    except OSError as error:
        remedy = "choose another --out" if folder.remote is None else "name another folder in LLB_CACHE"
        raise ArtifactError(f"{folder.path}: cannot be written ({error.strerror}); {remedy}") from error
    try:
        _tidy(folder)
        yield folder
        _clear_unfinished(folder)  # of workers that were killed and started again
    finally:
        lock.release()


@contextlib.contextmanager
def probe_files(folder: RunFolder) -> Iterator[dict[Path, Path]]:
    """A file in each folder that workers write to, by the folder; new, so that no other folder has it.

    None of a run at a URI: there each machine writes to its own copy.
    """
    name = f".{uuid.uuid4().hex}"
    written = (folder.store.root, folder.progress) if folder.remote is None else ()
    probes = {folder: folder / name for folder in written}
    try:
        for parent, file in probes.items():
            parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        yield probes
    finally:
        for file in probes.values():
            file.unlink(missing_ok=True)


def _tidy(folder: RunFolder) -> None:
    for path in (folder.path, folder.path / "purified"):
        clear_temporary(path)
    folder.file(EVENTS).touch()  # first: it is how we know the folder again
    folder.progress.mkdir(exist_ok=True)
    for beat in folder.progress.iterdir():
        beat.unlink()
    _clear_unfinished(folder)


def _clear_unfinished(folder: RunFolder) -> None:
    """Remove what killed workers left half built, unless other runs may be building there now."""
    if folder.shared_store is None:
        folder.store.clear_unfinished()
