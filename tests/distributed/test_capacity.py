"""Capacity of a cluster: which nodes count, what is refused and how, and the wait for an autoscaler."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from pydantic import ValidationError
from ray._private.label_utils import validate_label_selector

import llb_ray
from llb_ray.api import make_executor
from llb_ray.config import ResourcesConfig, RunConfig, ScanConfig, with_overrides
from llb_ray.config.reading import parse_as
from llb_ray.distributed import capacity
from llb_ray.engine.execution.executor import Executor, SerialExecutor
from llb_ray.engine.execution.protocols import Spec
from llb_ray.engine.rundir.run_index import settings_digest
from llb_ray.errors import ConfigError, ResourceError
from tests.workers import Counting, CountingSpec, place

A100 = {"ray.io/accelerator-type": "A100", "zone": "a"}
NODES = [
    {"Alive": True, "Labels": {}, "Resources": {"CPU": 8.0}},
    {"Alive": True, "Labels": A100, "Resources": {"CPU": 4.0, "GPU": 2.0}},
    {"Alive": True, "Labels": {"zone": "b"}, "Resources": {"CPU": 4.0, "GPU": 1.0}},
    {"Alive": False, "Labels": A100, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(capacity, "get_current_placement_group", lambda: None)


def _asked(**settings: Any) -> ResourcesConfig:
    return ResourcesConfig(num_gpus=1, device="cpu", **settings)


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("labels", "count"),
    [
        ({}, 3),
        ({"zone": "a"}, 2),
        ({"zone": "!a"}, 1),
        ({"zone": "in(a, b)"}, 3),
        ({"zone": "!in(a,b)"}, 0),
        ({"rack": "!a"}, 3),
        ({"rack": "a"}, 0),
        ({"ray.io/accelerator-type": "A100", "zone": "b"}, 0),
    ],
)
def test_only_living_nodes_with_the_labels_count(labels: dict[str, str], count: int) -> None:
    assert capacity.living_slots(_asked(label_selector=labels)) == count


@pytest.mark.usefixtures("nodes")
def test_nodes_that_an_autoscaler_may_add_count_as_asked_for() -> None:
    assert [capacity.slots(_asked(autoscale_to=count)) for count in (None, 2, 8)] == [3, 3, 8]
    assert capacity.slots(_asked(label_selector={"zone": "none"}, autoscale_to=8)) == 8


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_cpus": 5}, "5 CPUs and 1 GPUs on one node, and the largest of 3 has 4 CPUs and 2 GPUs; lower"),
        (
            {"num_cpus": 5, "label_selector": {"zone": "b"}},
            "5 CPUs and 1 GPUs on one node labelled zone: b, and the largest of 1 with these labels has 4 CPUs and 1",
        ),
        (
            {"label_selector": {"zone": "c"}},
            "no node of the cluster has these labels; correct the label_selector",
        ),
    ],
)
def test_what_no_node_holds_is_refused_with_what_there_is(settings: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ResourceError, match="resources.autoscale_to where the cluster can add nodes$") as refusal:
        capacity.slots(_asked(**settings))
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("zone", "a", True),
        ("ray.io/accelerator-type", "!A100", True),
        ("zone", "in(a, b)", True),
        ("zone", "!in(a,b)", True),
        ("zone", "-a", False),
        ("zone", "in()", False),
        ("zone", "a b", False),
        ("zone", "!!a", False),
        ("zone", "a" * 64, False),
        ("-zone", "a", False),
        ("", "a", False),
        ("a/b/c", "a", False),
        ("zone\n", "a", False),
    ],
)
def test_a_selector_that_ray_would_refuse_is_refused_before_a_cluster_is_started(
    key: str, value: str, good: bool
) -> None:
    if good:
        assert ResourcesConfig(label_selector={key: value}).label_selector == {key: value}
        assert validate_label_selector({key: value}) is None
    else:
        with pytest.raises(ValidationError, match="is no label's name|is no value of label"):
            ResourcesConfig(label_selector={key: value})


def test_a_selector_is_one_setting_of_the_command_line() -> None:
    config = with_overrides(RunConfig(), ["resources.label_selector={zone: a}"])
    assert config.resources.label_selector == {"zone": "a"}
    with pytest.raises(ConfigError, match=r"resources\.label_selector.*-b.* is no value of label zone"):
        with_overrides(RunConfig(), ["resources.label_selector={zone: -b}"])


@pytest.mark.parametrize("section", ["resources", "final"])
def test_the_serial_executor_refuses_labels(section: str, tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    config = with_overrides(tiny, [f"{section}.label_selector={{zone: a}}"])
    manifest = llb_ray.read_folder(photos, config)
    for refused in (llb_ray.run, llb_ray.plan):
        with pytest.raises(ResourceError, match=rf"^{section}\.label_selector names nodes of .*--executor ray$"):
            refused(config, manifest, out=tmp_path / "run", executor="serial")


class _Placed:
    """The serial executor, as one that can choose nodes; notes the labels that each worker asks for."""

    def __init__(self) -> None:
        self.serial, self.zones = SerialExecutor(), dict[str, str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.serial, name)

    def run(self, worker: Any, specs: Sequence[Spec], *more: Any) -> Any:
        self.zones |= {spec.name: spec.context.resources.label_selector["zone"] for spec in specs}
        return self.serial.run(worker, specs, *more)


def test_the_final_detector_has_nodes_of_its_own(tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    labels = ["resources.label_selector={zone: small}", "final.label_selector={zone: large}", "threshold.method=folds"]
    config, executor = with_overrides(tiny, labels), _Placed()
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor=cast(Executor, executor))
    large = {name for name, zone in executor.zones.items() if zone == "large"}
    assert large == {"final", *(f"fold-{number:03d}" for number in range(config.threshold.folds))}
    assert settings_digest(config) == settings_digest(with_overrides(config, ["final.label_selector={zone: other}"]))


def test_what_is_trained_in_one_place_has_one_selector() -> None:
    dataset = {"kind": "mvtec", "root": "data"}
    tree = {"scan": {"dataset": dataset}, "final": {"label_selector": {"zone": "large"}}}
    with pytest.raises(ConfigError, match="final.label_selector: a job of a scan trains all in one place"):
        parse_as(ScanConfig, tree, "scan.yaml")


@pytest.mark.ray
def test_a_wait_for_a_node_ends_with_a_sentence(ray_local: None, tmp_path: Path) -> None:
    labels = {"zone": "nowhere"}
    spec = CountingSpec("early", place(tmp_path, label_selector=labels, autoscale_to=2, autoscale_wait_s=1), tmp_path)
    said: list[str] = []
    with make_executor("ray") as executor, pytest.raises(ResourceError) as refusal:
        executor.run(Counting, [spec], said.append)
    assert said == [
        "no node can hold a worker yet (1 CPUs and 0 GPUs on one node labelled zone: nowhere); waiting up to 1 s for "
        "the autoscaler"
    ]
    assert "joined within 1 s (resources.autoscale_wait_s); look at `ray status`" in str(refusal.value)
