"""The card of a run: what its detector was made of, what it is for and what not, as a page of Markdown.

It follows from the run's configuration, its artifacts and the origin of its weights alone, so that the audit derives it
again: no time, no path of a machine.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from llb_ray import __version__
from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.manifest import TEST
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.threshold import threshold_titles
from llb_ray.metrics.metric_names import of_run
from llb_ray.names import shown

CARD = "card.md"
VERSION = f"Made by llb_ray {__version__}"
Rows = Iterator[tuple[str, str]]
_LIMITS = (
    "Anomalies that look almost normal, or are very many, may have been kept for training; these pass as normal.",
    "Rare normal images may have been rejected; a person can tell from `report.html`.",
    "The false-alarm rate is for images like the kept training images. Another light, focus, camera or material shifts "
    "scores: compare predictions with `llb-ray drift` before you rely on a decision.",
    "Scores are in the detector's own unit: compare them within this run.",
    "Images are resized to the size above: a defect that is smaller than a few of its pixels may be missed.",
)


def run_card(config: RunConfig, made: RunArtifacts, weights: Mapping[str, str]) -> str:
    """The card of a run that is made of these artifacts, with a backbone whose weights are of this origin."""
    images, decided = _table(made.images, filenames.IMAGES), _table(made.purified, filenames.PURIFIED)
    category = ", ".join(sorted(set(images["category"].to_pylist())))
    parts = [
        f"# Card of a detector of anomalies: {_text(category)}",
        "It gives an image a score that rises with abnormality, a decision, and a map of where. It was trained without "
        "labels by llb_ray, on images some of which may be anomalous.",
        _section("Detector", _detector(config, weights)),
        _section("Data", _data(made, images, decided)),
        _section("Thresholds", _thresholds(made)),
        _section("Measured", _measured(made)),
        "## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in _LIMITS),
        _section("Licences", _licences(weights)),
        f"{VERSION}. Its folder has all decisions and scores, and `llb-ray audit` derives them again.",
    ]
    return "\n\n".join(parts) + "\n"


def _detector(config: RunConfig, weights: Mapping[str, str]) -> Rows:
    yield "kind", _text(config.detector.name)
    height, width = config.detector.size
    yield "input", f"RGB, resized to {width} x {height} pixels"
    yield "backbone", _text(weights["network"]) if weights else "none"
    yield "filter of the training images", _text(config.purify.filter)
    yield "seed", str(config.seed)


def _data(made: RunArtifacts, images: pa.Table, decided: pa.Table) -> Rows:
    count = Counter(decided["decision"].to_pylist())
    yield "training images", f"{decided.num_rows:,}, of {len(set(decided['group'].to_pylist())):,} objects"
    yield "kept for training", f"{count[KEPT]:,}"
    yield "rejected as anomalous", f"{count[REJECTED]:,}"
    if made.overrides is not None:
        yield "decided by hand", f"{_table(made.overrides, filenames.OVERRIDES).num_rows:,}"
    if filenames.CONTAMINATION in made.rounds[-1].files:
        said = _json(made.rounds[-1], filenames.CONTAMINATION)
        yield "anomalous, estimated", f"{said['share']:.3f} ({said['low']:.3f} to {said['high']:.3f})"
    if made.masks is not None:
        num_masks = _table(made.masks, filenames.MASKS).num_rows
        yield "ignored", f"by a mask of its own in each of {num_masks:,} images; new images need theirs"
    elif made.ignored is not None:
        yield "ignored", "the same region in every image (`ignored.png`)"
    yield "unreadable files", f"{_table(made.images, filenames.QUARANTINE).num_rows:,}"
    yield "test images", f"{images['split'].to_pylist().count(TEST):,}"


def _thresholds(made: RunArtifacts) -> Rows:
    if made.threshold is None:
        yield "score", "none was set (threshold.method=none)"
        return
    for title, said in threshold_titles(_json(made.threshold, filenames.THRESHOLD)).items():
        yield from _threshold(_text(title.replace("threshold", "score")), said)


def _threshold(title: str, said: Mapping[str, Any]) -> Rows:
    low, high = said["threshold_interval"]
    yield title, f"{said['threshold']:.4g} (95 % interval {low:.4g} to {high:.4g})"
    low, high = said["false_alarm_interval"]
    rate = f"{said['false_alarm_rate']:g} ({low:.3f} to {high:.3f})"
    yield "false alarms", f"{rate} of images like the kept ones, from {said['num_held_out']:,} held-out scores"
    if said["num_rejected"]:
        yield "rejected images above it", f"{said['num_rejected_above']:,} of {said['num_rejected']:,}"
    if said.get("pixel_threshold") is not None:
        area = f"exceeded by {said['false_area_rate']:g} of the area of normal images"
        yield "map value of a region", f"{said['pixel_threshold']:.4g}, {area}"


def _measured(made: RunArtifacts) -> Rows:
    metrics = _json(made.evaluated, filenames.METRICS)
    known = {title: metrics[key] for key, title in of_run().items() if metrics.get(key) is not None}
    if not known:
        yield "metrics", "none: no test image is labelled"
    for title, value in known.items():
        yield title, f"{value:.3f}"
    for name, own in metrics.get("by_category", {}).items():
        found = (f"{title} {own[key]:.3f}" for key, title in of_run().items() if own.get(key) is not None)
        yield _text(name), ", ".join(found)


def _licences(weights: Mapping[str, str]) -> Rows:
    yield "images and what is learnt from them", "those of the images, which llb_ray does not know"
    if not weights:
        yield "pretrained weights", "none are used"
        return
    origin = weights.get("package", weights["weights"])
    yield "pretrained weights", f"{_text(weights['network'])} ({_text(origin)})"
    yield "their licence", _text(weights.get("license", "not known: they are a file of yours"))
    if "sha256" in weights:
        yield "their SHA-256", f"`{weights['sha256']}`"
    if "citation" in weights:
        yield "their citation", _text(weights["citation"])


def _section(title: str, rows: Rows) -> str:
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return f"## {title}\n\n" + "\n".join(lines)


def _text(text: str) -> str:
    """Text that anybody may have chosen, as text in Markdown: no markup or HTML of its own takes effect."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#&!~" else sign for sign in shown(text))


def _table(artifact: Artifact, name: str) -> pa.Table:
    return read_table(artifact.file(name))


def _json(artifact: Artifact, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.file(name).read_text())
    return found
