"""What a new user does: a folder of photographs and one command, without a configuration or a file of weights."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray.cli import main
from llb_ray.config import load

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 24 objects, neither sorted nor labelled, and the run of them."""
    folder = tmp_path_factory.mktemp("default")
    (folder / "photos").mkdir()
    for path in sorted((photos / "train").rglob("*_view0.png")):
        shutil.copy(path, folder / "photos")
    words = ["run", "--data", str(folder / "photos"), "--out", str(folder / "run"), "--executor", "serial"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return folder


def test_it_is_a_memory_bank_on_bundled_weights(folder: Path) -> None:
    detector = load(folder / "run" / "config.yaml").detector
    assert (detector.name, detector.backbone.weights) == ("memory_bank", "bundled")
    weights = json.loads((folder / "run" / "run.json").read_text())["weights"]
    assert (weights["network"], weights["license"]) == ("tf_efficientnet_lite0", "Apache-2.0")
    assert llb_ray.audit(folder / "run")


def test_it_leaves_a_report_and_draws_heatmaps(folder: Path) -> None:
    assert (folder / "run" / "report.html").stat().st_size > 50_000
    words = ["predict", str(folder / "run"), "--data", str(folder / "photos"), "--out", str(folder / "predictions")]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert len(list((folder / "predictions" / "overlays").rglob("*.png"))) == 24
