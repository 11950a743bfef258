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
    assert plain.log() is None
    log = weighted.log()
    assert log is not None
    assert len(log.steps["ess"]) == STEPS
    assert float(log.images["weight"].mean()) == pytest.approx(1)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in weighted.state().items())
    assert any(not torch.equal(tensor, plain.state()[name]) for name, tensor in weighted.state().items())
