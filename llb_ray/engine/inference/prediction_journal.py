"""Journal of a prediction: the verdicts on each batch, so that an interrupted one resumes with the next image.

Batches are what float noise depends on, so they stay what they were; a file that changed since has its batch judged
again.  A record that a power cut or a disk has damaged counts as missing.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llb_ray.artifacts import digest
from llb_ray.config import Size
from llb_ray.data.candidate_files import File
from llb_ray.data.tables import validate
from llb_ray.disk import seal_content, unseal_content, write_atomic
from llb_ray.engine.features.mean_features import FEATURES, NUM_MEANS, features_column, features_of
from llb_ray.engine.inference.regions import Region
from llb_ray.engine.inference.verdicts import Floats

UNFINISHED = ".unfinished"  # in the folder of the prediction; gone when that is finished
_ASKED = "asked"
_FACTS = b"llb_ray"
_SCORED = [("image_id", pa.string()), ("score", pa.float32()), (FEATURES, pa.list_(pa.float32(), NUM_MEANS))]


@dataclass(frozen=True)
class Recorded:
    """Record of a batch: its files with their ids or problems, and scores and maps of those with an id."""

    files: Sequence[File]
    score_N: Floats
    sizes: Sequence[Size]
    regions: Sequence[Sequence[Region]]  # nothing where the run has no pixel threshold
    feature_NS: Floats
    map_NHW: Floats  # [N, 0, 0] where maps are not kept


class Journal:
    """The records of one prediction."""

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        """Open the journal in `out`; a record that answers another question is removed."""
        self.folder = out / UNFINISHED
        question = digest(dict(asked)).encode()
        if self._read(_ASKED) != question:
            shutil.rmtree(self.folder, ignore_errors=True)
            write_atomic(self.folder / _ASKED, seal_content(question))

    @property
    def proof(self) -> Path:
        """A file that is there as long as the prediction is unfinished."""
        return self.folder / _ASKED

    @property
    def is_new(self) -> bool:
        """True if nothing was recorded yet."""
        return not any(self.folder.glob("[0-9]*"))

    def find(self, number: int, files: Sequence[File]) -> Recorded | None:
        """Record of the batch of this number, if it was of these files; None where there is none."""
        content = self._read(_name(number))
        if content is None:
            return None
        table = validate(pa.ipc.open_file(pa.BufferReader(content)).read_all())
        facts = json.loads(table.schema.metadata[_FACTS])
        if [facts["paths"], facts.get("categories")] != [[file.path for file in files], _categories(files)]:
            return None
        ids = iter(table["image_id"].to_pylist())
        known = [_known(file, problem, ids) for file, problem in zip(files, facts["problems"], strict=True)]
        height, width = facts["shape"] or (0, 0)
        flat = table["map"].combine_chunks().flatten().to_numpy() if facts["shape"] else np.zeros(0, np.float32)
        maps = flat.reshape(table.num_rows, height, width)
        sizes = [(size[0], size[1]) for size in facts["sizes"]]
        regions = [[_region(one) for one in some] for some in facts["regions"]]
        return Recorded(known, table["score"].to_numpy(), sizes, regions, features_of(table), maps)

    def add(self, number: int, said: Recorded) -> None:
        """Record a batch."""
        shape = list(said.map_NHW.shape[1:]) if said.map_NHW.size else None
        paths, problems = [file.path for file in said.files], [file.problem for file in said.files]
        found = {"sizes": [*said.sizes], "regions": [[asdict(region) for region in some] for some in said.regions]}
        named = {"paths": paths, "categories": _categories(said.files)}
        facts = json.dumps({**named, "problems": problems, "shape": shape, **found})
        ids = [file.image_id for file in said.files if file.problem is None]
        columns = [pa.array(ids, pa.string()), pa.array(said.score_N, pa.float32()), features_column(said.feature_NS)]
        fields = [pa.field(name, kind) for name, kind in _SCORED]
        if shape:
            flat = pa.array(said.map_NHW.astype(np.float32).ravel())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, shape[0] * shape[1]))
            fields.append(pa.field("map", columns[-1].type))
        sink = pa.BufferOutputStream()
        table = pa.table(columns, schema=pa.schema(fields, {_FACTS: facts.encode()}))
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomic(self.folder / _name(number), seal_content(sink.getvalue().to_pybytes()))

    def drop(self) -> None:
        """The prediction is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, name: str) -> bytes | None:
        try:
            return unseal_content((self.folder / name).read_bytes())
        except OSError:
            return None


def _categories(files: Sequence[File]) -> list[str]:
    """Regions depend on them."""
    return [file.category for file in files]


def _region(facts: dict[str, Any]) -> Region:
    return Region(**facts | {"polygon": tuple(facts["polygon"])})


def _known(file: File, problem: str | None, ids: Iterator[str]) -> File:
    return replace(file, problem=problem) if problem is not None else replace(file, image_id=next(ids))


def _name(number: int) -> str:
    return f"{number:08d}"
