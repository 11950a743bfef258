"""Grouping of photographs by object, as far as their paths show it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llb_ray.data.manifest import path_text
from llb_ray.errors import ConfigError


@dataclass(frozen=True)
class Grouping:
    """A pattern whose first group names the object of a path; without a pattern every image stands alone."""

    pattern: re.Pattern[str] | None
    setting: str  # what the user calls it

    @classmethod
    def of(cls, pattern: str | None, setting: str) -> "Grouping":
        """The grouping by a regular expression; raises ConfigError for a bad one."""
        if pattern is None:
            return cls(None, setting)
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{setting} = {pattern!r}: not a regular expression ({error})") from error
        if not compiled.groups:
            raise ConfigError(f"{setting} = {pattern!r}: has no group; put ( ) round the part that names the object")
        return cls(compiled, setting)

    def group(self, category: str, path: str) -> str | None:
        """The object's name; None for an image that stands alone."""
        match = self.pattern.search(path) if self.pattern is not None else None
        # an empty group would throw every such image together, so it counts as no match
        return f"{category}/{path_text(match[1])}" if match and match[1] else None

    def require_match(self, root: Path, paths: Sequence[str]) -> None:
        """Raise ConfigError for a pattern that matches no image: grouping would be off unnoticed."""
        if self.pattern is not None and paths and not any(self.pattern.search(path) for path in paths):
            example = path_text(paths[0])
            raise ConfigError(
                f"{self.setting} = {self.pattern.pattern!r}: matches no file in {root} (such as {example})"
            )
