"""Shared fixtures: a quiet private Ray, a tiny contaminated data set, and a configuration that runs in seconds."""

import os

# Before ray is imported anywhere: tests must neither use nor touch the user's own cluster and token.
os.environ["RAY_AUTH_MODE"] = os.environ["LLB_RAY_AUTH"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.pop("RAY_ADDRESS", None)
# Nor the user's own buckets.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "testing"
os.environ.pop("AWS_PROFILE", None)
# The processes of `pytest -n` share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import parse

settings.register_profile("patient", deadline=None)  # a loaded machine is no failure
settings.load_profile("patient")


_LONGEST = ("test_docs.py", "test_scan.py", "test_demo.py", "test_serve.py", "test_resume.py", "test_executors.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that the processes of `pytest -n` end together; each takes whole files."""
    # In one process a session's Ray comes after the clusters that other tests start.
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests find out about files is not remembered in the user's cache."""
    os.environ["LLB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Tests end no power supply, and waiting for a busy disk would take most of their time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray for the whole session, with two logical CPUs and GPUs: each starts a process that loads torch."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=150 * 2**20,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread: faster for tiny networks on shared cores, and bit-equal from run to run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The host and port of an S3 server of our own on loopback."""
    import logging
    import warnings

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that not all of moto's services are installed
        from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a run in a new bucket of that server; working copies are the test's own."""
    from pyarrow.fs import S3FileSystem

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3 = S3FileSystem(endpoint_override=s3_server, scheme="http", allow_bucket_creation=True)
    s3.create_dir(name)
    monkeypatch.setenv("LLB_CACHE", str(tmp_path / "cache"))
    return f"s3://{name}/runs/photos?scheme=http&endpoint_override={s3_server}"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contaminated synthetic tree of 48 training and 24 test images, made once."""
    from llb_ray.data.synthetic import SyntheticConfig, write_synthetic

    root = tmp_path_factory.mktemp("photos")
    write_synthetic(
        root, SyntheticConfig(("weave",), train_objects=24, test_objects=12, alpha=0.25, size_px=48, views=2)
    )
    return root / "weave"


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    """Three members, a few steps each."""
    return parse(
        {
            "data": {"group_pattern": r"(obj\d+)"},
            "detector": {
                "name": "autoencoder",
                "image_size_px": 32,
                "channels": 4,
                "member_steps": 12,
                "final_steps": 20,
            },
            "members": {"count": 3},
            "purify": {"keep_ratio": 0.75},
        }
    )


@pytest.fixture(scope="session")
def finished(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished serial run; tests that damage it work on a copy."""
    out = tmp_path_factory.mktemp("finished") / "run"
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=out, executor="serial")
    return out


@pytest.fixture(scope="session")
def bank_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file for the network in `tiny_bank`: untrained, but its own."""
    import safetensors.torch
    import torch

    from llb_ray.detectors.backbones.timm_import import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = timm.create_model("test_resnet.r160_in1k", num_classes=0).state_dict()
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.fixture(scope="session")
def tiny_bank(bank_weights: Path) -> RunConfig:
    """Memory banks over two layers of the smallest network that timm has."""
    backbone = {"name": "test_resnet.r160_in1k", "weights": str(bank_weights), "layers": [1, 2]}
    sizes = {"image_size_px": 32, "coreset_size": 40, "candidates": 400, "projection_dim": 8}
    return parse(
        {
            "data": {"group_pattern": r"(obj\d+)"},
            "detector": {"name": "memory_bank", "backbone": backbone, **sizes},
            "members": {"count": 3},
            "purify": {"keep_ratio": 0.75},
        }
    )


@pytest.fixture(scope="session")
def finished_bank(photos: Path, tiny_bank: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished serial run of memory banks; tests that damage it work on a copy."""
    out = tmp_path_factory.mktemp("finished_bank") / "run"
    llb_ray.run(tiny_bank, llb_ray.read_folder(photos, tiny_bank), out=out, executor="serial")
    return out
