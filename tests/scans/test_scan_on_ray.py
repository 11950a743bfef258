"""What a scan keeps in Ray's object store while it runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray._private.worker import global_worker

from llb_ray.config import ScanConfig
from llb_ray.distributed import ray_scan_runner
from llb_ray.scans.datasets import read_materials
from llb_ray.scans.scan_plan import Job, Scan

pytestmark = pytest.mark.ray
CATEGORIES = 12


def test_the_store_holds_the_material_of_the_jobs_that_run_and_of_no_other(
    ray_local: None, scan_config: ScanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, material = Scan(scan_config, tmp_path), read_materials(scan_config)[0]
    named = [f"category-{number}" for number in range(CATEGORIES)]
    # Ray sends what is smaller with the task itself.
    todo = [(Job(name, None, "llb", 0), replace(material, category=name, files="f" * 200_000)) for name in named]

    def do(scan: Scan, job: Job, material: Any, spread: bool) -> dict[str, Any]:
        return {"category": job.category, "size": len(material.files)}

    monkeypatch.setattr(ray_scan_runner, "_do", do)
    before = _references()
    at_once, ended = ray_scan_runner.on_cluster(scan, todo, print)
    held, rows = [], []
    for _, row in ended:
        held.append(len(_references() - before))
        rows.append(row)
    assert sorted(row["category"] for row in rows) == sorted(named)
    assert {row["size"] for row in rows} == {200_000}
    assert max(held) <= 2 * at_once, "what a task is given, and what it returns"


def _references() -> set[Any]:
    """The objects that this process holds a reference to."""
    return set(global_worker.core_worker.get_all_reference_counts())
