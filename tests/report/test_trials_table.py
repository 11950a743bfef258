"""The trials of a search on a terminal: no setting's name is cut, however many settings there are."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from llb_ray.report.trial_table import show_trials
from llb_ray.search.trials import Trial, trials_table

FEW = {"members.count": 3}
MANY = {
    "members.count": 5,
    "purify.keep_ratio": "auto",
    "importance.mode": "moments",
    "importance.sigma_scale": 1.5,
    "detector.backbone.layers": [1, 2],
    "detector.coreset_size": 20000,
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("values", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("reason", [None, "mode fixed needs mu and sigma [and more of each]"])
def test_names_and_values_are_whole_in_every_width(
    values: dict[str, object], reason: str | None, width: int, tmp_path: Path
) -> None:
    (tmp_path / "artifacts").mkdir()
    console = Console(file=io.StringIO(), width=width, color_system=None)
    trials = [Trial(0, values, 1.5, 0.9, kept=90, rejected=10), Trial(1, values, 0.1, reason=reason)]
    show_trials(console, trials_table(trials), tmp_path)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    table = text[: text.index("2 trials")]
    assert all(name in table for name in (*values, "trial", "objective", "kept", "seconds"))
    assert "moments" in table or "importance.mode" not in values
    assert reason is None or reason in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= width
