"""A fit with fewer steps than it takes to see every image once says so."""

from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import Role, load, with_overrides
from llb_ray.engine.workers.fit_log import short_fit_notices


@pytest.mark.parametrize(
    ("role", "setting", "num_images", "told"),
    [
        ("member", "member_steps", 100, []),
        ("final", "final_steps", 160, []),
        ("final", "final_steps", 400, ["0.4 passes over 400 images"]),
        ("member", "member_steps", 101, ["0.99 passes over 101 images"]),
    ],
)
def test_only_fits_of_less_than_one_pass_are_told(role: Role, setting: str, num_images: int, told: list[str]) -> None:
    sizes = ["detector.batch_size=10", "detector.member_steps=10", "detector.final_steps=16"]
    detector = with_overrides(load(None), ["detector.name=autoencoder", *sizes]).detector
    notices = short_fit_notices("fit", detector, role, num_images)
    assert len(notices) == len(told)
    assert all(
        words in notice and f"raise detector.{setting}" in notice for words, notice in zip(told, notices, strict=True)
    )


def test_a_memory_bank_sees_every_image() -> None:
    assert short_fit_notices("final", RunConfig().detector, "final", 10**6) == []


def test_a_run_tells_it(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["detector.batch_size=2", "detector.final_steps=1"])
    said: list[str] = []
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path, executor="serial", tell=said.append)
    assert any(line.startswith("note: final: detector.final_steps=1 in batches of 2 is") for line in said)
