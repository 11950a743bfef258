"""README.md, docs/ and the code are in plain English: no private metaphors; docstrings open as the field's do."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEMPLATES = [path for path in sorted((ROOT / "llb_ray/report/page").iterdir()) if path.suffix != ".css"]
MODULES = sorted((ROOT / "llb_ray").rglob("*.py"))
BANNED = [
    "anew",
    "aloud",
    "noughts?",
    "mend(?:s|ed|ing)?",
    "foretells?",
    "foretold",
    "told",
    "dealt",
    "crew",
    "labour",
    "lies?",
    "lying",
    "lay",
    "laid over",
    "people's",
    "put aside",
    "thrown (?:away|out)",
    "at work",
    "in the small",
    "or rather",
    "(?:is|are) there already",
    "found finished",
    "whoever",
    "nobody",
    "gone on with",
    "people (?:open|call)",
]
_BANNED = re.compile(r"\b(" + "|".join(BANNED).replace(" ", r"[\s#]+") + r")\b", re.IGNORECASE)
_FREE_CLAUSE = re.compile(r"(what|how|where|whether|which|who|whose|whom|when|why|if)\b", re.IGNORECASE)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstrings(source: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of the module, and of each of its classes and functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _Documented) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def _words(source: str) -> Iterator[str]:
    """String literals, docstrings and comments of a module; implicitly joined literals as one."""
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    yield from (value for value in constants if isinstance(value, str))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield " ".join(token.string for token in tokens if token.type == tokenize.COMMENT)


def _is_free_clause(docstring: str) -> bool:
    first = docstring.strip().split("\n\n")[0]
    return bool(_FREE_CLAUSE.match(first)) or bool(re.fullmatch(r"[^.:]*\?", first))


@pytest.mark.parametrize("page", [*PAGES, *TEMPLATES], ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_banned_word(page: Path) -> None:
    assert _BANNED.findall(page.read_text()) == []


def test_no_module_has_a_banned_word() -> None:
    texts = ((module.relative_to(ROOT), text) for module in MODULES for text in _words(module.read_text()))
    assert [(str(module), found, text[:90]) for module, text in texts for found in _BANNED.findall(text)] == []


def test_docstrings_open_with_a_noun_or_a_verb() -> None:
    all_of_them = ((module, *named) for module in MODULES for named in _docstrings(module.read_text()))
    assert [
        (str(module.relative_to(ROOT)), name, text[:90]) for module, name, text in all_of_them if _is_free_clause(text)
    ] == []


@pytest.mark.parametrize("text", ["fits these anew", "Aloud,", "they are put\naside", "# no\n# noughts", "it lies in"])
def test_banned_words_are_found(text: str) -> None:
    assert _BANNED.search(text)


@pytest.mark.parametrize("text", ["renewed", "allowed", "layer", "recommended", "earliest", "delays"])
def test_words_that_contain_them_are_not(text: str) -> None:
    assert not _BANNED.search(text)


@pytest.mark.parametrize("source", ['"a told b"', 'f"told {x}"', '"""Told."""', "x = 1  # told", '("a to"\n "ld")'])
def test_every_place_of_a_module_is_read(source: str) -> None:
    assert any(_BANNED.search(text) for text in _words(source))


@pytest.mark.parametrize("text", ["What a run is.", "Whether it holds.", "How far it is", "Is it there?", "why: so"])
def test_free_clauses_are_found(text: str) -> None:
    assert _is_free_clause(text)


@pytest.mark.parametrize("text", ["True if it holds.", "Wholes of parts.", "Audit of a run: does it follow?"])
def test_noun_phrases_are_not(text: str) -> None:
    assert not _is_free_clause(text)
