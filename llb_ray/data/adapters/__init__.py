"""Data sets by their own layouts and tables; `read_listing` reads any of them.  Each has an adapter.

`extensions.DATASETS` names the adapters.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llb_ray.config import DatasetConfig, DatasetOptions, parse_as
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.columns import join_by_path
from llb_ray.data.adapters.entries import Draft
from llb_ray.data.adapters.listing_checks import Fault, missing_or_unfit, repeated_rows
from llb_ray.data.listing import Listing
from llb_ray.data.listing_problems import BadEntries, Problem
from llb_ray.data.manifest import without_normal
from llb_ray.errors import DataError
from llb_ray.extensions import DATASETS


@dataclass(frozen=True)
class Survey:
    """The images that can be listed, and what is wrong with the others."""

    listing: Listing
    problems: list[Problem]

    def usable(self, skip_bad: bool, report: Path | None = None) -> Listing:
        """The listing; raises BadEntries for problems that are not to be skipped, or where nothing else was found.

        `report` is where the user finds all of them.
        """
        root = self.listing.root
        if self.problems and not (skip_bad and len(self.listing.table)):
            raise BadEntries.of(root, self.problems, report)
        if not len(self.listing.table):
            raise DataError(f"{root}: lists no images; name the folder that holds the data set")
        return self.listing


def read_listing(kind: str, root: str | Path, options: DatasetOptions | None = None) -> Listing:
    """The images of a data set: `kind` is its layout, `root` its folder (arrays: the .npz file).

    Raises BadEntries, a DataError that has all the problems found, unless `options.skip_bad`; DataError where nothing
    can be listed, and ConfigError for options that do not fit the kind.
    """
    return survey(kind, root, options).usable(options is not None and options.skip_bad)


def official_alphas(config: DatasetConfig) -> list[float]:
    """The anomalous shares at which the data set's authors contaminated its training sets themselves, rising."""
    return _adapter(config.kind).official_alphas(config.root)


def survey(kind: str, root: str | Path, options: DatasetOptions | None = None) -> Survey:
    """The images of a data set without those that have a problem, and all the problems.

    Raises DataError where there is nothing to read, and ConfigError for options that do not fit the kind.
    """
    config = _config(kind, root, options)
    draft = _adapter(config.kind).read(config)
    listed = pa.concat_tables([part.table for part in draft.parts])
    origin = pa.concat_tables([part.origin for part in draft.parts])
    faults = repeated_rows(listed, origin) + (missing_or_unfit(draft.root, listed) if config.check_files else [])
    unlisted, bad = [problem for part in draft.parts for problem in part.problems], {row for row, _, _ in faults}
    kept = listed.take(pa.array([row for row in range(len(listed)) if row not in bad], pa.int64())) if bad else listed
    about = _about(config, draft, without_normal(kept), len(unlisted) + len(bad))
    return Survey(join_by_path(Listing.of(draft.root, kept, about), config), unlisted + _problems(origin, faults))


def _adapter(kind: str) -> Adapter:
    return DATASETS.load(kind, Adapter)()  # type: ignore[type-abstract]


def _config(kind: str, root: str | Path, options: DatasetOptions | None) -> DatasetConfig:
    said = {} if options is None else options.model_dump(exclude_unset=True)
    where = Path(os.path.abspath(root))  # a worker of the cluster has another working directory
    return parse_as(DatasetConfig, {**said, "kind": kind, "root": where}, f"data set {root}")


def _problems(origin: pa.Table, faults: list[Fault]) -> list[Problem]:
    if not faults:
        return []
    where = origin.take([row for row, _, _ in faults]).to_pylist()
    return [
        Problem(place["source"], place["number"], path, what)
        for place, (_, path, what) in zip(where, faults, strict=True)
    ]


def _about(config: DatasetConfig, draft: Draft, notes: Sequence[str], num_left_out: int) -> dict[str, Any]:
    """Provenance of the listing, JSON-ready."""
    options = config.model_dump(mode="json", exclude={"kind", "root"}, exclude_defaults=True)
    said = {"kind": config.kind, "read_from": str(config.root), "options": options, "sources": dict(draft.sources)}
    return {**said, "notes": [*draft.notes, *notes], "left_out": num_left_out}
