"""A driver in a process of its own, for tests that kill it; its arguments are those of `main`."""

import sys
from pathlib import Path

import ray

import llb_ray
from llb_ray.config import load
from tests.cluster import journal
from tests.cluster.support import in_small_shards


def main(address: str, folder: str, slow_s: str, config: str, photos: str, out: str) -> None:
    """One run, its lines on standard output."""
    environment = journal.runtime_env(Path(folder), float(slow_s))
    ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="error")
    settings = load(Path(config))
    with in_small_shards():
        llb_ray.run(
            settings,
            llb_ray.read_folder(photos, settings),
            out=out,
            executor="ray",
            tell=lambda line: print(line, flush=True),  # noqa: T201
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
