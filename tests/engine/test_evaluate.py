"""Measuring: every number against one made by hand, and an unknown truth is left out, never taken for normal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import scipy.ndimage
import torch
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import EvaluationConfig
from llb_ray.data.manifest import LABELS
from llb_ray.detectors.base import upsample
from llb_ray.engine.evaluation.evaluate import Metrics, detection_metrics, protocol, purification_metrics
from llb_ray.engine.evaluation.ground_truth import GroundTruth
from llb_ray.errors import DataError
from llb_ray.metrics.exact_pixel import pixel_metrics
from llb_ray.metrics.image_metrics import image_metrics

SIZE = 32
_STRINGS = ("group", pa.string()), ("category", pa.string())
PLAIN = EvaluationConfig(sigma_px=0)


def _config(evaluation: EvaluationConfig, size_px: int = SIZE) -> RunConfig:
    return RunConfig.model_validate({"detector": {"image_size_px": size_px}, "evaluation": evaluation.model_dump()})


PIXEL = ("p_auroc", "p_ap", "p_f1_max", "aupro")
Floats = npt.NDArray[np.float32]


def _purified(decision: Mapping[str, str]) -> pa.Table:
    return pa.table({"image_id": list(decision), "decision": list(decision.values())})


def test_purification_is_measured_over_the_labelled_images() -> None:
    decisions = ["kept"] * 5 + ["rejected"] * 4 + ["kept", "rejected"]
    purified = _purified({f"i{row}": decision for row, decision in enumerate(decisions)})
    labels = [0, 0, 0, 0, 1, 1, 1, 0, 0]  # the last two images have none
    known = {f"i{row}": label for row, label in enumerate(labels)}
    assert purification_metrics(purified, known) == {
        "contamination": pytest.approx(3 / 9),
        "residual_contamination": pytest.approx(1 / 5),
        "normals_lost": pytest.approx(2 / 6),
    }


def test_labels_are_joined_by_id_and_not_by_position() -> None:
    purified = _purified({"a": "kept", "b": "rejected", "c": "kept"})
    metrics = purification_metrics(purified, {"c": 0, "b": 1, "a": 0, "stranger": 1})
    assert metrics == {"contamination": pytest.approx(1 / 3), "residual_contamination": 0, "normals_lost": 0}


def test_a_share_of_nothing_is_none() -> None:
    purified = _purified({"a": "rejected", "b": "kept"})
    assert purification_metrics(purified, {}) == {}
    assert purification_metrics(purified, {"a": 1}) == {
        "contamination": 1,
        "residual_contamination": None,
        "normals_lost": None,
    }


class Sheet:
    """Test images with scores, maps at input size, labels and masks, built up one by one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows: list[dict[str, Any]] = []
        self.maps: list[Floats] = []
        self._rng = np.random.default_rng(0)

    def add(
        self,
        label: int | None,
        mask: npt.NDArray[np.bool_] | None = None,
        split: str = "test",
        group: str = "",
        kind: str | None = None,
    ) -> None:
        name = f"i{len(self._rows)}"
        if mask is not None:
            Image.fromarray(mask.astype(np.uint8) * 255).save(self.root / f"{name}.png")
        path = None if mask is None else f"{name}.png"
        known = {"label": label, "defect_type": kind, "mask_path": path, "group": group or name, "category": "weave"}
        self._rows.append({"image_id": name, "split": split, **known})
        hot = np.zeros((SIZE, SIZE)) if mask is None else mask
        self.maps.append((self._rng.normal(size=(SIZE, SIZE)) + hot).astype(np.float32))

    @property
    def truth(self) -> GroundTruth:
        schema = pa.schema([("image_id", pa.string()), ("split", pa.string()), *LABELS, *_STRINGS])
        return GroundTruth(pa.Table.from_pylist(self._rows, schema), self.root, 10**6)

    def metrics(self, config: EvaluationConfig = PLAIN) -> Metrics:
        """With the rows in another order than the labels'."""
        order = list(range(len(self._rows)))[::-1]
        columns = {
            "image_id": [f"i{row}" for row in order],
            "score": pa.array([float(self.maps[row].max()) for row in order], pa.float32()),
            "map": pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack([self.maps[row] for row in order])),
        }
        return detection_metrics(pa.table(columns), self.truth, _config(config))


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    return Sheet(tmp_path)


def _square(row: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[row : row + 6, 4:12] = True
    return mask


NOTHING = np.zeros((SIZE, SIZE), np.bool_)


def test_an_anomalous_image_without_a_usable_mask_is_left_out_of_the_pixels_alone(sheet: Sheet) -> None:
    truths = [(0, None), (1, _square(3)), (1, None), (1, NOTHING), (0, None), (1, _square(20))]
    for label, mask in truths:
        sheet.add(label, mask)
    sheet.add(None)
    sheet.add(0, split="train")
    metrics = sheet.metrics()
    score_N = np.array([one.max() for one in sheet.maps[:6]])
    image = image_metrics(score_N, np.array([label for label, _ in truths]))
    used = [0, 1, 4, 5]
    masks = np.stack([NOTHING, _square(3), NOTHING, _square(20)])
    pixel = pixel_metrics(np.stack([sheet.maps[row] for row in used]), masks, 0.3)
    assert metrics == {
        "num_test": 6,
        "num_test_anomalous": 4,
        "by_type": {
            "anomalous": {
                "num": 4,
                "i_auroc": pytest.approx(image["i_auroc"]),
                "aupro": pytest.approx(pixel["aupro"]),
                "aupro_error_bound": 0,
            }
        },
        "num_left_out_of_pixel_metrics": 2,
        "pixel_mode": "exact",
        "pixel_error_bound": dict.fromkeys(PIXEL, 0),
        **{name: pytest.approx(value) for name, value in (image | pixel).items()},
    }


def test_the_settings_reach_the_metrics(sheet: Sheet) -> None:
    for label, mask in [(0, None), (1, _square(3)), (1, _square(20))]:
        sheet.add(label, mask)
    smooth = upsample(np.stack(sheet.maps), (SIZE, SIZE), 2.0)
    masks = np.stack([NOTHING, _square(3), _square(20)])
    metrics = sheet.metrics(EvaluationConfig(sigma_px=2, fpr_limit=0.1))
    expected = pixel_metrics(smooth, masks, 0.1)
    assert {name: metrics[name] for name in PIXEL} == pytest.approx(expected)
    assert metrics["aupro"] != pytest.approx(sheet.metrics()["aupro"])


def test_no_mask_means_no_pixel_metric(sheet: Sheet) -> None:
    for label in (0, 1, 1):
        sheet.add(label)
    sheet.add(1, _square(3), split="train")
    assert sheet.metrics().keys() == {"num_test", "num_test_anomalous", "by_type", "i_auroc", "i_ap", "i_f1_max"}


def test_unusable_masks_alone_give_none(sheet: Sheet) -> None:
    sheet.add(1, NOTHING)
    sheet.add(1)
    metrics = sheet.metrics()
    assert {name: metrics[name] for name in (*PIXEL, "i_auroc")} == dict.fromkeys((*PIXEL, "i_auroc"))
    assert metrics["num_left_out_of_pixel_metrics"] == 2
    assert metrics["pixel_error_bound"] == dict.fromkeys(PIXEL)


def test_each_type_of_defect_is_measured_against_all_normals(sheet: Sheet) -> None:
    kinds = [None, "dent", "crack", "dent", None, "dent", None]
    for number, kind in enumerate(kinds):
        sheet.add(0 if number == 4 else None if number == 6 else int(number > 0), kind=kind)
    score_N = np.array([one.max() for one in sheet.maps])
    expected = {
        kind: image_metrics(score_N[[0, 4, *rows]], np.repeat([0, 1], [2, len(rows)]))["i_auroc"]
        for kind, rows in {"crack": [2], "dent": [1, 3, 5]}.items()
    }
    found = sheet.metrics()["by_type"]
    assert {kind: one["i_auroc"] for kind, one in found.items()} == pytest.approx(expected)
    assert {kind: one["num"] for kind, one in found.items()} == {"crack": 1, "dent": 3}


def test_the_aupro_of_a_type_is_that_of_a_test_set_without_the_others(sheet: Sheet) -> None:
    kinds = [None, "dent", "crack", "dent", None, "scratch", "crack"]
    masks = {1: _square(3), 2: _square(9), 3: _square(20), 6: NOTHING}
    for number, kind in enumerate(kinds):
        sheet.add(int(kind is not None), masks.get(number), kind=kind)
    found = sheet.metrics()["by_type"]
    for kind, rows in {"dent": [1, 3], "crack": [2]}.items():
        chosen = [0, 4, *rows]
        maps, truth = (
            np.stack([every[row] for row in chosen])
            for every in (sheet.maps, [masks.get(n, NOTHING) for n in range(7)])
        )
        assert found[kind]["aupro"] == pytest.approx(pixel_metrics(maps, truth)["aupro"])
        assert found[kind]["aupro_error_bound"] == 0
    assert (found["scratch"]["aupro"], found["scratch"]["aupro_error_bound"]) == (None, None), "it has no mask"


def test_without_labels_there_is_nothing(sheet: Sheet) -> None:
    sheet.add(None)
    sheet.add(1, _square(3), split="train")
    assert sheet.metrics() == {}


def test_a_defect_of_one_pixel_that_resizing_loses_is_left_out(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path)
    sheet.add(0)
    sheet.add(1, _square(3))
    sheet.add(1, NOTHING)
    speck = np.zeros((4 * SIZE, 4 * SIZE), np.uint8)
    speck[0, 0] = 255
    Image.fromarray(speck).save(tmp_path / "i2.png")
    assert sheet.metrics()["num_left_out_of_pixel_metrics"] == 1


def test_the_digest_of_the_masks_follows_their_content_and_not_their_name(sheet: Sheet) -> None:
    sheet.add(1, _square(3))
    first = sheet.truth.masks_digest()
    (sheet.root / "i0.png").rename(sheet.root / "other.png")
    with pytest.raises(DataError, match=r"i0\.png: the mask cannot be read .*; put it back$"):
        sheet.truth.masks_digest()
    renamed = sheet.truth.table.set_column(4, LABELS.field("mask_path"), pa.array(["other.png"]))
    assert GroundTruth(renamed, sheet.root, 10**6).masks_digest() == first
    Image.fromarray(_square(4)).save(sheet.root / "other.png")
    assert GroundTruth(renamed, sheet.root, 10**6).masks_digest() != first


def test_a_mask_that_is_no_image_is_one_sentence(sheet: Sheet) -> None:
    sheet.add(1, _square(3))
    (sheet.root / "i0.png").write_bytes(b"scribble")
    with pytest.raises(DataError, match=r"i0\.png: not a usable mask .*; replace or delete it$"):
        sheet.metrics()


def test_upsampling_is_bilinear_then_gaussian() -> None:
    map_NHW = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
    before = map_NHW.copy()
    large = torch.nn.functional.interpolate(torch.tensor(map_NHW)[None], size=(17, 17), mode="bilinear")[0].numpy()
    assert np.allclose(upsample(map_NHW, (17, 17), 0), large, atol=1e-6)
    for smooth, one in zip(upsample(map_NHW, (17, 17), 1.5), large, strict=True):
        assert np.allclose(smooth, scipy.ndimage.gaussian_filter(one, 1.5), atol=1e-6)
    assert upsample(map_NHW, (17, 17), 1.5).dtype == np.float32
    assert np.array_equal(map_NHW, before)


def test_a_peak_stays_where_it_is_and_is_spread_by_the_gaussian() -> None:
    map_NHW = np.zeros((1, 32, 32), np.float32)
    map_NHW[0, 8, 20] = 1
    smooth = upsample(map_NHW, (32, 32), 2.0)[0]
    assert np.unravel_index(smooth.argmax(), smooth.shape) == (8, 20)
    assert smooth.max() == pytest.approx(1 / (2 * np.pi * 4), rel=0.02)
    assert smooth.sum() == pytest.approx(1, rel=1e-3)


def test_the_gaussian_is_four_pixels_at_224_and_in_proportion_elsewhere() -> None:
    assert EvaluationConfig().sigma_at(224) == 4
    assert EvaluationConfig().sigma_at(56) == 1
    assert EvaluationConfig(sigma_px=0).sigma_at(224) == 0
    assert EvaluationConfig(sigma_px=2.5).sigma_at(56) == 2.5


def test_the_protocol_names_the_settings_in_force() -> None:
    told = protocol(_config(EvaluationConfig(fpr_limit=0.1), 112))
    assert (told["sigma_px"], told["fpr_limit"], told["size_px"]) == (2, 0.1, 112)
    assert told.keys() >= {"mask", "map", "aupro", "pixel_mode", "object", "left_out"}


def test_an_object_is_as_anomalous_as_its_most_anomalous_view(sheet: Sheet) -> None:
    """Two views of three objects; the unlabelled view of the last, its hottest, is not looked at."""
    views = [("a", 0, 1), ("b", 1, 3), ("c", 0, 2), ("a", 0, 0), ("b", 0, 9), ("c", 0, 1), ("c", None, 20)]
    for group, label, heat in views:
        sheet.add(label, group=group)
        sheet.maps[-1][:] = heat
    metrics = sheet.metrics()
    assert metrics["s_auroc"] == 1  # b has 9 of a view that is normal
    assert metrics["i_auroc"] == pytest.approx(4 / 5)


def test_a_folder_without_labels_runs_and_measures_nothing(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    manifest = llb_ray.read_folder(photos / "train" / "good", tiny)
    result = llb_ray.run(tiny, manifest, out=tmp_path, executor="serial")
    assert result.metrics.keys() == {"protocol"}
