"""The importance-weighted loss: images of a rare but normal kind count for more while a detector is trained.

After arXiv 2601.02440 (IJCNN 2025): the anomaly scores of normal images in unequal kinds are right-skewed, and each
image is weighted so that their distribution comes nearer to a target Gaussian.  The equation printed there was not
available; this is textbook importance weighting::

    s_i = detached score of image i, here its loss of this step (or the logarithm of it)
    q   = density of the scores: Gaussian KDE, Silverman's bandwidth, over the last few thousand scores
    w_i = min(N(s_i; mu, sigma^2) / max(q(s_i), eps), cap), then brought to mean one over the batch
    L   = mean_i stopgrad(w_i) l_i

A target fitted to contaminated scores lifts anomalies too (`moments`), or starves rare normals (`robust`): purify
first, weight after.

Shape suffixes: B images of a batch, N images of a set, M recent scores, K kernels, S steps.  Whatever a step needs
stays on the device.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.base import FitLog

KERNELS = 512  # of the density, at most
NEW_SHARE = 1 / 16  # of the recent scores, after which density and target are taken anew
LEAST_ESS_SHARE = 0.2  # of the batch: with fewer images that really count, the plain mean is the better estimate
LEAST_SPREAD = 1e-6  # relative: constant scores have no spread to divide by
ROOT_TWO_PI = math.sqrt(2 * math.pi)
MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a Gaussian


class ImportanceWeights:
    """The weights of one fit, fed with the losses of every step in order."""

    def __init__(self, config: ImportanceConfig, num_steps: int, device: torch.device) -> None:
        self._config = config
        self._warmup_steps = math.ceil(config.warmup * num_steps)
        self._recent = _Ring(config.buffer, device)
        self._ratio: Ratio | None = None
        self._pushed_at_refresh = 0
        self._notes: list[torch.Tensor] = []

    def mean(self, loss_B: torch.Tensor) -> torch.Tensor:
        """The weighted mean of a step's losses; gradients flow through the losses and not through the weights."""
        weight_B = self.weigh(loss_B)
        loss = (weight_B * loss_B).mean()
        self._notes[-1][0] = loss.detach()
        return loss

    def weigh(self, loss_B: torch.Tensor) -> torch.Tensor:
        """The weights [B] of a step's images, of mean one; the scores of the step are among the recent ones."""
        score_B = self._score(loss_B)
        self._recent.push(score_B)
        if len(self._notes) < self._warmup_steps:
            weight_B, ess, fell_back = _plain(score_B)
        else:
            weight_B, ess, fell_back = settled(self._fresh_ratio()(score_B))
        self._notes.append(torch.stack([torch.zeros_like(ess), ess, weight_B.max(), fell_back.to(ess)]))
        return weight_B

    @torch.no_grad()
    def log(self, loss_batches: Iterable[torch.Tensor]) -> FitLog:
        """Every step's loss and weights, and score and weight of each training image, given their losses at the end.

        The images' weights follow the rule of a step, over all images at once.
        """
        ratio = Ratio.of(self._config, self._recent.values())
        pairs = [(score_B, ratio(score_B)) for score_B in map(self._score, loss_batches)]
        score_N, ratio_N = (torch.cat(column) for column in zip(*pairs, strict=True))
        weight_N, _, _ = settled(ratio_N)
        loss_S, ess_S, max_weight_S, fell_back_S = torch.stack(self._notes).cpu().numpy().T
        step_S = np.arange(len(loss_S), dtype=np.int32)
        steps = {"step": step_S, "loss": loss_S, "ess": ess_S, "max_weight": max_weight_S}
        images = {"score": score_N.cpu().numpy(), "weight": weight_N.cpu().numpy()}
        return FitLog(steps | {"fell_back": fell_back_S > 0}, images)

    def _score(self, loss_B: torch.Tensor) -> torch.Tensor:
        score_B = loss_B.detach().float()
        return score_B.clamp(min=torch.finfo(score_B.dtype).tiny).log() if self._config.log_scores else score_B

    def _fresh_ratio(self) -> "Ratio":
        num_new = self._recent.num_pushed - self._pushed_at_refresh
        if self._ratio is None or num_new >= NEW_SHARE * len(self._recent.values()):
            self._ratio = Ratio.of(self._config, self._recent.values())
            self._pushed_at_refresh = self._recent.num_pushed
        return self._ratio


@dataclass(frozen=True)
class Ratio:
    """Target density over density of the recent scores, capped; a function of a score."""

    config: ImportanceConfig
    mu: torch.Tensor
    sigma: torch.Tensor
    bandwidth: torch.Tensor
    centre_K: torch.Tensor  # of the kernels, in bandwidths

    @classmethod
    def of(cls, config: ImportanceConfig, recent_M: torch.Tensor) -> "Ratio":
        """The ratio for scores of which `recent_M` are a sample."""
        bandwidth = silverman(recent_M)
        return cls(config, *target(config, recent_M), bandwidth, _thinned(recent_M) / bandwidth)

    def __call__(self, score_B: torch.Tensor) -> torch.Tensor:
        z_B = (score_B - self.mu) / self.sigma
        wanted_B = (-0.5 * z_B.square()).exp() / (self.sigma * ROOT_TWO_PI)
        return (wanted_B / self.density(score_B).clamp(min=self.config.eps)).clamp(max=self.config.cap)

    def density(self, score_B: torch.Tensor) -> torch.Tensor:
        """Density [B] of the recent scores at `score_B`, per unit of score: a Gaussian kernel estimate."""
        kernel_BK = (score_B / self.bandwidth)[:, None] - self.centre_K
        kernel_BK.square_().mul_(-0.5).exp_()
        return kernel_BK.mean(dim=1) / (self.bandwidth * ROOT_TWO_PI)


def target(config: ImportanceConfig, score_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of the target Gaussian, given the recent scores; zero-dimensional tensors.

    `mu_scale` multiplies the score itself, so with logarithms it is added as its own logarithm: they may be negative.
    """
    if config.mode == "fixed":
        assert config.mu is not None, "checked by ImportanceConfig"
        assert config.sigma is not None, "checked by ImportanceConfig"
        return score_M.new_tensor(config.mu), score_M.new_tensor(config.sigma)
    if config.mode == "moments":
        sigma, mu = torch.std_mean(score_M, correction=0)
    else:
        mu = score_M.median()
        sigma = MAD_TO_SIGMA * (score_M - mu).abs().median()
    moved = mu + math.log(config.mu_scale) if config.log_scores else mu * config.mu_scale
    return moved, torch.maximum(sigma, _least_spread(mu)) * config.sigma_scale


def silverman(score_M: torch.Tensor) -> torch.Tensor:
    """Silverman's bandwidth, sigma (3 M / 4)^(-1/5), as scipy's `gaussian_kde` has it."""
    sigma, mu = torch.std_mean(score_M, correction=0)
    return torch.maximum(sigma, _least_spread(mu)) * math.pow(0.75 * len(score_M), -0.2)


def settled(ratio_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights [B] of mean one, their effective sample size (sum w)^2 / sum w^2, and whether it was too small.

    Where it was, which includes ratios that are all zero, the weights are one, and the size is still what was found.
    """
    total = ratio_B.sum()
    weight_B = len(ratio_B) * ratio_B / total
    ess = (total.square() / ratio_B.square().sum()).nan_to_num(nan=0.0)
    fell_back = ess < LEAST_ESS_SHARE * len(ratio_B)
    return torch.where(fell_back, torch.ones_like(weight_B), weight_B), ess, fell_back


def _thinned(score_M: torch.Tensor) -> torch.Tensor:
    """At most KERNELS of the scores, evenly spaced in rank: all but the same density for an eighth of the work."""
    if len(score_M) <= KERNELS:
        return score_M
    rank_K = ((torch.arange(KERNELS, device=score_M.device) + 0.5) * (len(score_M) / KERNELS)).long()
    return score_M.sort().values[rank_K]


def _plain(score_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.ones_like(score_B), score_B.new_tensor(len(score_B)), torch.zeros((), dtype=torch.bool)


def _least_spread(mu: torch.Tensor) -> torch.Tensor:
    return (LEAST_SPREAD * mu.abs()).clamp(min=torch.finfo(mu.dtype).tiny ** 0.5)


class _Ring:
    """The last `size` scores, in no particular order."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._score_M = torch.empty(size, device=device)
        self.num_pushed = 0

    def push(self, score_B: torch.Tensor) -> None:
        """Put a batch, not larger than the ring, in the place of the oldest scores."""
        size = len(self._score_M)
        assert len(score_B) <= size, "checked by RunConfig"
        places_B = torch.arange(self.num_pushed, self.num_pushed + len(score_B), device=score_B.device) % size
        self._score_M[places_B] = score_B
        self.num_pushed += len(score_B)

    def values(self) -> torch.Tensor:
        return self._score_M[: self.num_pushed]
