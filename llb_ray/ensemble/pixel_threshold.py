"""From held-out anomaly maps of normal images to the map value above which a place counts as defective.

Shapes: P pixels of all maps.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llb_ray.errors import ConfigError

FALSE_AREA_RATE = 0.001  # share of the area of normal images that may be above it, unless another is asked for
LEAST_RATE, MOST_RATE = 1e-5, 0.2  # between which rates can be asked for
LEVELS = pa.schema(
    [pa.field("false_area_rate", pa.float64(), nullable=False), pa.field("level", pa.float64(), nullable=False)]
)
_NUM_RATES = 87  # twenty to a factor of ten
Floats = npt.NDArray[np.float32]


def levels_of(map_P: Floats) -> pa.Table:
    """The value that each of a fixed set of shares of the maps' area exceeds (schema `LEVELS`, rates ascending)."""
    rates = np.geomspace(LEAST_RATE, MOST_RATE, _NUM_RATES)
    return pa.table([rates, np.quantile(map_P, 1 - rates).astype(np.float64)], schema=LEVELS)


def refuse_unknown(rate: float) -> None:
    """Raise ConfigError for a false-area rate that no table has."""
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise ConfigError(
            f"the false-area rate {rate:g} is not known; give a share between {LEAST_RATE:g} and {MOST_RATE:g}"
        )


def level_at(levels: pa.Table, rate: float) -> float:
    """The value that a share `rate` of the area exceeds; raises ConfigError for a rate outside of the table."""
    refuse_unknown(rate)
    known, level = (levels[name].to_numpy() for name in LEVELS.names)
    return float(np.interp(np.log(rate), np.log(known), level))
