"""Contaminated training sets from labelled ones, reproducibly: the FUIAD rule of arXiv 2508.07441, and long tails.

The training size is fixed and alpha of it is anomalous, counted in objects (groups); the test set is the same at
every alpha and shares no object with any training set.  A long tail chooses the normal objects first, so many of each
normal pattern; anomalies are then added until they are alpha of the whole, so that no rare pattern is thinned out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import ContaminateConfig, DatasetConfig, parse_as
from llb_ray.data.adapters import read_listing
from llb_ray.data.listing import Listing
from llb_ray.data.long_tail import draw_tail, tail_patterns, with_tail_labels
from llb_ray.data.manifest import MANIFEST, TEST, TRAIN, Manifest
from llb_ray.data.photographed_objects import Drawn, Objects
from llb_ray.errors import ConfigError, DataError


def contaminate_manifest(
    manifest: Manifest, num_objects: int | None, alpha: float, seed: int, max_alpha: float = 0.4
) -> Manifest:
    """A manifest whose training split has `num_objects` objects, alpha of them anomalous, in a fixed test split.

    Without a number, it is the largest that can be had at every alpha up to `max_alpha`.  Anomalous objects come from
    the test split: a seeded `max_alpha` x `num_objects` of them leave it, whatever alpha is, and alpha's share of those
    enter training.  A larger alpha adds anomalies and takes normals away, and changes nothing else.
    Raises DataError, with the largest alpha possible, if there are too few objects.
    """
    names = manifest.table["group"].to_pylist()
    objects = _objects(str(manifest.root), manifest.table, names)
    size = objects.most(max_alpha) if num_objects is None else num_objects
    table = _resplit(manifest.table, names, objects.contaminated(size, alpha, seed, max_alpha))
    return Manifest.of(Path(manifest.root), table.cast(MANIFEST), manifest.quarantine, manifest.near)


def from_dataset(dataset: DatasetConfig, config: ContaminateConfig) -> Iterator[tuple[str, Listing]]:
    """A name and a training set, with its test set, for each alpha and seed: the official ones if `config.given`.

    Raises DataError, with what is possible, if there are too few objects of a kind, or no official list of an alpha.
    """
    if config.given:
        return _official(dataset, config)
    return _drawn(read_listing(dataset.kind, dataset.root, dataset.options()), config)


def from_listing(listing: Listing, config: ContaminateConfig) -> Iterator[tuple[str, Listing]]:
    """The same, of a listing; the official ones are those of the data set that it was read from."""
    return _official(_dataset_of(listing), config) if config.given else _drawn(listing, config)


def _drawn(listing: Listing, config: ContaminateConfig) -> Iterator[tuple[str, Listing]]:
    """Each category is contaminated by itself, and the alphas of one seed have one test set; `about` has the recipe."""
    for seed in config.seeds:
        for alpha in config.alphas:
            made = [_of_category(listing.of_category(name), config, alpha, seed) for name in listing.categories]
            table = pa.concat_tables([table for table, _ in made])
            recipe = {"alpha": alpha, "seed": seed, **config.recipe()}
            sizes = dict(zip(listing.categories, (said for _, said in made), strict=True))
            about = {"kind": "contaminated", "recipe": recipe, "training": sizes, "of": dict(listing.about)}
            yield f"alpha{alpha:g}-seed{seed}", Listing.of(listing.root, table, about)


def _official(dataset: DatasetConfig, config: ContaminateConfig) -> Iterator[tuple[str, Listing]]:
    """Real-IAD's own contaminated lists; there is one for each alpha, whatever the seed."""
    if dataset.kind != "real_iad":
        raise ConfigError(
            f"given: official contaminated lists are Real-IAD's, and the data set is of kind {dataset.kind}"
        )
    for alpha in config.alphas:
        options = dataset.options().model_copy(update={"alpha": alpha})
        yield f"alpha{alpha:g}-given", read_listing("real_iad", dataset.root, options)


def _dataset_of(listing: Listing) -> DatasetConfig:
    """The data set that a listing was read from; raises DataError for a listing of another making."""
    about = listing.about
    if "read_from" not in about:
        raise DataError(f"{listing.root}: the manifest file was not read from a data set; name that in a recipe")
    tree = {**about["options"], "kind": about["kind"], "root": about["read_from"]}
    return parse_as(DatasetConfig, tree, f"data set {about['read_from']}")


def _of_category(
    listing: Listing, config: ContaminateConfig, alpha: float, seed: int
) -> tuple[pa.Table, dict[str, int]]:
    """The images of one category in their new splits, and how many objects of each kind are for training."""
    where, tail, table = f"{listing.root} ({listing.categories[0]})", config.tail, listing.table
    patterns = [] if tail is None else tail_patterns(table, tail, seed, where)
    table = table if tail is None else with_tail_labels(table, tail, patterns)
    names = _names(table)
    objects = _objects(where, table, names)
    dealt = {} if tail is None else draw_tail(objects, names, table, tail, patterns, seed)
    if tail is None:
        size = config.num_objects or objects.most(config.reserved_alpha)
        found = objects.contaminated(size, alpha, seed, config.reserved_alpha)
    else:
        normal = {name for chosen in dealt.values() for name in chosen}
        found = objects.contaminating(normal, alpha, seed, config.reserved_alpha)
    anomalous = len(found.train & objects.anomalous)
    said = {"normal": len(found.train) - anomalous, "anomalous": anomalous}
    return _resplit(table, names, found), said | {f"pattern {name}": len(chosen) for name, chosen in dealt.items()}


def _names(table: pa.Table) -> list[str]:
    """The object of each listed image; one that stands alone is marked, so that no group has its name."""
    pairs = zip(table["group"].to_pylist(), table["path"].to_pylist(), strict=True)
    return [f"\0{path}" if group is None else group for group, path in pairs]


def _objects(where: str, table: pa.Table, names: Sequence[str]) -> Objects:
    return Objects.of(where, names, table["split"].to_pylist(), table["label"].to_pylist())


def _resplit(table: pa.Table, names: Sequence[str], found: Drawn) -> pa.Table:
    split = [TRAIN if name in found.train else TEST if name in found.test else None for name in names]
    column = table.column_names.index("split")
    return table.set_column(column, "split", pa.array(split, pa.string())).filter(pc.field("split").is_valid())
