"""plan: the calibration measures with the engine's own pieces, and the forecast adds up and refuses what cannot fit."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.cli import main
from llb_ray.config import DetectorConfig, Role, load, load_scan, parse, with_overrides
from llb_ray.detectors.autoencoder_config import AutoencoderConfig
from llb_ray.detectors.base import Detector
from llb_ray.detectors.factory import build_detector
from llb_ray.detectors.memory_bank_config import MemoryBankConfig
from llb_ray.engine.evaluation.evaluate import EXACT_PIXELS
from llb_ray.engine.execution.executor import SerialExecutor
from llb_ray.errors import DataError, ResourceError
from llb_ray.planning import fit_timing, requirements, workload
from llb_ray.planning.benchmark_runner import forecast_run
from llb_ray.planning.cost_model import Cost, CostModel, Linear
from llb_ray.planning.forecast import Forecast, forecast
from llb_ray.planning.timing_worker import sample_images
from llb_ray.planning.workload import Cluster, Size

GIB = 2**30
MEASURED = CostModel(
    encode=Linear(1.0, 0.01),
    costs={
        "member": Cost(Linear(0.5, 0.001), step_s=0.02, score_s=0.002, load_s=0.1, state=Linear(2e6, 0)),
        "final": Cost(Linear(0.7, 0.002), step_s=0.03, score_s=0.004, load_s=0.2, state=Linear(2e6, 1e4)),
    },
    reading=Linear(0.2, 0.001),
    evaluate=Linear(0.3, 0.01),
    unclocked_s=2.0,
    layer_bytes=100_000,
    map_bytes=3000,
    other_bytes=500,
    peak_bytes=GIB // 2,
    resident_bytes=GIB // 4,
    shared_bytes=GIB // 8,
    gpu_bytes=0,
    gpu_total_bytes=0,
    seconds=10.0,
)
SERIAL = Cluster(slots=1, start_s=0, in_process=True)
RAY = Cluster(slots=2, start_s=3.0, in_process=False, connect_s=5.0)


@pytest.fixture(scope="module")
def manifest(photos: Path, tiny: RunConfig) -> Manifest:
    return llb_ray.read_folder(photos, tiny)


def _forecast(config: RunConfig, manifest: Manifest, cluster: Cluster, out: Path, **facts: int) -> Forecast:
    return forecast(config, manifest, replace(MEASURED, **facts), cluster, out)


def _seconds(told: Forecast) -> dict[str, float]:
    return {stage.stage: stage.seconds for stage in told.stages}


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", "--executor", "serial", *map(str, arguments)])


@pytest.fixture
def config(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(tiny.to_yaml())
    return path


positive = st.floats(0, 1e3)


@given(few=st.integers(0, 100), more=st.integers(1, 100), few_s=positive, many_s=positive)
def test_a_line_through_noise_never_falls_nor_starts_below_nothing(
    few: int, more: int, few_s: float, many_s: float
) -> None:
    line = Linear.through((few, few_s), (few + more, many_s))
    assert line.start >= 0
    assert line.unit >= 0


@given(start=positive, unit=positive, few=st.integers(0, 100), more=st.integers(1, 100))
def test_a_line_is_found_again(start: float, unit: float, few: int, more: int) -> None:
    line = Linear(start, unit)
    found = Linear.through((few, line.of(few)), (few + more, line.of(few + more)))
    assert found.of(1000) == pytest.approx(line.of(1000), rel=1e-3, abs=1e-3)


def test_a_sample_has_images_of_each_split(manifest: Manifest) -> None:
    few = sample_images(manifest, 5)
    assert few.table["split"].to_pylist().count("train") == few.table["split"].to_pylist().count("test") == 5
    assert set(few.table["image_id"].to_pylist()) < set(manifest.table["image_id"].to_pylist())
    assert sample_images(manifest, 500).table.equals(manifest.table)


def test_a_short_detector_differs_in_its_budget_alone() -> None:
    config = AutoencoderConfig()
    short, scale = config.shortened(7)
    assert (short.num_steps("member"), short.num_steps("final"), scale) == (7, 7, 1.0)
    assert short.image_size_px == config.image_size_px
    bank = MemoryBankConfig(coreset_size=20_000)
    short, scale = bank.shortened(7)
    assert (bank.num_steps("final"), scale) == (0, 5.0)
    assert MemoryBankConfig().shortened(7) == (MemoryBankConfig(), 1.0)


def test_a_larger_memory_knows_as_many_places() -> None:
    """Of a detector's bytes only those of the memory's entries grow with `coreset_size`."""
    state = {"memory_MD": torch.zeros(7, 4), "weight_M": torch.zeros(7), "place_precision_Ldd": torch.zeros(9, 4, 4)}
    assert fit_timing.state_bytes(state, 3, MemoryBankConfig.memory_tensors) == 4 * (3 * 7 * 5 + 9 * 4 * 4)


def test_stages_add_up_where_one_process_does_all(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    """48 training and 24 test images, 3 members of 16 images and 12 steps, a final of 36 images and 20 steps."""
    seconds = _seconds(_forecast(tiny, manifest, SERIAL, tmp_path))
    assert seconds["features"] == pytest.approx(1 + 72 * 0.01)
    assert seconds["members"] == pytest.approx(3 * (0.5 + 16 * 0.001 + 12 * 0.02))
    assert seconds["member-scores"] == pytest.approx(0.2 + 2 * 0.1 + 48 * (0.001 + 3 * 0.002))
    assert seconds["final"] == pytest.approx(0.7 + 36 * 0.002 + 20 * 0.03)
    assert seconds["final-scores"] == pytest.approx(0.2 + 72 * (0.001 + 0.004))
    assert seconds["evaluate"] == pytest.approx(0.3 + 24 * 0.01)


def test_members_go_in_rounds_and_processes_are_started_once(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    told = _forecast(tiny, manifest, RAY, tmp_path)
    serial = _seconds(_forecast(tiny, manifest, SERIAL, tmp_path))
    assert _seconds(told)["ray"] == 5.0
    assert _seconds(told)["members"] == pytest.approx(2 * (serial["members"] / 3)), "3 members, 2 at once"
    assert _seconds(told)["final"] == pytest.approx(serial["final"])
    assert _seconds(told)["features"] > 3


def test_without_a_filter_there_are_no_members(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    told = _forecast(with_overrides(tiny, ["purify.filter=none"]), manifest, SERIAL, tmp_path)
    assert not {"members", "member-scores"} & set(_seconds(told))


def test_further_fits_for_the_threshold_are_forecast_where_they_are_certain(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    """Two folds of 24 of 48 images; with members it depends on what is rejected, and a note says so."""
    tiny = with_overrides(tiny, ["threshold.folds=2"])
    told = _forecast(with_overrides(tiny, ["purify.filter=none"]), manifest, SERIAL, tmp_path)
    assert _seconds(told)["folds"] == pytest.approx(2 * (0.7 + 24 * 0.002 + 20 * 0.03))
    assert _seconds(told)["fold-scores"] == pytest.approx(2 * (0.2 + 24 * (0.001 + 0.004)))
    told = _forecast(tiny, manifest, SERIAL, tmp_path)
    assert "folds" not in _seconds(told)
    assert any(re.search(r"fewer than 10 images .* 2 further fits .*, 3.31 s", note) for note in told.notes)
    for name in ("none", "llb"):
        told = _forecast(
            with_overrides(tiny, [f"purify.filter={name}", "threshold.method=none"]), manifest, SERIAL, tmp_path
        )
        assert "folds" not in _seconds(told)
        assert not any("threshold" in note for note in told.notes)


@pytest.mark.parametrize(
    ("settings", "detectors"),
    [([], 3), (["threshold.method=folds", "threshold.folds=2"], 2), (["threshold.method=none"], None)],
)
def test_held_out_maps_are_forecast_by_the_detectors_that_give_them(
    settings: list[str], detectors: int | None, tiny: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    """36 kept images, each by one detector; nothing where no threshold is set."""
    seconds = _seconds(_forecast(with_overrides(tiny, settings), manifest, SERIAL, tmp_path))
    assert ("held-out-maps" in seconds) == (detectors is not None)
    if detectors is not None:
        assert seconds["held-out-maps"] == pytest.approx(detectors * 0.2 + 36 * (0.001 + 0.004))


def test_copies_are_encoded_and_learnt_from(tiny: RunConfig, manifest: Manifest) -> None:
    size = Size.of(with_overrides(tiny, ["features.augment=[hflip, rot90]"]), manifest)
    assert (size.cached_images, size.num_copies) == (72 + 2 * 48, 3)


def test_without_a_cache_every_reading_is_an_encoding(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    cached = _forecast(tiny, manifest, SERIAL, tmp_path)
    streamed = _forecast(with_overrides(tiny, ["features.max_gib=0"]), manifest, SERIAL, tmp_path)
    assert any("images are encoded whenever they are read" in note for note in streamed.notes)
    # Of a member: the first image, 12 batches of 16, and two passes over 16 images.
    extra = 3 * 0.01 * (1 + 12 * 16 + 2 * 16)
    assert _seconds(streamed)["members"] - _seconds(cached)["members"] == pytest.approx(extra)
    assert [need.needed_bytes for need in streamed.needs] < [need.needed_bytes for need in cached.needs]


@pytest.mark.parametrize(
    ("what", "free", "sentence"),
    [
        (
            "free_memory_bytes",
            lambda: 1,
            r"memory: a run needs .* GiB \(driver .*2 workers of 0.38 each .*; raise resources",
        ),
        ("free_disk_bytes", lambda path: 1, r"disk: a run needs .* GiB \(layers .*; choose another --out"),
    ],
)
def test_what_cannot_fit_is_one_sentence(
    what: str,
    free: object,
    sentence: str,
    tiny: RunConfig,
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requirements, what, free)
    monkeypatch.setattr(requirements, "num_cores", lambda: 2)
    # What the calibration holds itself counts as free.
    (refusal,) = _forecast(tiny, manifest, RAY, tmp_path, resident_bytes=2**20).refusals
    assert re.match(sentence, refusal)


def test_every_detector_takes_disk_by_the_rows_that_it_was_fitted_on(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    """Folds add two detectors of 24 images each, at 2 MB and 10 kB an image."""
    settings = ["purify.filter=none", "threshold.folds=2"]

    def disk(setting: str) -> int:
        told = _forecast(with_overrides(tiny, [*settings, setting]), manifest, SERIAL, tmp_path)
        return next(need.needed_bytes for need in told.needs if need.name == "disk")

    assert disk("threshold.method=folds") - disk("threshold.method=none") == 2 * (2_000_000 + 24 * 10_000)


def test_pixels_beyond_those_of_exact_metrics_take_no_more_memory(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million labelled test images are counted by workers, not held."""

    def memory(labelled: int) -> int:
        monkeypatch.setattr(workload, "num_labelled", lambda manifest: labelled)
        facts = {"resident_bytes": GIB // 2}
        return next(need for need in _forecast(tiny, manifest, SERIAL, tmp_path, **facts).needs).needed_bytes

    few = EXACT_PIXELS // tiny.detector.image_size_px**2
    assert memory(few // 2) < memory(few) == pytest.approx(memory(1_000_000), rel=0.001)


def test_a_gpu_that_is_too_small_or_shared_by_too_many_is_refused(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["resources.num_gpus=0.5"])
    facts = {"gpu_bytes": 11 * GIB, "gpu_total_bytes": 24 * GIB}
    assert _forecast(config, manifest, RAY, tmp_path, **facts).refusals == []
    (refusal,) = _forecast(config, manifest, RAY, tmp_path, **facts | {"gpu_bytes": 12 * GIB}).refusals
    assert refusal.startswith("GPU memory: a run needs 12.5 GiB (0.5 of a GPU) and 12 GiB are free; raise")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("which", ["tiny", "tiny_bank"])
def test_a_calibration_measures_everything_and_leaves_nothing(
    which: str, manifest: Manifest, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config: RunConfig = request.getfixturevalue(which)
    told = forecast_run(config, manifest, tmp_path / "runs" / "new", SerialExecutor(), 0.0, lambda line: None)
    seconds = _seconds(told)
    assert min(seconds.values()) >= 0
    assert min(seconds[name] for name in ("features", "members", "final", "evaluate")) > 0
    assert all(need.needed_bytes > 0 for need in told.needs)
    assert told.refusals == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_thread")
def test_each_role_is_tried_out_with_its_own_detector(
    tiny_bank: RunConfig, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_overrides(tiny_bank, ["members.detector=density"])
    built = set[tuple[str, DetectorConfig]]()

    def noted(config: DetectorConfig, role: Role, *rest: object) -> Detector:
        built.add((role, config))
        return build_detector(config, role, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_timing, "build_detector", noted)
    forecast_run(config, manifest, tmp_path / "new", SerialExecutor(), 0.0, lambda line: None)
    assert built == {(role, config.detector_of(role)) for role in ("member", "final")}
    assert {config.name for _, config in built} == {"density", "memory_bank"}


@pytest.mark.ray
def test_a_calibration_is_done_by_the_workers_of_the_run(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path, ray_local: None
) -> None:
    told = llb_ray.plan(tiny, manifest, out=tmp_path)
    assert told.cluster.slots == 2
    assert told.cluster.start_s > 0, "processes were started"
    assert not told.cluster.in_process


def test_too_few_images_and_too_few_cores_are_refused_before_anything_is_tried(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="48 training images cannot be divided among 60 members"):
        llb_ray.plan(with_overrides(tiny, ["members.count=60"]), manifest, out=tmp_path, executor="serial")

    def none(self: SerialExecutor, resources: object) -> int:
        raise ResourceError("a worker asks for 64 CPUs")

    monkeypatch.setattr(SerialExecutor, "slots", none)
    with pytest.raises(ResourceError, match="64 CPUs"):
        llb_ray.plan(tiny, manifest, out=tmp_path, executor="serial")


def test_lack_of_memory_while_trying_is_one_sentence(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("llb_ray.planning.timing_worker._measured", none)
    with pytest.raises(ResourceError, match=r"out of memory while trying out one worker \(no more\); lower"):
        llb_ray.plan(tiny, manifest, out=tmp_path, executor="serial")


def test_the_command_says_it_all_and_programs_get_one_object(config: Path, photos: Path, tmp_path: Path) -> None:
    result = _llb("--config", config, "--data", photos, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for text in ("stage members", "all ", "memory ", "disk ", "bottleneck: "):
        assert text in result.stdout
    result = _llb("--config", config, "--data", photos, "--out", tmp_path / "run", "--json")
    told = json.loads(result.stdout)
    assert told["bottleneck"] in {stage["stage"] for stage in told["stages"]}
    assert told["refusals"] == []
    assert "reading" in result.stderr


def test_the_command_refuses_what_cannot_fit(
    config: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "free_disk_bytes", lambda path: 1)
    result = _llb("--config", config, "--data", photos, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.startswith("llb-ray: disk: a run needs")
    assert result.stderr.count("\n") == 1


def test_it_can_be_asked_of_any_shipped_configuration() -> None:
    """At least the detectors are known to it."""
    for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"):
        detector = (load_scan(path) if path.stem == "real_iad_fuiad" else load(path)).detector
        short, _ = detector.shortened(3)
        parse({"detector": short.model_dump()})
        assert short.num_steps("final") in (0, 3)
