"""Names that somebody else chose: text on a terminal, text in a spreadsheet, and never a way out of a folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.errors import ArtifactError
from llb_ray.names import below, cell, component, from_cell, path_cell, refuse_links, shown

NAMES = st.text(st.characters(codec=None), max_size=200)
ACTIVE = ["a\x1b[2Jb", "a\nb", "a\rb", "a\x07", "a\x9b31m", "a\u202eb", "caf\udce9", "\u2028", "\x7f", "a\tb"]


@pytest.mark.parametrize("name", ACTIVE)
def test_nothing_that_a_terminal_acts_on_is_shown(name: str) -> None:
    assert shown(name).isprintable()
    assert shown(name) != name
    shown(name).encode()


@pytest.mark.parametrize("name", ["plain.png", "größe 1.png", "画像/一.png", "[red]x[/red]"])
def test_what_people_write_is_shown_as_it_is(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_is_a_formula(start: str) -> None:
    assert cell(f"{start}1+1") == f"'{start}1+1"
    assert from_cell(cell(f"{start}1+1")) == f"{start}1+1"
    assert path_cell(f"{start}1.png") == f"./{start}1.png"
    assert (cell(f"1{start}1"), path_cell(f"a/{start}1")) == (f"1{start}1", f"a/{start}1")


@given(NAMES)
def test_a_component_is_one_and_stays_itself(name: str) -> None:
    made = component(name)
    assert made not in ("", ".", "..")
    assert os.path.basename(made) == made
    assert len(made.encode()) <= 255
    assert component(made) == made


HOSTILE = ["..", "../x", "/x", "a/../../x", ".", "", "con:", "a\\b", "a\x00b", "a\nb", "x" * 300, "é" * 200, " a", "a."]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_can_be_no_folder_everywhere_is_spelt_otherwise(name: str) -> None:
    assert component(name) != name
    assert len({component(other) for other in HOSTILE}) == len(HOSTILE)


def test_a_reserved_name_is_taken_in_any_case() -> None:
    assert {component(name, ("good",)) == name for name in ("good", "GOOD", "Good")} == {False}
    assert component("goods", ("good",)) == "goods"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", "", ".", "a//b", "a\0b", "./a", 3, None])
def test_a_name_that_leaves_its_folder_is_refused(name: object, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="which is no path below it"):
        below(tmp_path, name)


def test_links_are_followed_inside_and_not_out(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "secret").touch()
    (tmp_path / "in" / "deep" / "fine").symlink_to(tmp_path / "in")
    refuse_links(tmp_path / "in")
    assert below(tmp_path / "in", "deep/fine")
    for number, target in enumerate([tmp_path / "secret", Path("../../secret"), tmp_path, tmp_path / "not there"]):
        (tmp_path / "in" / "deep" / str(number)).symlink_to(target)
        with pytest.raises(ArtifactError, match="is a link that leads out of"):
            below(tmp_path / "in", f"deep/{number}")
        with pytest.raises(ArtifactError, match="is a link that leads out of"):
            refuse_links(tmp_path / "in")
        (tmp_path / "in" / "deep" / str(number)).unlink()
