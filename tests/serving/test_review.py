"""`llb-ray review`: decisions of several tabs, undo, refused pages, and the whole way to a new run in Chromium."""

import csv
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
import requests
import uvicorn
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from llb_ray import api
from llb_ray.data.manifest import path_from_text
from llb_ray.data.tables import read_table
from llb_ray.ensemble.overrides import read_overrides
from llb_ray.errors import ArtifactError, DataError, ResourceError
from llb_ray.names import shown
from llb_ray.serving.decisions import Decision, Decisions, alone_with
from llb_ray.serving.photographs import Photographs, with_photographs
from llb_ray.serving.repurify_job import RepurifyJob
from llb_ray.serving.review import live, review_app
from tests.browser import chromium, complaints, until

_HOME = "http://127.0.0.1:8010"
_PATHS = {"a": "=1.png", "b": "b.png"}
_REPORT = "<meta content=\"script-src 'sha256-x'\"><body><script>1</script></body></html>"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "overrides.csv"


@pytest.fixture
def client(file: Path) -> TestClient:
    job = RepurifyJob(file.parent / "run", file, file.parent / "out", [])
    photographs = Photographs(file.parent / "photos", _PATHS.values())
    app = review_app(_REPORT, Decisions(file, _PATHS), job, photographs, "secret")
    return TestClient(app, base_url=_HOME)


def _rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(newline="")))


def test_decisions_are_saved_as_they_are_made_and_found_again(file: Path) -> None:
    said = Decisions(file, _PATHS)
    said.change({"a": Decision(decision="keep", note='say "yes", twice')})
    said.change({"b": Decision(decision="reject")})
    assert [(row["image_id"], row["path"], row["decision"]) for row in _rows(file)] == [
        ("a", "./=1.png", "keep"),
        ("b", "b.png", "reject"),
    ]
    assert Decisions(file, _PATHS).as_json() == said.as_json()
    said.undo()
    assert [row["image_id"] for row in _rows(file)] == ["a"]
    said.undo()
    said.undo()
    assert (_rows(file), said.can_undo) == ([], False)


@pytest.mark.parametrize(
    "note",
    ["=1+1", "-1 mm", "@x", "a\0b", "a\r\nb", "\u2028\u202e", "  blanks  ", "\U0001f600", '"', "x" * 2000],
)
@pytest.mark.parametrize("decision", ["keep", "reject", "unsure", ""])
def test_every_note_is_found_again_and_no_spreadsheet_evaluates_it(file: Path, note: str, decision: str) -> None:
    said = Decisions(file, _PATHS)
    said.change({"a": Decision(decision=decision, note=note), "b": Decision(decision="keep")})
    assert Decisions(file, _PATHS).as_json() == said.as_json()
    assert _rows(file)[0]["note"][:1] not in tuple("=+-@")
    images = pa.table({"image_id": list(_PATHS), "path": list(_PATHS.values())})
    found = {row["image_id"]: row for row in read_overrides(file, images).to_pylist()}
    assert found.keys() == ({"a", "b"} if decision else {"b"})
    assert not decision or found["a"]["note"] == note.strip()


@pytest.mark.parametrize("text", ["image_id,decision\nz,keep\n", "image_id,decision\na,perhaps\n", "x\n1\n", "\xff"])
def test_a_file_of_something_else_is_refused(file: Path, text: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="overrides.csv|this run does not have"):
        Decisions(file, _PATHS)
    assert file.read_bytes() == text.encode("latin-1")


def test_a_change_that_is_sent_twice_is_undone_once(file: Path) -> None:
    said = Decisions(file, _PATHS)
    for word in ("keep", "reject", "reject"):
        said.change({"a": Decision(decision=word)})
    said.change({"b": Decision()})
    said.undo()
    assert [row["decision"] for row in _rows(file)] == ["keep"]


def test_two_reviews_do_not_write_one_file(file: Path) -> None:
    with alone_with(file):
        with pytest.raises(ResourceError, match="another review saves its decisions here"), alone_with(file):
            pass
        with alone_with(file.with_name("other.csv")):
            pass
    with alone_with(file):
        pass


@pytest.mark.parametrize("path", ["decisions", "undo"])
def test_a_disk_that_takes_nothing_is_one_sentence_and_nothing_is_lost(
    client: TestClient, file: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, durable: bool = False) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    client.post("/secret/decisions", json={"a": {"decision": "keep"}}, headers={"Origin": _HOME})
    monkeypatch.setattr("llb_ray.serving.decisions.write_atomic", full)
    answer = client.post(f"/secret/{path}", json={"b": {"decision": "reject"}}, headers={"Origin": _HOME})
    assert answer.status_code == 507
    assert answer.text == f"{file}: No space left on device; decisions stay in the browser"
    assert client.get("/secret/state").json()["decisions"].keys() == {"a"}
    assert client.get("/secret/state").json()["can_undo"]


def test_two_tabs_keep_each_others_decisions(client: TestClient) -> None:
    for image, word in (("a", "keep"), ("b", "reject")):  # each tab sends what changed in it, and nothing else
        client.post("/secret/decisions", json={image: {"decision": word}}, headers={"Origin": _HOME})
    state = client.get("/secret/state").json()
    assert {image: one["decision"] for image, one in state["decisions"].items()} == {"a": "keep", "b": "reject"}
    assert client.post("/secret/undo", headers={"Origin": _HOME}).json()["decisions"].keys() == {"a"}


@pytest.mark.parametrize(
    "origin", [None, "null", "https://example.com", "http://127.0.0.1:9000", "http://localhost:8010"]
)
@pytest.mark.parametrize("path", ["decisions", "undo", "repurify"])
def test_another_page_changes_nothing(client: TestClient, path: str, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert client.post(f"/secret/{path}", json={"a": {"decision": "keep"}}, headers=headers).status_code == 403
    assert client.get("/secret/state").json()["decisions"] == {}


def test_only_who_has_the_path_is_served_and_only_under_this_machines_name(client: TestClient) -> None:
    assert client.get("/secret/").status_code == 200
    assert client.get("/").status_code == client.get("/other/").status_code == 404
    assert client.get("/secret/", headers={"Host": "photos.example"}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        *('{"z": {"decision": "keep"}}', '{"a": {"decision": "maybe"}}', "[1]", "nothing", '{"a": {"by": "x"}}', ""),
        *('{"a": {"note": "\\ud800"}}', '{"a": NaN}', "[" * 100_000, '{"a":' * 5000, f'{{"{"z" * 50_000}": null}}'),
        *('{"\\u001b[2J": null}', f'{{"a": {{"note": "{"x" * 2001}"}}}}', "null"),
    ],
)
def test_changes_that_make_no_sense_are_refused(client: TestClient, file: Path, body: str) -> None:
    answer = client.post("/secret/decisions", content=body, headers={"Origin": _HOME})
    assert answer.status_code == 422
    assert shown(answer.text) == answer.text
    assert len(answer.text) < 200
    assert not file.exists()


def test_a_body_without_end_is_refused(client: TestClient) -> None:
    body = bytes(33 * 2**20)
    assert client.post("/secret/decisions", content=body, headers={"Origin": _HOME}).status_code == 413


def test_repurify_needs_a_decision(client: TestClient) -> None:
    assert client.post("/secret/repurify", headers={"Origin": _HOME}).status_code == 422
    assert client.get("/secret/after").status_code == 404


def test_the_report_may_ask_its_own_server_and_nobody_else() -> None:
    page = live(_REPORT)
    assert "connect-src 'self'; script-src 'self' 'sha256-x'" in page
    assert page.endswith('<script src="live.js"></script></body></html>')


@pytest.mark.parametrize(
    "page", ["", "<html></html>", _REPORT.replace("</body>", ""), _REPORT.replace("script-src", "")]
)
def test_what_is_no_report_of_this_version_is_refused(page: str) -> None:
    with pytest.raises(ArtifactError, match="write it again with `llb-ray report`"):
        live(page)


_ODD = ["plain.png", "a b/\u00e4.png", "100%.png", "a?b#c.png", "photographs/x.png", "\\xff.png", "\\\\.png"]


@pytest.mark.parametrize("path", _ODD)
def test_a_photograph_of_the_run_is_shown_whatever_its_name(path: str, tmp_path: Path) -> None:
    file = tmp_path / "photos" / path_from_text(path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a photograph")
    app = Starlette(routes=[Route("/photographs/{path:path}", Photographs(tmp_path / "photos", _ODD).answer)])
    answer = TestClient(app).get(f"/photographs/{quote(os.fsencode(path_from_text(path)))}")
    assert (answer.status_code, answer.content) == (200, b"a photograph")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    file.unlink()
    assert TestClient(app).get(f"/photographs/{quote(os.fsencode(path_from_text(path)))}").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "%2e%2e/secret.txt", "/etc/passwd", "%2Fetc%2Fpasswd", "other.png", "%00", ""],
)
def test_no_other_file_is_shown(path: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("secret.txt", "photos/other.png"):
        (tmp_path / name).write_bytes(b"secret")
    named = ["a.png", "../secret.txt", "/etc/passwd"]  # a run's tables may be anybody's
    app = Starlette(routes=[Route("/photographs/{path:path}", Photographs(tmp_path / "photos", named).answer)])
    assert TestClient(app).get(f"/photographs/{path}").status_code == 404


def test_the_page_looks_for_photographs_on_its_own_server() -> None:
    assert with_photographs('{"key":"x","folder":"../../a%20b/","n":1}') == '{"key":"x","folder":"photographs/","n":1}'
    assert with_photographs('{"key":"x","folder":null}') == '{"key":"x","folder":null}'


@contextmanager
def _serving(finished: Path, folder: Path, port: int) -> Iterator[str]:
    """The address of a review of a run in a thread of its own, with its files in `folder`."""
    servers: list[uvicorn.Server] = []
    start = uvicorn.Server.run
    files = {"out": folder / "new", "decisions": folder / "overrides.csv"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.Server, "run", lambda self: (servers.append(self), start(self)))
        with api.review(finished, port=port, options=["--executor", "serial"], **files) as (address, run):
            thread = threading.Thread(target=run)
            thread.start()
            while not (servers and servers[0].started):
                time.sleep(0.02)
            yield address
            servers[0].should_exit = True
            thread.join()


@pytest.fixture
def reviewed(finished: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    api.report(finished)
    with _serving(finished, tmp_path, _free_port()) as address:
        yield address, tmp_path


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_READY = "return document.getElementById('live')?.textContent === 'Saved as you decide.'"
_WORD = "return document.querySelector(`.card[data-row='{0}'] [data-word={1}]`).getAttribute('aria-pressed') === 'true'"


@pytest.mark.timeout(900)
def test_decisions_in_two_tabs_undo_and_a_new_run(reviewed: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = reviewed
    saved = folder / "overrides.csv"
    with chromium(tmp_path / "one") as browser, chromium(tmp_path / "two") as other:
        for one in (browser, other):
            one.get(address)
            until(one, _READY)
        first, second = [card.get_attribute("data-row") for card in browser.find_elements(By.CSS_SELECTOR, ".card")[:2]]
        _decide(browser, first, "reject")
        _decide(other, second, "keep")
        until(browser, _WORD.format(second, "keep"))
        until(other, _WORD.format(first, "reject"))
        assert sorted(row["decision"] for row in _rows(saved)) == ["keep", "reject"]
        other.find_element(By.ID, "undo").click()
        until(browser, _WORD.replace("===", "!==").format(second, "keep"))
        assert [row["decision"] for row in _rows(saved)] == ["reject"]
        browser.find_element(By.ID, "repurify").click()
        give_up_s = time.monotonic() + 600
        while "After:" not in browser.find_element(By.ID, "live").text and time.monotonic() < give_up_s:
            time.sleep(0.2)
        assert "images changed. Of 36 planted defects, " in browser.find_element(By.ID, "live").text
        for width in (1280, 400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert complaints(browser) == []
    said = read_table(folder / "new" / "overrides.arrow").to_pylist()
    assert [row["decision"] for row in said] == ["reject"]


@pytest.mark.timeout(300)
def test_what_was_decided_while_the_server_was_gone_is_saved_when_it_is_back(finished: Path, tmp_path: Path) -> None:
    api.report(finished)
    port, saved = _free_port(), tmp_path / "overrides.csv"
    with chromium(tmp_path / "one") as browser:
        with _serving(finished, tmp_path, port) as address:
            browser.get(address)
            until(browser, _READY)
            cards = browser.find_elements(By.CSS_SELECTOR, ".card")
            first, second = [card.get_attribute("data-row") for card in cards[:2]]
            _decide(browser, first, "reject")
            until(browser, "return !document.getElementById('undo').disabled")
        _decide(browser, second, "keep")
        until(browser, "return document.getElementById('trouble').textContent.startsWith('The review has ended')")
        assert [row["decision"] for row in _rows(saved)] == ["reject"]
        with _serving(finished, tmp_path, port) as address:
            browser.get(address)
            until(browser, _READY)
            until(browser, "return !document.getElementById('undo').disabled")
            assert sorted(row["decision"] for row in _rows(saved)) == ["keep", "reject"]
            until(browser, _WORD.format(second, "keep"))


@pytest.mark.timeout(300)
def test_a_change_that_is_refused_keeps_no_other_from_being_saved(reviewed: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = reviewed
    with chromium(tmp_path / "one") as browser:
        browser.get(address)
        until(browser, _READY)
        first, second = [card.get_attribute("data-row") for card in browser.find_elements(By.CSS_SELECTOR, ".card")[:2]]
        browser.execute_script("document.getElementById('note').removeAttribute('maxlength')")
        browser.find_element(By.CSS_SELECTOR, f".card[data-row='{first}'] .picture").click()
        note = browser.find_element(By.ID, "note")
        browser.execute_script("arguments[0].value = 'x'.repeat(3000)", note)
        note.send_keys("y")
        until(browser, "return document.getElementById('trouble').textContent.startsWith('Not saved: ')")
        original = browser.find_element(By.ID, "original").get_attribute("href")
        assert original is not None
        assert requests.get(original, timeout=60).content.startswith(b"\x89PNG")
        browser.find_element(By.ID, "shut").click()
        _decide(browser, second, "keep")
        until(browser, "return document.getElementById('undo').disabled === false")
        assert [row["decision"] for row in _rows(folder / "overrides.csv")] == ["keep"]


def _decide(browser: WebDriver, row: str, word: str) -> None:
    button = browser.find_element(By.CSS_SELECTOR, f".card[data-row='{row}'] [data-word={word}]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)  # not behind the bar of decisions
    button.click()
