"""`llb-ray scan`, `table`, `certify` and `status` as they are typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llb_ray.cli import main


def _typed(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def certified(scan_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("certified") / "out"
    few = ["--categories", "gear", "--seeds", "0,1", "--filters", "none,llb,oracle", "--executor", "serial"]
    return out, _typed("certify", "--config", scan_yaml, *few, "--out", out)


def test_certify_ends_with_a_curve_and_says_how_much_of_the_gap_is_closed(certified: tuple[Path, Result]) -> None:
    out, result = certified
    assert result.exit_code == 0, result.output
    assert "job 12 of 12: gear, alpha 0.2, oracle, seed 1: I-AUROC" in result.output
    assert {"robustness.png", "robustness.csv", "robustness.md", "results.parquet"} <= {p.name for p in out.iterdir()}
    lines = (out / "robustness.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3


def test_table_prints_what_is_there_and_published_rows_apart(certified: tuple[Path, Result]) -> None:
    result = _typed("table", certified[0], "--published")
    assert result.exit_code == 0, result.output
    ours, others = result.output.split("published, not measured here")
    assert "gear" in ours
    assert "PatchCore" not in ours
    assert "PatchCore" in others
    assert (certified[0] / "table.tex").read_text().startswith(r"\begin{tabular}")
    assert {"table.csv", "table.md"} <= {path.name for path in certified[0].iterdir()}


def test_status_counts_jobs(certified: tuple[Path, Result]) -> None:
    result = _typed("status", certified[0])
    assert result.output == "12 jobs: 12 done, 0 running, 0 failed, 0 waiting\n"


def test_failed_jobs_end_the_command_with_status_1_and_their_reasons(scan_yaml: Path, tmp_path: Path) -> None:
    too_many = ["--set", "scan.num_objects=100", "--alphas", "0", "--filters", "none", "--executor", "serial"]
    result = _typed("scan", "--config", scan_yaml, *too_many, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "failed  gear, alpha 0, none, seed 0: " in result.output
    assert "3 of 3 jobs failed; the same command does them again" in result.output


def test_options_are_settings(scan_yaml: Path, benchmark_root: Path, tmp_path: Path) -> None:
    scan = ["--dataset", "mvtec", "--root", benchmark_root, "--categories", "all", "--alphas", "0.x", "--out", tmp_path]
    result = _typed("scan", *scan)
    assert result.exit_code == 1
    assert "scan.alphas" in result.output
    assert _typed("scan", "--out", tmp_path).output.startswith("llb-ray: scan.dataset is missing: name the layout")
