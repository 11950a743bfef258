"""A scan on a cluster that loses a node: what ran there starts again on the other one, and the table is the same."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import ScanConfig
from llb_ray.engine.execution.heartbeat import read_beats
from llb_ray.scans.job_results import COSTS, DONE
from llb_ray.scans.scan_plan import Scan
from tests.cluster import journal
from tests.cluster.support import Nodes, when

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(300)]
SLOW_S = 0.1  # between two reports, so that a job is caught in the middle


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    simulated = Nodes(num_gpus=1)
    yield simulated
    simulated.cluster.shutdown()


@pytest.fixture
def config(tiny: RunConfig, photos: Path) -> ScanConfig:
    """Two jobs, which differ in the seed, on two places: one job fills its place, the other gives its to members."""
    run = tiny.model_dump(mode="json", exclude={"threshold"}, exclude_unset=True)
    run["members"]["count"] = 2
    place = {"num_gpus": 1, "device": "cpu", "checkpoint_s": 0}
    scan = {"dataset": {"kind": "mvtec", "root": str(photos.parent)}, "filters": ["llb"], "seeds": [0, 1]}
    return ScanConfig.model_validate(run | {"resources": place, "scan": scan})


def test_the_loss_of_a_node_changes_nothing_of_a_scan(nodes: Nodes, config: ScanConfig, tmp_path: Path) -> None:
    """The job that fills a place dies with the node; on the other one, it starts again where the first has room."""
    struck, running = list[journal.Line](), Scan(config, tmp_path / "scan").running

    def fills_a_place(line: journal.Line) -> bool:
        return line.step == "fit" and line.done >= 5 and line.pid in {beat.pid for beat in read_beats(running)}

    def strike(line: journal.Line) -> None:
        struck.append(line)
        nodes.kill_node_of(line.pid)

    with nodes.driving(tmp_path / "journal", SLOW_S):
        killer = when(tmp_path / "journal", fills_a_place, strike)
        rows = llb_ray.scan(config, out=tmp_path / "scan")
        killer.join()
    assert struck, "nobody was caught at work: the test tested nothing"
    assert rows["status"].to_pylist() == [DONE] * 2
    serial = llb_ray.scan(config, out=tmp_path / "serial", executor="serial")
    assert _facts(rows).equals(_facts(serial))


def _facts(rows: pa.Table) -> pa.Table:
    """What must not depend on luck, time or executor."""
    return rows.drop_columns([*COSTS])
