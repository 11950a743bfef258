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

The ratio is tabulated whenever density and target are updated, and the few numbers of a step are worked on by numpy,
wherever the network is: a dozen tensor operations would cost more than the training step can spare.

Shape suffixes: B images of a batch, N images of a set, M recent scores, G points of the table, S steps.
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

GRID = 512  # points of the table: at most 0.7 bandwidths apart, and a tenth for a Gaussian
MARGIN = 4.0  # bandwidths from the outermost recent score to the end of the table
NEW_SHARE = 1 / 16  # of the recent scores, after which density and target are updated
LEAST_ESS_SHARE = 0.2  # of the batch: with fewer images that really count, the plain mean is the better estimate
LEAST_SPREAD = 1e-6  # relative: constant scores have no spread to divide by
ROOT_TWO_PI = math.sqrt(2 * math.pi)
MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a Gaussian

Numbers = npt.NDArray[np.floating[Any]]  # losses and weights are float32, scores and densities float64


class ImportanceWeights:
    """The weights of one fit, fed with the losses of every step in order."""

    def __init__(self, config: ImportanceConfig, num_steps: int, batch_size: int) -> None:
        self._config = config
        self._warmup_steps = math.ceil(config.warmup * num_steps)
        self._recent_steps = max(1, config.buffer // batch_size)
        self._loss_SB = np.empty((num_steps, batch_size), np.float32)
        self._ratio_SB = np.ones((num_steps, batch_size), np.float32)
        self._num_done = 0
        self._ratio: Ratio | None = None
        self._ratio_taken_at = 0
        self.ess = math.nan  # effective sample size of the last step, in images

    def weigh(self, loss_B: Numbers) -> Numbers:
        """The weights [B] of a step's images, of mean one; the scores of the step are among the recent ones.

        Losses that are not finite weigh one, so that their mean is not finite either.
        """
        step = self._num_done
        self._num_done += 1
        self._loss_SB[step] = loss_B
        if step >= self._warmup_steps and np.isfinite(loss_B).all():
            self._ratio_SB[step] = self._fresh_ratio()(self._score(loss_B))
        weight_B, self.ess, _ = normalise_weights(self._ratio_SB[step])
        return weight_B

    def log(self, loss_N: Numbers) -> FitLog:
        """Every step's loss and weights, and score and weight of each training image, given their losses at the end.

        The images' weights follow the rule of a step, over all images at once.
        """
        done = slice(self._num_done)
        weights, ess, fell_back = zip(*map(normalise_weights, self._ratio_SB[done]), strict=True)
        weight_SB = np.stack(weights)
        steps = {
            "step": np.arange(self._num_done, dtype=np.int32),
            "loss": (weight_SB * self._loss_SB[done]).mean(axis=1),
            "ess": np.array(ess, np.float32),
            "max_weight": weight_SB.max(axis=1),
            "fell_back": np.array(fell_back),
        }
        score_N = self._score(loss_N)
        weight_N, _, _ = normalise_weights(Ratio.of(self._config, self._recent(self._num_done))(score_N))
        return FitLog(steps, {"score": score_N.astype(np.float32), "weight": weight_N.astype(np.float32)})

    def state(self) -> State:
        """State that the weights of later steps and the log depend on."""
        done = slice(self._num_done)
        columns = {"loss_SB": torch.tensor(self._loss_SB[done]), "ratio_SB": torch.tensor(self._ratio_SB[done])}
        return columns | {"ratio_taken_at": torch.tensor(self._ratio_taken_at)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Be as when `state` was taken."""
        self._num_done = len(state["loss_SB"])
        self._loss_SB[: self._num_done] = state["loss_SB"].numpy()
        self._ratio_SB[: self._num_done] = state["ratio_SB"].numpy()
        self._ratio_taken_at = int(state["ratio_taken_at"])
        if self._ratio_taken_at:
            self._ratio = Ratio.of(self._config, self._recent(self._ratio_taken_at))

    def _score(self, loss_N: Numbers) -> Numbers:
        return np.log(loss_N.clip(min=np.finfo(np.float32).tiny)) if self._config.log_scores else loss_N

    def _recent(self, num_done: int) -> Numbers:
        """The last scores [M] as they were after `num_done` steps: at most `buffer`, in whole batches."""
        loss_M = self._loss_SB[max(0, num_done - self._recent_steps) : num_done].ravel()
        return self._score(loss_M.astype(np.float64))

    def _fresh_ratio(self) -> "Ratio":
        num_new = self._num_done - self._ratio_taken_at
        if self._ratio is None or num_new >= NEW_SHARE * min(self._num_done, self._recent_steps):
            self._ratio = Ratio.of(self._config, self._recent(self._num_done))
            self._ratio_taken_at = self._num_done
        return self._ratio


@dataclass(frozen=True)
class Ratio:
    """Target density over density of the recent scores, capped; a function of a score.

    Zero beyond the table: where there have been no scores, there is no density to divide by.
    """

    score_G: Numbers
    ratio_G: Numbers

    @classmethod
    def of(cls, config: ImportanceConfig, recent_M: Numbers) -> "Ratio":
        """The ratio for scores of which `recent_M` are a sample."""
        mu, sigma = target(config, recent_M)
        score_G, density_G = kernel_density(recent_M)
        wanted_G = np.exp(-0.5 * ((score_G - mu) / sigma) ** 2) / (sigma * ROOT_TWO_PI)
        return cls(score_G, np.minimum(wanted_G / np.maximum(density_G, config.eps), config.cap))

    def __call__(self, score_B: Numbers) -> Numbers:
        return np.interp(score_B, self.score_G, self.ratio_G, left=0, right=0)


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


def normalise_weights(ratio_B: Numbers) -> tuple[Numbers, float, bool]:
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
