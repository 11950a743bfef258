"""One contender of benchmarks/metrics.py, in a process and, where need be, in an environment of its own.

    python benchmarks/metrics_contenders.py CONTENDER FOLDER NUM_MAPS

Prints one line of JSON: seconds and CPU seconds from the first map read to the values, without imports; the process's
peak memory (VmHWM), with them; P-AUROC and AUPRO.  Imports nothing of llb_ray but in `counted` and `exact`.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE, BATCH, FPR_LIMIT, THRESHOLDS = 392, 32, 0.3, 200
Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
Values = dict[str, Any]


def batches(folder: Path, num_maps: int) -> Iterator[Batch]:
    """Maps and masks, `BATCH` at a time, as an evaluation loop would get them from its model."""
    with (folder / "maps.raw").open("rb") as maps, (folder / "masks.raw").open("rb") as masks:
        for start in range(0, num_maps, BATCH):
            count = min(BATCH, num_maps - start) * SIZE * SIZE
            map_P, mask_P = np.fromfile(maps, np.float32, count), np.fromfile(masks, np.uint8, count)
            yield map_P.reshape(-1, SIZE, SIZE), mask_P.reshape(-1, SIZE, SIZE).astype(bool)


def whole(folder: Path, num_maps: int) -> Batch:
    map_NHW, mask_NHW = zip(*batches(folder, num_maps), strict=True)
    return np.concatenate(map_NHW), np.concatenate(mask_NHW)


def counted() -> Callable[[Path, int], Values]:
    """llb_ray, streaming."""
    from llb_ray.metrics.streaming_pixel import PixelCounts

    def measure(folder: Path, num_maps: int) -> Values:
        counts = PixelCounts()
        for map_NHW, mask_NHW in batches(folder, num_maps):
            counts.add(map_NHW, mask_NHW)
        bounds = {f"{name}_bound": bound for name, bound in counts.error_bounds(FPR_LIMIT).items()}
        return counts.metrics(FPR_LIMIT) | bounds

    return measure


def exact() -> Callable[[Path, int], Values]:
    """llb_ray, all pixels held and sorted: the value that the others are compared with."""
    from llb_ray.metrics.exact_pixel import pixel_metrics

    return lambda folder, num_maps: pixel_metrics(*whole(folder, num_maps), FPR_LIMIT)


def anomalib() -> Callable[[Path, int], Values]:
    """anomalib 2's AUROC and AUPRO, updated batch by batch."""
    from types import SimpleNamespace

    import torch
    from anomalib.metrics import AUPRO, AUROC

    torch.set_num_threads(1)

    def measure(folder: Path, num_maps: int) -> Values:
        fields = ["anomaly_map", "gt_mask"]
        metrics = {"p_auroc": AUROC(fields=fields), "aupro": AUPRO(fields=fields, fpr_limit=FPR_LIMIT)}
        for map_NHW, mask_NHW in batches(folder, num_maps):
            batch = SimpleNamespace(anomaly_map=torch.from_numpy(map_NHW), gt_mask=torch.from_numpy(mask_NHW))
            for metric in metrics.values():
                metric.update(batch)
        return {name: float(metric.compute()) for name, metric in metrics.items()}

    return measure


def naive() -> Callable[[Path, int], Values]:
    """scikit-learn's AUROC of all pixels, and PRO in a loop over thresholds, images and regions, as in papers' code."""
    from skimage.measure import label, regionprops
    from sklearn.metrics import auc, roc_auc_score

    def measure(folder: Path, num_maps: int) -> Values:
        map_NHW, mask_NHW = whole(folder, num_maps)
        curve = []
        for threshold in np.linspace(map_NHW.max(), map_NHW.min(), THRESHOLDS):
            passed_NHW = map_NHW > threshold
            overlaps = [
                passed_HW[region.coords[:, 0], region.coords[:, 1]].sum() / region.area
                for passed_HW, mask_HW in zip(passed_NHW, mask_NHW, strict=True)
                for region in regionprops(label(mask_HW))
            ]
            curve.append((np.logical_and(~mask_NHW, passed_NHW).sum() / (~mask_NHW).sum(), np.mean(overlaps)))
        fpr_T, pro_T = np.array([point for point in curve if point[0] <= FPR_LIMIT]).T
        p_auroc = roc_auc_score(mask_NHW.ravel(), map_NHW.ravel())
        return {"p_auroc": float(p_auroc), "aupro": float(auc(fpr_T / fpr_T.max(), pro_T))}

    return measure


def main() -> None:
    name, folder, num_maps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    measure = {"counted": counted, "exact": exact, "anomalib": anomalib, "naive": naive}[name]()
    started, cpu = time.perf_counter(), time.process_time()
    values = measure(folder, num_maps)
    row = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps({"contender": name, "maps": num_maps, **row, "peak_mib": int(peak[1]) / 1024, **values}))


if __name__ == "__main__":
    main()
