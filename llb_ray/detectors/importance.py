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

The few numbers of a step are worked on by numpy, wherever the network is: a dozen tensor operations would cost more.

Shape suffixes: B images of a batch, N images of a set, M recent scores, G points of the density's grid, S steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter1d

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.base import FitLog, State

GRID = 512  # points of the density: at most 0.7 bandwidths apart, and a tenth for a Gaussian
MARGIN = 4.0  # bandwidths from the outermost score to the end of the grid
NEW_SHARE = 1 / 16  # of the recent scores, after which density and target are taken anew
LEAST_ESS_SHARE = 0.2  # of the batch: with fewer images that really count, the plain mean is the better estimate
LEAST_SPREAD = 1e-6  # relative: constant scores have no spread to divide by
ROOT_TWO_PI = math.sqrt(2 * math.pi)
MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a Gaussian

Numbers = npt.NDArray[np.floating[Any]]


class ImportanceWeights:
    """The weights of one fit, fed with the losses of every step in order."""

    def __init__(self, config: ImportanceConfig, num_steps: int, batch_size: int) -> None:
        self._config = config
        self._warmup_steps = math.ceil(config.warmup * num_steps)
        self._recent_steps = max(1, config.buffer // batch_size)
        self._score_SB = np.empty((num_steps, batch_size))
        self._note_S4 = np.empty((num_steps, 4), np.float32)  # loss, ess, largest weight, whether it fell back
        self._num_done = 0
        self._ratio: Ratio | None = None
        self._ratio_taken_at = 0

    def mean(self, loss_B: torch.Tensor) -> torch.Tensor:
        """The weighted mean of a step's losses; gradients flow through the losses and not through the weights."""
        weight_B = self.weigh(loss_B.detach().cpu().numpy())
        return (torch.from_numpy(weight_B).to(loss_B) * loss_B).mean()

    def weigh(self, loss_B: Numbers) -> Numbers:
        """The weights [B] of a step's images, of mean one; the scores of the step are among the recent ones."""
        step, size = self._num_done, len(loss_B)
        self._num_done += 1
        self._score_SB[step] = self._score(loss_B)
        ratio_B = np.ones(size) if step < self._warmup_steps else self._fresh_ratio()(self._score_SB[step])
        weight_B, ess, fell_back = settled(ratio_B)
        self._note_S4[step] = weight_B @ loss_B / size, ess, weight_B.max(), fell_back
        return weight_B

    def log(self, loss_N: Numbers) -> FitLog:
        """Every step's loss and weights, and score and weight of each training image, given their losses at the end.

        The images' weights follow the rule of a step, over all images at once.
        """
        score_N = self._score(loss_N)
        weight_N, _, _ = settled(Ratio.of(self._config, self._recent(self._num_done))(score_N))
        loss_S, ess_S, max_weight_S, fell_back_S = self._note_S4[: self._num_done].T.copy()
        step_S = np.arange(self._num_done, dtype=np.int32)
        steps = {"step": step_S, "loss": loss_S, "ess": ess_S, "max_weight": max_weight_S}
        images = {"score": score_N.astype(np.float32), "weight": weight_N.astype(np.float32)}
        return FitLog(steps | {"fell_back": fell_back_S > 0}, images)

    def state(self) -> State:
        """What the weights of later steps depend on, and what was noted."""
        done = slice(self._num_done)
        columns = {"score_SB": torch.tensor(self._score_SB[done]), "note_S4": torch.tensor(self._note_S4[done])}
        return columns | {"ratio_taken_at": torch.tensor(self._ratio_taken_at)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Be as when `state` was taken."""
        self._num_done = len(state["note_S4"])
        self._score_SB[: self._num_done] = state["score_SB"].numpy()
        self._note_S4[: self._num_done] = state["note_S4"].numpy()
        self._ratio_taken_at = int(state["ratio_taken_at"])
        if self._ratio_taken_at:
            self._ratio = Ratio.of(self._config, self._recent(self._ratio_taken_at))

    def _score(self, loss_B: Numbers) -> Numbers:
        score_B = loss_B.astype(np.float64)
        return np.log(score_B.clip(min=np.finfo(np.float32).tiny)) if self._config.log_scores else score_B

    def _recent(self, num_done: int) -> Numbers:
        """The last scores [M] as they were after `num_done` steps: at most `buffer`, in whole batches."""
        return self._score_SB[max(0, num_done - self._recent_steps) : num_done].ravel()

    def _fresh_ratio(self) -> "Ratio":
        num_new = self._num_done - self._ratio_taken_at
        if self._ratio is None or num_new >= NEW_SHARE * min(self._num_done, self._recent_steps):
            self._ratio = Ratio.of(self._config, self._recent(self._num_done))
            self._ratio_taken_at = self._num_done
        return self._ratio


@dataclass(frozen=True)
class Ratio:
    """Target density over density of the recent scores, capped; a function of a score."""

    config: ImportanceConfig
    mu: float
    sigma: float
    score_G: Numbers
    density_G: Numbers

    @classmethod
    def of(cls, config: ImportanceConfig, recent_M: Numbers) -> "Ratio":
        """The ratio for scores of which `recent_M` are a sample."""
        return cls(config, *target(config, recent_M), *kernel_density(recent_M))

    def __call__(self, score_B: Numbers) -> Numbers:
        z_B = (score_B - self.mu) / self.sigma
        wanted_B = np.exp(-0.5 * z_B * z_B) / (self.sigma * ROOT_TWO_PI)
        found_B = np.interp(score_B, self.score_G, self.density_G)
        ratio_B: Numbers = np.minimum(wanted_B / np.maximum(found_B, self.config.eps), self.config.cap)
        return ratio_B


def target(config: ImportanceConfig, score_M: Numbers) -> tuple[float, float]:
    """Mean and spread of the target Gaussian, given the recent scores.

    `mu_scale` multiplies the score itself, so with logarithms it is added as its own logarithm: they may be negative.
    """
    if config.mode == "fixed":
        assert config.mu is not None, "checked by ImportanceConfig"
        assert config.sigma is not None, "checked by ImportanceConfig"
        return config.mu, config.sigma
    if config.mode == "moments":
        mu, sigma = float(score_M.mean()), float(score_M.std())
    else:
        mu = float(np.median(score_M))
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(score_M - mu)))
    moved = mu + math.log(config.mu_scale) if config.log_scores else mu * config.mu_scale
    return moved, max(sigma, _least_spread(mu)) * config.sigma_scale


def kernel_density(score_M: Numbers) -> tuple[Numbers, Numbers]:
    """Points on a grid [G] and the density of the scores there [G], per unit of score: a Gaussian kernel estimate
    with Silverman's bandwidth, of binned scores (Silverman 1986, section 3.5)."""
    bandwidth = silverman(score_M)
    score_G, pitch = np.linspace(
        score_M.min() - MARGIN * bandwidth, score_M.max() + MARGIN * bandwidth, GRID, retstep=True
    )
    point_M = ((score_M - score_G[0]) / pitch + 0.5).astype(np.int64)
    share_G = np.bincount(point_M, minlength=GRID) / len(score_M)
    return score_G, gaussian_filter1d(share_G, bandwidth / pitch, mode="constant") / pitch


def silverman(score_M: Numbers) -> float:
    """Silverman's bandwidth, sigma (3 M / 4)^(-1/5), as scipy's `gaussian_kde` has it."""
    spread = max(float(score_M.std()), _least_spread(float(score_M.mean())))
    return spread * math.pow(0.75 * len(score_M), -0.2)


def settled(ratio_B: Numbers) -> tuple[Numbers, float, bool]:
    """Weights [B] of mean one, their effective sample size (sum w)^2 / sum w^2, and whether it was too small.

    Where it was, which includes ratios that are all zero, the weights are one, and the size is still what was found.
    """
    total, squares = float(ratio_B.sum()), float(ratio_B @ ratio_B)
    ess = total * total / squares if squares > 0 else 0.0
    if ess < LEAST_ESS_SHARE * len(ratio_B):
        return np.ones_like(ratio_B), ess, True
    return ratio_B * (len(ratio_B) / total), ess, False


def _least_spread(mu: float) -> float:
    return max(LEAST_SPREAD * abs(mu), math.sqrt(np.finfo(np.float32).tiny))
