"""README.md and docs/ are in plain English: no private metaphors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BANNED = ("anew", "aloud", "noughts", "foretold", "laid over", "put aside")
_BANNED = re.compile(r"\b(" + "|".join(BANNED).replace(" ", r"\s+") + r")\b", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_banned_word(page: Path) -> None:
    assert _BANNED.findall(page.read_text()) == []


@pytest.mark.parametrize("text", ["fits these anew", "Aloud,", "are laid\nover white"])
def test_banned_words_are_found(text: str) -> None:
    assert _BANNED.search(text)


@pytest.mark.parametrize("text", ["renewed", "allowed", "laid out"])
def test_words_that_contain_them_are_not(text: str) -> None:
    assert not _BANNED.search(text)
