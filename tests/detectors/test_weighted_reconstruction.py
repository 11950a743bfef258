"""The importance-weighted loss in the reconstruction detector, as in the autoencoder."""

import pytest
import torch

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.reconstruction import Reconstruction
from tests.detectors.test_reconstruction import CPU, PYRAMID, STEPS, Patterns, config_of


def test_weights_change_what_is_learnt_are_noted_and_repeat() -> None:
    def fit(importance: ImportanceConfig | None) -> Reconstruction:
        return Reconstruction(config_of(PYRAMID), STEPS, CPU, importance).fit(Patterns(PYRAMID, 24), 0)

    moments = ImportanceConfig(mode="moments", warmup=0.1)
    plain, weighted, again = fit(None), fit(moments), fit(moments)
    noted, log = plain.log(), weighted.log()
    assert noted is not None
    assert log is not None
    assert (list(noted.steps), list(noted.images)) == (["step", "loss"], [])
    assert len(noted.steps["loss"]) == STEPS
    warm = slice(STEPS // 10)
    assert noted.steps["loss"][warm] == pytest.approx(log.steps["loss"][warm]), "weights are one while it warms up"
    assert len(log.steps["ess"]) == STEPS
    assert float(log.images["weight"].mean()) == pytest.approx(1)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in weighted.state().items())
    assert any(not torch.equal(tensor, plain.state()[name]) for name, tensor in weighted.state().items())
