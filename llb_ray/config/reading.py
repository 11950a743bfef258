"""From YAML and ``section.key=value`` to a configuration, or to one sentence that names the key."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llb_ray.config.backbone_config import WEIGHTS_BY_NAME
from llb_ray.config.detector_configs import DetectorConfig, default_detector, detector_class
from llb_ray.config.run_config import RunConfig
from llb_ray.config.scan_config import ScanConfig
from llb_ray.errors import ConfigError
from llb_ray.extensions import DETECTORS

SettingsT = TypeVar("SettingsT", bound=BaseModel)


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file (or the defaults) with ``section.key=value`` overrides applied.

    Raises ConfigError naming the file or override, the dotted key, and the nearest known key.
    """
    config = parse(_read_config(Path(path)), str(path)) if path else RunConfig()
    return with_overrides(config, overrides)


def load_scan(
    path: str | Path | None = None, overrides: Sequence[str] = (), usual: Mapping[str, Any] = MappingProxyType({})
) -> ScanConfig:
    """The same for a scan.  The file may also be a run's; `usual` stands where it says nothing of its section scan."""
    tree = _read_config(Path(path)) if path else {}
    parse_as(RunConfig, {name: section for name, section in tree.items() if name != "scan"}, str(path))
    tree["scan"] = {**usual, **tree.get("scan", {})}
    for override in overrides:
        _apply(tree, override)
    if "dataset" not in tree["scan"]:
        raise ConfigError(
            "scan.dataset is missing: name the layout and the folder of the data set (--dataset mvtec --root DIR), or "
            "a configuration that does, such as configs/real_iad_fuiad.yaml"
        )
    return parse_as(ScanConfig, tree, "--set" if overrides else str(path))


def parse(tree: Mapping[str, Any], origin: str = "config") -> RunConfig:
    """The configuration of a plain dictionary; `origin` is named in error messages."""
    if "scan" in tree:
        raise ConfigError(f"{origin}: has a section 'scan', so it is for `llb-ray scan`; a run takes none")
    return parse_as(RunConfig, tree, origin)


def parse_as(model: type[SettingsT], tree: Mapping[str, Any], origin: str) -> SettingsT:
    """The settings of this model in a plain dictionary; raises ConfigError naming `origin` and the dotted key."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_sentence(error.errors()[0], model, tree)}") from error


def with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A copy of `config` with ``section.key=value`` applied and checked."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        _apply(tree, override)
    return parse(tree, "--set")


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file; raises ConfigError if it has none or cannot be read."""
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the configuration cannot be read ({error}); give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path}: expected `section: ...` lines, found a {type(tree).__name__}; see configs/")
    # `purify:` with nothing below it is an empty section
    return {name: {} if section is None else section for name, section in (tree or {}).items()}


def _read_config(path: Path) -> dict[str, Any]:
    """`read_yaml` of a configuration: a relative path in it is relative to the file that it is written in."""
    tree = read_yaml(path)
    detector, data = tree.get("detector"), tree.get("data")
    backbone = detector.get("backbone") if isinstance(detector, dict) else None
    for section, name in ((backbone, "weights"), (data, "ignore_mask"), (data, "inspect_mask")):
        file = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(file, str) and not (name == "weights" and file in WEIGHTS_BY_NAME):
            section[name] = str(path.absolute().parent / Path(file).expanduser())
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: expected section.key=value, for example purify.keep_ratio=0.9")
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent!r} is a value, not a section")
        tree = child
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value; quote it") from error


def _sentence(problem: ErrorDetails, model: type[BaseModel], tree: Mapping[str, Any]) -> str:
    names = [str(part) for part in problem["loc"]]
    detector = _detector_name(tree) if names[:1] == ["detector"] and len(names) > 1 else None
    if names[-2:-1] == ["keep_ratio"]:
        names.pop()  # pydantic names the union's branch, which a user never typed
    dotted = ".".join(names)
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted:
        return message
    if problem["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}{_hint(dotted, model, detector)}"
    if problem["type"] == "no_such_detector":
        return f"{dotted}.name = {problem['ctx']['name']!r}: {message}"
    said = _EXPECTED.get(problem["type"], message)
    return f"{_with_indices(problem, dotted)} = {problem['input']!r}: {said[0].lower()}{said[1:]}"


_EXPECTED = {  # instead of pydantic's words, which are about Python
    "model_type": "should be a section, with its keys indented below it",
    "model_attributes_type": "should be a section, with its keys indented below it",
    "tuple_type": "should be a list, such as [a, b]",
}


def _detector_name(tree: Mapping[str, Any]) -> str:
    section = tree["detector"]
    return str(section.name if isinstance(section, DetectorConfig) else section.get("name", default_detector().name))


def _with_indices(problem: ErrorDetails, dotted: str) -> str:
    """The key with the place in a list as written: ``detector.backbone.layers[1]``."""
    places = [part for part in problem["loc"] if isinstance(part, int)]
    key = dotted.removesuffix("".join(f".{place}" for place in places))
    return key + "".join(f"[{place}]" for place in places)


def _hint(dotted: str, model: type[BaseModel], detector: str | None) -> str:
    """The known key that was probably meant: the same last name elsewhere, else the nearest spelling."""
    known = list(known_keys(model, detector))
    where = "`llb-ray config` prints every known key" if model is RunConfig else f"known are {', '.join(known)}"
    if dotted in known:
        return " in one piece; write it as sections, or give the file to `llb-ray tune --space`"
    same_leaf = [key for key in known if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    others = [key for key in known_keys(model) if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    if others and not same_leaf:
        return f"; {others[0]!r} is a setting of another detector: choose that with detector.name"
    nearest = [*same_leaf, *difflib.get_close_matches(dotted, known, n=1)]
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; {where}"


def known_keys(model: type[BaseModel], detector: str | None = None, prefix: str = "") -> Iterator[str]:
    """Every dotted key; those of one detector only if it is named."""
    for name, spec in model.model_fields.items():
        nested = [found for child in _models(spec.annotation) for found in _chosen_among(child, detector)]
        if not nested:
            yield prefix + name
        for child in nested:
            yield from known_keys(child, detector, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for argument in get_args(annotation):
            yield from _models(argument)


def _chosen_among(model: type[BaseModel], detector: str | None) -> list[type[BaseModel]]:
    """The models that one stands for: of a detector's settings those that are named, or all."""
    if model is not DetectorConfig:
        return [model]
    return [detector_class(name) for name in ([detector] if detector else DETECTORS.names())]
