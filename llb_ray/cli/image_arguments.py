"""The images that a command works on: a folder, or categories of a manifest file."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llb_ray.cli.common import FOLDER

if TYPE_CHECKING:
    from llb_ray.config import RunConfig
    from llb_ray.data.manifest import Manifest
    from llb_ray.report.progress_bars import Watch


@dataclass(frozen=True)
class Images:
    """The image options of a command line; raises UsageError for those that exclude each other."""

    data: Path | None
    listing: Path | None
    categories: tuple[str, ...]
    root: Path | None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.listing is None):
            raise click.UsageError("give the images by one of --data and --manifest.")
        if self.listing is None and (self.categories, self.root) != ((), None):
            raise click.UsageError(
                "--category and --root are for --manifest; with --data, use --set data.category=NAME."
            )

    def read(self, config: "RunConfig", watch: "Watch") -> "Manifest":
        """The manifest of the images, which are read now while `watch` follows."""
        from llb_ray import api

        watch.tell(f"reading {self.data or self.listing}")
        progress = watch.counting("reading", "files")
        if self.data is not None:
            return api.read_folder(self.data, config, progress)
        assert self.listing is not None, "__post_init__"
        return api.read_manifest(self.listing, self.categories, config, progress, self.root)


def images_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command that say which images are meant; it is given them as its argument `images`."""

    @click.option("--data", type=FOLDER, help="Any folder of images, or an MVTec-style tree.")
    @click.option("--manifest", "listing", type=FOLDER, help="Instead: a file of llb-ray manifest or contaminate.")
    @click.option(
        "--category",
        "categories",
        multiple=True,
        help="Category, of a manifest file that lists several; repeat for some of them, default: all together.",
    )
    @click.option("--root", type=FOLDER, help="Where the images of a manifest file are now, if they have moved.")
    @functools.wraps(command)
    def with_images(
        *, data: Path | None, listing: Path | None, categories: tuple[str, ...], root: Path | None, **rest: Any
    ) -> None:
        command(images=Images(data, listing, categories, root), **rest)

    return with_images
