"""A terminal on which names are text: no markup, no escape sequence, no line end of theirs takes effect."""

import logging
from typing import Any

from rich.console import Console
from rich.text import Text

from llb_ray.names import shown


class Terminal(Console):
    """A console for names that anybody may have chosen; what is printed on it has its line ends and colours from us."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, in lines and table cells alike, as `shown` writes it."""
        return super().render_str(shown(text), **options)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def log_to_stderr() -> logging.Handler:
    """The handler through which warnings of this package now go to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.getLogger("llb_ray").addHandler(handler)
    return handler
