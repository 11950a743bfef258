"""Words and tables of the report: counts, rule, notices, metrics, timings, settings."""

import json
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray import __version__
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.data.tables import join_by_image, read_table
from llb_ray.engine.evaluation.ground_truth import UNTYPED
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.inspection.run_status import REPORT_STAGE, Outcome, read_status
from llb_ray.engine.pipeline.decision_stages import kept_all_notices
from llb_ray.engine.rundir.stage_timer import StageTime
from llb_ray.engine.workers.fit_log import fall_back_notices
from llb_ray.engine.workers.fitter import trained_on
from llb_ray.ensemble.categories import categories_of
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.filters.base import filter_of
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.ensemble.refinement import num_changed
from llb_ray.ensemble.threshold import threshold_titles
from llb_ray.ensemble.trust import TRUSTED
from llb_ray.metrics.metric_names import of_run

_PACKAGES = ("torch", "timm", "ray", "numpy", "pyarrow", "pillow", "scipy", "scikit-learn")
_MOST_ASIDE = 500


@dataclass(frozen=True)
class TypeRow:
    """Outcome for the images of one labelled type."""

    split: str
    kind: str
    num_images: int
    rejected: float | None  # share of the training images
    mean_score: float  # of the final detector
    above: float | None  # share of the images that are called anomalous; None where there is no threshold
    i_auroc: float | None  # of a type of defects in the test split, against all normal images there
    aupro: float | None  # the same, where there are masks


@dataclass(frozen=True)
class Facts:
    """All of it; the template says where it goes."""

    title: str
    where: str
    outcome: Outcome
    rule: str
    notices: Sequence[str]
    estimate: dict[str, float] | None  # of the share of anomalies: share, low, high
    thresholds: Mapping[str, Mapping[str, Any]]  # of the final detector's scores, by their titles
    by_hand: int  # decisions that people made
    against: int  # of these, against the filter
    quarantined: Sequence[dict[str, str]]  # the first of them
    metrics: Sequence[tuple[str, str]]
    protocol: dict[str, Any]
    types: Sequence[TypeRow]
    times: Sequence[StageTime]
    config: str
    versions: Sequence[tuple[str, str]]
    command: str  # that takes the decisions back


def facts_of(run: FinishedRun) -> Facts:
    """The facts of a finished run; raises ArtifactError where its event log is gone."""
    status = read_status(run.folder.remote or run.folder.path)
    assert status.outcome is not None, "a finished run has one"
    metrics = dict(status.outcome.metrics)
    decisions = zip(run.purified["decision"].to_pylist(), run.derived[-1]["decision"].to_pylist(), strict=True)
    where, estimate = _here(run.folder.where), _told(run, "contamination.json")
    return Facts(
        title=", ".join(sorted(set(run.train["category"].to_pylist()))),
        where=where,
        outcome=status.outcome,
        rule=_rule(run),
        notices=[*run.config.notices(), *kept_all_notices(run.config.purify, estimate or {}), *_of_fits(run)],
        estimate=estimate,
        thresholds=threshold_titles(_told(run, "threshold.json") or {}),
        by_hand=0 if run.overrides is None else run.overrides.num_rows,
        against=sum(published != filtered for published, filtered in decisions),
        quarantined=run.quarantine.slice(0, _MOST_ASIDE).to_pylist(),
        metrics=list(_metrics(metrics)),
        protocol=metrics.get("protocol", {}),
        types=list(_types(run, metrics.get("by_type", {}))),
        times=[time for time in status.times if time.stage != REPORT_STAGE],  # of an earlier page
        config=run.config.to_yaml(),
        versions=[
            ("llb-ray", __version__),
            ("Python", platform.python_version()),
            *((name, version(name)) for name in _PACKAGES),
        ],
        command=f"llb-ray repurify {shlex.quote(where)} --overrides overrides.csv --out {shlex.quote(where + '-2')}",
    )


def _metrics(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The titles and values of a run's metrics, and those of each category, where there are several."""
    for key, title in of_run().items():
        if key in found:
            yield title, _figure(found[key])
        for name, own in found.get("by_category", {}).items():
            if key in own:
                yield f"{title}, {name}", _figure(own[key])


def threshold_of(run: FinishedRun) -> float | None:
    """The score above which every image is called anomalous, where the run set one for all."""
    return None if (said := _told(run, "threshold.json")) is None else said.get("threshold")


def _threshold_of(run: FinishedRun, category: str) -> float | None:
    """The score above which an image of this category is called anomalous, where the run set one."""
    said = _told(run, "threshold.json")
    return None if said is None else said.get("by_category", {}).get(category, said)["threshold"]


def what_if(run: FinishedRun) -> pa.Table | None:
    """Costs of other keep ratios, where the run estimated them."""
    path = run.file("what_if.arrow")
    return read_table(path) if path.exists() else None


def _here(where: str) -> str:
    """As one would type it in this folder; a page that is passed on need not name the folders above."""
    path = Path(where)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else where


def _rule(run: FinishedRun) -> str:
    """The counts of the run, as the tiles have them, and how its filter came to them."""
    kept, num = len(kept_ids(run.purified)), run.purified.num_rows
    counts = f"Of {num:,} training images, {kept:,} are kept and {num - kept:,} rejected."
    return " ".join([counts, *_rounds(run), *_doubted(run)])


def _doubted(run: FinishedRun) -> Iterator[str]:
    trust = [trust for trust in trained_on(run.made.final).values() if trust < TRUSTED]
    if trust:
        yield f"{len(trust):,} of the kept ones, the most anomalous, count less in the final detector."


def _rounds(run: FinishedRun) -> Iterator[str]:
    rule, several = filter_of(run.config.purify), len(run.derived) > 1
    members = f"{run.config.members.count} members, {run.config.detector_of('member').name.replace('_', ' ')}"
    name = "Round 1" if several else f"Filter {run.config.purify.filter}"
    yield f"{name} {rule.summary(len(kept_ids(run.derived[0])), members)}."
    for number, (before, after) in enumerate(pairwise(run.derived), 2):
        out, back = num_changed(before, after)
        yield (
            f"Round {number} scored every image by detectors like the final one that had not seen it: {out:,} more "
            f"were rejected and {back:,} readmitted, which leaves {len(kept_ids(after)):,}."
        )


def _of_fits(run: FinishedRun) -> Iterator[str]:
    fitted = {f"member {number}": artifact for number, artifact in run.made.by_number().items()}
    for name, artifact in {**fitted, "final": run.made.final}.items():
        yield from fall_back_notices(name, artifact)


def _told(run: FinishedRun, name: str) -> dict[str, Any] | None:
    """Content of a file that not every run has."""
    path = run.file(name)
    return json.loads(path.read_text()) if path.exists() else None


def _types(run: FinishedRun, found: dict[str, Any]) -> Iterator[TypeRow]:
    """Training images by type and decision, then test images by type and score; nothing where nothing is labelled.

    Of several categories the types of each are apart, by the name of the category before them. `found` is what was
    measured of the test split's types of defects, as in metrics.json.
    """
    labels = run.labels.select(["image_id", "label", "defect_type"])
    scored = join_by_image(read_table(run.file("image_scores.arrow")), labels)
    scored = join_by_image(scored, run.purified.select(["image_id", "decision"]))
    scored = scored.filter(pc.field("label").is_valid())
    kinds = pa.array([kind or (UNTYPED if label else "good") for kind, label in _pairs(scored)], pa.string())
    scored = scored.append_column("kind", kinds)
    names = categories_of(run.images)
    for split, name in product((TRAIN, TEST), names):
        some = scored.filter((pc.field("split") == split) & (pc.field("category") == name))
        for kind in sorted(set(some["kind"].to_pylist()), key=lambda kind: (kind != "good", kind)):
            title = kind if len(names) == 1 else f"{name}: {kind}"
            yield _type_row(split, title, some.filter(pc.field("kind") == kind), _threshold_of(run, name), found)


def _pairs(table: pa.Table) -> Iterator[tuple[str | None, int]]:
    return zip(table["defect_type"].to_pylist(), table["label"].to_pylist(), strict=True)


def _type_row(split: str, kind: str, some: pa.Table, threshold: float | None, found: dict[str, Any]) -> TypeRow:
    score_N = some["score"].to_numpy()
    rejected = 1 - some["decision"].to_pylist().count(KEPT) / len(some) if split == TRAIN else None
    above = None if threshold is None else float((score_N > threshold).mean())
    measured = found.get(kind, {}) if split == TEST else {}
    metrics = (measured.get(name) for name in ("i_auroc", "aupro"))
    return TypeRow(split, kind, len(some), rejected, float(score_N.mean()), above, *metrics)


def _figure(value: float | None) -> str:
    return "undefined here" if value is None else f"{value:.3f}"
