"""The shipped FUIAD configuration on a fabricated Real-IAD: official lists, five views, a detector of pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llb_ray
from llb_ray.config import load_scan

CONFIG = Path(__file__).parents[2] / "configs" / "real_iad_fuiad.yaml"
TINY = [
    "detector={name: autoencoder, image_size_px: 32, channels: 4, member_steps: 6, final_steps: 6}",
    "resources={num_cpus: 1}",
    "members.count=2",
    "scan.seeds=[0]",
    "scan.filters=[none, llb]",
    "scan.alphas=[0, 0.4]",
]


def _image(root: Path, path: str, number: int, defect: bool) -> None:
    pixels = np.random.default_rng(number).integers(90, 110, (40, 40, 3), dtype=np.uint8)
    if defect:
        pixels[10:20, 10:20] = 250
        mask = np.zeros((40, 40), np.uint8)
        mask[10:20, 10:20] = 255
        Image.fromarray(mask).save((root / path).with_suffix(".png"))
    Image.fromarray(pixels).save(root / path)


def _views(root: Path, category: str, number: int, defect: bool) -> list[dict[str, object]]:
    kind = "NG/HS" if defect else "OK"
    folder = f"{kind}/S{number:04d}"
    (root / "realiad_1024" / category / folder).mkdir(parents=True)
    entries = []
    for view in range(1, 6):
        stem = f"{folder}/{category}_{number:04d}_{kind.replace('/', '_')}_C{view}_2023"
        shows = defect and view < 3  # from the other sides it cannot be seen
        _image(
            root / "realiad_1024" / category, f"{stem}.jpg" if not shows else f"{stem}.bmp", number * 10 + view, shows
        )
        path = f"{stem}.bmp" if shows else f"{stem}.jpg"
        mask = f"{stem}.png" if shows else None
        anomaly = "HS" if defect else "OK"
        entries.append({"category": category, "anomaly_class": anomaly, "image_path": path, "mask_path": mask})
    return entries


@pytest.fixture(scope="module")
def real_iad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of ten training and six test objects, mixed by their authors at alpha 0 and 0.4."""
    root = tmp_path_factory.mktemp("real_iad")
    for category in ("usb", "toy"):
        normal = [_views(root, category, number, False) for number in range(13)]
        anomalous = [_views(root, category, number, True) for number in range(13, 20)]
        test = [entry for views in normal[10:] + anomalous[4:] for entry in views]
        for alpha, count in (("0.0", 0), ("0.4", 4)):
            train = [entry for views in normal[: 10 - count] + anomalous[:count] for entry in views]
            lists = root / "realiad_jsons" / f"realiad_jsons_fuiad_{alpha}"
            lists.mkdir(parents=True, exist_ok=True)
            meta = {"prefix": f"{category}/", "normal_class": "OK", "pre_transform": False}
            (lists / f"{category}.json").write_text(json.dumps({"meta": meta, "train": train, "test": test}))
    return root


def test_the_shipped_configuration_is_complete_but_for_the_root() -> None:
    config = load_scan(CONFIG, ["scan.dataset.root=somewhere"])
    assert config.scan.alphas == (0, 0.1, 0.2, 0.4)
    assert config.scan.dataset.kind == "real_iad"
    assert config.detector.name == "reconstruction"
    assert config.notices() == []


def test_official_lists_are_taken_as_they_are_and_objects_are_counted(real_iad: Path, tmp_path: Path) -> None:
    config = load_scan(CONFIG, [f"scan.dataset.root={real_iad}", *TINY])
    rows = llb_ray.scan(config, out=tmp_path / "scan", executor="serial").to_pylist()
    assert len(rows) == 2 * 2 * 2
    assert {row["reason"] for row in rows} == {None}
    for row in rows:
        assert row["num_train"] == 50
        assert row["num_test"] == 30
        # Two of an anomalous object's five views show its defect; the others have no mask and are normal images.
        assert row["contamination"] == pytest.approx(0.4 * row["alpha"])
        assert row["s_auroc"] is not None
        assert row["aupro"] is not None
