"""Nothing in purification or training reads a label: permute them and compare every artifact."""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.manifest import LABELS, MANIFEST
from tests.support import final_files

pytestmark = pytest.mark.e2e


def _stages(run: Path) -> dict[str, str]:
    """Every artifact file, but for the two stages that may know the truth."""
    return {
        name: digest
        for name, digest in final_files(run).items()
        if name.startswith("artifacts/") and not name.startswith(("artifacts/labels/", "artifacts/evaluate/"))
    }


def _permuted(manifest: Manifest) -> Manifest:
    """Every column of the truth moved to other images: labels, defect types and masks together."""
    truth = manifest.table.select(LABELS.names)
    rows = list(range(truth.num_rows))
    random.Random(1).shuffle(rows)
    moved = truth.take(rows)
    for name in LABELS.names:
        assert moved[name].to_pylist() != truth[name].to_pylist()
    table = pa.table([*manifest.unlabelled().columns, *moved.columns], schema=MANIFEST)
    return Manifest.of(manifest.root, table, manifest.quarantine)


def test_permuted_labels_change_no_artifact(photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path) -> None:
    manifest = _permuted(llb_ray.read_folder(photos, tiny))
    llb_ray.run(tiny, manifest, out=tmp_path, executor="serial")
    assert _stages(tmp_path) == _stages(finished)
    assert (tmp_path / "metrics.json").read_bytes() != (finished / "metrics.json").read_bytes()


def test_the_comparison_can_fail(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    """The oracle does read labels, so the same comparison must tell the two runs apart."""
    oracle = with_overrides(tiny, ["purify.filter=oracle"])
    manifest = llb_ray.read_folder(photos, tiny)
    llb_ray.run(oracle, manifest, out=tmp_path / "true", executor="serial")
    llb_ray.run(oracle, _permuted(manifest), out=tmp_path / "permuted", executor="serial")
    assert _stages(tmp_path / "true") != _stages(tmp_path / "permuted")


def test_file_names_and_folders_change_no_decision(
    photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    """The folder called `crack` must not help: the same photographs under meaningless names, dealt the same."""
    plain = tmp_path / "plain"
    plain.mkdir()
    names = {}
    for number, path in enumerate(sorted((photos / "train").rglob("*.png"), key=lambda path: path.read_bytes())):
        group = path.stem.split("_")[0]
        names[number] = shutil.copy(path, plain / f"{number:04d}_{group}.png")
    llb_ray.run(tiny, llb_ray.read_folder(plain, tiny), out=tmp_path / "run", executor="serial")
    with_truth, without = _decisions(finished), _decisions(tmp_path / "run")
    assert with_truth == without


def _decisions(run: Path) -> dict[str, str]:
    import pyarrow.dataset as dataset

    table = dataset.dataset(run / "purified", format="arrow").to_table()
    return dict(zip(table["image_id"].to_pylist(), table["decision"].to_pylist(), strict=True))
