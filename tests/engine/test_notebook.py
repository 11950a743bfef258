"""Results in a notebook are tables; names of files are text in them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import llb_ray
from llb_ray.engine.notebook_tables import MOST_ROWS, html_table
from tests.support import photo


def test_a_run_is_a_table(finished: Path, tiny: llb_ray.RunConfig, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    result = llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=run, executor="serial")
    html = result._repr_html_()
    assert f">{result.num_kept}</td>" in html
    for text in ("kept", "threshold", "I-AUROC", str(run)):
        assert text in html


@pytest.mark.parametrize("count", [1, MOST_ROWS + 3])
def test_verdicts_are_a_table_with_maps(count: int, finished: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), np.uint8)
    html = llb_ray.Detector.load(finished).predict(images)._repr_html_()
    assert html.count("<img") == min(count, MOST_ROWS)
    assert ("... and 3 more" in html) == (count > MOST_ROWS)


def test_a_prediction_is_a_table_of_the_highest_scores(finished: Path, photos: Path, tmp_path: Path) -> None:
    prediction = llb_ray.predict(finished, photos / "test", out=tmp_path / "out", overlays="none")
    html = prediction._repr_html_()
    assert html.count("<tr>") == MOST_ROWS + 1
    assert "... and 4 more" in html


def test_names_of_files_are_text(finished: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "<b>x<b>.png", seed=1)
    html = llb_ray.predict(finished, tmp_path / "in", out=tmp_path / "out", overlays="none")._repr_html_()
    assert "&lt;b&gt;x&lt;b&gt;.png" in html
    assert "<b>" not in html


@pytest.mark.parametrize("text", ["<script>", "a\x1b[2J", "'\"><img>"])
def test_no_cell_is_markup(text: str) -> None:
    html = html_table(text, (text,), [(text, 0.5)])
    assert html.count("<img") == html.count("<script") == html.count("\x1b") == 0
