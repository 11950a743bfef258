"""Mean features of images: what an image looks like to the encoder, in a few numbers, whatever the detector.

Shapes: B images, D channels of all layers, S numbers of an image.
"""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from llb_ray.detectors.base import Layers
from llb_ray.seeding import stream

FEATURES, NUM_MEANS = "features", 64
Floats = npt.NDArray[np.float32]


def mean_features(layers: Layers) -> Floats:
    """The mean of each channel over all cells, projected onto `NUM_MEANS` random directions, the same for every run
    with this encoder [B, S]."""
    mean_BD = torch.cat([layer.flatten(2).mean(dim=2) for layer in layers], dim=1).cpu().numpy()
    return np.asarray(mean_BD @ _directions(mean_BD.shape[1]), np.float32)


@cache
def _directions(num_channels: int) -> Floats:
    """Random signs [D, S], which keep distances within an eighth or so (Achlioptas 2003)."""
    signs = stream(0, "mean-features").choice([-1.0, 1.0], (num_channels, NUM_MEANS))
    return np.asarray(signs / math.sqrt(NUM_MEANS), np.float32)


def features_column(feature_NS: Floats) -> pa.FixedSizeListArray:
    """Features as a column of a table."""
    return pa.FixedSizeListArray.from_arrays(pa.array(feature_NS.ravel()), NUM_MEANS)


def features_of(table: pa.Table) -> Floats:
    """The features [N, S] in the column `FEATURES` of a table."""
    flat = table[FEATURES].combine_chunks().flatten().to_numpy()
    return np.asarray(flat, np.float32).reshape(table.num_rows, NUM_MEANS)
