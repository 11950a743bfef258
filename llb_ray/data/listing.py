"""The listing: which images a data set has, before anybody has read one of them.

A manifest says who the images are (`llb_ray.data.manifest`), and for that every file has to be hashed and decoded.  A
listing says where they are and what a data set's own tables know about them; `llb_ray.data.listing_to_manifest` makes
a manifest of it.  As a file (`llb-ray manifest`, `llb-ray contaminate`) it is one Arrow IPC file that any tool can
open; the images' folder and how the listing was made are JSON in the schema's metadata, under the key ``llb_ray``.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.data.tables import DAMAGED, validate
from llb_ray.disk import write_atomic
from llb_ray.errors import DataError

LISTING = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # POSIX, relative to the root, as `path_text` writes it
        pa.field("category", pa.string(), nullable=False),
        pa.field("group", pa.string()),  # one photographed object; null: the image stands alone
        pa.field("split", pa.string(), nullable=False),  # "train" or "test"
        pa.field("label", pa.int8()),  # 0 normal, 1 anomalous, null unknown
        pa.field("defect_type", pa.string()),
        pa.field("mask_path", pa.string()),
        pa.field("image_id", pa.string()),  # null: not known yet
    ]
)
OUTSIDE = re.compile(r"^/|(^|/)\.\.(/|$)")  # a path that leaves the root
_VERSION = 1
_KEY = b"llb_ray"


@dataclass(frozen=True)
class Listing:
    """The images below `root`: the columns of `LISTING`, then the user's own, in order of their paths.

    `about` is JSON-ready and says how the listing was made.
    """

    root: Path
    table: pa.Table
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, table: pa.Table, about: Mapping[str, Any] | None = None) -> "Listing":
        """A checked listing in canonical order.

        Raises DataError for a path that is listed twice or leaves the root, and for an unknown split.
        """
        own = [name for name in table.column_names if name not in LISTING.names]
        schema = pa.schema([*LISTING, *(table.schema.field(name) for name in own)])
        listing = cls(Path(root), table.select(schema.names).cast(schema).sort_by("path").combine_chunks(), about or {})
        listing._refuse()
        return listing

    @property
    def categories(self) -> list[str]:
        """The names of the categories, sorted."""
        return sorted(map(str, self.table["category"].unique().to_pylist()))

    @property
    def user_columns(self) -> list[str]:
        """The columns that are the user's own."""
        return [name for name in map(str, self.table.column_names) if name not in LISTING.names]

    def of_category(self, name: str) -> "Listing":
        """The images of one category; raises DataError naming the nearest known ones for an unknown name."""
        if name not in self.categories:
            raise DataError(f"{self.root}: no category {name!r} is listed; {nearest(name, self.categories)}")
        return self.only(pc.equal(self.table["category"], name))

    def of_categories(self, names: Sequence[str]) -> "Listing":
        """The images of some categories; refuses an unknown name as `of_category` does."""
        for name in names:
            self.of_category(name)
        return self.only(pc.is_in(self.table["category"], pa.array(names, pa.string())))

    def only(self, chosen: Any) -> "Listing":
        """The rows for which `chosen`, an array of booleans, is true."""
        return Listing(self.root, self.table.filter(chosen).combine_chunks(), self.about)

    def save(self, path: Path) -> None:
        """Write the listing as one Arrow IPC file, whole or not at all; the same bytes for the same listing."""
        said = {"version": _VERSION, "root": str(self.root), "about": self.about}
        table = self.table.replace_schema_metadata({_KEY: json.dumps(said, sort_keys=True)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomic(path, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: Path, root: Path | None = None) -> "Listing":
        """The listing that `save` wrote; `root` is where the images are now, if they have moved.

        Raises DataError if the file is not one.
        """
        try:
            with pa.OSFile(str(path), "rb") as file:
                table = validate(pa.ipc.open_file(file).read_all())
        except (OSError, *DAMAGED) as error:
            raise DataError(f"{path}: not a readable manifest file ({_line(error)})") from error
        said = _said(path, table.schema)
        try:
            listing = cls.of(root or Path(said["root"]), table.replace_schema_metadata(), said["about"])
        except (KeyError, ValueError) as error:  # of pyarrow: a column that is missing, or of another type
            raise DataError(f"{path}: not a manifest file of this version ({_line(error)}); make it again") from error
        if listing.table.schema.names != table.schema.names:
            raise DataError(f"{path}: not a manifest file of this version (its columns differ); make it again")
        return listing

    def _refuse(self) -> None:
        unknown = set(self.table["split"].unique().to_pylist()) - {TRAIN, TEST}
        if unknown:
            raise DataError(f"{self.root}: unknown split {sorted(unknown)[0]!r} is listed; use 'train' or 'test'")
        if set(self.table["label"].unique().to_pylist()) - {0, 1, None}:
            raise DataError(f"{self.root}: a label is neither 0 (normal), 1 (anomalous) nor empty; correct the table")
        paths = self.table["path"]
        if pc.count_distinct(paths).as_py() != len(paths):
            raise DataError(f"{self.root}: a path is listed twice; keep one row per image")
        for column in (paths, self.table["mask_path"]):
            outside = column.filter(pc.match_substring_regex(column, OUTSIDE.pattern))
            if len(outside):
                raise DataError(f"{self.root}: {outside[0]} leaves the root; list paths relative to it")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that refuses `name`: the known names it may have meant, or the first of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"known are {shown or 'none'}"


def _said(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """The content of the metadata; raises DataError where it differs from a listing's."""
    try:
        said = json.loads((schema.metadata or {})[_KEY])
        version, root, about = said["version"], said["root"], said["about"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a manifest file (llb-ray manifest writes them)") from error
    if version != _VERSION or not isinstance(root, str) or not isinstance(about, dict):
        raise DataError(f"{path}: a manifest file of version {version}, this one reads {_VERSION}; make it again")
    return {"root": root, "about": about}


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
