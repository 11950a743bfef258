"""`llb-ray serve` on a Ray of its own: runs served, killed judges and swaps that cost no request, and its page."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from llb_ray.cli import main
from llb_ray.cli.serve_command import _named
from tests.browser import chromium, complaints, until
from tests.browser import requests as asked_for

_PATIENCE_S = 600  # a busy machine takes minutes to start a dozen processes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def served(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, int]]:
    """The address of a service of one run with two replicas, the link that it serves, and its process."""
    link, port = tmp_path_factory.mktemp("served") / "weave", _free_port()
    link.symlink_to(finished)
    command = [sys.executable, "-m", "llb_ray", "serve", str(link), "--port", str(port), "--replicas", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as service:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait(f"{address}/runs", service)
            yield address, link, service.pid
        finally:
            service.send_signal(signal.SIGTERM)
            said, _ = service.communicate(timeout=_PATIENCE_S)
    assert "Traceback" not in said
    assert service.returncode == 128 + signal.SIGTERM


def _wait(address: str, service: subprocess.Popen[str]) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up_s and service.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail("the service did not come up")


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from _children(child)


class _Clients:
    """Clients that ask without pause; `statuses` and `versions` are what they were answered."""

    def __init__(self, address: str, image: bytes) -> None:
        self._address, self._image = address, image
        self.statuses: list[int] = []
        self.versions: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def __enter__(self) -> "_Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            answer = requests.post(f"{self._address}/runs/weave/predict", self._image, timeout=_PATIENCE_S)
            self.statuses.append(answer.status_code)
            if answer.ok:
                self.versions.append(answer.json()["version"])

    def until(self, more: int) -> None:
        """Wait for so many further answers."""
        wanted, give_up_s = len(self.statuses) + more, time.monotonic() + _PATIENCE_S
        while len(self.statuses) < wanted and time.monotonic() < give_up_s:
            time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux says who is whose child")
def test_no_request_is_lost_when_a_judge_dies_or_the_run_is_swapped(
    served: tuple[str, Path, int], finished_bank: Path, photos: Path
) -> None:
    address, link, pid = served
    image = next((photos / "test").rglob("*.png")).read_bytes()
    with _Clients(address, image) as clients:
        clients.until(20)
        judge = next(one for one in _children(pid) if b":judge" in Path(f"/proc/{one}/cmdline").read_bytes())
        os.kill(judge, signal.SIGKILL)
        clients.until(40)
        new = link.with_name("new")
        new.symlink_to(finished_bank)
        new.replace(link)
        give_up_s = time.monotonic() + _PATIENCE_S
        while len(set(clients.versions)) < 2 and time.monotonic() < give_up_s:
            time.sleep(0.05)
        clients.until(20)
    assert set(clients.statuses) == {200}
    assert len(set(clients.versions)) == 2


@pytest.mark.ray
def test_a_run_that_is_broken_later_goes_on_as_it_was(served: tuple[str, Path, int], photos: Path) -> None:
    address, link, _ = served
    image = next((photos / "test").rglob("*.png")).read_bytes()
    before = link.readlink()
    link.unlink()
    link.symlink_to(photos)  # no run
    time.sleep(5)  # two looks
    assert requests.post(f"{address}/runs/weave/predict", image, timeout=_PATIENCE_S).ok
    link.unlink()
    link.symlink_to(before)


@pytest.mark.ray
def test_the_page_judges_a_photograph_whatever_its_name(
    served: tuple[str, Path, int], photos: Path, tmp_path: Path
) -> None:
    address, _, _ = served
    image = tmp_path / "<img src=x onerror=document.title=1>.png"
    image.write_bytes(next((photos / "test").rglob("*.png")).read_bytes())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with chromium(tmp_path) as browser:
        for width in (1280, 400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(address)
            until(browser, "return document.getElementById('run').options.length === 1")
            browser.find_element("id", "files").send_keys(f"{image}\n{broken}")
            until(browser, "return document.getElementById('status').textContent === '1 of 2 judged, 1 refused'")
            assert until(browser, "return document.querySelector('.verdict img').naturalWidth") > 10
            assert browser.find_element("css selector", ".verdict strong").text == image.name
            assert "broken.png: not an image" in browser.find_element("id", "trouble").text
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.title == "llb-ray: judge photographs"
        assert {line for line in complaints(browser) if "422" not in line} == set()
        assert all(one.startswith((address, "data:", "chrome")) for one in asked_for(browser))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["RUN", "--host", "0.0.0.0"], "set LLB_SERVE_TOKEN"),
        (["no such run"], "no name for a run in an address"),
        (["missing"], "no finished run here"),
        (["RUN", "--replicas", "1000"], "lower --replicas"),
    ],
)
@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_what_cannot_be_served_is_one_sentence(finished: Path, words: list[str], reason: str) -> None:
    said = [f"weave={finished}" if word == "RUN" else word for word in words]
    result = CliRunner().invoke(main, ["serve", *said])
    assert result.exit_code == 1
    assert reason in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (("runs/photos",), {"photos": "runs/photos"}),
        (("a=runs/photos", "b=runs/photos"), {"a": "runs/photos", "b": "runs/photos"}),
        (("sets/alpha=0.1",), {"alpha=0.1": "sets/alpha=0.1"}),
        (("caps=s3://bucket/runs/x?scheme=http",), {"caps": "s3://bucket/runs/x?scheme=http"}),
        (("s3://bucket/runs/x?scheme=http",), {"x": "s3://bucket/runs/x?scheme=http"}),
    ],
)
def test_runs_have_the_names_that_they_were_given(said: tuple[str, ...], named: dict[str, str]) -> None:
    assert _named(said) == named
