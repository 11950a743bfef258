"""Every command and every line of Python in README.md and docs/ is run, on a tiny data set, with tiny settings.

A block runs unless an HTML comment before it says why not: ``<!-- not run: reason -->``.  The blocks of a page run in
their order in one folder, which has photos/, new_photos/, products/, weights/ and space.yaml.  Commands are given fewer
steps than they would take, and no Ray of their own.  There is a clean benchmark/ too.  A block after
``<!-- file: name -->`` is a file of a package that is installed before the page's commands are run.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image, ImageOps

from llb_ray.cli import main
from llb_ray.data.decoding import content_id
from tests.packages import files_of, install

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS.parent / "README.md", *(page for page in sorted(DOCS.glob("*.md")) if page.name != "reference.md")]
_NOT_RUN = (
    18  # blocks at most: those that install, serve, need a Ray, a store or a benchmark data set, or change a shell
)
_BLOCK = re.compile(r"(<!--(?P<comment>.*?)-->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
_TINY = {"members.count": 2, "detector.image_size_px": 64, "detector.coreset_size": 40}
_WITHOUT_RAY = ("run", "plan", "doctor", "scan", "certify", "repurify", "update")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str
    reason: str | None  # why it is not run
    file: str | None  # of a package, which it is


def blocks(page: Path) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text()):
        kind, _, said = (match["comment"] or "").strip().partition(": ")
        reason, file = (said if kind == wanted else None for wanted in ("not run", "file"))
        yield Block(match["kind"], match["text"], reason, file)


@pytest.fixture
def desk(photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages suppose it; more_photos/ has images that photos/ has not."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(photos / "test" / "good", tmp_path / "new_photos")
    for name, change in (("weave", ImageOps.grayscale), ("gear", ImageOps.invert)):
        (tmp_path / "products" / name).mkdir(parents=True)
        for path in sorted(photos.glob("train/good/*.png"))[:12]:
            change(Image.open(path).convert("RGB")).save(tmp_path / "products" / name / path.name)
    (tmp_path / "more_photos").mkdir()
    for path in sorted(photos.glob("train/good/*.png"))[:2]:
        ImageOps.autocontrast(Image.open(path).convert("RGB")).save(tmp_path / "more_photos" / path.name)
    for part in ("train/good", "test", "ground_truth"):  # clean, as benchmarks come
        shutil.copytree(photos / part, tmp_path / "benchmark" / photos.name / part)
    image = next(photos.glob("train/good/*.png"))
    (tmp_path / "overrides.csv").write_text(f"image_id,decision\n{content_id(image)},reject\n")
    (tmp_path / "weights").mkdir()
    shutil.copy(weights, tmp_path / "weights" / "mobilenetv2_100.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for MobileNetV2, untrained."""
    import safetensors.torch
    import torch

    from llb_ray.detectors.backbones.timm_import import timm

    with torch.random.fork_rng(devices=[]):
        state = timm.create_model("mobilenetv2_100", num_classes=0).state_dict()
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of all runs so far: pages that begin with the same run do not compute it again."""
    return tmp_path_factory.mktemp("stages")


@pytest.mark.ray  # of the search
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(
    page: Path, desk: Path, stages: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    if any(_may_use_ray(block) for block in blocks(page)):
        request.getfixturevalue("ray_local")
    if files := files_of(page):
        install(desk / "site", files, monkeypatch)
    for block in blocks(page):
        if block.kind == "yaml":
            assert yaml.safe_load(block.text), "a page's YAML is YAML"
    for block in blocks(page):
        if block.reason is None and block.kind == "bash":
            for line in _lines(block.text):
                _run(line, page, desk, stages)
        elif block.reason is None and block.file is None and block.kind == "python":
            exec(compile(_tiny_python(block.text), page.name, "exec"), names)


def test_a_block_that_is_not_run_says_why() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) > 10
    assert {block.kind for block in found} <= {"bash", "python", "toml", "yaml"}
    assert all(block.reason is None or len(block.reason) > 10 for block in found)
    assert sum(block.reason is not None for block in found) <= _NOT_RUN


def test_the_links_of_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a link or an anchor that leads nowhere and a page without a place in the navigation are errors."""
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(mkdocs, cwd=DOCS.parent, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    commands = (tmp_path / "commands.html").read_text()
    assert all(f"llb-ray {name}" in commands for name in main.commands)


def test_figures_are_small() -> None:
    for picture in DOCS.glob("*.png"):
        assert picture.stat().st_size <= 200_000, picture.name


def _may_use_ray(block: Block) -> bool:
    """True for a search and for Python, whose runs do so by default; other commands are given the serial executor."""
    return block.reason is None and block.file is None and (block.kind == "python" or "llb-ray tune" in block.text)


def _lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield line


def _run(line: str, page: Path, desk: Path, stages: Path) -> None:
    program, command, *words = shlex.split(line, comments=True)
    assert program == "llb-ray", f"{page.name}: {line}: mark the block with <!-- not run: reason -->"
    if command == "tune":
        (space,) = (block.text for block in blocks(page) if block.kind == "yaml")
        (desk / "space.yaml").write_text(space)
        words += ["--objective", "split_half"]  # the photographs are too few to plant canaries in
    if command == "bench":
        words += ["--images", "3"]
    if command in _WITHOUT_RAY and "--executor" not in words:
        words += ["--executor", "serial"]
    if command in ("run", "plan", "tune", "scan", "certify"):
        other = any(word.startswith("detector.name=") for word in words)  # than one with a coreset
        tiny = {key: value for key, value in _TINY.items() if not (other and key == "detector.coreset_size")}
        words += [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    artifacts = desk / words[words.index("--out") + 1] / "artifacts" if command == "run" else None
    if artifacts and not artifacts.exists():
        artifacts.mkdir(parents=True)
        _link_tree(stages, artifacts)
        (artifacts.parent / "events.jsonl").touch()  # as of a run that was stopped
    result = CliRunner().invoke(main, [command, *words])
    assert result.exit_code == 0, f"{page.name}: {line}\n{result.output}"
    if artifacts:
        _link_tree(artifacts, stages)


def _link_tree(source: Path, target: Path) -> None:
    """Hard links in `target` to the files below `source`, but for those that are there: artifacts never change."""
    for path in source.rglob("*"):
        link = target / path.relative_to(source)
        if path.is_file() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(path)


def _tiny_python(text: str) -> str:
    """The code, with fewer steps wherever it reads a configuration."""
    settings = ", ".join(f'"{key}={value}"' for key, value in _TINY.items())
    return text.replace("load_config(path, [", f"load_config(path, [{settings}, ")
