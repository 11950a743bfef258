"""Decisions of a review, by image: written to an overrides.csv after each change, and undone one change at a time."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from llb_ray.data.lists import read_records
from llb_ray.disk import write_atomic
from llb_ray.ensemble.overrides import WORDS
from llb_ray.errors import DataError, ResourceError
from llb_ray.names import cell, from_cell, path_cell, shown

_MOST_UNDONE = 1000


class Decision(BaseModel):
    """A word on an image, or none yet, and a note."""

    model_config = ConfigDict(extra="forbid")
    decision: str = Field("", pattern=f"^({'|'.join(WORDS)})?$")
    note: Annotated[str, Field(max_length=2000)] = ""


Changes = Mapping[str, Decision | None]


@contextlib.contextmanager
def alone_with(file: Path) -> Iterator[None]:
    """Inside, no other review writes the file; raises ResourceError where one does, which would undo what it saves."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file.with_name(f".{file.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise ResourceError(
            f"{file}: another review saves its decisions here; go on there, or name other --decisions"
        ) from error


class Decisions:
    """The decisions on the images of a run; `version` rises with each change."""

    def __init__(self, file: Path, paths: Mapping[str, str]) -> None:
        """Those that the file has, if it is there; `paths` is where each image is, by image_id.

        Raises DataError for a file that is about other images.
        """
        self._file, self._paths = file, paths
        self._said: dict[str, Decision] = self._read() if file.exists() else {}
        self._before: list[dict[str, Decision | None]] = []
        self.version = 0

    def change(self, changes: Changes) -> None:
        """Replace the decisions on these images alone; raises DataError for an image that the run does not have."""
        unknown = next((image_id for image_id in changes if image_id not in self._paths), None)
        if unknown is not None:
            raise DataError(
                f"image '{shown(unknown[:64])}' is not among the training images of this run; reload the page"
            )
        before = {image_id: self._said.get(image_id) for image_id in changes}
        if before == {image_id: one if one != Decision() else None for image_id, one in changes.items()}:
            return  # sent twice: undo takes back a change that can be seen
        self._apply(changes)
        self._before = [*self._before[1 - _MOST_UNDONE :], before]

    def undo(self) -> None:
        """Take back the last change, from any page; without one, nothing happens."""
        if self._before:
            self._apply(self._before[-1])
            self._before.pop()

    @property
    def can_undo(self) -> bool:
        return bool(self._before)

    @property
    def num_decided(self) -> int:
        return sum(bool(one.decision) for one in self._said.values())

    def as_json(self) -> dict[str, dict[str, str]]:
        """All of them, by image_id."""
        return {image_id: one.model_dump() for image_id, one in self._said.items()}

    def _apply(self, changes: Changes) -> None:
        said = dict(self._said)
        for image_id, one in changes.items():
            if one is None or one == Decision():
                said.pop(image_id, None)
            else:
                said[image_id] = one
        self._write(said)
        self._said = said
        self.version += 1

    def _write(self, said: Mapping[str, Decision]) -> None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["image_id", "path", "decision", "note"])
        for image_id, one in said.items():
            writer.writerow([image_id, path_cell(self._paths[image_id]), one.decision, cell(one.note)])
        write_atomic(self._file, text.getvalue().encode("utf-8", "surrogateescape"), durable=True)

    def _read(self) -> dict[str, Decision]:
        try:
            with self._file.open(newline="", encoding="utf-8-sig") as file:
                rows = list(read_records(file))
            found = {
                row["image_id"]: Decision(decision=row["decision"], note=from_cell(row.get("note") or ""))
                for row in rows
            }
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise DataError(f"{self._file}: not an overrides.csv; move it, or name another --decisions") from error
        if not found.keys() <= self._paths.keys():
            raise DataError(f"{self._file}: is about images that this run does not have; name another --decisions")
        return found
