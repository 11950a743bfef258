"""What docs/serving.md promises of clusters, on a real head: a service as a job, and by the file for KubeRay."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from llb_ray.serving.access import TOKEN
from llb_ray.serving.answer import run_version
from tests.cluster.head import ROOT, Head, free_port, running_head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
_SECRET = {"Authorization": "Bearer correct-horse-battery-staple"}
_PATIENCE_S = 240


@pytest.fixture(scope="module")
def port() -> int:
    """One for all services: Ray Serve keeps the port that it has begun with."""
    return free_port()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, _SECRET["Authorization"].split()[1])
        with running_head() as running:
            yield running


@pytest.fixture
def image(photos: Path) -> bytes:
    return next((photos / "test").rglob("*.png")).read_bytes()


def _status(port: int, headers: dict[str, str]) -> int:
    try:
        return requests.get(f"http://127.0.0.1:{port}/runs", headers=headers, timeout=5).status_code
    except requests.RequestException:
        return 0


def _wait(head: Head, port: int, status: int, job: str | None = None) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while _status(port, _SECRET) != status:
        said = "" if job is None else head.dashboard(f"/api/jobs/{job}/logs")["logs"]
        assert time.monotonic() < give_up_s, f"the service does not answer {status}: {said[-2000:]}"
        time.sleep(0.5)


def _judged(port: int, image: bytes) -> dict[str, str]:
    assert _status(port, {}) == 401
    address = f"http://127.0.0.1:{port}/runs/photos/predict"
    answer: dict[str, str] = requests.post(address, image, headers=_SECRET, timeout=60).json()
    return answer


def test_a_service_is_a_job_and_ends_with_it(head: Head, finished: Path, port: int, image: bytes) -> None:
    serve = ("llb-ray", "serve", f"photos={finished}", "--port", str(port))
    begun = head.command("ray", "job", "submit", "--no-wait", "--submission-id", "llb-serve", "--", *serve)
    assert begun.returncode == 0, begun.stdout
    _wait(head, port, 200, "llb-serve")
    assert _judged(port, image)["version"] == run_version(str(finished))
    stopped = head.command("ray", "job", "stop", "llb-serve")
    assert stopped.returncode == 0, stopped.stdout
    _wait(head, port, 404)  # Ray Serve stays, and has no application


def test_the_file_for_kuberay_is_deployed(head: Head, finished: Path, port: int, image: bytes, tmp_path: Path) -> None:
    service = yaml.safe_load((ROOT / "cluster" / "kuberay-rayservice.yaml").read_text())["spec"]["serveConfigV2"]
    config = yaml.safe_load(service)
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"]["runs"] = {"photos": str(finished)}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    dashboard = f"http://127.0.0.1:{head.ports['dashboard']}"
    deployed = head.command("serve", "deploy", tmp_path / "serve.yaml", "--address", dashboard)
    assert deployed.returncode == 0, deployed.stdout
    try:
        _wait(head, port, 200)
        assert _judged(port, image)["version"] == run_version(str(finished))
    finally:
        head.command("serve", "shutdown", "--yes", "--address", dashboard)  # else it starts its replicas again
