"""Trains anomalib's PaDiM on an exported set, in anomalib's own environment, and prints the test metrics as JSON."""

import json
import sys
from pathlib import Path

from anomalib.data import Tabular
from anomalib.engine import Engine
from anomalib.models import Padim


def main(folder: Path, out: Path) -> None:
    data = Tabular.from_file("purified", folder / "dataset.csv", root=folder, num_workers=0, seed=0)
    # Weights of its own would be downloaded; random features are enough to prove that every file is read.
    model = Padim(backbone="resnet18", layers=["layer1", "layer2"], pre_trained=False)
    engine = Engine(accelerator="cpu", devices=1, default_root_dir=out, logger=False)
    engine.fit(model=model, datamodule=data)
    (metrics,) = engine.test(model=model, datamodule=data)
    counts = {"train": len(data.train_data), "test": len(data.test_data) + len(data.val_data)}
    sys.stdout.write(f"RESULT {json.dumps({**counts, **metrics})}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
