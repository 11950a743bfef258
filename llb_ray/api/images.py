"""The images of a run: read from a folder or a manifest file, listed, contaminated, or made up."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.errors import ConfigError
from llb_ray.remote import local_folder

if TYPE_CHECKING:
    from llb_ray.config import ContaminateConfig, DatasetOptions
    from llb_ray.data.listing import Listing


def read_folder(
    data: str | Path, config: RunConfig | None = None, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """The manifest of a folder of images, or of an MVTec-style tree; see `llb_ray.data.folder`.

    `progress` is called with (done, total) files.
    """
    from llb_ray.data.folder import read_folder as read

    return read(Path(data), (config or RunConfig()).data, progress)


def manifest(
    kind: str, root: str | Path, *, out: str | Path | None = None, options: "DatasetOptions | None" = None
) -> "Listing":
    """The listing of a data set by its own layout and tables (`llb_ray.data.adapters`), saved as the file `out`.

    What is wrong with its entries is written beside `out` as CSV (`llb_ray.data.listing_problems.problems_file`).
    Raises BadEntries, a DataError with all these problems, unless `options.skip_bad`.
    """
    from llb_ray.data.adapters import survey
    from llb_ray.data.listing_problems import problems_file, write_problems

    found = survey(kind, root, options)
    skip_bad = options is not None and options.skip_bad
    if out is None:
        return found.usable(skip_bad)
    target = local_folder("--out", out)
    report = problems_file(target)
    report.unlink(missing_ok=True)
    if found.problems:
        write_problems(report, found.problems)
    listing = found.usable(skip_bad, report)
    listing.save(target)
    return listing


def read_manifest(
    path: str | Path,
    category: str | Sequence[str] | None = None,
    config: RunConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    root: str | Path | None = None,
) -> Manifest:
    """The manifest of a listing that `manifest` or `contaminate` saved, or of some of its categories: images are read
    now.

    Raises DataError for an unknown category, and ConfigError for settings of `config.data` that a manifest file
    decides.  `progress` is called with (done, total) files; `root` is where the images are now, if they
    have moved.
    """
    from llb_ray.data.listing import Listing
    from llb_ray.data.listing_to_manifest import identify

    settings = (config or RunConfig()).data
    settings.refuse_beside_manifest()
    listing = Listing.load(Path(path), None if root is None else Path(root).absolute())
    names = [category] if isinstance(category, str) else category
    return identify(listing.of_categories(names) if names else listing, settings, progress)


def contaminate(
    config: "ContaminateConfig",
    *,
    out: str | Path,
    listing: "Listing | None" = None,
    root: str | Path | None = None,
) -> list[Path]:
    """The manifest files of contaminated training sets, one for each alpha and seed, written to folder `out`.

    They are drawn from `listing`, or from the recipe's own data set, looked for below `root` (default: the working
    directory).  Raises a `LlbError`, with what is possible, for what there are too few labelled images for.
    """
    from llb_ray.data.contaminate import from_dataset, from_listing

    folder = local_folder("--out", out)
    if config.dataset is not None and listing is None:
        sets = from_dataset(config.dataset.placed(Path(root or "."), folder), config)
    elif config.dataset is None and listing is not None:
        sets = from_listing(listing, config)
    else:
        raise ConfigError("contaminate: give the labelled images once, as a manifest file or as the recipe's dataset")
    made = []
    for name, found in sets:
        made.append(folder / f"{name}.arrow")
        found.save(made[-1])
    return made


def synth(
    folder: str | Path, *, categories: Sequence[str] = (), alpha: float = 0.2, seed: int = 0, size_px: int = 96
) -> list[Path]:
    """The roots of the synthetic trees written under `folder`, one per category (default: all of them).

    The photographs are squares of `size_px`.
    """
    from llb_ray.data.synthetic import CATEGORIES, SyntheticConfig, write_synthetic

    recipe = SyntheticConfig(tuple(categories) or CATEGORIES, alpha=alpha, seed=seed, size_px=size_px)
    root = local_folder("FOLDER", folder)
    write_synthetic(root, recipe)
    return [root / category for category in recipe.categories]
