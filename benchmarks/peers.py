"""llb_ray beside its peers: anomalib's PatchCore, a plain faiss index, ADEval; the same images, weights and layers.

    make peers                                                     # or:
    python benchmarks/peers.py --data PHOTOS --out runs/peers --peers runs/peers-env/bin/python

60 training and 50 test photographs are decoded once to arrays of 224 px, and the weights of the default network are
written to a file; every contender reads these, in a process of its own with one thread, in turns.  Seconds are CPU
seconds an image, medians of the rounds, without imports, decoding or writing: other programs slow all of them alike.
`to backbone` compares with the network alone, `to GEMM` what is beyond the network with the matrix product of an
image's patches and the memory.  ADEval and our AUPRO measure the same 250 drawn maps of 256 px.

Peers that are not installed, or fail, are rows with the reason.  Writes benchmarks/peers.md and the raw rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from harness import Row, software, write_rows

HERE = Path(__file__).parent
TITLES = {
    "backbone": "backbone alone, as llb_ray runs it",
    "anomalib_backbone": "backbone alone, as anomalib runs it",
    "gemm": "GEMM alone",
    "ours_plain": "llb_ray, memory=plain (PatchCore's distance)",
    "ours": "llb_ray, default (placed, with context)",
    "faiss_knn": "faiss-cpu, flat index of random patches",
    "anomalib": "anomalib PatchCore, k-centre of all patches",
    "aupro": "AUPRO and P-AUROC by llb_ray, in memory (up to 2^25 pixels)",
    "aupro_counted": "AUPRO and P-AUROC by llb_ray, counted in fixed memory",
    "adeval": "AUPRO and P-AUROC by ADEval",
}
THEIRS = ("faiss_knn", "anomalib", "anomalib_backbone", "adeval")
METRICS = ("aupro", "aupro_counted", "adeval")
TRAIN, TEST, MAPS, MAP_PX, LIMIT_S = 60, 50, 250, 256, 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="photographs, in the layout of MVTec AD")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    prepare(arguments.data, arguments.out)
    rows = list(measured(arguments.out, arguments.peers, arguments.rounds))
    write_rows(rows, HERE / "peers.csv")
    (HERE / "peers.md").write_text(page(rows, _versions(arguments.peers)))
    print((HERE / "peers.md").read_text())


def prepare(data: Path, out: Path) -> None:
    """The contenders' images, weights, settings, maps and masks in `out`."""
    import torch

    from llb_ray.config import BackboneConfig, parse
    from llb_ray.data.decoding import read_rgb
    from llb_ray.detectors.backbones.network import layers_of, load_network

    config = parse({"detector": {"name": "memory_bank", "memory": "plain"}}).detector
    backbone, size = BackboneConfig(), config.size
    for name, folder, count in (("train", data / "train", TRAIN), ("test", data / "test", TEST)):
        paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))[:count]
        np.save(out / f"{name}.npy", np.stack([read_rgb(path, size, 10**8) for path in paths]))
    network, layers = load_network(backbone, config.image_size_px), layers_of(backbone, config.image_size_px)
    torch.save(network.state_dict(), out / "weights.pth")
    info = [network.feature_info[layer] for layer in layers]
    num_patches = (size[0] // info[0]["reduction"]) * (size[1] // info[0]["reduction"])
    settings = {
        "network": backbone.name,
        "modules": [one["module"] for one in info],
        "patches": num_patches,
        "dims": sum(one["num_chs"] for one in info),
        "memory": config.coreset_size,
        "coreset_ratio": config.coreset_size / (TRAIN * num_patches),  # as many entries for everybody
    }
    (out / "settings.json").write_text(json.dumps(settings))
    _draw(out)


def _draw(out: Path) -> None:
    """Smooth maps and masks with regions, a third without a defect, the same at every call."""
    from scipy.ndimage import gaussian_filter

    noise_2NHW = np.random.default_rng(0).standard_normal((2, MAPS, MAP_PX, MAP_PX), dtype=np.float32)
    mask_NHW = gaussian_filter(noise_2NHW[0], (0, 10, 10)) > 0.065
    mask_NHW[::3] = False
    map_NHW = 0.3 + 2.5 * gaussian_filter(noise_2NHW[1], (0, 7, 7)) + 0.35 * gaussian_filter(mask_NHW * 1.0, (0, 6, 6))
    np.save(out / "maps.npy", np.clip(map_NHW, 0, 1).astype(np.float32))
    np.save(out / "masks.npy", mask_NHW)


def measured(out: Path, peers: Path, rounds: int) -> Iterator[Row]:
    for number in range(rounds):
        for contender in TITLES:
            row = _in_process(contender, out, peers if contender in THEIRS else Path(sys.executable))
            print(number, contender, row, file=sys.stderr, flush=True)
            yield {"round": number, "contender": contender, **row}


def _in_process(contender: str, out: Path, python: Path) -> Row:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": str(HERE.parent)}
    command = [str(python), str(HERE / "peers_contenders.py"), contender, str(out)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done after {LIMIT_S} s"}
    if done.returncode:
        return {"left_out": done.stderr.strip().splitlines()[-1]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _versions(peers: Path) -> str:
    names = ("anomalib", "faiss-cpu", "adeval", "torch", "timm")
    code = (
        "from importlib.metadata import version, PackageNotFoundError\n"
        f"for name in {names!r}:\n"
        "    try: print(name, version(name))\n"
        "    except PackageNotFoundError: print(name, 'not installed')\n"
    )
    return ", ".join(subprocess.check_output([peers, "-c", code], text=True).splitlines())


def page(rows: Sequence[Row], versions: str) -> str:
    """The tables of medians."""
    lines = [
        "| what | fit, ms an image | predict, ms an image | to backbone | beyond it, to GEMM | entries | peak MiB |",
        "|---|" + "---|" * 6,
        *_detectors(rows),
        "",
        "| metrics | ms a map | AUPRO | P-AUROC | peak MiB |",
        "|---|---|---|---|---|",
        *_metrics(rows),
    ]
    command = "make peers PHOTOS=FOLDER"
    return (
        f"# Beside its peers, {date.today()}\n\n{software(command)}  \nPeers: {versions}\n\n"
        f"{chr(10).join(lines)}\n\nRaw rows: peers.csv\n"
    )


def _detectors(rows: Sequence[Row]) -> Iterator[str]:
    backbone_s, gemm_s = _median(rows, "backbone", "predict_s"), _median(rows, "gemm", "predict_s")
    for contender in (name for name in TITLES if name not in METRICS):
        own = [row for row in rows if row["contender"] == contender]
        if "left_out" in own[-1]:
            yield f"| {TITLES[contender]} | left out: {own[-1]['left_out']} | | | | | |"
            continue
        predict_s = _median(rows, contender, "predict_s")
        is_detector = "fit_s" in own[0] and contender != "backbone"
        cells = [
            f"{1000 * _median(rows, contender, 'fit_s'):.1f}" if "fit_s" in own[0] else "",
            f"{1000 * predict_s:.2f}",
            "" if contender == "gemm" else f"{predict_s / backbone_s:.2f}",
            f"{(predict_s - backbone_s) / gemm_s:.1f}" if is_detector else "",
            f"{own[0].get('memory', '')}",
            f"{_median(rows, contender, 'peak_mib'):.0f}",
        ]
        yield f"| {TITLES[contender]} | {' | '.join(cells)} |"


def _metrics(rows: Sequence[Row]) -> Iterator[str]:
    for contender in METRICS:
        own = [row for row in rows if row["contender"] == contender]
        if "left_out" in own[-1]:
            yield f"| {TITLES[contender]} | left out: {own[-1]['left_out']} | | | |"
            continue
        values = f"{own[0]['aupro']:.6f} | {own[0]['p_auroc']:.6f} | {_median(rows, contender, 'peak_mib'):.0f}"
        yield f"| {TITLES[contender]} | {1000 * _median(rows, contender, 'predict_s'):.2f} | {values} |"


def _median(rows: Sequence[Row], contender: str, name: str) -> float:
    return statistics.median(row[name] for row in rows if row["contender"] == contender and name in row)


if __name__ == "__main__":
    main()
