"""Place and layout of a data set, and which part of it is listed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llb_ray.config.base import Settings

Kind = Literal["folder", "mvtec", "visa", "real_iad", "table", "arrays"]
_FOR: dict[str, tuple[Kind, ...]] = {  # the kinds that an option has a meaning for; all where it is not named
    "categories": ("mvtec", "visa", "real_iad", "table"),
    "group_pattern": ("folder", "mvtec", "visa"),
    "table": ("visa", "table"),
    "views": ("real_iad",),
    "images": ("real_iad",),
    "alpha": ("real_iad",),
    "write_to": ("arrays",),
}


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
        description="table: the list (.csv, .tsv, .parquet, .txt); visa: a split other than 1cls.csv; below the root",
    )
    views: Literal["multi", "single"] = Field("multi", description="real_iad: all five, or the top view (C1) alone")
    images: Literal["realiad_1024", "realiad_512", "realiad_256", "realiad_raw"] | None = Field(
        None, description="real_iad: the folder of the images; default: the one that is there"
    )
    alpha: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="real_iad: the official contaminated (FUIAD) lists at this share; default: the clean ones"
    )
    write_to: Path | None = Field(None, description="arrays: the folder that the images are written to")
    check_files: bool = Field(True, description="look for every image and mask, and compare their sizes")
    skip_bad: bool = Field(False, description="leave out images with a problem instead of refusing all")


class DatasetConfig(DatasetOptions):
    """A data set: its layout, its place, and the options."""

    kind: Kind = Field(description="layout of the data set")
    root: Path = Field(description="its folder; arrays: the .npz file")

    @model_validator(mode="after")
    def _options_have_a_meaning(self) -> "DatasetConfig":
        for name, kinds in _FOR.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with kind {self.kind}; it is for {' and '.join(kinds)}")
        if self.kind == "table" and self.table is None:
            raise ValueError("kind table needs table, the CSV, TSV, Parquet or text file that lists the images")
        if self.kind == "arrays" and self.write_to is None:
            raise ValueError("kind arrays needs write_to, the folder that the images are written to")
        return self

    def options(self) -> DatasetOptions:
        """The options alone."""
        return DatasetOptions.model_validate(self.model_dump(exclude={"kind", "root"}, exclude_unset=True))

    def placed(self, below: Path, out: Path) -> "DatasetConfig":
        """The same data set for a recipe: its root below one folder, what it writes below another."""
        written = None if self.write_to is None else out / self.write_to
        return self.model_copy(update={"root": below / self.root, **({} if written is None else {"write_to": written})})
