"""Overlays and masks of a prediction, drawn batch by batch."""

from collections.abc import Callable
from pathlib import Path

from llb_ray.engine.inference.prediction_tables import Judged
from llb_ray.engine.rundir.run_folder import RunFolder


def drawing(folder: RunFolder, out: Path, overlays: str, masks: bool) -> Callable[[Judged], None]:
    """A function that draws the overlays (``all``, ``anomalous`` or ``none``) and masks of a batch into `out`."""
    uses: list[Callable[[Judged], None]] = []
    if overlays != "none":
        from llb_ray.report.heatmaps import Overlays  # matplotlib takes half a second to import

        uses.append(Overlays(folder, out, anomalous_only=overlays == "anomalous"))
    if masks:
        from llb_ray.report.masks import Masks

        uses.append(Masks(folder, out))

    def draw(judged: Judged) -> None:
        for use in uses:
            use(judged)

    return draw
