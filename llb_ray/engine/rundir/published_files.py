"""Published files of a run: copies of artifacts' files that a person opens, written when the run is finished."""

import hashlib
import os
from pathlib import Path

from llb_ray.config import RunConfig
from llb_ray.disk import json_bytes
from llb_ray.engine import filenames
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_card import CARD, run_card
from llb_ray.engine.rundir.run_folder import REPORT, SIGNATURE, RunFolder
from llb_ray.engine.rundir.run_index import INDEX, settings_digest


def published_sources(made: RunArtifacts) -> dict[str, Path | None]:
    """Published files, each with the artifact's file that it is a copy of; None where this run has no such thing."""
    final, decided = made.final, made.rounds[-1]
    estimated = filenames.CONTAMINATION in decided.files
    ignored = None if made.masks else made.ignored  # masks of single photographs are not published
    return {
        "purified/part-0.arrow": made.purified.file(filenames.PURIFIED),
        "contamination.json": decided.file(filenames.CONTAMINATION) if estimated else None,
        "what_if.arrow": decided.file(filenames.WHAT_IF) if estimated else None,
        "scores.arrow": made.matrix.file(filenames.SCORES) if made.matrix else None,
        "overrides.arrow": made.overrides.file(filenames.OVERRIDES) if made.overrides else None,
        "quarantine.arrow": made.images.file(filenames.QUARANTINE),
        "ignored.png": ignored.file(filenames.IGNORED) if ignored else None,
        "near_duplicates.arrow": made.near.file(filenames.NEAR) if made.near else None,
        "image_scores.arrow": made.evaluated.file(filenames.IMAGE_SCORES),
        "training_log.arrow": final.file(filenames.TRAINING_LOG) if filenames.TRAINING_LOG in final.files else None,
        "importance.arrow": final.file(filenames.IMPORTANCE) if filenames.IMPORTANCE in final.files else None,
        "threshold.json": made.threshold.file(filenames.THRESHOLD) if made.threshold else None,
        "metrics.json": made.evaluated.file(filenames.METRICS),
    }


def publish(folder: RunFolder, config: RunConfig, root: Path, made: RunArtifacts) -> None:
    """Copy published files out of the store; run.json goes first and comes back last, so it means *finished*."""
    from llb_ray.detectors.factory import weights_origin  # torch, which those who only read a run are spared

    weights = weights_origin(config.detector)  # first: it may refuse, and a run that is finished stays so
    card = run_card(config, made, weights).encode()
    for name in (INDEX, REPORT, SIGNATURE):  # of what was here before
        folder.remove(name)
    contents: dict[str, bytes] = {}
    for name, source in published_sources(made).items():
        if source is None:
            folder.remove(name)  # left by an earlier run with other settings
        else:
            contents[name] = source.read_bytes()
    contents[CARD] = card
    for name, content in contents.items():
        folder.put(name, content)
    folder.remove_folder(filenames.CHECKPOINTS)  # of fits that other settings gave up
    folder.put("config.yaml", config.to_yaml().encode())
    index = {
        "data_root": str(root.absolute()),
        "store": os.path.relpath(folder.store.root, folder.path),  # a folder that is moved with its store stays whole
        "artifacts": made.index(folder.store),
        "config": settings_digest(config),
        "published": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "weights": weights,
    }
    folder.put(INDEX, json_bytes(index))
