"""The lines of a run's event log, as far as they are whole."""

import contextlib
import json
from collections.abc import Iterator
from types import UnionType
from typing import Any


def parse_events(log: str) -> Iterator[dict[str, Any]]:
    """The events of a log; lines that are half written, or were damaged since, are left out."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if _is_event(event):
                yield event


def _is_event(event: Any) -> bool:
    """True if a line of the log has what is read of an event of its kind."""
    try:
        facts: dict[type | UnionType, list[Any]] = {str: [event["event"]], int | float: [event["time_s"]]}
        if event["event"] == "run started":
            facts[int] = [event["config"]["members"]["count"]]
        if event["event"].startswith("stage "):
            facts[str].append(event["stage"])
        if event["event"] == "stage finished":
            facts |= {int | float: [event["time_s"], event["seconds"]], bool: [event["reused"]]}
        if event["event"] == "member missing":
            facts[str] += [event["name"], event["reason"]]
        facts[str].append(event.get("error", ""))
        return all(isinstance(value, kind) for kind, values in facts.items() for value in values)
    except (KeyError, TypeError, AttributeError):
        return False
