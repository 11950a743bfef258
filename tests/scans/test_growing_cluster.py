"""A scan on a cluster that has no node for it yet: the autoscaler adds them, one after the other, while it runs."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

import llb_ray
from llb_ray.config import load_scan
from llb_ray.scans.job_results import COSTS
from tests.cluster.head import running_head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
FEW = ["scan.dataset.categories=[wood]", "scan.filters=[llb]"]
GROWING = ["resources.num_gpus=1", "resources.device=cpu", "resources.autoscale_to=2", "resources.autoscale_wait_s=120"]
# One logical GPU a node: the second job has no place before the second node is there.
NODES = {"gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}}


def test_nodes_that_the_autoscaler_adds_take_part_in_a_scan(scan_yaml: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    with running_head(grows_by=NODES) as head:
        given = [word for setting in (*FEW, *GROWING) for word in ("--set", setting)]
        address = f"127.0.0.1:{head.ports['port']}"
        scan = ("llb-ray", "scan", "--config", scan_yaml, "--out", out, "--ray-address", address)
        done = head.command(*scan, *given)
        status = head.command("ray", "status", "--address", address).stdout
    assert done.returncode == 0, done.stdout[-3000:]
    assert "no node can hold a worker yet (1 CPUs and 1 GPUs on one node); waiting up to 120 s" in done.stdout
    assert len(re.findall(r"^job \d of 2: ", done.stdout, re.MULTILINE)) == 2, done.stdout
    assert "2 gpu" in status
    serial = llb_ray.scan(load_scan(scan_yaml, FEW), out=tmp_path / "serial", executor="serial")
    assert _facts(llb_ray.table(out)).equals(_facts(serial))


def _facts(rows: pa.Table) -> pa.Table:
    """What must not depend on luck, time or executor."""
    return rows.drop_columns([*COSTS])
