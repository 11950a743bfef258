"""What a robust memory reads of the rejected images: all but those that a person rejected, and never as usual."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine import files
from llb_ray.engine.member import trained_on
from llb_ray.engine.runfolder import RunFolder
from llb_ray.ensemble.rounds import kept_in_any
from llb_ray.errors import AuditError


def _decided(run: Path, decision: str) -> list[str]:
    rows = read_table(run / "purified" / "part-0.arrow").to_pylist()
    return [row["image_id"] for row in rows if row["decision"] == decision]


def _given(run: Path) -> tuple[set[str], set[str]]:
    final = RunFolder.open(run).made().final
    return set(trained_on(final)), set(trained_on(final, as_suspects=True))


def test_rejected_images_are_suspects_of_the_final_memory(finished_bank: Path) -> None:
    assert _given(finished_bank) == (set(_decided(finished_bank, "kept")), set(_decided(finished_bank, "rejected")))
    assert any("rejected ones that it doubts" in passed for passed in llb_ray.audit(finished_bank))


def test_what_a_person_rejects_is_not_read(finished_bank: Path, tmp_path: Path) -> None:
    kept, rejected = _decided(finished_bank, "kept")[0], _decided(finished_bank, "rejected")
    csv = tmp_path / "overrides.csv"
    csv.write_text(f"image_id,decision\n{kept},reject\n{rejected[0]},reject\n{rejected[1]},keep\n")
    llb_ray.repurify(finished_bank, csv, out=tmp_path / "new", executor="serial")
    normal, suspects = _given(tmp_path / "new")
    assert suspects == set(rejected[2:])
    assert rejected[1] in normal
    assert kept not in normal | suspects
    llb_ray.audit(tmp_path / "new")


@pytest.mark.parametrize("settings", [["purify.filter=none"], ["detector.memory=plain"]])
def test_other_memories_read_none(settings: list[str], photos: Path, tiny_bank: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny_bank, settings)
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    assert _given(tmp_path / "run") == (set(_decided(tmp_path / "run", "kept")), set())


def test_a_suspect_taken_for_normal_is_named(finished_bank: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_bank, tmp_path / "run"))
    path = run / "artifacts" / json.loads((run / "run.json").read_text())["artifacts"]["final"] / "trained_on.arrow"
    table = read_table(path)
    path.unlink()
    write_table(path, table.set_column(1, "suspect", pa.array([False] * len(table))))
    with pytest.raises(AuditError, match=r"final detector's training images: .*kept set"):
        llb_ray.audit(run)


def test_the_threshold_comes_from_detectors_that_had_not_seen_the_image(finished_bank: Path) -> None:
    made = RunFolder.open(finished_bank).made()
    assert len(made.fold_scores) == 2
    threshold = json.loads((finished_bank / "threshold.json").read_text())
    # What the first round kept counts, although the second judged by these very scores.
    kept = kept_in_any([read_table(decided.file(files.PURIFIED)) for decided in made.rounds])
    assert threshold["num_held_out"] == len(kept)
