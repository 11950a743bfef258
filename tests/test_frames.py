"""The path from the command line to a score and to a decision is short enough to be read, and signatures are narrow."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.detectors.autoencoder import Autoencoder
from llb_ray.ensemble.filters import llb

PACKAGE = Path(llb_ray.__file__).parent
MOST_TO_A_SCORE = 14
MOST_TO_A_DECISION = 11
MOST_PARAMETERS = 6
# Each is the settings of one command, which have no meaning together.
WIDE = {"inference/predict.py:predict_images", "drift/watch.py:compare"}


def _names() -> Iterator[str]:
    """Our functions that are running, from the innermost one out; Python 3.12 has no frames of comprehensions."""
    frame = sys._getframe(2)
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE) and frame.f_code.co_name != "<listcomp>":
            yield f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]


def _watched(function: Callable[..., Any], paths: list[list[str]]) -> Callable[..., Any]:
    """`function`, which appends to `paths` the names of our functions that are running, the outermost first."""

    def watched(*args: Any, **settings: Any) -> Any:
        paths.append([*_names()][::-1] + [function.__name__])
        return function(*args, **settings)

    return watched


def test_the_path_to_a_score_and_to_a_decision_is_short(
    photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[list[str]] = []
    decided: list[list[str]] = []
    monkeypatch.setattr(Autoencoder, "score", _watched(Autoencoder.score, scored))
    monkeypatch.setattr(llb, "cut", _watched(llb.cut, decided))
    (tmp_path / "tiny.yaml").write_text(tiny.to_yaml())
    words = ["run", "--config", tmp_path / "tiny.yaml", "--data", photos, "--out", tmp_path / "run", "--no-report"]
    words += ["--executor", "serial", "--set", "threshold.method=folds"]  # which takes every kind of detector
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert all(len(path) <= MOST_TO_A_SCORE for path in scored), max(scored, key=len)
    assert all(len(path) <= MOST_TO_A_DECISION for path in decided), max(decided, key=len)
    stages = {name for path in scored for name in path if "/stages.py" in name}
    assert {name.split()[1] for name in stages} == {"member_scores", "final_scores", "folds", "held_out_maps"}
    assert len(decided) == 1


def _wide_functions() -> Iterator[str]:
    for path in (PACKAGE / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([argument for argument in own if argument.arg not in ("self", "cls")]) > MOST_PARAMETERS:
                    yield f"{path.relative_to(PACKAGE / 'engine').as_posix()}:{node.name}"


def test_no_function_of_the_engine_has_more_than_six_parameters() -> None:
    assert set(_wide_functions()) == WIDE
