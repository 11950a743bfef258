"""Imports point down, ray stays in one package, and the doorway is light."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import llb_ray
from llb_ray.cli import main
from llb_ray.planning.machine import has_gpu_driver

PACKAGE = Path(llb_ray.__file__).parent
LAYERS = {
    "errors": 0,
    "seeding": 0,
    "disk": 0,
    "names": 1,
    "extensions": 2,
    "remote": 1,
    "artifacts": 2,
    "config": 3,
    "data": 4,
    "ensemble": 5,
    "metrics": 5,
    "detectors": 6,
    "engine": 7,
    "search": 8,
    "scans": 8,
    "planning": 8,
    "exporting": 8,
    "report": 9,
    "tracking": 9,
    "serving": 10,
    "distributed": 11,
    "api": 12,
    "cli": 13,
    "__main__": 14,
    "__init__": 14,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _part(module: str) -> str:
    """The top-level part a dotted module of ours belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module or ""]
            if node.module == "llb_ray":
                found += [f"llb_ray.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_its_own_part_and_lower_layers(path: Path) -> None:
    own = _part("llb_ray." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for name in _imports(path):
        if name.startswith("llb_ray."):
            part = _part(name)
            if part in LAYERS:
                assert part == own or LAYERS[part] < LAYERS[own], f"{own} imports {name}"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("ray", "distributed"),
        ("timm", "detectors/backbones/timm_import.py"),
        ("click", "cli/"),
        ("fastapi", "serving"),
        ("starlette", "serving"),
        ("mlflow", "tracking/mlflow_tracker.py"),
        ("wandb", "tracking/wandb_tracker.py"),
    ],
)
def test_a_library_has_one_home(library: str, home: str) -> None:
    users = [path for path in MODULES if any(name.split(".")[0] == library for name in _imports(path))]
    assert users
    for path in users:
        assert path.relative_to(PACKAGE).as_posix().startswith(home)


def test_every_part_has_a_layer() -> None:
    parts = {_part("llb_ray." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)) for path in MODULES}
    assert parts == set(LAYERS)


@pytest.mark.parametrize("code", ["import llb_ray", "import llb_ray.cli"])
def test_the_doorway_loads_nothing_heavy(code: str) -> None:
    heavy = {"torch", "ray", "timm", "pyarrow"}
    script = f"{code}\nimport sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_help_loads_nothing_heavy_and_names_every_command() -> None:
    script = (
        "import sys, click.testing, llb_ray.cli as cli\n"
        "result = click.testing.CliRunner().invoke(cli.main, ['--help'])\n"
        "print(result.output, sorted({'torch', 'ray', 'timm', 'pyarrow', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output.strip().endswith("[]")
    for command in ("run", "manifest", "contaminate", "synth", "audit", "status", "predict", "config"):
        assert command in output


_SLOW = {"torch", "torchvision", "timm", "ray", "scipy", "sklearn", "matplotlib"}


def _loaded(*commands: Sequence[str | Path]) -> tuple[set[int], list[str]]:
    """The exit statuses of commands in a process of their own, and which slow libraries they imported."""
    script = (
        "import json, sys, click.testing, llb_ray.cli as cli\n"
        "run = lambda words: click.testing.CliRunner().invoke(cli.main, words).exit_code\n"
        "statuses = [run(words) for words in json.loads(sys.argv[1])]\n"
        f"print(json.dumps([statuses, sorted({_SLOW} & set(sys.modules))]))"
    )
    words = json.dumps([[str(word) for word in command] for command in commands])
    statuses, names = json.loads(subprocess.check_output([sys.executable, "-c", script, words], text=True))
    return set(statuses), names


def test_no_help_imports_a_slow_library() -> None:
    assert _loaded(*([name, "--help"] for name in main.commands)) == ({0}, [])


def test_status_reads_a_finished_run_without_the_slow_libraries(finished: Path) -> None:
    assert _loaded(["status", finished], ["status", finished, "--json"]) == ({0}, [])


def test_what_needs_no_network_imports_none(photos: Path, tmp_path: Path) -> None:
    """There is no GPU driver where the tests run; where there is one, `doctor` asks torch for the GPUs."""
    doctor = ["doctor", "--executor", "serial", "--set", "detector.name=autoencoder"]
    manifest = ["manifest", "mvtec", photos, "--out", tmp_path / "m.arrow"]
    statuses, names = _loaded(doctor, doctor[:3], manifest, ["config"])
    assert (statuses, [name for name in names if name != "torch" or not has_gpu_driver()]) == ({0}, [])


def test_public_names_resolve() -> None:
    for name in llb_ray.__all__:
        assert getattr(llb_ray, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        llb_ray.nonsense  # noqa: B018
