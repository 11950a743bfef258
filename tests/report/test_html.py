"""The report as text: one file, all that the run has, and whatever a run may lack."""

import base64
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.report import gallery, thumbnails
from llb_ray.report.heatmaps import Scale
from llb_ray.report.lookalike_groups import families_of
from tests.support import final_files, republish


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _page(run: Path) -> str:
    return llb_ray.write_report(run).read_text()


def _block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None, name
    return json.loads(found[1])


def _decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_it_is_one_file_that_refers_to_no_other(run: Path) -> None:
    page = _page(run)
    assert re.findall(r'(?:src|href)="(?!#|data:,)', page) == []
    assert re.findall(r"https?:|url\(|@import", page) == []
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page


def test_odd_images_have_a_family_of_lookalikes(run: Path) -> None:
    columns = _block(_page(run), "columns")
    shown = zip(columns["family"], columns["kept"], columns["stands_out"], strict=True)
    assert all((family is None) == bool(kept and not stands_out) for family, kept, stands_out in shown)
    numbers = [family for family in columns["family"] if family is not None]
    sizes = [numbers.count(number) for number in range(max(numbers) + 1)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_family_is_of_the_images_that_it_is_said_of(run: Path) -> None:
    """In whatever order they are asked about."""
    rows = read_table(run / "purified" / "part-0.arrow").to_pylist()
    odd = [row["image_id"] for row in rows if "good" not in row["path"]]
    together = []
    for asked in (odd, odd[::-1]):
        found = families_of(FinishedRun(RunFolder.open(run), None), asked, [])
        assert isinstance(found, list)
        said = dict(zip(asked, found, strict=True))
        together.append({frozenset(one for one in odd if said[one] == number) for number in found})
    assert together[0] == together[1]
    assert len(together[0]) > 1


def test_without_features_nothing_is_said_to_look_alike(run: Path) -> None:
    index = json.loads((run / "run.json").read_text())
    index["artifacts"]["features"] = []
    (run / "run.json").write_text(json.dumps(index))
    page = _page(run)
    assert _block(page, "columns")["family"] is None
    assert "Look-alikes are not grouped: the run&#39;s features were not cached" in page


def test_every_training_image_is_there_once_the_nearest_to_the_cut_first(run: Path) -> None:
    columns = _block(_page(run), "columns")
    purified = {row["image_id"]: row for row in read_table(run / "purified" / "part-0.arrow").to_pylist()}
    assert sorted(columns["image_id"]) == sorted(purified)
    distance = [abs(value - columns["cut"]) for value in columns["aggregate"]]
    assert distance == sorted(distance)
    assert columns["num_near"] == 12
    for image_id, kept, rank in zip(columns["image_id"], columns["kept"], columns["rank"], strict=True):
        assert (purified[image_id]["decision"] == "kept", purified[image_id]["rank"]) == (bool(kept), rank)


def test_photographs_and_maps_are_the_images_own(run: Path, photos: Path) -> None:
    page = _page(run)
    columns, shown = _block(page, "columns"), _block(page, "pictures-0")
    scale = Scale.of_run(RunFolder.open(run))
    assert columns["scale"]["high"] == pytest.approx(scale.high, rel=1e-4)
    folder = RunFolder.open(run)
    scored = {row["image_id"]: row for row in read_scores(folder.made().final_scores).to_pylist()}
    for image_id, path, (photo, heat) in zip(columns["image_id"], columns["path"], shown, strict=True):
        original = np.asarray(Image.open(photos / path).convert("RGB"), float)
        assert np.abs(np.asarray(_decoded(photo).convert("RGB"), float) - original).mean() < 12
        map_NHW = np.array(scored[image_id]["map"], np.float32).reshape(1, 16, 16)
        drawn = 255 * scale.share(PixelGrid.of(folder.config(), None).smooth(map_NHW)[0])
        assert np.abs(np.asarray(_decoded(heat).convert("L"), float) - drawn).max() <= 1


def test_pictures_come_in_parts_and_the_furthest_are_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PER_CHUNK", 7)
    monkeypatch.setattr(gallery, "MOST", 20)
    page = _page(run)
    assert [len(_block(page, f"pictures-{part}")) for part in range(3)] == [7, 7, 6]
    assert 'id="pictures-3"' not in page
    assert "The 20 of 48 training images that are nearest to the cut are shown" in page
    assert "36</b>" in page, "counts are of all images"


def test_thumbnails_shrink_to_the_budget() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    sample = [Image.fromarray(noise) for _ in range(3)]
    assert thumbnails._side([image.copy() for image in sample], 10) == 320
    assert thumbnails._side([image.copy() for image in sample], 2000) == 144
    assert thumbnails._side([image.copy() for image in sample], 10**6) == 80
    assert thumbnails._side([], 10) == 320


@pytest.mark.parametrize("name", ["none", "random", "oracle"])
def test_a_filter_without_scores_has_a_report_without_cut_and_votes(
    name: str, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, [f"purify.filter={name}"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    page = _page(tmp_path / "run")
    columns = _block(page, "columns")
    assert (columns["cut"], columns["num_near"], columns["members"]) == (None, 0, [])
    assert columns["score"] == sorted(columns["score"], reverse=True)
    assert "Where the filter cut" not in page
    assert 'id="members"' not in page


def test_an_estimate_is_told_where_there_is_one_and_not_made_up(run: Path) -> None:
    before = _page(run)
    assert "estimated" not in before
    assert "<span>threshold, for 1.00% false alarms</span>" in before, "every run has one"
    (run / "contamination.json").write_text('{"share": 0.214, "low": 0.18, "high": 0.25, "clearly": 0.2}')
    threshold = json.loads((run / "threshold.json").read_text())
    threshold |= {"threshold": 1.43888, "threshold_if_bulk_is_normal": 1.0625}
    threshold |= {"num_standing_out": 1234, "num_standing_out_kept": 56}
    (run / "threshold.json").write_text(json.dumps(threshold))
    republish(run, "threshold.json")
    expected = {"keep_ratio": [0.5, 1.0], "residual_contamination": [0.0, 0.2], "normals_lost": [0.4, 0.0]}
    write_table(run / "what_if.arrow", pa.table(expected))
    page = _page(run)
    assert "<b>21.4%</b>" in page
    assert "anomalous, estimated (18.0% to 25.0%)" in page
    assert "<b>1.439</b><span>threshold, for 1.00% false alarms</span>" in page
    assert "1,234 held-out scores stand out, 56 of them of kept images" in page
    assert "the threshold should be 1.062." in page
    assert "What another keep ratio would cost" in page


def test_a_weighted_fit_has_curves(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["importance.mode=moments"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    page = _page(tmp_path / "run")
    assert "loss, of the final detector weighted" in page
    assert len(re.findall(r'<polyline class="curve final-detector"', page)) == 1
    assert len(re.findall(r'<polyline class="curve effective-sample-size"', page)) == 1


def test_whatever_is_trained_by_descent_has_a_curve_and_a_memory_bank_has_none(run: Path, finished_bank: Path) -> None:
    page = _page(run)
    assert len(re.findall(r'<polyline class="curve member"', page)) == 3
    (points,) = re.findall(r'<polyline class="curve final-detector" points="(.*?)"', page)
    assert len(points.split()) == read_table(run / "training_log.arrow").num_rows == 20
    bank = Path(shutil.copytree(finished_bank, run.parent / "bank"))
    assert "Loss while training" not in _page(bank)
    assert not list(bank.rglob("training_log.arrow"))


def test_what_a_run_put_aside_and_did_without_is_told(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    (data / "train" / "good" / "<b>notes.txt").write_text("not an image")
    config = with_overrides(tiny, ["purify.trim=0.3"])
    llb_ray.run(config, llb_ray.read_folder(data, config), out=tmp_path / "run", executor="serial")
    page = _page(tmp_path / "run")
    assert "1 files could not be used" in page
    assert "<b>notes" not in page
    assert "purify.trim has no effect" in page


def test_what_labels_say_is_told_by_type(run: Path) -> None:
    page = _page(run)
    types = re.findall(r"<tr><td>(train|test)</td><td>(\w+)</td><td class=\"n\">(\d+)</td>", page)
    assert {split for split, _, _ in types} == {"train", "test"}
    assert sum(int(count) for split, _, count in types if split == "train") == 48
    assert set(_block(page, "columns")["known"]) >= {"good"}
    found = json.loads((run / "metrics.json").read_text())["by_type"]
    last_two = r'<td class="n">([\d.]*)</td><td class="n">([\d.]*)</td></tr>'
    told = {kind: numbers for kind, *numbers in re.findall(rf"<tr><td>test</td><td>(\w+)</td>.*?{last_two}", page)}
    expected = {kind: [f"{one[name]:.3f}" for name in ("i_auroc", "aupro")] for kind, one in found.items()}
    assert told == {"good": ["", ""], **expected}
    threshold = json.loads((run / "threshold.json").read_text())["threshold"]
    scores = read_table(run / "image_scores.arrow").to_pylist()
    above = [row["score"] > threshold for row in scores if row["split"] == "test"]
    shares = re.findall(r"<tr><td>test</td><td>\w+</td><td class=\"n\">(\d+)</td>.*?>([\d.]+)%</td>", page)
    assert sum(int(num) * float(share) / 100 for num, share in shares) == pytest.approx(sum(above), abs=0.1)
    assert page.count(f">threshold {threshold:.4g}</text>") == 2
    assert "Test images by label" in page


def test_an_image_that_changed_is_shown_without_a_photograph(run: Path, photos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / "photos"))
    first, second = sorted((moved / "train" / "good").glob("*.png"))[:2]
    shutil.copy(second, first)
    page = llb_ray.write_report(run, data=moved).read_text()
    columns, shown = _block(page, "columns"), _block(page, "pictures-0")
    gone = [path for path, (photo, _) in zip(columns["path"], shown, strict=True) if photo is None]
    assert gone == [first.relative_to(moved).as_posix()]


def test_a_report_changes_nothing_else_and_the_next_run_takes_it_away(run: Path, photos: Path, tiny: RunConfig) -> None:
    before = final_files(run)
    _page(run)
    assert final_files(run) == before
    assert llb_ray.audit(run)
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=run, executor="serial")
    assert not (run / "report.html").exists()


def _llb(words: Sequence[str | Path]) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def test_a_run_ends_with_its_report(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(tiny.to_yaml())
    out = tmp_path / "run"
    options = ["--data", photos, "--out", out, "--executor", "serial"]
    status, said = _llb(["run", "--config", tmp_path / "c.yaml", *options])
    assert (status, said.splitlines()[-1]) == (0, f"report            {out}/report.html")
    (out / "report.html").unlink()
    assert _llb(["report", out]) == (0, f"report            {out}/report.html\n")
    assert "<title>weave" in (out / "report.html").read_text()


def test_the_report_is_a_stage_that_can_be_left_out(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(tiny.to_yaml())
    out = tmp_path / "run"
    command = ["run", "--config", tmp_path / "c.yaml", "--data", photos, "--out", out, "--executor", "serial"]
    status, said = _llb([*command, "--no-report"])
    assert (status, "stage report" in said, (out / "report.html").exists()) == (0, False, False)
    status, said = _llb([*command, "--json"])
    assert status == 0
    stages = [stage["stage"] for stage in json.loads(said[said.index("{") :])["stages"]]
    assert stages[-1] == "report"
    before = llb_ray.status(out)
    llb_ray.write_report(out)
    after = llb_ray.status(out)
    assert (before.state, after.state, after.last_sign_s) == ("finished", "finished", before.last_sign_s)
    assert [time.stage for time in after.times].count("report") == 1
    assert re.search(r'<th scope="row">report</th><td class="n">[\d.]+</td>', (out / "report.html").read_text())
    status, said = _llb([*command, "--no-report"])
    assert "previous run crashed" not in said


def test_no_run_has_no_report(tmp_path: Path) -> None:
    status, said = _llb(["report", tmp_path])
    assert (status, "no finished run here" in said) == (1, True)


def test_a_run_at_a_uri_has_its_report_there(bucket: str, photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=bucket, executor="serial")
    status, said = _llb(["report", bucket])
    shown = bucket.partition("?")[0]
    assert status == 0, said
    assert said.startswith(f"report            {shown}/report.html, here {tmp_path / 'cache'}")
    copy = Path(said.rpartition("here ")[2].strip())
    from pyarrow.fs import FileSystem

    filesystem, root = FileSystem.from_uri(bucket)
    assert filesystem.open_input_stream(f"{root}/report.html").read() == copy.read_bytes()
    assert _block(copy.read_text(), "columns")["folder"] is None
