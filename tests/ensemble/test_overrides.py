"""Decisions by hand: what the file may say, and what it does to the filter's decisions."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llb_ray.config import PurifyConfig
from llb_ray.data.manifest import IMAGES
from llb_ray.ensemble.overrides import OVERRIDES, apply_overrides, merge_overrides, read_overrides
from llb_ray.ensemble.purified_dataset import kept_ids, purified_dataset
from llb_ray.ensemble.score_matrix import SCORES
from llb_ray.errors import DataError

IDS = [f"{number:032x}" for number in range(8)]
PATHS = ["plain.png", "=cmd.png", 'quo"te,comma.png', " space.png", "line\nbreak.png", "-1.png", "@x.png", "späß.png"]


def _purified() -> pa.Table:
    """Eight images, the last two rejected."""
    images = pa.table([IDS, PATHS, ["c"] * 8, IDS, ["train"] * 8], schema=IMAGES)
    scores = pa.table([IDS, [0, 1] * 4, [[float(n), float(n)] for n in range(8)]], schema=SCORES)
    return purified_dataset(PurifyConfig(keep_ratio=0.75), 0, images, scores).table


@pytest.fixture(scope="module")
def purified() -> pa.Table:
    return _purified()


def _file(path: Path, rows: Sequence[Sequence[str]], header: str = "image_id,path,decision,note") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def _said(*rows: tuple[str, str, str, str]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=OVERRIDES)


def test_a_file_is_read_by_image_id_whatever_its_order(purified: pa.Table, tmp_path: Path) -> None:
    rows = [(IDS[7], PATHS[7], "keep", "a shadow"), (IDS[0], PATHS[0], "reject", "")]
    found = read_overrides(_file(tmp_path / "o.csv", rows), purified, "Ada")
    assert found.to_pylist() == [
        {"image_id": IDS[0], "decision": "reject", "by": "Ada", "note": ""},
        {"image_id": IDS[7], "decision": "keep", "by": "Ada", "note": "a shadow"},
    ]


def test_a_spreadsheets_byte_order_mark_and_a_file_without_paths_are_read(purified: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text(f"\ufeffimage_id,decision\n{IDS[3]},unsure\n")
    assert read_overrides(tmp_path / "o.csv", purified)["decision"].to_pylist() == ["unsure"]


def test_every_path_that_the_page_can_write_is_recognised(purified: pa.Table, tmp_path: Path) -> None:
    shown = [path if path[0].isalpha() else f"./{path}" for path in PATHS]
    rows = [(image_id, path, "unsure", "") for image_id, path in zip(IDS, shown, strict=True)]
    assert read_overrides(_file(tmp_path / "o.csv", rows), purified).num_rows == 8


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("f" * 32, "plain.png", "keep", "")], "line 2: image 'f+' is not among the training images of this run"),
        ([(IDS[0], PATHS[0], "keep", ""), (IDS[0], PATHS[0], "keep", "")], f"image {IDS[0]} is there twice"),
        ([(IDS[0], PATHS[0], "Keep!", "")], "line 2: decision 'Keep!' is not one of keep, reject, unsure"),
        ([(IDS[0], PATHS[0], "", "")], "line 2: decision '' is not one of"),
        ([(IDS[0], "=cmd.png", "keep", "")], "is 'plain.png' in this run, not '=cmd.png'; were the columns sorted"),
        ([(IDS[0], PATHS[0], "", "later")], "holds no decision; make some in the run's report.html"),
        ([], "holds no decision; make some in the run's report.html"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    rows: list[tuple[str, ...]], sentence: str, purified: pa.Table, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=sentence) as refusal:
        read_overrides(_file(tmp_path / "o.csv", rows), purified)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_spreadsheet_may_separate_columns_by_other_signs(purified: pa.Table, tmp_path: Path, separator: str) -> None:
    rows = ["image_id,path,decision,note", f"{IDS[0]},{PATHS[0]},reject,a note"]
    (tmp_path / "o.csv").write_text("\n".join(rows).replace(",", separator))
    assert read_overrides(tmp_path / "o.csv", purified).to_pylist() == [
        {"image_id": IDS[0], "decision": "reject", "by": "", "note": "a note"}
    ]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"image_id decision\n", b"a,b\n1,2\n"])
def test_what_is_no_such_file_is_one_sentence(content: bytes, purified: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"o\.csv: (has no column image_id|not a readable CSV file)"):
        read_overrides(tmp_path / "o.csv", purified)
    with pytest.raises(DataError, match="not a readable CSV file .No such file"):
        read_overrides(tmp_path / "gone.csv", purified)


def test_decisions_and_reasons_say_who_and_against_what(purified: pa.Table) -> None:
    said = _said((IDS[7], "keep", "Ada", ""), (IDS[0], "reject", "", ""), (IDS[1], "keep", "Ada", ""))
    reason = dict(zip(IDS, purified["reason"].to_pylist(), strict=True))
    after = {row["image_id"]: row for row in apply_overrides(purified, said).to_pylist()}
    assert after[IDS[7]]["reason"] == f"kept by hand (Ada): the filter had rejected it ({reason[IDS[7]]})"
    assert after[IDS[0]]["reason"] == f"rejected by hand: the filter had kept it ({reason[IDS[0]]})"
    assert after[IDS[1]]["reason"] == f"kept by hand (Ada), as by the filter ({reason[IDS[1]]})"
    assert kept_ids(apply_overrides(purified, said)) == [*IDS[1:6], IDS[7]]


@given(st.dictionaries(st.sampled_from(IDS), st.sampled_from(["keep", "reject", "unsure"]), min_size=1, max_size=7))
def test_nothing_changes_but_what_was_decided(words: dict[str, str]) -> None:
    before = _purified()
    word_of = {row["image_id"]: words.get(row["image_id"], "unsure") for row in before.to_pylist()}
    kept = {row["image_id"] for row in before.to_pylist() if row["decision"] == "kept"}
    assume(any(word == "keep" or (word == "unsure" and name in kept) for name, word in word_of.items()))
    after = apply_overrides(before, _said(*((image_id, word, "", "") for image_id, word in words.items())))
    assert after.schema == before.schema
    for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
        word = words.get(old["image_id"], "unsure")
        assert new["decision"] == {"keep": "kept", "reject": "rejected", "unsure": old["decision"]}[word]
        changed = {name for name in old if old[name] != new[name]}
        assert changed <= (set() if word == "unsure" else {"decision", "reason", "trust"})
        decided = {"keep": 1, "reject": 0}
        assert new["trust"] == decided.get(word, old["trust"])


def test_the_later_word_counts_and_unsure_gives_back_to_the_filter(purified: pa.Table) -> None:
    earlier = _said((IDS[6], "keep", "Ada", ""), (IDS[7], "keep", "Ada", ""))
    both = merge_overrides(earlier, _said((IDS[7], "unsure", "Ben", "")))
    assert [(row["image_id"], row["decision"], row["by"]) for row in both.to_pylist()] == [
        (IDS[6], "keep", "Ada"),
        (IDS[7], "unsure", "Ben"),
    ]
    assert kept_ids(apply_overrides(purified, both)) == IDS[:7]


def test_a_stranger_and_an_empty_set_are_refused(purified: pa.Table) -> None:
    with pytest.raises(DataError, match="is not among the training images"):
        apply_overrides(purified, _said(("f" * 32, "keep", "", "")))
    with pytest.raises(DataError, match="every image is rejected"):
        apply_overrides(purified, _said(*((image_id, "reject", "", "") for image_id in IDS)))
