"""Verdicts of a prediction that a person corrected, as decisions by hand.

The person edits the column `decision` of scores.csv; scores.parquet beside it has what was predicted.
"""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from llb_ray.data.lists import read_records
from llb_ray.data.tables import DAMAGED
from llb_ray.engine.inference.prediction_tables import SCORES_FILE
from llb_ray.engine.inference.verdicts import ANOMALOUS, NORMAL
from llb_ray.ensemble.overrides import KEEP, OVERRIDES, REJECT
from llb_ray.errors import DataError

_DECISIONS = {NORMAL: KEEP, ANOMALOUS: REJECT}


def read_corrections(prediction: Path, by: str) -> pa.Table:
    """The verdicts in ``scores.csv`` that differ from those predicted (schema `OVERRIDES`, in image_id order).

    Raises DataError where the folder has no prediction, none differs, or a word is no verdict.
    """
    path = prediction / "scores.csv"
    said, predicted = _corrected(path), _predicted(prediction / SCORES_FILE)
    rows = [
        [image_id, _DECISIONS[decision], by, f"predicted {predicted[image_id]}"]
        for image_id, decision in sorted(said.items())
        if image_id in predicted and decision != predicted[image_id]
    ]
    if not rows:
        raise DataError(f"{path}: no decision differs from what was predicted; edit its column decision, or drop it")
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=OVERRIDES)


def _corrected(path: Path) -> dict[str, str]:
    """The decision on each image; copies of one image have to agree."""
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in read_records(file):
                image_id, said = ((row.get(name) or "").strip() for name in ("image_id", "decision"))
                if said not in _DECISIONS:
                    raise DataError(f"{path}: image {image_id}: {said!r} is not {NORMAL} or {ANOMALOUS}; correct it")
                if found.setdefault(image_id, said) != said:
                    raise DataError(f"{path}: image {image_id} has two different decisions; make them equal")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: not a readable CSV file ({reason}); give the folder of a prediction") from error
    return found


def _predicted(path: Path) -> dict[str, str]:
    try:
        table = parquet.read_table(path, columns=["image_id", "decision"])
    except (OSError, *DAMAGED) as error:
        raise DataError(f"{path}: not readable ({str(error).splitlines()[0]}); predict again") from error
    return dict(zip(table["image_id"].to_pylist(), table["decision"].to_pylist(), strict=True))
