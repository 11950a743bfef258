"""A function that is called again and again beside the driver's own work."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

LOOK_S = 5.0  # Ray exports metrics every ten seconds


class Repeating:
    """A context in which a function is called every few seconds, in a thread of its own, and a last time at its end."""

    def __init__(self, call: Callable[[], None], name: str, every_s: float | None = None) -> None:
        self._call = call
        self._every_s = LOOK_S if every_s is None else every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._again, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _again(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(self._every_s)
            self._call()
