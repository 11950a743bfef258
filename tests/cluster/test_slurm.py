"""cluster/slurm.sh on two nodes, which are namespaces of this machine with stand-ins for Slurm's own commands."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import llb_ray
from tests.cluster.head import ROOT

ISOLATED = ("unshare", "--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child")
QUICK = ("--set", "detector.member_steps=20", "--set", "detector.final_steps=20")


def _namespaces_refused() -> bool:
    # `ray symmetric-run` ends with `ray stop`, which must find no process but those of the test.
    wire = ("ip", "link", "add", "wire1", "type", "veth", "peer", "name", "wire2")
    try:
        return subprocess.run([*ISOLATED, *wire], capture_output=True).returncode != 0
    except FileNotFoundError:
        return True


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(_namespaces_refused(), reason="needs root, unshare and ip, to keep `ray stop` among its own"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: Ray's sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="llb-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def _sbatch(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(folder),
        "LLB_VENV": str(Path(sys.executable).parents[1]),
        "PYTHONPATH": str(ROOT),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # a worker looks for its lost head: a minute by default
        "OMP_NUM_THREADS": "1",
    }
    command = [*ISOLATED, ROOT / "tests/cluster/two_nodes.sh", folder, ROOT / "cluster/slurm.sh", *arguments]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )


def test_a_batch_job_runs_on_both_nodes_and_fails_if_the_run_does(photos: Path, folder: Path) -> None:
    demo = ("--config", ROOT / "configs" / "autoencoder.yaml")
    done = _sbatch(folder, "run", "--data", photos, "--out", folder / "out", *demo, *QUICK)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "purified dataset" in done.stdout
    assert "Connecting to Ray cluster" in (folder / "worker.log").read_text()
    assert llb_ray.audit(folder / "out")
    assert not list(folder.glob(".llb-ray-*"))


def test_a_refused_batch_job_fails(photos: Path, folder: Path) -> None:
    refused = _sbatch(folder, "run", "--data", photos, "--out", folder / "out", "--set", "purify.keep_rato=1")
    assert refused.returncode != 0
    assert "llb-ray: --set: unknown key 'purify.keep_rato'" in refused.stdout
