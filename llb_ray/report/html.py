"""One self-contained report.html: opens from a disk, asks no network, and takes file names for what they are, text."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from llb_ray.data.manifest import TEST
from llb_ray.data.tables import join_by_image, read_table
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.inspection.run_status import REPORT_STAGE
from llb_ray.engine.rundir.run_folder import REPORT
from llb_ray.engine.rundir.stage_timer import StageTime
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.report.charts import Chart, Floats, Line, curves, histogram
from llb_ray.report.gallery import Gallery, cut_of, gallery
from llb_ray.report.loss_curves import training_charts
from llb_ray.report.member_agreement import Votes, agreements
from llb_ray.report.summary import Facts, facts_of, threshold_of, what_if
from llb_ray.report.templates import digest_of, resource, template


def write_report(run: FinishedRun, progress: Callable[[int, int], None]) -> Path:
    """The ``report.html`` that was written into the run, or into its working copy too; `progress` gets (done, total).

    Raises ArtifactError or AuditError for a run that is not whole, OSError for a disk or a network.
    """
    started_s = time.perf_counter()
    votes = Votes.of(run)
    facts, shown = facts_of(run), gallery(run, votes, progress)
    took = StageTime(REPORT_STAGE, time.perf_counter() - started_s, reused=False)
    run.folder.put_report(page(run, votes, replace(facts, times=[*facts.times, took]), shown).encode())
    return run.folder.path / REPORT


def page(run: FinishedRun, votes: Votes | None, facts: Facts, shown: Gallery) -> str:
    """The page as text."""
    script, style = resource("report.js"), resource("report.css")
    return template("report.html.jinja").render(
        facts=facts,
        num_shown=len(shown.columns["image_id"]),
        num_train=run.train.num_rows,
        no_families=shown.columns["no_families"],
        rejected_share=None if votes is None else votes.rejected_share,
        num_rounds=len(run.derived),
        columns=_json(shown.columns),
        chunks=[_json(chunk) for chunk in shown.chunks],
        charts=list(_score_charts(run)),
        test_chart=_test_chart(run),
        training=training_charts(run),
        objections=None if votes is None else _objections(votes, run.derived[0]),
        agreements=[] if votes is None else agreements(votes, run.derived[0]),
        script=Markup(script),
        style=Markup(style),
        script_digest=digest_of(script),
        style_digest=digest_of(style),
    )


def _score_charts(run: FinishedRun) -> list[Chart]:
    charts = []
    cut = cut_of(run)
    if cut is not None:
        aggregate = {kind: _where(run.purified, "decision", kind, "aggregate") for kind in (KEPT, REJECTED)}
        of_what = "held-out score of the last round" if len(run.made.rounds) > 1 else "aggregate of the members' scores"
        charts.append(histogram("Where the filter cut", of_what, aggregate, cut))
    charts.append(_by_final_score(run, "Training images by decision", _final_scores(run)))
    expected = what_if(run)
    if expected is not None:
        kept_N = expected["keep_ratio"].to_numpy()
        costs = {name: expected[name].to_numpy() for name in ("residual_contamination", "normals_lost")}
        lines = [Line(name.replace("_", " "), kept_N, cost_N) for name, cost_N in costs.items()]
        charts.append(curves("What another keep ratio would cost (expected)", "keep ratio", "share", lines))
    return charts


def _final_scores(run: FinishedRun) -> dict[str, Floats]:
    scored = join_by_image(run.purified, read_table(run.file("image_scores.arrow")).select(["image_id", "score"]))
    return {kind: _where(scored, "decision", kind, "score") for kind in (KEPT, REJECTED)}


def _test_chart(run: FinishedRun) -> Chart | None:
    """The final detector's scores of the labelled test images; None where there are none."""
    labels = run.labels.select(["image_id", "label"])
    scored = join_by_image(read_table(run.file("image_scores.arrow")), labels)
    scored = scored.filter((pc.field("split") == TEST) & pc.field("label").is_valid())
    if not len(scored):
        return None
    values = {kind: _where(scored, "label", label, "score") for label, kind in enumerate(("normal", "anomalous"))}
    return _by_final_score(run, "Test images by label", values)


def _by_final_score(run: FinishedRun, title: str, values: dict[str, Floats]) -> Chart:
    return histogram(title, "score of the final detector", values, threshold_of(run), of_cut="threshold")


def _where(table: pa.Table, column: str, value: str | int, wanted: str) -> Floats:
    numbers: Floats = np.array(table[wanted].to_pylist(), float)
    chosen: Floats = numbers[np.array(table[column].to_pylist()) == value]
    return chosen


def _objections(votes: Votes, purified: pa.Table) -> Chart:
    count_N = votes.objects_NK.sum(axis=1)
    decision_N = np.array(purified["decision"].to_pylist())
    edges: Floats = np.arange(votes.asked_NK.sum(axis=1).max() + 2, dtype=float) - 0.5
    values = {kind: count_N[decision_N == kind].astype(float) for kind in (KEPT, REJECTED)}
    return histogram("How many members object", "members that would reject the image alone", values, edges=edges)


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element: no character of it can end one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Markup(text)
