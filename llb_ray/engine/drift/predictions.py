"""Predictions that `predict` wrote, read again and divided into lots."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from llb_ray.data.lists import read_list
from llb_ray.data.tables import DAMAGED
from llb_ray.engine.drift.alarms import Lot
from llb_ray.engine.features.mean_features import FEATURES, features_of
from llb_ray.engine.inference.prediction_tables import FEATURED, FEATURES_FILE, SCORED
from llb_ray.engine.inference.verdicts import Calibration
from llb_ray.errors import DataError

FOLDER = "folder"  # lots by the folder that an image is in
_SCORES = "scores.parquet"
_READ = pa.schema([SCORED.field(name) for name in ("path", "image_id", "score", "decision", "quantile")])
Row = dict[str, Any]


def read_predictions(where: Path, calibration: Calibration) -> list[Row]:
    """The rows of a prediction (schema `_READ`), a folder of `predict` or its scores as Parquet or CSV.

    `FEATURES` of a row are its image's, None where the prediction has none.  Raises DataError for what is no
    prediction, has no row, or was made with another run than that of the calibration.
    """
    path = where / _SCORES if where.is_dir() else where
    if not path.exists():
        raise DataError(f"{where}: no prediction here (no {path.name}); give the folder that llb-ray predict wrote")
    tables = [_typed(path, table) for table in read_list(path)]
    features = _features(path.with_name(FEATURES_FILE))
    rows: list[Row] = [row | {FEATURES: features.get(row["image_id"])} for table in tables for row in table.to_pylist()]
    if not rows:
        raise DataError(f"{path}: no image; give the folder that llb-ray predict wrote")
    score_N, quantile_N = (np.array([row[name] for row in rows]) for name in ("score", "quantile"))
    held_out_N = calibration.held_out_N
    expected_N = np.searchsorted(held_out_N, score_N.astype(np.float32)) / len(held_out_N)
    if not np.allclose(expected_N, quantile_N, rtol=0, atol=1.5 / len(held_out_N)):
        raise DataError(f"{path}: was not predicted with this run: its quantiles are another's; name the run it is of")
    return rows


def _typed(path: Path, table: pa.Table) -> pa.Table:
    try:
        typed = table.select(_READ.names).cast(_READ)
    except (KeyError, ValueError) as error:  # also where a cell of a column is empty
        raise DataError(f"{path}: not the scores of llb-ray predict ({str(error).splitlines()[0]})") from error
    _refuse_odd(path, typed["score"])
    return typed


def _features(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The features [S] by image_id; none where there is no such file."""
    if not path.exists():
        return {}
    try:
        found = parquet.read_table(path).cast(FEATURED)
    except (OSError, ValueError, *DAMAGED) as error:
        raise DataError(f"{path}: not readable ({str(error).splitlines()[0]}); predict again") from error
    _refuse_odd(path, pc.list_flatten(found[FEATURES]))
    return dict(zip(found["image_id"].to_pylist(), features_of(found), strict=True))  # rows of one array


def _refuse_odd(path: Path, numbers: pa.ChunkedArray) -> None:
    """Raise DataError for an infinite number or none: it is in no test, and a lot would pass unseen."""
    if numbers.null_count or not np.isfinite(numbers.to_numpy()).all():
        raise DataError(f"{path}: has numbers that are not finite; predict these images again")


def lot_of(rows: Sequence[Row]) -> Lot:
    """The scores of these rows, and their features where all have some."""
    features = [row[FEATURES] for row in rows if row[FEATURES] is not None]
    score_N = np.array([row["score"] for row in rows])
    return Lot(score_N, np.array(features, np.float64) if len(features) == len(rows) else None)


def lots(predictions: Mapping[str, Sequence[Row]], by: str | None, table: Path | None) -> dict[str, Lot]:
    """Each lot, in the order of their names: a lot is a prediction, a folder, or a value of a column.

    With a column, `table` says which value each image has, by its `image_id`, or where it has none by its path.
    Raises DataError for an image of which it says nothing.
    """
    rows = [(name, row) for name, some in predictions.items() for row in some]
    if by is None:
        found = [name for name, _ in rows]
    elif table is None:
        found = [str(PurePosixPath(row["path"]).parent) for _, row in rows]
    else:
        found = _values(table, by, [row for _, row in rows])
    of_lots: dict[str, list[Row]] = {name: [] for name in sorted(set(found))}
    for lot, (_, row) in zip(found, rows, strict=True):
        of_lots[lot].append(row)
    return {lot: lot_of(some) for lot, some in of_lots.items()}


def _values(table: Path, column: str, rows: Sequence[Row]) -> list[str]:
    """The value of each row's image in a column of a table."""
    known, key = _column(table, column)
    missing = next((row for row in rows if row[key] not in known), None)
    if missing is not None:
        raise DataError(f"{table}: has no row for {missing['path']} (looked for by {key}); add it, or leave --by out")
    return [known[row[key]] for row in rows]


def _column(table: Path, column: str) -> tuple[dict[str, str], str]:
    """The values of a column by image, and the column that names images: `image_id`, or where it is missing `path`."""
    known: dict[str, str] = {}
    key = "path"
    for batch in read_list(table):
        if column not in batch.column_names:
            names = ", ".join(batch.column_names)
            raise DataError(f"{table}: has no column {column!r}; its columns are {names}")
        key = "image_id" if "image_id" in batch.column_names else "path"
        for image, value in zip(*(map(str, batch[name].to_pylist()) for name in (key, column)), strict=True):
            if known.setdefault(image, value) != value:
                raise DataError(f"{table}: {image} is in two lots, {known[image]} and {value}; leave one row")
    return known, key
