"""A package that is not ours adds a detector and a filter; a broken one is refused in one sentence."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray.cli import main
from llb_ray.config import RunConfig, ScanConfig, parse
from llb_ray.errors import ConfigError, LlbError
from llb_ray.extensions import DETECTORS, FILTERS
from tests.contracts import test_detectors, test_filters
from tests.packages import EXTENDING, files_of, install

BACKBONE = {"name": "test_resnet.r160_in1k", "weights": "random", "layers": [1, 2]}
GAUSSIAN = {"name": "gaussian", "backbone": BACKBONE, "image_size_px": 32}


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the package of docs/extending.md is installed in."""
    install(tmp_path / "site", files_of(EXTENDING), monkeypatch)
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.partition(".")[0] == "llb_extra"]:
        del sys.modules[name]


def _config(**detector: Any) -> RunConfig:
    return parse({"detector": GAUSSIAN | detector, "purify": {"filter": "tukey"}, "members": {"count": 2}})


@pytest.mark.usefixtures("extra", "one_thread")
def test_they_run_and_the_run_passes_its_audit(photos: Path, tmp_path: Path) -> None:
    config, out = _config(), tmp_path / "run"
    result = llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    assert result.num_kept + result.num_rejected == result.num_input - result.num_quarantined
    assert llb_ray.audit(out)
    assert "name: gaussian" in (out / "config.yaml").read_text()


@pytest.mark.usefixtures("extra")
def test_certify_compares_the_filters_that_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[ScanConfig]()

    def scan(config: ScanConfig, **_: Any) -> None:
        asked.append(config)
        raise ConfigError("enough")

    monkeypatch.setattr("llb_ray.api.scan", scan)
    options = ["--dataset", "mvtec", "--root", "x", "--set", "detector.name=gaussian", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, ["certify", *options]).exit_code == 1
    assert asked[0].scan.filters == FILTERS.names()
    assert FILTERS.names()[-1] == "tukey"
    assert asked[0].of_job("tukey", 0).purify.rule.reads_scores


def _cases(module: Any) -> list[Callable[..., None]]:
    """The contract's tests of one filter or detector."""
    tests = [found for name, found in inspect.getmembers(module, inspect.isfunction) if name.startswith("test_")]
    return [test for test in tests if "name" in inspect.signature(test).parameters]


@pytest.mark.usefixtures("extra", "one_thread")
@pytest.mark.parametrize("case", _cases(test_filters), ids=lambda case: case.__name__)
def test_the_filter_keeps_the_contract(case: Callable[..., None]) -> None:
    for ratio in test_filters.RATIOS:
        case("tukey", **({"ratio": ratio} if "ratio" in inspect.signature(case).parameters else {}))


@pytest.mark.usefixtures("extra", "one_thread")
@pytest.mark.parametrize("case", _cases(test_detectors), ids=lambda case: case.__name__)
def test_the_detector_keeps_the_contract(case: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_detectors.CASES, "gaussian", {"backbone": BACKBONE})
    wanted = inspect.signature(case).parameters
    if "loss" in wanted:
        pytest.skip("of detectors that train by gradient")
    values = {"name": ["gaussian"], "role": test_detectors.ROLES}
    for chosen in product(*(values[name] for name in wanted)):
        case(*chosen)


BROKEN: dict[str, tuple[Mapping[str, str], str]] = {
    "its module cannot be imported": (
        {"bad.py": "import nonsense_that_is_not_there\n"},
        r"package llb-bad: entry point odd = bad:Odd \(llb_ray.{group}s\) cannot be loaded "
        r"\(ModuleNotFoundError: .*\); repair or uninstall it",
    ),
    "its module raises": ({"bad.py": "1 / 0\n"}, r"package llb-bad: .* \(ZeroDivisionError: division by zero\)"),
    "there is no such class": ({"bad.py": ""}, r"package llb-bad: .* \(AttributeError: .*Odd"),
    "it is no class": (
        {"bad.py": "Odd = 5\n"},
        "package llb-bad: entry point odd = bad:Odd .* is no complete subclass of",
    ),
    "it is another class": ({"bad.py": "class Odd: ...\n"}, "package llb-bad: .* is no complete subclass of llb_ray"),
    "it lacks a method": (
        {
            "bad.py": "from llb_ray.{module} import {base}\nclass Odd({base}):\n    name: str = 'odd'\n",
        },
        "package llb-bad: .* is no complete subclass of",
    ),
}
KINDS = {
    "filter": ("ensemble.filters.base", "Filter", "purify"),
    "detector": ("config", "DetectorConfig", "detector"),
}


def _bad(kind: str, name: str, text: str) -> dict[str, str]:
    module, base, _ = KINDS[kind]
    points = f'[project.entry-points."llb_ray.{kind}s"]\n{name} = "bad:Odd"\n'
    project = f'[project]\nname = "llb-bad"\nversion = "1"\n{points}'
    return {"pyproject.toml": project, "bad.py": text.replace("{module}", module).replace("{base}", base)}


def _choose(kind: str, name: str) -> Any:
    config = parse({"detector": {"name": name}} if kind == "detector" else {"purify": {"filter": name}})
    return llb_ray.read_folder, config.rounds


@pytest.fixture
def _forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("bad", None)


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_package_is_named_where_its_name_is_chosen(
    how: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, sentence = BROKEN[how]
    install(tmp_path, _bad(kind, "odd", files["bad.py"]), monkeypatch)
    assert parse({}).rounds == 1, "others are not affected"
    with pytest.raises(LlbError, match=sentence.replace("{group}", kind)) as caught:
        _choose(kind, "odd")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(("kind", "name"), [("filter", "llb"), ("filter", "srr"), ("detector", "memory_bank")])
def test_a_name_that_is_taken_is_refused_with_both_packages(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, _bad(kind, name, "class Odd: ...\n"), monkeypatch)
    with pytest.raises(ConfigError, match=rf"{kind} '{name}': llb-ray and package llb-bad both have an entry point"):
        _choose(kind, name)


@pytest.mark.usefixtures("extra")
def test_two_packages_cannot_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bad", _bad("filter", "tukey", ""), monkeypatch)
    with pytest.raises(ConfigError, match="filter 'tukey': package llb-bad and package llb-extra both have"):
        _choose("filter", "tukey")


@pytest.mark.usefixtures("_forgotten")
def test_a_detector_has_the_name_of_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from llb_ray.config import DetectorConfig\nclass Odd(DetectorConfig):\n    name: str = 'even'\n"
        "    def build(self, role, device, importance): ...\n"
    )
    install(tmp_path, _bad("detector", "odd", text), monkeypatch)
    with pytest.raises(
        ConfigError, match="package llb-bad: .* is a detector named 'even'; the two names must be the same"
    ):
        _choose("detector", "odd")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"purify.filter = 'tuky': there is no such filter; choose llb, none"):
        _choose("filter", "tuky")
    assert "tukey" not in FILTERS.names()
    assert "gaussian" not in DETECTORS.names()


@pytest.mark.usefixtures("extra", "one_thread")
def test_a_detector_without_a_scorer_is_not_exported(
    photos: Path, extra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = _config(), tmp_path / "run"
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    from llb_extra.gaussian import Gaussian  # type: ignore[import-not-found]

    monkeypatch.delattr(Gaussian, "scorer")
    with pytest.raises(ConfigError, match="detector gaussian cannot be exported, as it has no method scorer"):
        llb_ray.export(out, "onnx", out=tmp_path / "own.onnx")
    assert not (tmp_path / "own.onnx").exists()
