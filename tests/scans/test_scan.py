"""A scan: every job a run, what they share made once, failures listed, kills survived, one table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

import llb_ray
from llb_ray.config import ScanConfig, load_scan
from llb_ray.data.tables import read_table
from llb_ray.engine.rundir.output_guard import LOCK
from llb_ray.errors import ArtifactError, ConfigError, DataError
from llb_ray.scans.job_results import COSTS, RESULTS, failures, protocol_of
from llb_ray.scans.scan_status import is_scan, read_scan_status

NUM_JOBS = 3 * 2 * 2


def _facts(rows: pa.Table) -> pa.Table:
    """What must not depend on luck, time or executor."""
    return rows.drop_columns([*COSTS])


def _of_llb(rows: pa.Table) -> pa.Table:
    """The facts of half of the jobs, those that have members: to start processes for all of them takes long."""
    return _facts(rows.filter(pc.equal(rows["filter"], "llb")))


@pytest.fixture(scope="module")
def scanned(scan_config: ScanConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished serial scan; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("scanned") / "scan"
    llb_ray.scan(scan_config, out=out, executor="serial")
    return out


def test_every_job_is_a_run_and_a_row(scanned: Path) -> None:
    rows = llb_ray.table(scanned)
    assert rows.num_rows == NUM_JOBS
    assert set(rows["status"].to_pylist()) == {"done"}
    assert set(zip(rows["alpha"].to_pylist(), rows["contamination"].to_pylist(), strict=True)) == {(0, 0), (0.2, 0.2)}
    assert set(rows["num_train"].to_pylist()) == {20}
    assert len(set(zip(rows["category"].to_pylist(), rows["num_test"].to_pylist(), strict=True))) == 3  # fixed
    assert min(rows["i_auroc"].to_pylist()) > 0
    assert min(rows["worker_seconds"].to_pylist()) > 0
    assert max(rows["gpu_seconds"].to_pylist()) == 0
    for job in (scanned / "jobs").iterdir():
        assert llb_ray.status(job).state == "finished"
    assert llb_ray.audit(scanned / "jobs" / "gear_alpha0.2_llb_seed0")


def test_the_table_says_how_it_was_measured(scanned: Path, scan_config: ScanConfig) -> None:
    said = protocol_of(pq.read_table(scanned / RESULTS))
    assert said["fpr_limit"] == 0.3
    assert said["size_px"] == scan_config.detector.image_size_px
    assert said == json.loads((scanned / "jobs" / "gear_alpha0_llb_seed0" / "metrics.json").read_text())["protocol"]


def test_the_images_of_a_category_are_encoded_once_for_all_its_jobs(scanned: Path) -> None:
    assert len(list((scanned / "artifacts" / "features").glob("*/record.json"))) == 3
    assert len(list((scanned / "artifacts" / "category").glob("*/record.json"))) == 3


def test_a_job_is_repurified_without_encoding_anything_again(scanned: Path, tmp_path: Path) -> None:
    job = scanned / "jobs" / "gear_alpha0.2_llb_seed0"
    rows = read_table(job / "purified" / "part-0.arrow").to_pylist()
    (rejected, *_) = (row["image_id"] for row in rows if row["decision"] == "rejected")
    (tmp_path / "overrides.csv").write_text(f"image_id,decision\n{rejected},keep\n")
    for base, out in ((job, tmp_path / "once"), (tmp_path / "once", tmp_path / "twice")):
        result = llb_ray.repurify(base, tmp_path / "overrides.csv", out=out, executor="serial")
        made = {time.stage for time in result.times if not time.reused}
        assert not made & {"features", "members", "member-scores"}
        assert llb_ray.audit(out)


def test_jobs_set_no_threshold_unless_it_is_asked_for(scanned: Path, scan_yaml: Path) -> None:
    """Their table has no column for it, and the fits that it may need cost more than the final detector."""
    job = scanned / "jobs" / "gear_alpha0.2_none_seed0"
    assert not (job / "threshold.json").exists()
    assert llb_ray.write_report(job).is_file()
    with pytest.raises(ArtifactError, match=r"threshold.method=none.*scan\) again with threshold.method=members"):
        llb_ray.Detector.load(job)
    asked = load_scan(scan_yaml, ["threshold.folds=3"]).of_job("llb", 0).threshold
    assert (asked.method, asked.folds) == ("members", 3)


def test_nothing_is_done_twice_and_a_new_seed_only_what_it_adds(
    scanned: Path, scan_config: ScanConfig, scan_yaml: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(scanned, tmp_path / "scan")
    before = {path: path.stat().st_mtime_ns for path in out.glob("rows/*.json")}
    lines: list[str] = []
    llb_ray.scan(scan_config, out=out, executor="serial", tell=lines.append)
    assert lines[-1] == f"{NUM_JOBS} of {NUM_JOBS} jobs up to date"
    another = load_scan(scan_yaml, ["scan.seeds=[1]", "scan.dataset.categories=[gear]"])
    rows = llb_ray.scan(another, out=out, executor="serial")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert rows.num_rows == NUM_JOBS + 4, "a scan may be done in parts"


@pytest.mark.parametrize("other", ["members.count=4", "scan.alphas=[0,0.1]", "scan.num_objects=16"])
def test_rows_of_other_settings_are_not_in_the_table(
    other: str, scanned: Path, scan_yaml: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(scanned, tmp_path / "scan")
    few = ["scan.dataset.categories=[gear]", "scan.filters=[none]", other]
    rows = llb_ray.scan(load_scan(scan_yaml, few), out=out, executor="serial")
    assert rows.num_rows == 2


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_ray_gives_the_same_table(scanned: Path, scan_yaml: Path, tmp_path: Path) -> None:
    """Of more jobs than there is room for at once."""
    lines: list[str] = []
    rows = llb_ray.scan(load_scan(scan_yaml, ["scan.filters=[llb]"]), out=tmp_path / "scan", tell=lines.append)
    assert _facts(rows).equals(_of_llb(llb_ray.table(scanned)))
    assert len([line for line in lines if line.startswith("job ")]) == NUM_JOBS // 2
    assert "running" in lines[-2]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_the_members_of_few_jobs_go_to_places_of_their_own(scanned: Path, scan_yaml: Path, tmp_path: Path) -> None:
    few = load_scan(scan_yaml, ["scan.dataset.categories=[wood]", "scan.filters=[llb]"])
    rows = _facts(llb_ray.scan(few, out=tmp_path / "scan")).to_pylist()
    assert len(rows) == 2
    serial = _facts(llb_ray.table(scanned)).to_pylist()
    assert all(row in serial for row in rows)


def _fewer_defects(root: Path, to: Path) -> Path:
    """A copy of the data set in which one category has too few anomalies for any noise."""
    shutil.copytree(root, to)
    (kinds := [kind for kind in (to / "weave" / "test").iterdir() if kind.name != "good"]).sort()
    for kind in kinds:
        for image in sorted(kind.iterdir())[0 if kind != kinds[0] else 2 :]:
            image.unlink()
    return to


def test_a_failing_job_stops_no_other_and_is_done_again_when_it_can_be(
    scan_yaml: Path, benchmark_root: Path, tmp_path: Path
) -> None:
    root = _fewer_defects(benchmark_root, tmp_path / "data")
    config = load_scan(scan_yaml, [f"scan.dataset.root={root}", "scan.filters=[none]"])
    rows = llb_ray.scan(config, out=tmp_path / "scan", executor="serial")
    failed = failures(rows).to_pylist()
    assert [row["category"] for row in failed] == ["weave"] * 2
    assert all("anomalous objects" in row["reason"] for row in failed)
    assert rows.num_rows == 6
    shutil.copytree(benchmark_root / "weave", root / "weave", dirs_exist_ok=True)
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("scan/rows/[gw][eo]*.json") if "weave" not in path.name
    }
    rows = llb_ray.scan(config, out=tmp_path / "scan", executor="serial")
    assert failures(rows).num_rows == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_error_of_ours_is_a_row_too(
    scan_config: ScanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("llb_ray.scans.job.run_stages", broken)
    rows = llb_ray.scan(scan_config, out=tmp_path / "scan", executor="serial")
    assert failures(rows).num_rows == NUM_JOBS
    assert "ZeroDivisionError: by nought" in rows["reason"][0].as_py()
    assert "run_stages" in (tmp_path / "scan" / "errors" / "gear_alpha0_llb_seed0.txt").read_text()


def _wait_for_workers(out: Path) -> None:
    """Return when Ray has ended the workers of a killed scan: until then they hold the locks of their jobs."""
    for lock in out.glob(f"jobs/*/{LOCK}"):
        with FileLock(lock, timeout=60):
            pass


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("executor", ["serial", "ray"])
def test_killed_and_resumed(executor: str, scan_yaml: Path, scanned: Path, tmp_path: Path) -> None:
    """The killed one with a Ray of its own, which the second does not need."""
    out, lines = tmp_path / "scan", list[str]()
    command = [sys.executable, "-m", "llb_ray", "scan", "--config", str(scan_yaml), "--out", str(out)]
    command += ["--executor", executor, "--filters", "llb"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(list(out.glob("rows/[!.]*.json"))) < 2:
        time.sleep(0.01)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _wait_for_workers(out)
    assert read_scan_status(out).jobs is not None
    before = {path: path.stat().st_mtime_ns for path in out.glob("rows/[!.]*.json")}
    llb_ray.scan(load_scan(scan_yaml, ["scan.filters=[llb]"]), out=out, executor=executor, tell=lines.append)
    assert [line for line in lines if "jobs up to date" in line]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert _facts(pq.read_table(out / RESULTS)).equals(_of_llb(llb_ray.table(scanned)))
    assert is_scan(out)


def test_what_cannot_be_is_refused_in_a_sentence(
    scan_yaml: Path, scan_config: ScanConfig, benchmark_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="scan.alphas.*twice"):
        load_scan(scan_yaml, ["scan.alphas=[0,0]"])
    with pytest.raises(ConfigError, match="unknown key 'scan.alpha_s'; did you mean 'scan.alphas'"):
        load_scan(scan_yaml, ["scan.alpha_s=0"])
    with pytest.raises(ConfigError, match="for `llb-ray scan`"):
        llb_ray.load_config(scan_yaml)
    with pytest.raises(DataError, match=".*bottle.*known are gear, weave, wood"):
        llb_ray.scan(load_scan(scan_yaml, ["scan.dataset.categories=[bottle]"]), out=tmp_path / "a", executor="serial")
    with pytest.raises(ConfigError, match="num_objects has no effect"):
        llb_ray.scan(load_scan(scan_yaml, ["scan.alphas=null"]), out=tmp_path / "b", executor="serial")
    with pytest.raises(ArtifactError, match="inside the images' folder"):
        llb_ray.scan(scan_config, out=benchmark_root / "scan", executor="serial")
    with pytest.raises(ArtifactError, match="no scan has results here"):
        llb_ray.table(tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").touch()
    with pytest.raises(ArtifactError, match="files of another kind"):
        llb_ray.scan(scan_config, out=tmp_path / "c", executor="serial")


def test_a_damaged_row_is_done_again(scanned: Path, scan_config: ScanConfig, tmp_path: Path) -> None:
    out = shutil.copytree(scanned, tmp_path / "scan")
    row = next(out.glob("rows/[!.]*.json"))
    content = json.loads(row.read_text())
    row.write_text("{")
    llb_ray.scan(scan_config, out=out, executor="serial")
    assert json.loads(row.read_text())["key"] == content["key"]


def test_a_job_that_starts_again_waits_for_its_earlier_attempt_to_end(
    scanned: Path, scan_config: ScanConfig, tmp_path: Path
) -> None:
    """As on another node, when the first one is cut off from the cluster and lives on."""
    out = shutil.copytree(scanned, tmp_path / "scan")
    job = next(out.glob("rows/[!.]*.json"))
    job.unlink()
    attempt = FileLock(out / "jobs" / job.stem / LOCK, thread_local=False)
    attempt.acquire()
    threading.Timer(1, attempt.release).start()
    rows = llb_ray.scan(scan_config, out=out, executor="serial")
    assert set(rows["status"].to_pylist()) == {"done"}
