"""The settings that a search varies: dotted keys and their domains, read from YAML and checked against a base.

::

    members.count: [2, 3, 5, 8]                 # choices
    purify.keep_ratio: {uniform: [0.6, 0.95]}
    detector.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
    detector.final_steps: {int: [200, 800]}     # both ends included
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from pydantic import ValidationError

from llb_ray.config import UNKEYED, RunConfig, filter_traits, with_overrides
from llb_ray.errors import ConfigError
from llb_ray.seeding import stream

# Sections that no trial's objective depends on; a trial sets no threshold.
_IDLE = ("data", "evaluation", "final", "threshold", *UNKEYED)
_SAMPLES = 64  # combinations in which a setting may show an effect


class Domain(Protocol):
    """Values that one setting may have."""

    def probes(self) -> Sequence[Any]:
        """Values that the configuration must accept for all of the domain to be acceptable."""
        ...

    def sample(self, rng: np.random.Generator) -> Any:
        """One value, drawn at random."""
        ...


@dataclass(frozen=True)
class Choice:
    """One of these, equally likely."""

    values: tuple[Any, ...]

    def probes(self) -> Sequence[Any]:
        return self.values

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Integer:
    """A whole number, both ends included."""

    low: int
    high: int

    def probes(self) -> Sequence[Any]:
        return self.low, self.high

    def sample(self, rng: np.random.Generator) -> Any:
        return int(rng.integers(self.low, self.high + 1))


@dataclass(frozen=True)
class Uniform:
    """A real number, any as likely as any other."""

    low: float
    high: float

    def probes(self) -> Sequence[Any]:
        return self.low, self.high, self.low + (self.high - self.low) / math.pi  # the last: a setting in whole numbers

    def sample(self, rng: np.random.Generator) -> Any:
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """A positive real number, uniform on a logarithmic scale."""

    low: float
    high: float

    def probes(self) -> Sequence[Any]:
        return Uniform(self.low, self.high).probes()

    def sample(self, rng: np.random.Generator) -> Any:
        return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))


_RANGES: dict[str, type[Uniform | LogUniform | Integer]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "int": Integer,
}


@dataclass(frozen=True)
class Space:
    """The domain of every searched setting, by dotted key."""

    domains: Mapping[str, Domain]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination; raises ConfigError where a domain has no end of values."""
        axes = [_all_values(key, domain) for key, domain in self.domains.items()]
        return [dict(zip(self.domains, values, strict=True)) for values in itertools.product(*axes)]

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """One combination, every setting drawn on its own."""
        return {key: domain.sample(rng) for key, domain in self.domains.items()}


def read_space(path: Path, base: RunConfig | None = None) -> Space:
    """The space in a YAML file, every value of it acceptable to `base` (default: the defaults) on its own.

    A combination may still be refused as a whole; that fails one trial and not the search.
    Raises ConfigError naming the file, the key and, for an unknown key, the nearest known one.
    """
    base = base or RunConfig()
    space = Space({key: _domain(path, key, given, base) for key, given in _read(path).items()})
    _refuse_idle(path, space, base)
    return space


def trial_config(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`base` with the values of one trial; raises ConfigError for a combination that the configuration refuses."""
    texts = (yaml.safe_dump(value, default_flow_style=True) for value in values.values())
    return with_overrides(base, [f"{key}={text}" for key, text in zip(values, texts, strict=True)])


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the search space cannot be read ({error}); give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"{path}: names no setting; expected lines such as `members.count: [2, 3, 5]`")
    return {str(key): given for key, given in tree.items()}


def _domain(path: Path, key: str, given: Any, base: RunConfig) -> Domain:
    if key.partition(".")[0] in _IDLE:
        raise ConfigError(f"{path}: {key} changes nothing that a trial is judged by; search over something else")
    domain: Domain = _choice(path, key, given) if isinstance(given, list) else _range(path, key, given)
    for value in domain.probes():
        _check(path, key, value, base)
        if key == "purify.filter" and filter_traits(value).reads_labels:
            raise ConfigError(f"{path}: purify.filter = {value!r} reads labels, which a search never does; drop it")
    return domain if not isinstance(domain, Choice) else Choice(tuple(_spelt(key, v, base) for v in domain.values))


def _refuse_idle(path: Path, space: Space, base: RunConfig) -> None:
    """Raise ConfigError for a setting without effect in any combination: trials would differ in name only."""
    configs = list(_sampled(space, base))
    for key in space.domains:
        notices = {
            number: notice
            for number, config in enumerate(configs)
            for notice in config.notices()
            if notice.startswith(f"{key} ")
        }
        # A default is not noticed, whether it has an effect or not.
        usual = attrgetter(key)(RunConfig()) if notices else None
        if notices and len(notices) == sum(attrgetter(key)(config) != usual for config in configs):
            raise ConfigError(f"{path}: {min(notices.values())}; search over something else, or set what gives it one")


def _sampled(space: Space, base: RunConfig) -> Iterator[RunConfig]:
    rng = stream(0, "idle settings")
    for _ in range(_SAMPLES):
        with contextlib.suppress(ConfigError):  # a combination that is refused fails its own trial
            yield trial_config(base, space.sample(rng))


def _choice(path: Path, key: str, given: list[Any]) -> Choice:
    if not given:
        raise ConfigError(f"{path}: {key} has no values; list at least one")
    return Choice(tuple(given))


def _range(path: Path, key: str, given: Any) -> Domain:
    kinds = ", ".join(f"{{{kind}: [low, high]}}" for kind in _RANGES)
    if not isinstance(given, dict) or len(given) != 1 or not set(given) <= set(_RANGES):
        raise ConfigError(f"{path}: {key} = {given!r}: expected a list of choices, or one of {kinds}")
    ((kind, ends),) = given.items()
    number = int if kind == "int" else (int, float)
    if not isinstance(ends, list) or len(ends) != 2 or not all(_is(number, end) for end in ends):
        raise ConfigError(f"{path}: {key}: {kind} takes [low, high], two {'whole ' * (kind == 'int')}numbers")
    low, high = ends
    if not (low < high and math.isfinite(low) and math.isfinite(high)) or (kind == "loguniform" and low <= 0):
        positive = "0 < " if kind == "loguniform" else ""
        raise ConfigError(f"{path}: {key}: {kind} [{low}, {high}] is no range; it takes {positive}low < high")
    domain: Domain = _RANGES[kind](low, high)
    return domain


def _is(number: Any, value: Any) -> bool:
    return isinstance(value, number) and not isinstance(value, bool)


def _check(path: Path, key: str, value: Any, base: RunConfig) -> None:
    """Raise ConfigError for what no other setting can fix: an unknown key, or a value out of its own range."""
    try:
        trial_config(base, {key: value})
    except ConfigError as error:
        if not _is_about_the_whole(error, key):
            raise ConfigError(f"{path}: {str(error).removeprefix('--set: ')}") from error


def _is_about_the_whole(error: ConfigError, key: str) -> bool:
    """True if a validator of a whole section refused: with other values beside it this one may do."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return False
    problem = cause.errors()[0]
    return problem["type"] == "value_error" and key.rpartition(".")[2] not in problem["loc"]


def _spelt(key: str, value: Any, base: RunConfig) -> Any:
    """The value as the configuration spells it (YAML reads a bare ``off`` as false), where it can stand alone."""
    try:
        tree: Any = trial_config(base, {key: value}).model_dump(mode="json")
    except ConfigError:
        return value
    return reduce(lambda section, name: section[name], key.split("."), tree)


def _all_values(key: str, domain: Domain) -> Sequence[Any]:
    if isinstance(domain, Choice):
        return domain.values
    if isinstance(domain, Integer):
        return range(domain.low, domain.high + 1)
    raise ConfigError(f"{key} has no end of values, so there is no grid of them; list choices, or search at random")
