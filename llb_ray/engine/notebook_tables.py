"""Results as HTML for notebooks: `_repr_html_` of what `run`, `predict` and `Detector.predict` return.

Every text is escaped, names of files included.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from llb_ray.names import shown

MOST_ROWS = 20  # that a table shows


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0) -> str:
    """A table; `more` is how many further rows it would have."""
    head = Markup("").join(Markup("<th>{}</th>").format(shown(name)) for name in columns)
    lines = [Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row))) for row in rows]
    foot = Markup("<p>... and {} more</p>").format(f"{more:,}") if more else Markup("")
    caption = Markup("<caption style='text-align:left'>{}</caption>").format(shown(title))
    body = Markup("").join(lines)
    return str(
        Markup("<table>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}").format(caption, head, body, foot)
    )


def map_image(map_HW: npt.NDArray[Any], low: float, high: float) -> Markup:
    """An anomaly map as a picture of 96 pixels; colours run from `low` to `high`."""
    from matplotlib import colormaps
    from PIL import Image

    share_HW = np.clip((map_HW - low) / max(high - low, 1e-12), 0, 1)
    picture = Image.fromarray((colormaps["inferno"](share_HW)[..., :3] * 255).astype(np.uint8))
    content = io.BytesIO()
    picture.resize((96, 96), Image.Resampling.BILINEAR).save(content, "PNG")
    return Markup("<img alt='anomaly map' src='data:image/png;base64,{}'>").format(
        base64.b64encode(content.getvalue()).decode()
    )


def _cell(value: object) -> Markup:
    if isinstance(value, Markup):
        return Markup("<td>{}</td>").format(value)
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return Markup("<td style='text-align:left'>{}</td>").format(escape(shown(text)))
