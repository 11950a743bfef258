"""llb-ray tune takes the images that llb-ray run takes."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.cli import main
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.search.canary import with_canaries
from llb_ray.search.trials import Trial, trials_table


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
    """The images that the command searches on."""
    given: list[Manifest] = []

    def noted(config: RunConfig, manifest: Manifest, *_: object, **__: object) -> Any:
        given.append(manifest)
        return trials_table([Trial(0, {"members.count": 2}, 1.0, 0.5)])

    monkeypatch.setattr("llb_ray.api.tune", noted)
    return given


@pytest.fixture
def command(tiny: RunConfig, tmp_path: Path) -> list[str]:
    """All but the images; a manifest file names its groups itself."""
    plain = tiny.model_copy(update={"data": tiny.data.model_copy(update={"group_pattern": None})})
    (tmp_path / "config.yaml").write_text(plain.to_yaml())
    (tmp_path / "space.yaml").write_text("members.count: [2, 3]\n")
    said = {"--config": tmp_path / "config.yaml", "--space": tmp_path / "space.yaml", "--out": tmp_path / "tune"}
    return ["tune", *(f"{word}" for item in said.items() for word in item)]


def test_a_category_of_a_manifest_file_is_searched(
    command: list[str], searched: list[Manifest], photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    listing = tmp_path / "photos.arrow"
    llb_ray.manifest("mvtec", photos, out=listing)
    result = CliRunner().invoke(main, [*command, "--manifest", str(listing), "--category", "weave"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, [*command, "--data", str(photos)])
    assert result.exit_code == 0, result.output
    listed, read = searched
    assert listed.image_ids(TRAIN) == read.image_ids(TRAIN)
    judged = with_canaries(listed, tmp_path / "tune", tiny, seed=0, share=0.25)
    assert len(judged.image_ids(TEST)) == 2 * (len(listed.image_ids(TRAIN)) - len(judged.image_ids(TRAIN))) > 0


@pytest.mark.parametrize("words", [[], ["--data", "photos", "--manifest", "photos.arrow"]])
def test_images_are_given_once(words: list[str], command: list[str], searched: list[Manifest]) -> None:
    result = CliRunner().invoke(main, [*command, *words])
    assert result.exit_code == 2
    assert "give the images by one of --data and --manifest" in result.stderr
    assert not searched
