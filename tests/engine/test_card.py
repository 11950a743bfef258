"""The card of a run says what it was made of, for people; the audit derives it again."""

import json
import shutil
from pathlib import Path

import pytest

import llb_ray
from llb_ray.engine.rundir import run_card
from llb_ray.errors import AuditError
from tests.support import republish


def test_the_card_says_what_the_run_was_made_of(finished_bank: Path) -> None:
    card = (finished_bank / "card.md").read_text()
    threshold = json.loads((finished_bank / "threshold.json").read_text())
    for text in (
        "# Card of a detector of anomalies: weave",
        "| kind | memory\\_bank |",
        "| training images | 48, of 24 objects |",
        "| kept for training | 36 |",
        "| rejected as anomalous | 12 |",
        f"| score | {threshold['threshold']:.4g} (",
        "| I-AUROC | ",
        "## Limits",
        "| their licence | not known: they are a file of yours |",
    ):
        assert text in card
    assert str(finished_bank) not in card, "no path of this machine"


def test_a_run_without_pretrained_weights_says_so(finished: Path) -> None:
    assert "| pretrained weights | none are used |" in (finished / "card.md").read_text()


def test_another_threshold_is_in_the_card(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    facts = llb_ray.threshold(run, false_alarm_rate=0.1)
    assert f"| score | {facts['threshold']:.4g} (" in (run / "card.md").read_text()
    assert any("the card follows" in sentence for sentence in llb_ray.audit(run, rescore=None))


@pytest.mark.parametrize("change", [("| kept for training | 36 |", "| kept for training | 47 |"), ("## Limits\n", "")])
def test_a_forged_card_is_found(change: tuple[str, str], finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    card = run / "card.md"
    card.write_text(card.read_text().replace(*change))
    republish(run, "card.md")
    with pytest.raises(AuditError, match=r"card\.md: says .*, but the run gives"):
        llb_ray.audit(run, rescore=None)


def test_a_card_of_another_version_is_not_derived_again(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "card.md").write_text("# Card\n\nMade by llb_ray 7.0\n")
    republish(run, "card.md")
    assert any("another version" in sentence for sentence in llb_ray.audit(run, rescore=None))


def test_a_run_of_before_has_none(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "card.md").unlink()
    index = json.loads((run / "run.json").read_text())
    del index["published"]["card.md"]
    (run / "run.json").write_text(json.dumps(index))
    assert any("no card was written" in sentence for sentence in llb_ray.audit(run, rescore=None))


@pytest.mark.parametrize("name", ["<script>x", "a|b", "a\nb", "[x](y)", "*b*", "`c`"])
def test_names_are_text(name: str) -> None:
    text = run_card._text(name)
    assert "\n" not in text
    assert all(text[at - 1] == "\\" for at, sign in enumerate(text) if sign in "<>|[]*`")
