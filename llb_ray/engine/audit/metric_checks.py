"""The checks that a run's figures derive from its scores and labels, and that it publishes these and nothing else.

Each returns a sentence, or raises AuditError with the first thing that does not follow.
"""

import json
import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from llb_ray.data.tables import read_table
from llb_ray.disk import file_digest
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.evaluate import compute_metrics, image_scores
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.decision_stages import estimate
from llb_ray.engine.rundir.published_files import published_sources
from llb_ray.engine.rundir.run_card import CARD, VERSION, run_card
from llb_ray.engine.rundir.run_folder import REPORT
from llb_ray.engine.rundir.run_index import settings_digest
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.categories import comparable_scores
from llb_ray.ensemble.held_out_scores import by_folds
from llb_ray.errors import AuditError

_CLOSE = 1e-6  # relative: the same sums on another processor


def image_scores_follow(run: FinishedRun) -> str:
    """The published scores are what the final detector's shards say, by image_id."""
    where = run.folder.where
    expected = image_scores(run.images, read_scores(run.made.final_scores))
    said = read_table(run.folder.file("image_scores.arrow"))
    if not said.schema.equals(expected.schema):
        raise AuditError(
            f"{where}/image_scores.arrow: its columns are {said.column_names}, expected {expected.column_names}"
        )
    for row, derived in zip(said.to_pylist(), expected.to_pylist(), strict=False):
        if row != derived:
            raise AuditError(f"{where}/image_scores.arrow says {row}, but the final detector's scores give {derived}")
    if said.num_rows != expected.num_rows:
        raise AuditError(
            f"{where}/image_scores.arrow: has {said.num_rows} rows, and the run {expected.num_rows} images"
        )
    return f"{said.num_rows} image scores are what the final detector wrote"


def metrics_follow(run: FinishedRun) -> str:
    """All of metrics.json, derived again from scores, labels and masks."""
    said, where = _json(run, "metrics.json"), run.folder.where
    scores = read_scores(run.made.final_scores)
    expected = compute_metrics(run.config, run.truth, run.purified, scores, run.made.pixel_counts)
    for name, derived, found in _different(json.loads(json.dumps(expected)), said, ""):
        raise AuditError(f"{where}/metrics.json: {name} is {found!r}, but scores and labels give {derived!r}")
    return f"{len(said) - 1} metrics follow from scores and labels"


def estimate_follows(run: FinishedRun) -> str:
    """The estimated share of anomalies and what it is to cost, derived again from what the last round judged by."""
    if filenames.CONTAMINATION not in run.made.rounds[-1].files:
        return "no share of anomalies was estimated"
    if run.made.round_scores:
        held_out = by_folds(read_scores(run.made.round_scores[-1]))
        evidence_N = comparable_scores(held_out, run.train)["score"].to_numpy()
    else:
        evidence_N = run.first_round.anomaly_N
    if evidence_N is None:
        raise AuditError(f"{run.made.rounds[-1].where}: has an estimate, and the filter gives nothing to estimate from")
    (expected, costs), where = estimate(evidence_N), run.folder.where
    for name, derived, found in _different(expected, _json(run, "contamination.json"), ""):
        raise AuditError(f"{where}/contamination.json: {name} is {found!r}, but the scores give {derived!r}")
    rows = read_table(run.folder.file("what_if.arrow")).to_pylist()
    for name, derived, found in _different(costs.to_pylist(), rows, "row "):
        raise AuditError(f"{where}/what_if.arrow: {name} is {found!r}, but the scores give {derived!r}")
    return f"the estimated share of anomalies, {expected['share']:.3f}, follows from the scores"


def nothing_else_published(run: FinishedRun) -> str:
    """Every published file is the one that was written, and there is no other."""
    said, expected = run.folder.index().published, published_sources(run.made)
    names = {name for name, source in expected.items() if source is not None}
    names |= {CARD} & said.keys()  # runs of earlier versions have none
    for name in sorted(names ^ said.keys()):
        raise AuditError(f"run.json: says that {name} was published, or does not, against what the run is made of")
    for name, sha256 in said.items():
        path = run.folder.file(name)
        if not path.is_file():
            raise AuditError(f"{run.folder.where}/{name}: is missing; run the same command again")
        if file_digest(path) != sha256:
            raise AuditError(f"{run.folder.where}/{name}: is not the file that the run published")
    if settings_digest(run.config) != run.folder.index().config:
        raise AuditError(f"{run.folder.where}/config.yaml: is not the configuration that the run published")
    for name in run.folder.others(names | {"config.yaml"}):
        raise AuditError(f"{run.folder.where}/{name}: is no file of this run; take it out")
    return f"{len(names) + 1} published files, and no other"


def card_follows(run: FinishedRun) -> str:
    """The card is what the run's configuration and artifacts give, and the weights that run.json names."""
    index, where = run.folder.index(), f"{run.folder.where}/{CARD}"
    if CARD not in index.published:
        return "no card was written: the run is of an earlier version"
    found, expected = run.folder.file(CARD).read_text(), run_card(run.config, run.made, index.weights)
    if VERSION not in found:
        return "the card is in the words of another version of llb_ray, and was not derived again"
    for line, derived in zip_longest(found.splitlines(), expected.splitlines()):
        if line != derived:
            raise AuditError(f"{where}: says {line!r}, but the run gives {derived!r}")
    return "the card follows from the run"


def report_is_the_runs(run: FinishedRun) -> str:
    """The report is the one that was written last; whether one was is in the event log."""
    written = run.folder.report_digest()
    path = run.folder.file(REPORT)
    if written is None and path.exists():
        raise AuditError(f"{run.folder.where}/{REPORT}: no report of this run was written; llb-ray report makes one")
    if written is None:
        return "no report was written"
    if not path.exists():
        raise AuditError(f"{run.folder.where}/{REPORT}: is missing; llb-ray report makes it")
    if file_digest(path) != written:
        raise AuditError(f"{run.folder.where}/{REPORT}: is not the report that was written; llb-ray report makes it")
    return "the report is the one that was written"


def _json(run: FinishedRun, name: str) -> dict[str, Any]:
    path = run.folder.file(name)
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise AuditError(f"{run.folder.where}/{name}: damaged ({error}); run the same command again") from error


def _different(expected: Any, found: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Places where two JSON values differ, by more than `_CLOSE` if it is a number."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from _different(expected.get(key), found.get(key), f"{name}.{key}".lstrip("."))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _different(one, other, f"{name}{index}")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(expected, found, rel_tol=_CLOSE, abs_tol=_CLOSE):
            yield name, expected, found
    elif expected != found:
        yield name, expected, found
