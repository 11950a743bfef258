"""Answers of the service."""

import base64
from collections.abc import Sequence

from pydantic import BaseModel, Field

from llb_ray.serving.answer import Judged
from llb_ray.serving.body import Upload


class Region(BaseModel):
    """A connected place above the pixel threshold, in pixels of the photograph, upright; x runs right, y down."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float = Field(description="largest value of the anomaly map in it")
    mean: float
    polygon: list[float] = Field(description="its outline x0, y0, x1, y1, ...")


class ImageVerdict(BaseModel):
    """The detector's verdict on one image."""

    name: str = Field(description="as the request named it; empty for a bare body")
    image_id: str = Field(description="the first 32 hex digits of the sha256 of its bytes")
    score: float
    decision: str = Field(description="anomalous where the score is above the threshold, else normal")
    quantile: float = Field(description="share of the run's held-out normal images that score lower")
    regions: list[Region] | None = Field(description="highest peak first; null where the run has no pixel threshold")
    overlay: str | None = Field(None, description="data URL of a PNG: the photograph with its heatmap, if asked for")


class Verdicts(BaseModel):
    """Verdicts of a run's detector on the images of a request, in their order."""

    run: str
    version: str = Field(description="first digits of the sha256 of the run's run.json: changes when a run is swapped")
    threshold: float
    images: list[ImageVerdict]


class Runs(BaseModel):
    """The runs that are served."""

    runs: list[str]


class Problem(BaseModel):
    """The reason that a request was refused, in one sentence."""

    detail: str


def verdicts(run: str, images: Sequence[Upload], judged: Sequence[Judged]) -> Verdicts:
    """The answer to a request; the version is that of the first image, where a run is swapped in between."""
    said = [_of_image(image, one) for image, one in zip(images, judged, strict=True)]
    return Verdicts(run=run, version=judged[0].version, threshold=judged[0].threshold, images=said)


def _of_image(image: Upload, judged: Judged) -> ImageVerdict:
    drawn = None if judged.overlay is None else base64.b64encode(judged.overlay).decode()
    return ImageVerdict(
        name=image.name,
        image_id=judged.image_id,
        score=judged.score,
        decision=judged.decision,
        quantile=judged.quantile,
        regions=None if judged.regions is None else [Region(**region) for region in judged.regions],
        overlay=None if drawn is None else f"data:image/png;base64,{drawn}",
    )
