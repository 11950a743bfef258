"""Every measurement that needs a GPU, in one call of less than ten minutes.

    python benchmarks/gpu.py --out runs/gpu

1. **Features**: photographs a second from files to stored layers, beside the encoder alone on a batch that is there
   already, for three networks in float32, float16 and bfloat16, and how far the layers are from those in float32.
2. **Training**: optimiser steps a second of the decoder of configs/dinomaly.yaml, its layers on the GPU.
3. **Back-off**: a batch that does not fit the memory is halved until it does; the layers are the same.
4. **Two members on one GPU**: steps a second of two processes beside each other, beside one alone.
5. **Memory bank**: fit and scoring on the GPU and on the CPU, and how far the scores are apart.
6. **A run**: the default configuration with a GPU, on Ray where that is installed, else with the serial executor.

Weights are random but for the bundled network: the work is the same.  `--device cpu --quick` tries the script without a
GPU and writes nothing.  Writes benchmarks/gpu.md and the raw rows beside it.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, software, write_rows

import llb_ray
from llb_ray.config import DetectorConfig, ResourcesConfig, load, with_overrides
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.detectors.base import Layers
from llb_ray.detectors.factory import build_detector, build_encoder, encoder_fingerprint
from llb_ray.engine.features.encoding import EncoderSpec, FeatureExtractor, ImageRef, layers_of

HERE = Path(__file__).parent
PRECISIONS = ("float32", "float16", "bfloat16")
NO_GPU = (
    "benchmarks/gpu.py: torch finds no GPU here; run it where `nvidia-smi` lists one and torch is built for it, or try "
    "it with --device cpu --quick"
)


@dataclass(frozen=True)
class Setting:
    """Where and how long to measure."""

    out: Path
    device: torch.device
    quick: bool

    @property
    def seconds(self) -> float:
        """What a loop may take; a GPU is warm long before."""
        return 0.2 if self.quick else 6.0

    @property
    def num_images(self) -> int:
        return 16 if self.quick else 1024

    @property
    def resources(self) -> ResourcesConfig:
        num_cpus, on_gpu = os.cpu_count() or 1, self.device.type == "cuda"
        return ResourcesConfig(num_cpus=num_cpus, num_gpus=int(on_gpu), batch_size=8 if self.quick else 64)

    def networks(self) -> dict[str, DetectorConfig]:
        """Detectors by a name for the table."""
        named = {"tf_efficientnet_lite0, 224 px": load(None, []).detector}
        others = {"wide_resnet50_2": 224, "vit_base_patch14_reg4_dinov2.lvd142m": 392}
        for name, size_px in {} if self.quick else others.items():
            settings = [f"detector.backbone.name={name}", "detector.backbone.weights=random"]
            named[f"{name}, {size_px} px"] = load(None, [*settings, f"detector.image_size_px={size_px}"]).detector
        return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="as little as shows that everything runs")
    parser.add_argument("--member", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(NO_GPU)
    setting = Setting(arguments.out, torch.device(arguments.device), arguments.quick)
    if arguments.member:
        print(json.dumps(next(training(setting))))
        return
    rows = list(measured(setting))
    text = page(rows, setting)
    print(text)
    if setting.device.type == "cuda":
        write_rows(rows, HERE / "gpu.csv")
        (HERE / "gpu.md").write_text(text)


def measured(setting: Setting) -> Iterator[Row]:
    """The rows of every measurement; one that fails is a row with its reason, and the others go on."""
    for measure in (features, training, back_off, two_members, memory_bank, whole_run):
        started_s = time.perf_counter()
        try:
            yield from measure(setting)
        except Exception as error:  # noqa: BLE001  a GPU is lent for minutes: take home what there is
            yield {"what": measure.__name__, "setting": f"failed: {type(error).__name__}: {error}"}
        print(f"{measure.__name__}: {time.perf_counter() - started_s:.0f} s", file=sys.stderr, flush=True)
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def features(setting: Setting) -> Iterator[Row]:
    """Files to stored layers, and the encoder alone."""
    photos = photographs(setting)
    for title, detector in setting.networks().items():
        exact: Layers = ()
        for precision in PRECISIONS:
            config = _with_precision(detector, precision)
            batch = np.stack([FeatureExtractor(photos[0], 10**8, config, {}).read(image) for image in photos[1][:64]])
            encoder = build_encoder(config, setting.device)
            image_BHWC = torch.from_numpy(batch[: setting.resources.batch_size]).to(setting.device)
            image_BCHW = image_BHWC.permute(0, 3, 1, 2)
            layers = encoder.encode(image_BCHW[:8])
            exact = exact or layers
            alone = per_second(lambda: encoder.encode(image_BCHW), len(image_BCHW), setting)  # noqa: B023
            extractor = FeatureExtractor(photos[0], 10**8, config, encoder_fingerprint(config))
            encoding = EncoderSpec(extractor, setting.resources)
            through = once(lambda: list(encoding.batches(photos[1], setting.resources.batch_size)), len(photos[1]))  # noqa: B023
            yield {
                "what": "features",
                "setting": f"{title}, {precision}",
                "per_second": through,
                "limit_per_second": alone,
                "unit": "images",
                "difference": max(_relative(a, b) for a, b in zip(layers, exact, strict=True)),
            }


def training(setting: Setting) -> Iterator[Row]:
    """Steps of the published decoder, on layers like those of its network."""
    steps = 3 if setting.quick else 60
    config = load(HERE.parent / "configs" / "dinomaly.yaml", ["detector.backbone.weights=random"]).detector
    side, width, count = (4, 48, 3) if setting.quick else (28, 768, 8)
    if setting.quick:
        small = {
            "groups": None,
            "decoder_depth": 3,
            "backbone": config.network.model_copy(update={"layers": (0, 1, 2)}),
        }
        config = config.model_copy(update=small)
    config = config.model_copy(update={"member_steps": steps})
    source = Held(tuple(torch.randn(32, width, side, side, device=setting.device) for _ in range(count)))
    times: list[float] = []

    def report(done: int, total: int, unit: str, figures: Any = None) -> None:
        if unit == "step":
            _wait(setting.device)
            times.append(time.perf_counter())

    build_detector(config, "member", setting.device).fit(source, 0, report)
    rate = (len(times) // 2) / (times[-1] - times[len(times) - 1 - len(times) // 2])
    yield {"what": "training", "setting": f"Dinomaly decoder, batch {config.batch_size}", "per_second": rate} | {
        "unit": "steps",
        "gpu_gib": _peak_gib(setting.device),
    }


def back_off(setting: Setting) -> Iterator[Row]:
    """The same layers with so little memory that the batch is halved."""
    if setting.device.type != "cuda":
        yield {"what": "back_off", "setting": "needs a GPU"}
        return
    root, images = photographs(setting)
    config = setting.networks()["wide_resnet50_2, 224 px"] if not setting.quick else load(None, []).detector
    extractor = FeatureExtractor(root, 10**8, config, encoder_fingerprint(config))
    image_BHWC = np.stack([extractor.read(image) for image in images[:256]])
    large = setting.resources.model_copy(update={"batch_size": 256})
    free = EncoderSpec(extractor, setting.resources).encode(image_BHWC)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * 2**30 / total))
    try:
        tight = EncoderSpec(extractor, large)
        seconds = timed(lambda: tight.encode(image_BHWC))
        found = tight.encode(image_BHWC)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    yield {
        "what": "back-off",
        "setting": "256 images in 1.5 GiB, first all at once",
        "per_second": len(image_BHWC) / seconds,
        "unit": "images",
        "difference": max(
            _relative(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(found, free, strict=True)
        ),
    }


def two_members(setting: Setting) -> Iterator[Row]:
    """The sum of the steps of two processes on one GPU, beside the steps of one."""
    command = [sys.executable, __file__, "--member", "--device", setting.device.type, "--out", str(setting.out)]
    command += ["--quick"] if setting.quick else []
    alone = _rates([command])
    beside = _rates([command, command])
    yield {
        "what": "two members on one GPU",
        "setting": "two processes, steps of both",
        "per_second": sum(beside),
        "limit_per_second": alone[0],
        "unit": "steps",
    }


def memory_bank(setting: Setting) -> Iterator[Row]:
    """The default detector on either device; on the CPU less often."""
    root, images = photographs(setting)
    config = load(None, []).detector
    count = 16 if setting.quick else 400
    extractor = FeatureExtractor(root, 10**8, config, encoder_fingerprint(config))
    encoding = EncoderSpec(extractor, setting.resources)
    stored = [layers for _, layers in encoding.batches(images[:count], setting.resources.batch_size)]
    whole = [np.concatenate(layer) for layer in zip(*stored, strict=True)]
    scores: list[Any] = []
    for device in dict.fromkeys((torch.device("cpu"), setting.device)):
        layers = layers_of(whole, device)
        detector = build_detector(config, "final", device)
        fit_s = timed(lambda: detector.fit(Held(layers), 0))  # noqa: B023
        batch = tuple(layer[:32] for layer in layers)
        rate = per_second(lambda: detector.score(batch), len(batch[0]), setting)  # noqa: B023
        scores.append(detector.score(batch).score_N)
        yield {
            "what": "memory bank",
            "setting": f"{device.type}, fitted on {count} images in {fit_s:.2f} s",
            "per_second": rate,
            "unit": "images",
            "difference": float(np.abs(scores[-1] / scores[0] - 1).max()),
        }


def whole_run(setting: Setting) -> Iterator[Row]:
    """A run of the default configuration; its decisions are compared with those of the CPU."""
    root = setting.out / "photos" / "weave"
    executor = "ray" if importlib.util.find_spec("ray") and setting.device.type == "cuda" else "serial"
    config = load(None, [f"resources.num_gpus={int(setting.device.type == 'cuda')}"])
    if setting.quick:
        config = with_overrides(config, ["members.count=2", "detector.coreset_size=40", "detector.image_size_px=64"])
    manifest = llb_ray.read_folder(root, config)
    started_s = time.perf_counter()
    result = llb_ray.run(config, manifest, out=setting.out / f"run-{setting.device.type}", executor=executor)
    seconds = time.perf_counter() - started_s
    stages = ", ".join(f"{each.stage} {each.seconds:.1f}" for each in result.times if not each.reused)
    yield {
        "what": "a run",
        "setting": f"{manifest.table.num_rows} images, {executor} executor, s: {stages}",
        "per_second": manifest.table.num_rows / seconds,
        "unit": "images",
    }


class Held:
    """A `Source` whose layers are on the device already."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.image_ids = [f"{number:032x}" for number in range(len(layers[0]))]

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: Any) -> Layers:
        chosen = torch.from_numpy(rows).to(self._layers[0].device)
        return tuple(layer[chosen] for layer in self._layers)


def photographs(setting: Setting) -> tuple[Path, list[ImageRef]]:
    """The folder of synthetic photographs, and as many of them as are measured, with repetitions."""
    photos = setting.out / "photos"
    if not photos.exists():
        count = 20 if setting.quick else 200
        write_synthetic(
            photos, SyntheticConfig(("weave",), train_objects=count, test_objects=20, alpha=0.2, size_px=256)
        )
    config = load(None, [])
    table = llb_ray.read_folder(photos / "weave", config).table
    images = list(map(ImageRef, table["image_id"].to_pylist(), table["path"].to_pylist()))
    return photos / "weave", (images * (setting.num_images // len(images) + 1))[: setting.num_images]


def per_second(work: Callable[[], object], count: int, setting: Setting) -> float:
    """Things a second, `count` of them by each call, after three calls to warm up."""
    for _ in range(3):
        work()
    _wait(setting.device)
    started_s, calls = time.perf_counter(), 0
    while time.perf_counter() - started_s < setting.seconds:
        work()
        _wait(setting.device)
        calls += 1
    return calls * count / (time.perf_counter() - started_s)


def once(work: Callable[[], object], count: int) -> float:
    return count / timed(work)


def timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _rates(commands: Sequence[list[str]]) -> list[float]:
    """Steps a second of each of these processes, all of them at once."""
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=200)[0] for process in running]
    return [json.loads(text.splitlines()[-1])["per_second"] for text in said]


def _with_precision(config: DetectorConfig, precision: str) -> DetectorConfig:
    backbone = config.network.model_copy(update={"precision": precision})
    return config.model_copy(update={"backbone": backbone})


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    found, exact = found.float(), exact.float()
    return float((found - exact).abs().max() / exact.abs().max())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def page(rows: Sequence[Row], setting: Setting) -> str:
    gpu = torch.cuda.get_device_name(0) if setting.device.type == "cuda" else "no GPU: a try of the script"
    lines = ["| what | setting | per second | limit | share of it | difference |", "|---|---|---|---|---|---|"]
    for row in rows:
        rate, limit = row.get("per_second"), row.get("limit_per_second")
        cells = [
            "-" if rate is None else f"{rate:.1f} {row['unit']}",
            "-" if limit is None else f"{limit:.1f}",
            "-" if limit is None else f"{rate / limit:.2f}",
            "-" if row.get("difference") is None else f"{row['difference']:.1e}",
        ]
        lines.append(f"| {row['what']} | {row['setting']} | {' | '.join(cells)} |")
    command = "python benchmarks/gpu.py " + " ".join(sys.argv[1:])
    return f"""# On a GPU, {date.today()}

{software(command, gpu)}

{chr(10).join(lines)}

The limit of features is the encoder alone, that of two members the steps of one alone.  Differences are relative to the
largest value in float32 (features, back-off) or to the score on the CPU.

Raw rows: gpu.csv
"""


if __name__ == "__main__":
    main()
