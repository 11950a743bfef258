"""The report in a real Chromium, from a disk and without a network; file names are as hostile as names can be."""

import csv
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.manifest import path_text
from llb_ray.data.tables import read_table
from tests.browser import chromium, complaints, requests, until

HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    '"><script>alert(2)</script>.png',  # a folder, and a file in it
    "=HYPERLINK(evil).png",
    'quo"te, comma.png',
    "line\nbreak.png",
    "back\\slash \udce9 späß #1?.png",
    "{{ 7*7 }} &lt;b&gt; ${x}.png",
]
WORDS = """
return [...document.querySelectorAll('.card')].map((card) => [card.querySelector('bdi').textContent, card.dataset.said])
"""
FIND = """
const find = document.getElementById('find');
find.value = arguments[0];
find.dispatchEvent(new Event('input'));
"""
STRANGERS = "img:not([src^='data:image/webp']), script:not([type]) ~ script, b b"
CARDS = "return [...document.querySelectorAll('.card')].map((card) => card.querySelector('bdi').textContent)"
LUMINANCE = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const colour = rgb(getComputedStyle(element).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
};
const poor = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.disabled || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const [a, b] = [light(rgb(element.closest('svg') ? style.fill : style.color)), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push([element.tagName, element.className, element.textContent.slice(0, 30), ratio]);
}
return poor;
"""


@pytest.fixture(scope="module")
def run(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 72 unlabelled images, seven of which have hostile names, and a quarantined file with another."""
    folder = tmp_path_factory.mktemp("hostile")
    data = folder / "data #1"
    data.mkdir()
    for number, path in enumerate(sorted(photos.rglob("t*/**/*.png"))):
        named = data / (HOSTILE[number] if number < len(HOSTILE) else f"lot{number % 3}/tile{number}.png")
        named.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, named)
    (data / "<img src=y onerror=alert(3)>.txt").write_text("no image")
    config = with_overrides(tiny, ["data.group_pattern=null"])
    llb_ray.run(config, llb_ray.read_folder(data, config), out=folder / "run", executor="serial")
    llb_ray.write_report(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder) as driver:
        driver.downloads = folder  # type: ignore[attr-defined]
        yield driver


@pytest.fixture
def page(browser: WebDriver, run: Path) -> WebDriver:
    """The report, newly opened, with no decision yet."""
    return _opened(browser, run)


def _opened(browser: WebDriver, run: Path) -> WebDriver:
    browser.get((run / "report.html").as_uri())
    browser.execute_script("localStorage.clear()")
    complaints(browser)
    requests(browser)
    browser.refresh()
    until(browser, "return [...document.querySelectorAll('.card canvas')].every((one) => one.width !== 300)")
    return browser


def _cards(page: WebDriver) -> list[str]:
    names: list[str] = page.execute_script(CARDS)
    return names


def _click(page: WebDriver, selector: str) -> None:
    page.execute_script("document.querySelector(arguments[0]).click()", selector)


def _find(page: WebDriver, name: str) -> None:
    page.execute_script(FIND, path_text(name.splitlines()[0]))


def _focus_on(page: WebDriver, name: str) -> None:
    """Waits until the card of this name has the focus: a key returns before the page has answered it."""
    until(page, "return document.activeElement.querySelector('bdi')?.textContent === arguments[0]", name)


def _text(page: WebDriver, element: str, text: str) -> None:
    """Waits until the element of this id says so."""
    until(page, "return document.getElementById(arguments[0]).textContent.startsWith(arguments[1])", element, text)


def _said(page: WebDriver) -> dict[str, str]:
    return {name: word for name, word in page.execute_script(WORDS) if word}


def _all_said(page: WebDriver, said: dict[str, str]) -> None:
    """Waits until these decisions, and no others, are shown."""
    WebDriverWait(page, 60, 0.05).until(lambda one: _said(one) == said)


def _type(page: WebDriver, keys: str) -> None:
    page.switch_to.active_element.send_keys(keys)


def test_it_opens_without_a_complaint_and_asks_for_nothing(page: WebDriver, run: Path) -> None:
    assert len(_cards(page)) > 0
    _click(page, "[data-show=all]")
    _click(page, "#next")
    assert complaints(page) == []
    assert requests(page) <= {(run / "report.html").as_uri(), "data:", "data:image/webp;base64"}


def test_hostile_names_are_text_everywhere(page: WebDriver, run: Path) -> None:
    _click(page, "[data-show=all]")
    names = _cards(page)
    _click(page, "#next")
    names += _cards(page)
    expected = {path_text(name) for name in HOSTILE}
    assert expected < set(names)
    for name in expected:
        page.execute_script(FIND, name.splitlines()[0])
        assert name in _cards(page)
        _click(page, ".card .picture")
        assert page.execute_script("return document.getElementById('close-up-name').textContent") == name
        _click(page, "#shut")
    assert "<img src=y onerror=alert(3)>.txt" in page.execute_script("return document.body.textContent")
    assert page.find_elements(By.CSS_SELECTOR, STRANGERS) == []
    assert complaints(page) == []


def test_the_link_to_each_photograph_is_its_file(page: WebDriver, run: Path) -> None:
    _click(page, "[data-show=all]")
    for name in HOSTILE:
        _find(page, name)
        _click(page, f".card:nth-child({_cards(page).index(path_text(name)) + 1}) .picture")
        link = page.execute_script("return document.getElementById('original').href")
        _click(page, "#shut")
        assert os.fsdecode(unquote_to_bytes(link.removeprefix("file://"))) == str(run.parent / "data #1" / name)


def test_markup_that_got_in_would_still_do_nothing(page: WebDriver) -> None:
    page.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed = 1\">')")
    until(page, "return document.querySelector('img[src=x]').complete")
    assert page.execute_script("return window.harmed") is None
    assert any("Content Security Policy" in message for message in complaints(page))


def test_filters_sorts_and_pages(page: WebDriver, run: Path) -> None:
    purified = read_table(run / "purified" / "part-0.arrow").to_pylist()
    rejected = {row["path"] for row in purified if row["decision"] == "rejected"}
    assert len(_cards(page)) == 12
    _click(page, "[data-show=rejected]")
    assert set(_cards(page)) == rejected
    _click(page, "[data-show=all]")
    assert len(_cards(page)) == 48
    _click(page, "#next")
    assert len(_cards(page)) == 24
    assert page.find_element(By.ID, "page").text == "Page 2 of 2, 72 images"
    page.find_element(By.ID, "find").send_keys("LOT1")
    assert set(_cards(page)) == {row["path"] for row in purified if row["path"].startswith("lot1/")}
    page.find_element(By.ID, "find").clear()
    page.find_element(By.CSS_SELECTOR, "#sort [value=usual]").click()
    first = min(purified, key=lambda row: row["rank"])
    assert _cards(page)[0] == first["path"]
    page.find_element(By.ID, "find").send_keys("no such name")
    assert page.find_element(By.ID, "nothing").is_displayed()


def test_the_nearest_to_the_cut_come_first(page: WebDriver, run: Path) -> None:
    purified = read_table(run / "purified" / "part-0.arrow").to_pylist()
    kept = max(row["aggregate"] for row in purified if row["decision"] == "kept")
    cut = (kept + min(row["aggregate"] for row in purified if row["decision"] == "rejected")) / 2
    by_path = {row["path"]: abs(row["aggregate"] - cut) for row in purified}
    distances = [by_path[name] for name in _cards(page)]
    assert distances == pytest.approx(sorted(by_path.values())[:12])
    assert distances == sorted(distances)


def test_kept_images_that_stand_out_have_a_tab(browser: WebDriver, finished: Path, tmp_path: Path) -> None:
    """Rejected images given back by hand do: they are what a filter that errs leaves in."""
    rows = read_table(finished / "purified" / "part-0.arrow").to_pylist()
    rejected = {row["image_id"]: path_text(row["path"]) for row in rows if row["decision"] == "rejected"}
    lines = ["image_id,decision", *(f"{image_id},keep" for image_id in rejected)]
    (tmp_path / "overrides.csv").write_text("\n".join(lines) + "\n")
    again = llb_ray.repurify(finished, tmp_path / "overrides.csv", out=tmp_path / "run", executor="serial")
    llb_ray.write_report(again.path)
    page = _opened(browser, again.path)
    assert again.threshold["num_standing_out_kept"]
    _click(page, "[data-show=standing-out]")
    assert len(_cards(page)) == again.threshold["num_standing_out_kept"]
    assert set(_cards(page)) & set(rejected.values())
    assert complaints(page) == []


def test_one_decision_is_for_all_lookalikes_that_are_listed(browser: WebDriver, finished_bank: Path) -> None:
    llb_ray.write_report(finished_bank)
    page = _opened(browser, finished_bank)
    _click(page, "[data-show=alike]")
    heads = page.find_elements(By.CSS_SELECTOR, ".family strong")
    count = int(heads[0].text.split()[0])
    first = _cards(page)[:count]
    assert count > 1
    _click(page, ".family [data-word=keep]")
    _all_said(page, dict.fromkeys(first, "keep"))
    page.find_element(By.CSS_SELECTOR, ".card").send_keys("R")
    _all_said(page, dict.fromkeys(first, "reject"))
    assert page.find_element(By.CSS_SELECTOR, ".family [data-word=reject]").get_attribute("aria-pressed") == "true"
    _find(page, first[0])
    _click(page, ".family [data-word=reject]")
    _all_said(page, {})
    page.execute_script(FIND, "")
    _all_said(page, dict.fromkeys(first[1:], "reject"))
    assert page.execute_script(LUMINANCE) == []
    assert complaints(page) == []


def test_keys_move_decide_and_look_closely(page: WebDriver) -> None:
    _click(page, "[data-show=all]")
    names = _cards(page)
    page.find_element(By.CSS_SELECTOR, ".card").send_keys("k")
    _type(page, Keys.ARROW_RIGHT)
    _focus_on(page, names[1])
    assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    _type(page, "r")
    _type(page, Keys.ARROW_RIGHT)
    _type(page, "u")
    _type(page, Keys.ARROW_RIGHT)
    _type(page, "k")
    _type(page, "k")  # taken back
    _all_said(page, {names[0]: "keep", names[1]: "reject", names[2]: "unsure"})
    _type(page, Keys.ARROW_DOWN)
    _type(page, Keys.ARROW_UP)
    _focus_on(page, names[3])
    _type(page, Keys.ENTER)
    _type(page, Keys.ARROW_RIGHT)
    _type(page, "r")
    page.find_element(By.ID, "note").send_keys("k is no decision here")
    page.find_element(By.ID, "shut").send_keys(Keys.ESCAPE)
    _focus_on(page, names[4])
    assert _said(page)[names[4]] == "reject"
    for _ in range(44):
        _type(page, Keys.ARROW_RIGHT)
    _text(page, "page", "Page 2 of 2")
    _focus_on(page, _cards(page)[0])
    _text(page, "tally", "Your decisions: 1 keep, 2 reject, 1 unsure")


@pytest.mark.parametrize("focused", [None, "[data-show=all]", "#previous", "header a"])
def test_keys_work_without_a_card_in_focus(focused: str | None, page: WebDriver) -> None:
    """On the marked card, which is the first one to begin with."""
    _click(page, "[data-show=all]")
    names = _cards(page)
    page.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    if focused:
        page.execute_script("document.querySelector(arguments[0]).focus({preventScroll: true})", focused)
    assert page.execute_script("return document.querySelector('.card.current bdi').textContent") == names[0]
    _type(page, "k")
    _all_said(page, {names[0]: "keep"})
    _focus_on(page, names[0])
    page.execute_script("document.activeElement.blur()")
    _type(page, Keys.ARROW_RIGHT)
    _focus_on(page, names[1])
    page.execute_script("document.activeElement.blur()")
    _type(page, Keys.ENTER)
    _text(page, "close-up-name", names[1])
    assert page.execute_script("return document.getElementById('close-up').open")


def test_the_marked_card_follows_the_eye(page: WebDriver) -> None:
    _click(page, "[data-show=all]")
    names = _cards(page)
    page.execute_script("document.querySelectorAll('.card')[40].scrollIntoView({block: 'start'})")
    page.execute_script("document.activeElement.blur()")
    _type(page, "r")
    WebDriverWait(page, 60, 0.05).until(lambda one: len(_said(one)) == 1)
    (name,) = _said(page)
    assert names.index(name) > 20


def test_cards_say_which_round_spoke_and_where(
    browser: WebDriver, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["purify.rounds=2"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    llb_ray.write_report(tmp_path / "run")
    page = _opened(browser, tmp_path / "run")
    _click(page, "[data-show=all]")
    decisions = page.execute_script("return [...document.querySelectorAll('.decision')].map((one) => one.textContent)")
    assert {text.partition(" ")[2] for text in decisions} <= {"by round 2", "by both rounds"}
    votes = page.execute_script("return [...document.querySelectorAll('.card .votes')].map((one) => one.textContent)")
    assert all(text.startswith("round 1: ") for text in votes)
    _click(page, "[data-show=rejected]")
    _click(page, ".card .picture")
    until(page, "return document.querySelector('#close-up .box')")
    text = page.find_element(By.ID, "close-up-reason").text
    assert text.startswith("Rejected by round 2: ")
    assert "\nMost unusual " in text
    assert page.execute_script(LUMINANCE) == []
    assert complaints(page) == []


def test_decisions_are_kept_and_can_be_forgotten(page: WebDriver) -> None:
    _click(page, ".card [data-word=keep]")
    said = _said(page)
    assert list(said.values()) == ["keep"]
    page.refresh()
    _all_said(page, said)
    page.find_element(By.CSS_SELECTOR, "#said [value=open]").click()
    assert not set(said) & set(_cards(page))
    page.find_element(By.ID, "clear").click()
    page.switch_to.alert.accept()
    assert page.find_element(By.ID, "tally").text == "No decisions yet"
    assert page.execute_script("return document.getElementById('download').disabled")


def _downloaded(page: WebDriver) -> Path:
    path: Path = page.downloads / "overrides.csv"  # type: ignore[attr-defined]
    path.unlink(missing_ok=True)
    page.find_element(By.ID, "download").click()
    end_s = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end_s:
        time.sleep(0.05)
    return path


def test_the_bar_for_decisions_is_in_the_way_only_once_there_is_one(page: WebDriver) -> None:
    position = "return getComputedStyle(document.getElementById('decisions')).position"
    assert page.execute_script(position) == "static"
    _click(page, ".card [data-word=keep]")
    assert page.execute_script(position) == "sticky"


@pytest.mark.parametrize("width_px", [400, 1280])
def test_nothing_is_wider_than_the_window(page: WebDriver, width_px: int) -> None:
    size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_all = "document.querySelectorAll('details').forEach((one) => { one.open = arguments[0]; })"
    for is_open in (True, False):
        page.execute_script(open_all, is_open)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width_px
    _click(page, ".card .picture")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width_px
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_loop_closes(page: WebDriver, run: Path, tmp_path: Path) -> None:
    """Decide on every image with a hostile name, download, repurify, and see the decisions in the new report."""
    page.find_element(By.ID, "find").send_keys("")
    _click(page, "[data-show=all]")
    wanted = [path_text(name) for name in HOSTILE]
    script = """
        const decided = [];
        for (let turn = 0; turn < 2; turn++) {
          for (const card of document.querySelectorAll('.card')) {
            const name = card.querySelector('bdi').textContent;
            if (!arguments[0].includes(name)) continue;
            card.querySelector('[data-word=' + (card.querySelector('.rejected') ? 'keep' : 'reject') + ']').click();
            decided.push(name);
          }
          document.getElementById('next').click();
        }
        return decided"""
    assert set(page.execute_script(script, wanted)) == set(wanted)
    overrides = _downloaded(page)
    with overrides.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].removeprefix("./") for row in rows} == set(wanted)
    assert not any(row["path"].startswith(("=", "+", "-", "@")) for row in rows)
    llb_ray.repurify(run, overrides, out=tmp_path / "new", by="<b>Ada</b>", executor="serial")
    assert any("7 of them, and no others" in passed for passed in llb_ray.audit(tmp_path / "new"))
    llb_ray.write_report(tmp_path / "new")
    _opened(page, tmp_path / "new")
    _click(page, "[data-show=all]")
    page.find_element(By.CSS_SELECTOR, "#said [value=before]").click()
    assert set(_cards(page)) == set(wanted)
    assert page.find_element(By.CSS_SELECTOR, ".decision").text.endswith("by hand (<b>Ada</b>)")
    assert complaints(page) == []


def test_heatmaps_are_painted_and_can_be_put_away(page: WebDriver) -> None:
    page.find_element(By.CSS_SELECTOR, "#sort [value=score]").click()
    _click(page, "[data-show=all]")
    painted = """
        const canvas = document.querySelector('.card canvas');
        if (canvas.width === 300) return null;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return Math.max(...pixels.filter((_, index) => index % 4 === 3))"""
    assert until(page, painted) == pytest.approx(0.75 * 255, abs=2)
    page.find_element(By.CSS_SELECTOR, ".card").send_keys("h")
    until(page, "return !document.querySelector('.card canvas').checkVisibility({visibilityProperty: true})")
    assert page.find_element(By.CSS_SELECTOR, ".card img").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(page: WebDriver, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for word in ("keep", "reject", "unsure"):
        _click(page, f".card [data-word={word}]")
        assert page.execute_script(LUMINANCE) == []
    _click(page, ".card .picture")
    assert page.execute_script(LUMINANCE) == []


def test_it_prints_without_its_tools(page: WebDriver) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not page.find_element(By.ID, "tools").is_displayed()
    assert not page.find_element(By.ID, "decisions").is_displayed()
    assert page.find_element(By.CSS_SELECTOR, ".card img").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_labelled_run_has_metrics_and_types(browser: WebDriver, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    llb_ray.write_report(run)
    page = _opened(browser, run)
    text = page.find_element(By.ID, "metrics").text
    assert "I-AUROC" in text
    assert "good" in text
    _click(page, "[data-show=all]")
    rows = read_table(run / "purified" / "part-0.arrow").to_pylist()
    page.find_element(By.ID, "group").send_keys(rows[0]["group"])
    assert set(_cards(page)) == {row["path"] for row in rows if row["group"] == rows[0]["group"]}
    assert complaints(page) == []


def test_photographs_that_are_gone_are_missing_and_nothing_else(
    browser: WebDriver, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    llb_ray.write_report(run, data=tmp_path / "empty")
    page = _opened(browser, run)
    assert page.find_element(By.CSS_SELECTOR, ".card .none").text == "photograph gone or changed"
    assert page.find_elements(By.CSS_SELECTOR, ".card img") == []
    assert complaints(page) == []
