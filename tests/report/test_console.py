"""The terminal: what the closing table says."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llb_ray.engine.features.cache_budget import EncoderPasses
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.stage_timer import StageTime
from llb_ray.report.console import show_result

METRICS = {"contamination": 0.25, "residual_contamination": 0.125, "i_auroc": 0.98765, "aupro": None, "num_test": 24}


def _console(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, color_system=None)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _closing(metrics: dict[str, Any], path: Path = Path("/runs/one"), width: int = 80) -> str:
    console = _console(width=width)
    times = [StageTime("features", 1.25, reused=False), StageTime("members", 0.0, reused=True)]
    show_result(console, Result(path, str(path), 50, 36, 12, 2, metrics, times, EncoderPasses(72, 3272, 3 * 2**19)))
    return _said(console)


def _rows(text: str) -> dict[str, str]:
    """The table's lines by their first column; columns are two blanks apart."""
    cells = [line.strip().split("  ", 1) for line in text.splitlines()]
    return {cell[0]: cell[1].strip() for cell in cells if len(cell) == 2}


def test_the_closing_table_counts_the_images_and_shows_the_metrics() -> None:
    rows = _rows(_closing(METRICS))
    assert [rows[name] for name in ("training images", "kept", "rejected", "quarantined")] == ["50", "36", "12", "2"]
    assert rows["contamination before"] == "0.250"
    assert rows["residual contamination"] == "0.125"
    assert rows["I-AUROC"] == "0.988"
    assert rows["AUPRO"] == "undefined here"
    assert "P-AUROC" not in rows
    assert "left out of pixel metrics" not in rows


THRESHOLD = {
    "threshold": 1.25,
    "threshold_interval": (1.125, 1.5),
    "false_alarm_rate": 0.01,
    "false_alarm_interval": (0.004, 0.019),
    "normals": "kept",
    "num_held_out": 36,
    "num_rejected": 12,
    "num_rejected_above": 9,
    "num_standing_out": 0,
    "num_standing_out_kept": 0,
    "threshold_if_bulk_is_normal": 1.0625,
    "rate_if_all_are_normal": 0.125,
}


def _threshold(**facts: Any) -> dict[str, str]:
    console, nothing = _console(), Path("/runs/one")
    passes = EncoderPasses(72, 3272, 3 * 2**19)
    show_result(console, Result(nothing, "one", 50, 36, 12, 2, {}, [], passes, threshold={**THRESHOLD, **facts}))
    return _rows(_said(console))


def test_the_threshold_says_how_well_it_is_known_and_for_whom() -> None:
    rows = _threshold()
    assert rows["threshold"] == "1.25 (1.125 to 1.5)"
    assert rows["false alarms"] == "0.010 (0.004 to 0.019) of images like the kept"
    assert rows["upper bound"].startswith("about 0.125, if every")
    assert rows["rejected, above"] == "9 of 12"
    assert "without suspects" not in rows


def test_anomalies_that_may_have_been_kept_are_reported() -> None:
    rows = _threshold(num_standing_out=3, num_standing_out_kept=2)
    assert rows["without suspects"] == "1.062, if the 3 outliers (2 kept) are anomalous"
    rows = _threshold(num_standing_out=3, normals="bulk")
    assert rows["false alarms"].endswith("of images like the bulk of the kept")
    assert "without suspects" not in rows


@pytest.mark.parametrize(("above", "warns"), [(0, True), (5, True), (6, False), (12, False)])
def test_a_threshold_that_misses_most_rejected_images_warns(above: int, warns: bool) -> None:
    row = _threshold(num_rejected_above=above)["rejected, above"]
    assert row.startswith(f"{above} of 12")
    assert ("warning" in row) == warns


def test_no_row_for_rejected_images_where_there_are_none() -> None:
    rows = _threshold(num_rejected=0, num_rejected_above=0, normals="all")
    assert "rejected, above" not in rows
    assert rows["false alarms"].endswith("like all")
    assert "upper bound" not in rows


def test_what_the_cache_saves_is_said() -> None:
    rows = _rows(_closing(METRICS))
    assert rows["encoder passes"] == "72 images"
    assert rows["without a cache"] == "3,272 images"
    assert rows["features cached"] == "1.5 MiB"


def test_without_labels_the_metrics_are_skipped_aloud() -> None:
    assert _rows(_closing({"protocol": {}}))["metrics"] == "skipped: no labels"
    assert "skipped" not in _closing(METRICS)


def test_images_left_out_of_the_pixel_metrics_are_counted() -> None:
    rows = _rows(_closing({**METRICS, "num_left_out_of_pixel_metrics": 3}, width=120))
    assert rows["left out of pixel metrics"].startswith("3 anomalous test images")


def test_object_and_pixel_metrics_are_shown_where_there_are_any() -> None:
    shown = _closing({**METRICS, "s_auroc": 0.75, "p_f1_max": 0.5})
    assert (_rows(shown)["S-AUROC"], _rows(shown)["P-F1-max"]) == ("0.750", "0.500")
    assert "S-AUROC" not in _rows(_closing(METRICS))


def test_counted_pixel_metrics_say_how_far_they_may_be_off() -> None:
    bounds = {"p_auroc": 1.4e-6, "aupro": 2e-5, "p_ap": None}
    rows = _rows(_closing({**METRICS, "pixel_mode": "streaming", "pixel_error_bound": bounds}))
    assert rows["pixels counted"] == "pixel metrics are exact within 2e-05"
    assert "pixels counted" not in _rows(_closing({**METRICS, "pixel_mode": "exact", "pixel_error_bound": bounds}))


def test_stages_say_how_long_they_took_or_that_they_were_found() -> None:
    text = _closing(METRICS)
    assert any("features" in line and "1.2" in line for line in text.splitlines())
    assert any("members" in line and "up to date" in line for line in text.splitlines())


def test_a_path_can_be_copied_whatever_the_width_and_whatever_its_name() -> None:
    path = Path("/runs/[bold]", "long" * 40)
    text = _closing({}, path, width=40)
    assert f"all files         {path}\n" in text
    assert f"purified dataset  {path / 'purified'}\n" in text


def test_an_estimated_share_of_anomalies_is_told_with_its_interval() -> None:
    console, path = _console(), Path("/runs/one")
    estimate = {"share": 0.125, "low": 0.0625, "high": 0.1875}
    passes = EncoderPasses(72, 3272, 3 * 2**19)
    show_result(console, Result(path, "one", 50, 36, 12, 2, {}, [], passes, contamination=estimate))
    assert _rows(_said(console))["anomalous, estimated"] == "0.125 (0.062 to 0.188)"
