"""What the project says about itself is so."""

import re
import tomllib
from pathlib import Path

import yaml
from pyarrow import csv, parquet

import llb_ray
from llb_ray.artifacts.artifact import FORMAT_VERSION

ROOT = Path(__file__).parents[1]


def test_one_version() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in described["project"]["dynamic"]
    assert described["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "llb_ray.__version__"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == llb_ray.__version__
    released = re.findall(r"^## (\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == llb_ray.__version__


def test_every_dependency_is_pinned_for_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").open()}
    for requirement in wanted:
        assert re.split(r"[\[><=]", requirement)[0].lower() in pinned, requirement


def test_ci_runs_targets_that_exist() -> None:
    makefile, ran = (ROOT / "Makefile").read_text(), ""
    for job in yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values():
        ran += "\n".join(step.get("run", "") for step in job["steps"]) + "\n"
    targets = re.findall(r"^make ([\w./-]+)", ran, re.MULTILINE)
    assert {"check", "test", "docs", "dist"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets if not target.startswith(".venv/"))


def test_every_row_of_the_readmes_tables_is_in_a_benchmark() -> None:
    results = re.findall(r"^\| .*±.*$", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)
    assert len(results) >= 8
    measured = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.md"))
    for row in [*_table_rows((ROOT / "README.md").read_text()), *results]:
        assert row in measured, row


def _table_rows(text: str) -> list[str]:
    """The rows of Markdown tables, without their headers."""
    rows = re.findall(r"^\|(?:-+\|)+\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [row for table in rows for row in table.splitlines()]


def test_the_file_map_is_of_the_files_that_there_are() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("<!-- file map -->\n")[2].partition("\n\n")[0]
    mapped = [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    package = ROOT / "llb_ray"
    folders = {path.parent.relative_to(package).as_posix() for path in package.rglob("*/*.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(mapped) == len(set(mapped))
    assert set(mapped) == (folders - {"."}) | modules


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    assert sorted(re.findall(r"^::: llb_ray\.(\w+)$", page, re.MULTILINE)) == sorted(llb_ray.__all__)


def test_the_docs_and_the_changelog_say_the_artifact_format() -> None:
    assert f"`format_version` ({FORMAT_VERSION})" in (ROOT / "docs" / "file-formats.md").read_text()
    assert f"Artifact format {FORMAT_VERSION}:" in " ".join((ROOT / "CHANGELOG.md").read_text().split())


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1000


def test_every_metric_of_a_table_is_in_the_raw_rows() -> None:
    for table in (ROOT / "benchmarks").glob("*.md"):
        path = table.with_suffix(".csv")
        raw = csv.read_csv(path) if path.exists() else parquet.read_table(table.with_suffix(".parquet"))
        assert raw.num_rows > 3
        assert "I-AUROC" not in table.read_text() or any("i_auroc" in name for name in raw.column_names)


def test_files_and_commands_named_in_the_readmes_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for readme in (*ROOT.glob("*.md"), ROOT / "cluster" / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = readme.read_text()
        for path in re.findall(r"`((?:llb_ray|configs|benchmarks|cluster|docs|tests)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{readme.name} names {path}"
        for target in re.findall(r"`make ([a-z]+)`", text):
            assert f"\n{target}:" in makefile, f"{readme.name} names make {target}"
