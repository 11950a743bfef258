"""What the gradient detectors share, apart from the fit itself, which the contract suite looks at."""

import pytest

from llb_ray.detectors.train_step import cosine_share


def test_the_learning_rate_warms_up_and_ends_low() -> None:
    shares = [cosine_share(step, steps=100, warmup_steps=10, last=0.1) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[100] == pytest.approx(0.1)
    assert cosine_share(0, steps=1, warmup_steps=0, last=0.1) == 1
