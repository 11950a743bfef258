"""The whole method, top to bottom."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.manifest import TRAIN, Manifest
from llb_ray.data.tables import read_table
from llb_ray.engine.executor import Executor, Tell
from llb_ray.engine.member import Trained
from llb_ray.engine.runfolder import RunFolder
from llb_ray.engine.stages import PURIFIED, Stages, StageTime
from llb_ray.ensemble.purify import KEPT, REJECTED
from llb_ray.errors import ArtifactError, DataError, LlbError


@dataclass(frozen=True)
class Result:
    """What a run came to; the same facts lie in the run's folder."""

    path: Path
    num_input: int  # training files found: kept + rejected + quarantined
    num_kept: int
    num_rejected: int
    num_quarantined: int
    metrics: dict[str, Any]  # empty but for the protocol where nothing is labelled
    times: list[StageTime]


def run_stages(config: RunConfig, manifest: Manifest, out: Path, executor: Executor, tell: Tell) -> Result:
    """Purify the training images of `manifest` and train the final detector; everything lands in `out`.

    Finished stages are reused, so the same call after an interruption does only what is missing.
    Raises a `LlbError` for what the user can mend; nothing finished is lost by it.
    """
    _check(manifest)
    folder = RunFolder.create(out)
    stages = Stages(config, manifest, folder, executor, tell)
    folder.log("run started", config=config.model_dump(mode="json"))
    for notice in config.purify.notices():
        tell(f"note: {notice}")
    try:
        made = _stages_in_order(stages)
    except LlbError as error:
        folder.log("run failed", error=str(error))
        raise
    folder.store.clear_unfinished()  # of workers that were killed and started again
    folder.publish(config, manifest.root, made)
    folder.log("run finished")
    return _result(stages, made)


def _stages_in_order(stages: Stages) -> dict[str, Artifact | list[Artifact]]:
    made: dict[str, Artifact | list[Artifact]] = {}
    images = made["manifest"] = stages.images()
    labels = made["labels"] = stages.labels()
    matrix = None
    if stages.config.purify.filter == "llb":
        partitioned = made["partition"] = stages.partition()
        made["features"] = stages.features()
        members = stages.members(partitioned)
        made |= _by_part("members", members)
        matrix = made["scores"] = stages.scores(partitioned, members)
    else:
        made["features"] = stages.features()
    purified = made["purify"] = stages.purify(images, labels, matrix)
    final = stages.final(purified)
    made |= {"final_fit": final.fitted, "final_score": final.scored}
    made["evaluate"] = stages.evaluate(labels, purified, final)
    return made


def _by_part(role: str, trained: list[Trained]) -> dict[str, Artifact | list[Artifact]]:
    return {f"{role}_fit": [one.fitted for one in trained], f"{role}_score": [one.scored for one in trained]}


def _check(manifest: Manifest) -> None:
    if not manifest.image_ids(TRAIN):
        raise DataError(f"{manifest.root}: no usable training image in the manifest; look at its quarantine table")


def _result(stages: Stages, made: dict[str, Artifact | list[Artifact]]) -> Result:
    purified, evaluated = made["purify"], made["evaluate"]
    assert isinstance(purified, Artifact)
    assert isinstance(evaluated, Artifact)
    decisions = Counter(read_table(purified.path / PURIFIED)["decision"].to_pylist())
    aside = stages.manifest.quarantine["split"].to_pylist().count(TRAIN)
    num_input = len(stages.manifest.image_ids(TRAIN)) + aside
    if decisions[KEPT] + decisions[REJECTED] + aside != num_input:
        raise ArtifactError(f"{purified.path}: kept + rejected + quarantined is not {num_input}; delete this folder")
    metrics = json.loads((evaluated.path / "metrics.json").read_text())
    kept, rejected = decisions[KEPT], decisions[REJECTED]
    return Result(stages.folder.path, num_input, kept, rejected, aside, metrics, stages.times)
