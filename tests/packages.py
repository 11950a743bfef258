"""Packages that are not ours, installed for a test: modules and a dist-info in a folder on the path."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

_FILE = re.compile(r"<!-- file: (?P<name>[\w./]+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)
EXTENDING = Path(__file__).parents[1] / "docs" / "extending.md"


def files_of(page: Path) -> dict[str, str]:
    """The files of a package that a page shows, by name."""
    return {match["name"]: match["text"] for match in _FILE.finditer(page.read_text())}


def install(folder: Path, files: Mapping[str, str], patched: pytest.MonkeyPatch) -> None:
    """Put the package with these files, one of them its pyproject.toml, on the path, as pip would."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    groups = project.get("entry-points", {})
    lines = [line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))]
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    modules = {name: text for name, text in files.items() if name != "pyproject.toml"}
    written = modules | {f"{info.name}/METADATA": metadata, f"{info.name}/entry_points.txt": "\n".join(lines)}
    for name, text in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    patched.syspath_prepend(str(folder))
