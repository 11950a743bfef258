"""TensorBoard: event files in the folder `tensorboard` of the run; it has no place for other files."""

import shutil
from pathlib import Path

from llb_ray.tracking.records import Record


def log_tensorboard(record: Record, folder: Path) -> None:
    """Write the record's event files to `folder`, in place of those that are there."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for name, curve in record.curves.items():
            for step, value in curve:
                writer.add_scalar(name, value, step)
        for name, value in record.metrics.items():
            writer.add_scalar(f"result/{name}", value, 0)
        settings = "\n".join(f"    {name}: {value}" for name, value in record.params.items())  # Markdown's plain text
        writer.add_text("settings", settings, 0)
