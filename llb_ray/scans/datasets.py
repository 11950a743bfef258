"""Data sets of a scan's jobs: the images of a category, mixed with anomalies by its authors or by us.

A category's files are read once, by the first of its jobs, and remembered as an artifact: its key holds every path,
label, size and time, so a replaced image is read again.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe, Store, digest
from llb_ray.config import DatasetConfig, ScanConfig
from llb_ray.data.adapters import official_alphas, read_listing
from llb_ray.data.contaminate import contaminate_manifest
from llb_ray.data.listing import Listing
from llb_ray.data.listing_to_manifest import identify
from llb_ray.data.manifest import Manifest, path_from_text
from llb_ray.scans.scan_plan import Job

_THREADS = 8  # they wait for the file system
_MANIFEST = "manifest.arrow"


@dataclass(frozen=True)
class Material:
    """Listings that the jobs of one category draw from: one per alpha that its authors mixed, or one under None."""

    category: str
    given: Mapping[float | None, Listing]
    files: str  # digest of every file's path, size and time

    def paths(self) -> Iterator[str]:
        """Every image's path as its listing spells it, with repetitions."""
        for listing in self.given.values():
            yield from listing.table["path"].to_pylist()

    def recipe(self, alpha: float | None) -> Recipe:
        """Recipe of the manifest of a listing."""
        rows = digest(self.given[alpha].table.to_pylist())
        return Recipe("category", {}, {"listing": rows, "files": self.files})


def read_materials(config: ScanConfig) -> list[Material]:
    """The material of every category of the scan, in order; no image is opened.

    Raises DataError for a data set that cannot be used, a category that is not in it, or an alpha that is neither
    given nor can be mixed.
    """
    given = {alpha: read_listing(dataset.kind, dataset.root, dataset.options()) for alpha, dataset in _datasets(config)}
    categories = next(iter(given.values())).categories
    with ThreadPoolExecutor(_THREADS) as pool:
        return [_material(category, given, pool) for category in categories]


def _datasets(config: ScanConfig) -> Iterator[tuple[float | None, DatasetConfig]]:
    """The data set once for every alpha that its authors mixed, or once for all."""
    scan = config.scan
    official = official_alphas(scan.dataset) if scan.alphas is not None and scan.num_objects is None else []
    if scan.alphas is None or not set(scan.alphas) <= set(official):
        yield None, scan.dataset
        return
    for alpha in scan.alphas:
        yield alpha, scan.dataset.model_copy(update={"alpha": alpha})


def _material(category: str, given: Mapping[float | None, Listing], pool: ThreadPoolExecutor) -> Material:
    mine = {alpha: listing.of_category(category) for alpha, listing in given.items()}
    paths = sorted({path for listing in mine.values() for path in listing.table["path"].to_pylist()})
    root = next(iter(mine.values())).root
    return Material(category, mine, digest([paths, list(pool.map(partial(_state, root), paths))]))


def _state(root: Path, path: str) -> list[int] | None:
    try:
        status = os.stat(root / path_from_text(path))
    except OSError:
        return None  # the reading says why
    return [status.st_size, status.st_mtime_ns]


def draw_images(config: ScanConfig, job: Job, material: Material, store: Store) -> tuple[Manifest, Manifest]:
    """The job's manifest, and the pool of images that the jobs of its category draw from.

    Raises DataError where the category has too few objects for the job's alpha.
    """
    read = {
        alpha: _manifest(listing, config, material.recipe(alpha), store) for alpha, listing in material.given.items()
    }
    if None not in read:
        return read[job.alpha], _union(list(read.values()))
    whole = read[None]
    if job.alpha is None:
        return whole, whole
    alphas = config.scan.alphas
    assert alphas is not None, "a job has an alpha where the scan has alphas"
    return contaminate_manifest(whole, config.scan.num_objects, job.alpha, job.seed, max(alphas)), whole


def _manifest(listing: Listing, config: ScanConfig, recipe: Recipe, store: Store) -> Manifest:
    """The manifest of a listing, read by the job that needs it first."""

    def build(folder: Path) -> None:
        identify(listing, config.data).save(folder / _MANIFEST)

    return Manifest.load(_file(store.make(recipe, build)), listing.root)


def _file(made: Artifact) -> Path:
    return made.file(_MANIFEST)


def _union(manifests: Sequence[Manifest]) -> Manifest:
    """Every image of these manifests of one root; its split and labels are the first one's and mean nothing."""
    table = pa.concat_tables([manifest.table for manifest in manifests])
    first: dict[str, int] = {}
    for row, image_id in enumerate(table["image_id"].to_pylist()):
        first.setdefault(image_id, row)
    return Manifest.of(manifests[0].root, table.take(list(first.values())))
