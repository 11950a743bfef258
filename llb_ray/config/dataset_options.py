"""Place and layout of a data set, and which part of it is listed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from llb_ray.config.base import Settings
from llb_ray.extensions import DATASETS


class AdapterTraits:
    """Options of a data set that an adapter of one layout reads; `data.adapters.base.Adapter` adds how."""

    options: ClassVar[frozenset[str]] = frozenset()  # that have a meaning, besides those that always have
    needs: ClassVar[Mapping[str, str]] = {}  # options that must be given, and what each one is


def _adapter(kind: str) -> type[AdapterTraits]:
    return DATASETS.load(kind, AdapterTraits)


def _known(kind: str) -> str:
    if problem := DATASETS.problem(kind):
        raise ValueError(problem)
    return kind


Kind = Annotated[str, AfterValidator(_known)]


class DatasetOptions(Settings):
    """Options of a data set besides its layout and place."""

    categories: tuple[str, ...] = Field((), description="only these; default: all that are there")
    group_pattern: str | None = Field(
        None, description="regular expression searched in the relative path; its first group names the object"
    )
    columns: Path | None = Field(
        None, description="CSV or Parquet below the root: `path` (its suffix does not count) and columns to add"
    )
    table: Path | None = Field(
        None,
        description="table: the list (.csv, .tsv, .parquet, .txt); visa: a split other than 1cls.csv; coco, cvat: the "
        "file of labels; below the root",
    )
    views: Literal["multi", "single"] = Field("multi", description="real_iad: all five, or the top view (C1) alone")
    images: Literal["realiad_1024", "realiad_512", "realiad_256", "realiad_raw"] | None = Field(
        None, description="real_iad: the folder of the images; default: the one that is there"
    )
    alpha: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="real_iad: the official contaminated (FUIAD) lists at this share; default: the clean ones"
    )
    write_to: Path | None = Field(None, description="arrays, huggingface: the folder that the images are written to")
    check_files: bool = Field(True, description="look for every image and mask, and compare their sizes")
    skip_bad: bool = Field(False, description="leave out images with a problem instead of refusing all")


class DatasetConfig(DatasetOptions):
    """A data set: its layout, its place, and the options."""

    kind: Kind = Field(description="layout of the data set")
    root: Path = Field(description="its folder; arrays: the .npz file")

    @model_validator(mode="after")
    def _options_have_a_meaning(self) -> "DatasetConfig":
        for name, spec in DatasetOptions.model_fields.items():
            if getattr(self, name) != spec.default:
                self._refuse_without_meaning(name)
        for name, what in _adapter(self.kind).needs.items():
            if getattr(self, name) is None:
                raise ValueError(f"kind {self.kind} needs {name}, {what}")
        return self

    def _refuse_without_meaning(self, name: str) -> None:
        """Raise ValueError for an option that has a meaning for other kinds alone."""
        kinds = [kind for kind in DATASETS.names() if name in _adapter(kind).options]
        if kinds and self.kind not in kinds:
            raise ValueError(f"{name} has no effect with kind {self.kind}; it is for {' and '.join(kinds)}")

    def options(self) -> DatasetOptions:
        """The options alone."""
        return DatasetOptions.model_validate(self.model_dump(exclude={"kind", "root"}, exclude_unset=True))

    def placed(self, below: Path, out: Path) -> "DatasetConfig":
        """The same data set for a recipe: its root below one folder, what it writes below another."""
        written = None if self.write_to is None else out / self.write_to
        return self.model_copy(update={"root": below / self.root, **({} if written is None else {"write_to": written})})
