"""One contender of benchmarks/peers.py, in a process of its own and one thread.

    python benchmarks/peers_contenders.py CONTENDER FOLDER

Prints one line of JSON: CPU seconds an image of fit and of predict, without imports and without decoding, and the
process's peak memory.  Reads what `peers.py` wrote to FOLDER: images as arrays, the network's weights, its settings.
Of llb_ray, peers import no more than what makes torchvision work here, and faiss the network and its patches.
"""

import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

BATCH, NEIGHBOURS = 32, 9  # PatchCore weighs the score of an image by so many neighbours
METRIC_TIMES = 7  # a quarter of a second each: a neighbour on the core doubles one
Images = npt.NDArray[np.uint8]  # [N, H, W, 3]
Maps = npt.NDArray[np.float32]  # [N, H, W]
Masks = npt.NDArray[np.bool_]  # [N, H, W]


def main() -> None:
    contender, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    train_NHW3, test_NHW3 = (np.load(folder / f"{name}.npy") for name in ("train", "test"))
    with torch.inference_mode():
        row = CONTENDERS[contender](folder, train_NHW3, test_NHW3)
    print(json.dumps({**row, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """Of this process alone: what getrusage says begins with the peak of the process that started it."""
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def _timed(work: Callable[[], Any], num_images: int) -> tuple[float, Any]:
    """CPU seconds an image, and what came of it."""
    began_s = time.process_time()
    found = work()
    return (time.process_time() - began_s) / num_images, found


def _batches(image_NHW3: Images) -> Sequence[torch.Tensor]:
    return [
        torch.from_numpy(image_NHW3[at : at + BATCH]).permute(0, 3, 1, 2) for at in range(0, len(image_NHW3), BATCH)
    ]


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
    return settings


def _let_torchvision_in() -> None:
    """Its compiled part is for another torch than the CPU-only one that all contenders share."""
    from llb_ray.detectors.backbones.timm_import import declare_missing_torchvision_ops

    declare_missing_torchvision_ops()


class _Source:
    """Layers that are encoded when they are asked for, as a fit on images would."""

    def __init__(self, encoder: Any, image_NHW3: Images) -> None:
        parts = zip(*(encoder.encode(batch) for batch in _batches(image_NHW3)), strict=True)
        self._layers = [torch.cat(part).float() for part in parts]
        self.image_ids = [f"{number:032x}" for number in range(len(image_NHW3))]

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        return tuple(layer[torch.from_numpy(np.asarray(rows))] for layer in self._layers)


def _our_encoder(memory: str) -> tuple[Any, Any]:
    from llb_ray.config import parse
    from llb_ray.detectors.factory import build_encoder

    config = parse({"detector": {"name": "memory_bank", "memory": memory}}).detector
    return config, build_encoder(config, torch.device("cpu"))


def backbone(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """The network up to the deepest layer that the map needs, and nothing else: the limit of any fit and predict."""
    _, encoder = _our_encoder("plain")
    encoder.encode(_batches(test_NHW3)[0])
    fit_s, _ = _timed(lambda: [encoder.encode(batch) for batch in _batches(train_NHW3)], len(train_NHW3))
    predict_s, _ = _timed(lambda: [encoder.encode(batch) for batch in _batches(test_NHW3)], len(test_NHW3))
    return {"fit_s": fit_s, "predict_s": predict_s}


def gemm(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """The matrix product of an image's patches with the memory, and nothing else: the limit of exact distances."""
    sizes = _settings(folder)
    patch_QD, memory_MD = torch.rand(sizes["patches"], sizes["dims"]), torch.rand(sizes["memory"], sizes["dims"])
    square_M = memory_MD.square().sum(dim=1)
    predict_s, _ = _timed(
        lambda: [torch.addmm(square_M, patch_QD, memory_MD.T, alpha=-2) for _ in test_NHW3], len(test_NHW3)
    )
    return {"predict_s": predict_s}


def _ours(memory: str, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    from llb_ray.detectors.factory import build_detector

    config, encoder = _our_encoder(memory)
    encoder.encode(_batches(test_NHW3)[0])
    detector = build_detector(config, "final", torch.device("cpu"), None)
    fit_s, _ = _timed(lambda: detector.fit(_Source(encoder, train_NHW3), 0), len(train_NHW3))

    def predict() -> None:
        for batch in _batches(test_NHW3):
            detector.score(tuple(layer.float() for layer in encoder.encode(batch)))

    predict_s, _ = _timed(predict, len(test_NHW3))
    return {"fit_s": fit_s, "predict_s": predict_s}


def ours(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """llb_ray, its default detector: two memories and the Gaussians of the places."""
    return _ours("placed", train_NHW3, test_NHW3)


def ours_plain(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """llb_ray, memory=plain: PatchCore's distance, the same method as the others'."""
    return _ours("plain", train_NHW3, test_NHW3)


def faiss_knn(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """Our backbone and patches, as many random ones in a flat faiss index as our memory has, nearest neighbour."""
    import faiss

    faiss.omp_set_num_threads(1)
    from llb_ray.detectors.patches import patches

    _, encoder = _our_encoder("plain")
    encoder.encode(_batches(test_NHW3)[0])

    def described(batch: torch.Tensor) -> npt.NDArray[np.float32]:
        patch_BDHW = patches(tuple(layer.float() for layer in encoder.encode(batch)), 3)
        return np.ascontiguousarray(patch_BDHW.permute(0, 2, 3, 1).flatten(0, 2).numpy())

    def fit() -> Any:
        patch_PD = np.concatenate([described(batch) for batch in _batches(train_NHW3)])
        chosen = np.random.default_rng(0).choice(len(patch_PD), _settings(folder)["memory"], replace=False)
        index = faiss.IndexFlatL2(patch_PD.shape[1])
        index.add(patch_PD[chosen])
        return index

    fit_s, index = _timed(fit, len(train_NHW3))
    predict_s, _ = _timed(lambda: [index.search(described(batch), 1) for batch in _batches(test_NHW3)], len(test_NHW3))
    return {"fit_s": fit_s, "predict_s": predict_s, "memory": index.ntotal}


def anomalib(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """anomalib's PatchcoreModel: its own embedding, coreset and scores, without Lightning around it."""
    _let_torchvision_in()
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    settings = _settings(folder)
    model = PatchcoreModel(
        layers=settings["modules"], backbone=settings["network"], pre_trained=False, num_neighbors=NEIGHBOURS
    )
    network = model.feature_extractor.feature_extractor
    state = torch.load(folder / "weights.pth", weights_only=True)
    loaded = {name: value for name, value in state.items() if name in network.state_dict()}
    network.load_state_dict(loaded)  # strict: every parameter that it has

    def scaled(batch: torch.Tensor) -> torch.Tensor:
        return (batch.float() / 255 - 0.5) / 0.5

    def fit() -> None:
        model.train()
        model.feature_extractor.eval()
        for batch in _batches(train_NHW3):
            model(scaled(batch))
        model.subsample_embedding(settings["coreset_ratio"])

    fit_s, _ = _timed(fit, len(train_NHW3))
    model.eval()
    predict_s, _ = _timed(lambda: [model(scaled(batch)) for batch in _batches(test_NHW3)], len(test_NHW3))
    return {"fit_s": fit_s, "predict_s": predict_s, "memory": len(model.memory_bank)}


def anomalib_backbone(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """The same network as anomalib runs it, alone."""
    _let_torchvision_in()
    from anomalib.models.components import TimmFeatureExtractor

    settings = _settings(folder)
    extractor = TimmFeatureExtractor(settings["network"], settings["modules"], pre_trained=False).eval()
    scaled = [(batch.float() / 255 - 0.5) / 0.5 for batch in _batches(test_NHW3)]
    extractor(scaled[0])
    predict_s, _ = _timed(lambda: [extractor(batch) for batch in scaled], len(test_NHW3))
    return {"predict_s": predict_s}


def aupro(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """AUPRO and P-AUROC of the maps by llb_ray as it measures up to 2^25 pixels, all in memory; seconds a map."""
    from llb_ray.metrics.exact_pixel import pixel_metrics

    return _measured(folder, lambda map_NHW, mask_NHW: pixel_metrics(map_NHW, mask_NHW, 0.3), "aupro")


def aupro_counted(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """The same as it measures more of them, by counts in fixed memory."""
    from llb_ray.metrics.streaming_pixel import PixelCounts

    def measure(map_NHW: Maps, mask_NHW: Masks) -> Any:
        counts = PixelCounts()
        for at in range(0, len(map_NHW), BATCH):
            counts.add(map_NHW[at : at + BATCH], mask_NHW[at : at + BATCH])
        return counts.metrics(0.3)

    return _measured(folder, measure, "aupro")


def adeval(folder: Path, train_NHW3: Images, test_NHW3: Images) -> dict[str, Any]:
    """AUPRO and P-AUROC of the same maps by ADEval, in its usual 1,000 steps from the least to the greatest score."""
    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # the name that it knows is gone since numpy 2.4
    from adeval import EvalAccumulator

    def measure(map_NHW: Maps, mask_NHW: Masks) -> Any:
        counts = EvalAccumulator(float(map_NHW.min()), float(map_NHW.max()))
        for map_HW, mask_HW in zip(map_NHW, mask_NHW.astype(np.uint8), strict=True):
            counts.add_anomap(map_HW, mask_HW)
        with np.errstate(invalid="ignore"):  # the figures of images, of which it was given none
            return counts.summary()

    return _measured(folder, measure, "p_aupro")


def _measured(folder: Path, measure: Callable[[Maps, Masks], Any], name: str) -> dict[str, Any]:
    """Seconds a map, the median of several times, and the AUPRO under its `name`; a few maps have everything imported
    before."""
    map_NHW, mask_NHW = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    measure(map_NHW[:4], mask_NHW[:4])
    timed = [_timed(lambda: measure(map_NHW, mask_NHW), len(map_NHW)) for _ in range(METRIC_TIMES)]
    found = timed[0][1]
    seconds = statistics.median(one for one, _ in timed)
    return {"predict_s": seconds, "aupro": found[name], "p_auroc": found["p_auroc"]}


CONTENDERS = {
    made.__name__: made
    for made in (backbone, gemm, ours, ours_plain, faiss_knn, anomalib, anomalib_backbone, aupro, aupro_counted, adeval)
}

if __name__ == "__main__":
    main()
