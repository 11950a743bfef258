"""One suite over every detector: what `detectors.base` promises in a run's name, whoever detects."""

import contextlib
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as parquet
import pytest
import safetensors.torch
import torch

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import DetectorConfig, ImportanceConfig, parse
from llb_ray.data.tables import read_table
from llb_ray.detectors.base import Detector, FitLog, Layers, Report, Scores, State, SteppedDetector
from llb_ray.detectors.factory import build_detector, build_encoder, encoder_fingerprint, learner_settings
from llb_ray.engine.features.encoding import layers_of, stored_layers
from llb_ray.extensions import DETECTORS

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
SIZE = 32
ROLES = ("member", "final")
Pixels = npt.NDArray[np.uint8]

CASES: dict[str, dict[str, Any]] = {
    "autoencoder": {"channels": 8, "latent_dim": 8, "member_steps": 60, "final_steps": 70},
    "memory_bank": {
        "backbone": {"name": "test_resnet.r160_in1k", "weights": "random", "layers": [1, 2]},
        "coreset_size": 60,
        "candidates": 800,
        "projection_dim": 8,
    },
    "density": {
        "backbone": {"name": "test_resnet.r160_in1k", "weights": "random", "layers": [1, 2]},
        "places": 16,
    },
    "memory_bank, plain": {
        "name": "memory_bank",
        "backbone": {"name": "test_resnet.r160_in1k", "weights": "random", "layers": [1, 2]},
        "memory": "plain",
        "coreset_size": 60,
        "candidates": 800,
        "projection_dim": 8,
    },
    "reconstruction": {
        "backbone": {"name": "test_resnet.r160_in1k", "weights": "random", "layers": [1, 2]},
        "channels": 32,
        "decoder_depth": 1,
        "member_steps": 200,
        "final_steps": 210,
        "learning_rate": 0.01,
        "standardize": True,
        "neighbourhood": 1,
    },
    "reconstruction, transformer": {
        "name": "reconstruction",
        "backbone": {"name": "test_vit.r160_in1k", "weights": "random", "layers": [2, 3, 4, 5]},
        "neighbourhood": 1,
        "groups": [[0, 1], [2, 3]],
        "decoder_depth": 4,
        "member_steps": 60,
        "final_steps": 70,
    },
}
BANDS = {"autoencoder, 1 band": 1, "autoencoder, 5 bands": 5, "autoencoder, 200 bands": 200}
CASES |= {name: {"name": "autoencoder", **CASES["autoencoder"]} for name in BANDS}
CASES["autoencoder, 200 bands"] |= {"batch_size": 4, "member_steps": 30, "final_steps": 35}  # for speed
detectors = pytest.mark.parametrize("name", sorted(CASES))


class Encoded:
    """A `Source` over pictures, through the number format of the cache."""

    def __init__(self, name: str, image_BHW3: Pixels) -> None:
        self.image_ids: Sequence[str] = [f"image-{row}" for row in range(len(image_BHW3))]
        image_BHWC = _in_bands(image_BHW3, BANDS[name]) if name in BANDS else image_BHW3
        self.stored = stored_layers(build_encoder(_config(name), CPU), image_BHWC)

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        return layers_of([layer[rows] for layer in self.stored], CPU)


def _config(name: str, **changes: Any) -> DetectorConfig:
    return parse({"detector": {"name": name, "image_size_px": SIZE, **CASES[name], **changes}}).detector


def _stripes(count: int, seed: int = 0) -> Pixels:
    """Softly striped pictures of any brightness and phase."""
    rng = np.random.default_rng(seed)
    wave_NW = np.sin(np.linspace(0, 12, SIZE) + rng.uniform(0, 6, (count, 1)))
    shade_NHW = 120 + rng.normal(0, 10, (count, 1, 1)) + 20 * wave_NW[:, None]
    pixel_NHW = (shade_NHW + rng.normal(0, 3, (count, SIZE, SIZE))).round().astype(np.uint8)
    return np.repeat(pixel_NHW[..., None], 3, axis=3)


def _in_bands(image_BHW3: Pixels, count: int) -> Pixels:
    """The grey pictures in bands of falling contrast."""
    gain_C = np.linspace(1, 0.5, count)
    return (image_BHW3[..., :1] * gain_C).round().astype(np.uint8)


def _spoilt(image_BHW3: Pixels) -> Pixels:
    """The pictures with a checkered patch in rows 18 to 25, columns 4 to 11."""
    spoilt = image_BHW3.copy()
    spoilt[:, 18:26, 4:12] = np.where(np.indices((8, 8)).sum(axis=0) // 2 % 2, 255, 0)[..., None]
    return spoilt


# Enough for what does not depend on how well a detector has learnt.
BRIEF = {"member_steps": 12, "final_steps": 14}


def _brief(name: str) -> DetectorConfig:
    return _config(name, **(BRIEF if _config(name).trains_by_gradient else {}))


@functools.cache
def _fitted(name: str, role: str = "member") -> Detector:
    return build_detector(_config(name), role, CPU).fit(Encoded(name, _stripes(48)), 0)


def _scores(detector: Detector, name: str, image_BHW3: Pixels) -> Scores:
    source = Encoded(name, image_BHW3)
    return detector.score(source.batch(np.arange(len(source))))


def test_every_detector_has_a_case() -> None:
    assert {_config(name).name for name in CASES} == set(DETECTORS.names()), "a new detector needs a case here"


@detectors
def test_one_finite_score_and_one_map_per_image(name: str) -> None:
    scores = _scores(_fitted(name), name, _stripes(5, 1))
    assert scores.score_N.shape == (5,)
    assert scores.map_NHW.ndim == 3
    assert len(scores.map_NHW) == 5
    assert scores.score_N.dtype == scores.map_NHW.dtype == np.float32
    assert np.isfinite(scores.score_N).all()
    assert np.isfinite(scores.map_NHW).all()


@detectors
@pytest.mark.parametrize("role", ROLES)
def test_scores_rise_with_abnormality_and_the_map_peaks_on_it(name: str, role: str) -> None:
    plain, strange = _stripes(12, 1), _spoilt(_stripes(12, 1))
    normal, spoilt = (_scores(_fitted(name, role), name, images) for images in (plain, strange))
    assert (spoilt.score_N > normal.score_N).all()
    assert spoilt.score_N.min() > np.median(normal.score_N)
    cell_px = SIZE / spoilt.map_NHW.shape[1]
    for map_HW in spoilt.map_NHW:
        row, column = np.unravel_index(map_HW.argmax(), map_HW.shape)
        assert 18 - cell_px <= (row + 0.5) * cell_px <= 26 + cell_px
        assert 4 - cell_px <= (column + 0.5) * cell_px <= 12 + cell_px


@detectors
def test_scores_depend_neither_on_batch_size_nor_on_order(name: str) -> None:
    detector, source = _fitted(name), Encoded(name, _spoilt(_stripes(9, 1)))
    together = detector.score(source.batch(np.arange(9)))
    order = np.array([4, 1, 8, 0, 2, 7, 3, 6, 5])
    shuffled = detector.score(source.batch(order))
    alone = [detector.score(source.batch(np.array([row]))) for row in range(9)]
    np.testing.assert_allclose(shuffled.score_N, together.score_N[order], rtol=1e-4)
    np.testing.assert_allclose(shuffled.map_NHW, together.map_NHW[order], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.concatenate([one.score_N for one in alone]), together.score_N, rtol=1e-4)


@detectors
def test_a_detector_comes_back_from_bytes_as_it_was(name: str) -> None:
    detector, images = _fitted(name), _spoilt(_stripes(4, 1))
    content = safetensors.torch.save(detector.state())
    back = build_detector(_config(name), "member", CPU).load_state(safetensors.torch.load(content))
    expected, found = (_scores(one, name, images) for one in (detector, back))
    assert np.array_equal(found.score_N, expected.score_N)
    assert np.array_equal(found.map_NHW, expected.map_NHW)
    assert safetensors.torch.save(back.state()) == content


@detectors
def test_a_detector_is_a_function_of_its_seed(name: str) -> None:
    images, source = _spoilt(_stripes(4, 1)), Encoded(name, _stripes(24))
    torch.manual_seed(11)
    fits = (build_detector(_brief(name), "member", CPU).fit(source, seed) for seed in (0, 0, 1))
    first, again, other = (_scores(fit, name, images) for fit in fits)
    assert np.array_equal(first.score_N, again.score_N)
    assert np.array_equal(first.map_NHW, again.map_NHW)
    assert np.array_equal(first.map_NHW, other.map_NHW) == (not _config(name).draws_at_random)


@detectors
def test_scoring_changes_nothing(name: str) -> None:
    detector = _fitted(name)
    before = safetensors.torch.save(detector.state())
    source = Encoded(name, _spoilt(_stripes(4, 1)))
    layers = source.batch(np.arange(4))
    copies = [layer.clone() for layer in layers]
    detector.score(layers)
    assert safetensors.torch.save(detector.state()) == before
    assert all(torch.equal(layer, copy) for layer, copy in zip(layers, copies, strict=True))


@detectors
def test_fitting_reports_up_to_the_end(name: str) -> None:
    seen: list[tuple[int, int]] = []
    config = _brief(name)
    source = Encoded(name, _stripes(6))
    build_detector(config, "member", CPU).fit(source, 0, lambda done, total, *_: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


class Copied(Encoded):
    """Each picture three times: as it is, and as two augmented copies, here half as bright and upside down."""

    def __init__(self, name: str, image_BHW3: Pixels) -> None:
        super().__init__(name, np.concatenate([image_BHW3, image_BHW3 // 2, image_BHW3[:, ::-1]]))
        self.image_ids = self.image_ids[: len(image_BHW3)]

    def __len__(self) -> int:
        return 3 * len(self.image_ids)


class Notebook:
    """`Checkpoints` of every seventh step, as bytes."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def load(self) -> State | None:
        return safetensors.torch.load(self.content) if self.content else None

    def due(self, num_done: int) -> bool:
        return num_done % 7 == 0

    def save(self, state: State) -> None:
        self.content = safetensors.torch.save(state)


IMPORTANCE = {
    "plain": None,
    "moments": ImportanceConfig(mode="moments"),
    "robust": ImportanceConfig(mode="robust", log_scores=True, buffer=64),
}
losses = pytest.mark.parametrize("loss", IMPORTANCE)


def _log(name: str, detector: Detector) -> FitLog | None:
    return cast(SteppedDetector, detector).log() if _config(name).trains_by_gradient else None


def _bytes_of(name: str, detector: Detector) -> tuple[bytes, dict[str, bytes]]:
    log = _log(name, detector)
    columns = {**log.steps, **log.images} if log else {}
    return safetensors.torch.save(detector.state()), {name: column.tobytes() for name, column in columns.items()}


# Bands are layers of another width: one number of them stands for all where a fit is stopped.
STEPPED = sorted(set(CASES) - set(BANDS) | {"autoencoder, 5 bands"})


@losses
@pytest.mark.parametrize("name", [name for name in STEPPED if _config(name).trains_by_gradient])
def test_a_fit_that_goes_on_from_a_checkpoint_ends_as_if_it_had_never_stopped(name: str, loss: str) -> None:
    config, importance = _config(name, member_steps=30), IMPORTANCE[loss]
    source = Copied(name, _stripes(12))

    def unfitted() -> SteppedDetector:
        return cast(SteppedDetector, build_detector(config, "member", CPU, importance))

    whole = unfitted().fit(source, 3)
    notebook = Notebook()
    for last in (5, 20, 21, 29):
        with contextlib.suppress(KeyboardInterrupt):
            unfitted().fit(source, 3, _killer(last), notebook)
    assert notebook.content
    assert _bytes_of(name, unfitted().fit(source, 3, checkpoints=notebook)) == _bytes_of(name, whole)


def _killer(last: int) -> Report:
    """A report that ends the process, as it were, when `last` steps are done."""

    def report(done: int, *_: object) -> None:
        if done == last:
            raise KeyboardInterrupt

    return report


@detectors
def test_a_fit_reads_every_copy_and_says_something_of_each_image_once(name: str) -> None:
    config = _config(name, **({"member_steps": 30} if _config(name).trains_by_gradient else {}))
    read: list[int] = []

    class Watched(Copied):
        def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
            read.extend(rows.tolist())
            return super().batch(rows)

    importance = ImportanceConfig(mode="moments") if config.trains_by_gradient else None
    log = _log(name, build_detector(config, "member", CPU, importance).fit(Watched(name, _stripes(8)), 0))
    assert set(read) == set(range(24))
    if log is not None:
        assert {len(column) for column in log.images.values()} == {8}
        assert read[-8:] == list(range(8)), "the last pass, for the log, is over the plain pictures"


@detectors
def test_copies_change_what_is_learnt(name: str) -> None:
    config = _brief(name)
    states = [
        build_detector(config, "member", CPU).fit(kind(name, _stripes(12)), 0).state() for kind in (Encoded, Copied)
    ]
    assert safetensors.torch.save(states[0]) != safetensors.torch.save(states[1])


@detectors
def test_settings_of_a_role_leave_out_the_other_roles_budget_and_nothing_else(name: str) -> None:
    # Named by the encoder's fingerprint; tiles that there are not, so that runs of before keep their keys.
    every = set(type(_config(name)).model_fields) - {"backbone", "tiles"}
    for role, other in zip(ROLES, ROLES[::-1], strict=True):
        foreign = {field for field in every if field.startswith(f"{other}_")}
        settings = learner_settings(_config(name), role)
        assert set(settings) == every - foreign
        for field in foreign:
            longer = _config(name, **{field: getattr(_config(name), field) + 1})
            assert learner_settings(longer, role) == settings
            assert learner_settings(longer, other) != learner_settings(_config(name), other)


@detectors
def test_what_the_settings_say_of_a_fit_is_so(name: str) -> None:
    """Its steps, the images that it reads, and a shorter one."""
    config, steps, read = _brief(name), list[int](), list[int]()

    class Watched(Encoded):
        def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
            read.extend(rows.tolist())
            return super().batch(rows)

    def report(done: int, total: int, unit: str, *_: object) -> None:
        steps.extend([done] if unit == "step" else [])

    build_detector(config, "member", CPU).fit(Watched(name, _stripes(20)), 0, report)
    assert len(steps) == config.num_steps("member")
    assert bool(steps) == bool(config.images_per_step) == config.trains_by_gradient
    assert len(read) == config.reads("member", 20)
    shorter, _ = config.shortened(3)
    assert shorter.num_steps("final") == min(3, config.num_steps("final"))
    assert config.cut_short(0.5).num_steps("final") == round(config.num_steps("final") / 2)


@detectors
def test_the_roles_budget_is_the_one_that_is_spent(name: str) -> None:
    budgets = {field for field in type(_config(name)).model_fields if field.startswith(ROLES)}
    same = np.array_equal(*(_scores(_fitted(name, role), name, _stripes(4, 1)).map_NHW for role in ROLES))
    assert same == (not budgets)


@detectors
def test_an_encoders_fingerprint_is_known_without_building_it_and_names_its_size(name: str) -> None:
    config, larger = _config(name), _config(name, image_size_px=2 * SIZE)
    assert dict(build_encoder(config, CPU).fingerprint()) == dict(encoder_fingerprint(config))
    assert dict(encoder_fingerprint(config)) != dict(encoder_fingerprint(larger))


@pytest.fixture(params=["finished", "finished_bank"])
def whole_run(request: pytest.FixtureRequest) -> Path:
    run: Path = request.getfixturevalue(request.param)
    return run


def test_a_whole_run_passes_the_audit_and_its_prediction_is_what_the_run_said(
    whole_run: Path, photos: Path, tmp_path: Path
) -> None:
    assert llb_ray.audit(whole_run)
    llb_ray.predict(whole_run, photos, out=tmp_path)
    predicted = parquet.read_table(tmp_path / "scores.parquet")
    said = read_table(whole_run / "image_scores.arrow")
    expected = dict(zip(said["image_id"].to_pylist(), said["score"].to_pylist(), strict=True))
    found = dict(zip(predicted["image_id"].to_pylist(), predicted["score"].to_pylist(), strict=True))
    assert found.keys() == expected.keys()
    assert len(found) == 72
    # Images are encoded in other batches than the run had: float noise, which ratios of small distances enlarge.
    assert found == pytest.approx(expected, rel=5e-4)


def test_a_memory_bank_run_is_the_same_again_from_copied_photographs(
    finished_bank: Path, photos: Path, tiny_bank: RunConfig, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / photos.name))
    llb_ray.run(tiny_bank, llb_ray.read_folder(moved, tiny_bank), out=tmp_path / "run", executor="serial")
    for name in ("purified/part-0.arrow", "scores.arrow", "image_scores.arrow", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished_bank / name).read_bytes()
