"""What several tests ask of a run."""

import hashlib
from pathlib import Path


def final_files(run: Path) -> dict[str, str]:
    """Every file of a finished run that must not depend on luck or time, with its digest."""
    passing = {"events.jsonl"}  # what happened when
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    named = ((path.relative_to(run).as_posix(), path) for path in files)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named
        if name not in passing and not name.startswith("progress/")
    }
